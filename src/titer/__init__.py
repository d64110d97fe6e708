"""Titer measures and raises the adversarial robustness of medical vision-language models."""

__version__ = "0.1.0"
