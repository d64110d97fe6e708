"""Labelled images: folders, tables and the embedded phantoms."""

from titer.data.describe import DataReport, describe, describe_data
from titer.data.example import ClassText, Data, Example, Picture
from titer.data.load import load_all, load_data

__all__ = [
    "ClassText",
    "Data",
    "DataReport",
    "Example",
    "Picture",
    "describe",
    "describe_data",
    "load_all",
    "load_data",
]
