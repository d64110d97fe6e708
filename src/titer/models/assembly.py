"""An encoder of two towers that were read from one file of another library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from titer.errors import InputError
from titer.models.encoder import Encoder
from titer.models.huggingface import ProjectedTower, TextTower, content_of
from titer.models.pixels import Preprocess
from titer.models.weights import Weights, fingerprint_of


@dataclass(frozen=True, eq=False)
class Vision:
    """An image tower.

    Args:
        tower: with the weights.
        size: of its input, in pixels.
        made_of: in words.
    """

    tower: ProjectedTower
    size: int
    made_of: str


@dataclass(frozen=True, eq=False)
class Text:
    """A text tower.

    Args:
        module: with the weights.
        config: of its transformer.
        tower: the module behind its tokenizer.
        words: the directory in which the tokenizer was found.
    """

    module: nn.Module
    config: Any
    tower: TextTower
    words: Path


def scale_of(weights: Weights, file: Path) -> Tensor:
    """The logarithm of the logit scale.

    Raises:
        InputError: if it is missing, or no number.
    """
    scale = weights.get("logit_scale")
    if scale is None or scale.numel() != 1 or not torch.isfinite(scale).all():
        raise InputError(f"{file}: logit_scale is missing, or no number")
    return scale


def assemble(
    name: str,
    image: ProjectedTower,
    text: Text,
    preprocess: Preprocess,
    scale: Tensor,
    weights: Weights,
    told: Mapping[str, Any],
    architecture: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Encoder:
    """The encoder, its towers frozen and in their place.

    Args:
        name: as the user gave it.
        image, text: the towers.
        preprocess: resizing and normalisation.
        scale: the logarithm of the logit scale.
        weights, told: all that the file and its configuration say, for the fingerprint.
        architecture: in words.
        device, dtype: of the weights.
    """
    for module in (image, text.module):
        module.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return Encoder(
        name=name,
        image_tower=image,
        text_tower=text.tower,
        preprocess=preprocess,
        dim=image.dim,
        logit_scale=float(scale.to(dtype).exp()),
        fingerprint=fingerprint_of(weights, *content_of(text.words, dict(told)), preprocess, str(dtype)),
        parameters=1 + sum(weight.numel() for module in (image, text.module) for weight in module.parameters()),
        device=device,
        dtype=dtype,
        architecture=architecture,
    )
