"""Checkpoints of open_clip, with its towers rebuilt from transformers' own modules: open_clip itself is not needed."""

from titer.models.open_clip.checkpoint import WEIGHTS, load, load_directory, looks_like

__all__ = ["WEIGHTS", "load", "load_directory", "looks_like"]
