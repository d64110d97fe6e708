"""Dual encoders and classifiers on them."""

from titer.models.classifier import Classifier, zero_shot
from titer.models.encoder import Encoder, wrap
from titer.models.load import load_model

__all__ = ["Classifier", "Encoder", "load_model", "wrap", "zero_shot"]
