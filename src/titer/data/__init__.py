"""Labelled images: folders, tables and the embedded phantoms."""

from titer.data.describe import describe_data
from titer.data.example import ClassText, Data, Example, Picture
from titer.data.load import load_all, load_data

__all__ = ["ClassText", "Data", "Example", "Picture", "describe_data", "load_all", "load_data"]
