"""Random crops, turns and light for pictures of one batch, as contrastive training uses them; never noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.errors import InputError


@dataclass(frozen=True)
class Augment:
    """What may happen to a picture before it is learned from; every change is drawn for each picture alone.

    Args:
        crop: smallest side of a crop, as a share of the picture's.
        stretch: largest ratio of a crop's sides to the picture's.
        turn: largest angle, in degrees.
        mirror: whether sides may be exchanged. Off, since left and right mean something in a patient.
        light: largest change of brightness, in [0, 1] pixels.
        contrast: largest factor of contrast, and of gamma; 1 for none.
    """

    crop: float = 0.9
    stretch: float = 1.05
    turn: float = 0.0
    mirror: bool = False
    light: float = 0.0
    contrast: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise InputError(f"augment.crop: expected a share above 0, up to 1, got {self.crop:g}")
        for name in ("stretch", "contrast"):
            if getattr(self, name) < 1:
                raise InputError(f"augment.{name}: expected at least 1, got {getattr(self, name):g}")
        for name in ("turn", "light"):
            if getattr(self, name) < 0:
                raise InputError(f"augment.{name}: expected at least 0, got {getattr(self, name):g}")

    def __call__(self, images: Tensor, chance: torch.Generator) -> Tensor:
        """Images (batch, 3, height, width) in [0, 1], changed; on their device, drawn on the CPU."""
        if self == Augment(crop=1, stretch=1):
            return images
        moved = self._moved(images, chance)
        return self._lit(moved, chance) if self.light or self.contrast > 1 else moved

    def _moved(self, images: Tensor, chance: torch.Generator) -> Tensor:
        def uniform(low: float, high: float) -> Tensor:
            return torch.rand(len(images), generator=chance) * (high - low) + low

        angle = uniform(-self.turn, self.turn) * (math.pi / 180)
        stretch = uniform(-1, 1).mul(math.log(self.stretch)).exp().sqrt()
        side = uniform(self.crop, 1)
        wide, tall = side * stretch, side / stretch
        flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if self.mirror else torch.ones(len(images))
        room = ((1 - wide).clamp(min=0) * uniform(-1, 1), (1 - tall).clamp(min=0) * uniform(-1, 1))
        rows = [
            torch.stack([angle.cos() * wide * flip, -angle.sin() * tall, room[0]], 1),
            torch.stack([angle.sin() * wide * flip, angle.cos() * tall, room[1]], 1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1).to(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _lit(self, images: Tensor, chance: torch.Generator) -> Tensor:
        def uniform(low: float, high: float) -> Tensor:
            drawn = torch.rand(len(images), 1, 1, 1, generator=chance) * (high - low) + low
            return drawn.to(images)

        most = math.log(self.contrast)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        changed = (images - mean) * uniform(-most, most).exp() + mean + uniform(-self.light, self.light)
        lit: Tensor = changed.clamp(1e-4, 1) ** uniform(-most, most).exp()
        return lit
