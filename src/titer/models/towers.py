"""Image towers whose modules a method can reach."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from titer.errors import InputError
from titer.models.encoder import Encoder


@runtime_checkable
class VisionTower(Protocol):
    """An image tower that shows its transformer. `copy.deepcopy` of one has weights of its own."""

    vision: nn.Module
    """The transformer; put another module of the same call in its place to change what the tower computes."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features (batch, dim) of normalised images (batch, 3, size, size); differentiable in weights and images."""


def vision_tower(encoder: Encoder) -> VisionTower:
    """The encoder's image tower, if its modules can be reached.

    Raises:
        InputError: if it takes images only.
    """
    tower = encoder.image_tower
    if not isinstance(tower, VisionTower):
        raise InputError(
            f"{encoder.name}: its image encoder hides its layers, so none can be tuned; "
            "expected titer:tiny, or a CLIP or SigLIP model in Hugging Face layout"
        )
    return tower
