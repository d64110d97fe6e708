"""Random crops and flips, as training and test-time tuning of prompts use them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CropAndFlip:
    """A random rectangle of the image resized to its size, mirrored half of the time.

    Args:
        smallest: least share of the area that a crop keeps.
        stretch: largest ratio of its sides.
        mirror: whether it is mirrored at all.
    """

    smallest: float = 0.08
    stretch: float = 4 / 3
    mirror: bool = True

    def __call__(self, image: Tensor, sample: str, seed: int, view: int) -> Tensor:
        """View number ``view`` of an image (3, height, width) in [0, 1]; a pure function of its arguments."""
        chance = np.random.default_rng(list(hashlib.sha256(f"{seed}\x00{sample}\x00{view}".encode()).digest()))
        height, width = image.shape[1:]
        area = height * width * chance.uniform(self.smallest, 1)
        ratio = math.exp(chance.uniform(-math.log(self.stretch), math.log(self.stretch)))
        tall = min(height, max(1, round(math.sqrt(area / ratio))))
        wide = min(width, max(1, round(math.sqrt(area * ratio))))
        top, left = chance.integers(height - tall + 1), chance.integers(width - wide + 1)
        crop = image[None, :, top : top + tall, left : left + wide]
        resized = F.interpolate(crop, (height, width), mode="bicubic", antialias=True, align_corners=False)[0].clamp(
            0, 1
        )
        return torch.flip(resized, dims=(2,)) if self.mirror and chance.random() < 0.5 else resized
