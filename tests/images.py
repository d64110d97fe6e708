"""Small image folders and a fast encoder for tests of whole runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import titer
from titer.models import Encoder
from titer.results.store import Run

SIZE = 8


class Brightness(nn.Module):
    """Features that tell dark pictures from bright ones; the text says which it is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([1 + self.scale * mean, 1 - self.scale * mean], dim=1)


def encode_words(texts: Sequence[str]) -> Tensor:
    return torch.tensor([[1.0, 0.0] if "bright" in text else [0.0, 1.0] for text in texts])


def brightness_encoder() -> Encoder:
    """Its decision boundary is mean = 0.5: a half-space, so the true radius is known."""
    return titer.wrap(Brightness(), encode_words, SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), name="brightness")


def true_radius(image: Tensor) -> float:
    """L2 distance of an image (3, SIZE, SIZE) to the boundary of ``brightness_encoder``."""
    return abs(float(image.mean()) - 0.5) * float(np.sqrt(image.numel()))


def folder(root: Path, per_class: int = 4, split: str = "test") -> Path:
    """Dark and bright pictures at known distances from the boundary, a table with attributes, and words."""
    rows = ["file_name,label,split,group,sex"]
    for place, label in enumerate(("dark", "bright")):
        (root / split / label).mkdir(parents=True)
        for index in range(per_class):
            value = 128 + (1 if place else -1) * (2 + 3 * index)
            name = f"{split}/{label}/{index}.png"
            Image.fromarray(np.full((SIZE, SIZE, 3), value, np.uint8)).save(root / name)
            rows.append(f"{name},{label},{split},patient {index // 2},{'f' if index % 2 else 'm'}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    (root / "classes.json").write_text(json.dumps({"dark": "a dark picture", "bright": "a bright picture"}))
    return root


def timeless(run: Run) -> list[dict[str, object]]:
    """Every field of the records but ``seconds``: what "the same records" means."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in run.records]
