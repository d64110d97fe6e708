"""Noise in what a model was trained on: made, trained on, found."""
