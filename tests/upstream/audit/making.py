"""Pairs made by hand: as arrays around a few centres of one space, and as pictures that a toy encoder understands."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import titer
from titer.models import Encoder
from titer.upstream.audit.pairs import Features, Floats, Pairs

NAMES = ("mass", "cyst", "node")


def unit(values: Floats) -> Floats:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), float)


def features(count: int, dim: int = 6, seed: int = 0) -> Features:
    """Image and caption near the centre of their class, ``count`` pairs of three classes in turn."""
    random = np.random.default_rng(seed)
    centres = np.eye(dim)[np.arange(count) % 3]
    images, texts = (unit(centres + 0.1 * random.standard_normal((count, dim))) for _ in range(2))
    return Features(images, texts, 0.1 + 0.02 * random.random((count, 4)))


def pairs(count: int, encoders: int = 1, seed: int = 0) -> Pairs:
    random = np.random.default_rng(seed)
    captions = tuple(f"a {NAMES[row % 3]} of {random.integers(1, 9)} cm" for row in range(count))
    made = tuple(features(count, seed=seed + place) for place in range(encoders))
    return Pairs(captions, made, 0.02 + 0.01 * random.random(count))


SIDE = 8
ORGANS = ("liver", "lung", "kidney", "heart", "brain")
FINDINGS = ("edema", "a mass", "a nodule", "effusion")
SIZES = ("small", "large", "severe", "mild")


@lru_cache
def _pattern(name: str, count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def encode_words(texts: Sequence[str]) -> Tensor:
    """An organ's word says which axis; every other word adds a little of its own."""
    rows = []
    for text in texts:
        row = torch.zeros(8)
        for word in text.lower().replace(".", "").split():
            row = row + (2 * torch.eye(8)[ORGANS.index(word)] if word in ORGANS else 0.15 * _pattern(word, 8))
        rows.append(row)
    return torch.stack(rows)


def toy(name: str = "toy") -> Encoder:
    """Tells organs by their pattern; one of another name sees a little of something else, too."""
    patterns = torch.stack([_pattern(organ, 3 * SIDE * SIDE) for organ in ORGANS])
    others = 0.5 * torch.stack([_pattern(f"{name} {place}", 3 * SIDE * SIDE) for place in range(3)])
    weights, half = torch.cat([patterns, others]) / 20, (0.5, 0.5, 0.5)
    return titer.wrap(
        lambda images: images.flatten(1) @ weights.T, encode_words, SIDE, half, half, name=name, fingerprint=name
    )


def folder(root: Path, count: int = 120, seed: int = 0, kind: str = "RGB") -> Path:
    """Pictures of organs with captions, a table with a group of two pictures each, and a second split."""
    random = np.random.default_rng(seed)
    (root / "scans").mkdir(parents=True)
    rows = ["file_name,label,caption,split,group,site"]
    for place in range(count + 10):
        organ = ORGANS[place % len(ORGANS)]
        pattern = _pattern(organ, 3 * SIDE * SIDE).reshape(3, SIDE, SIDE).permute(1, 2, 0).numpy()
        pixels = 0.5 + 0.15 * pattern + 0.05 * random.standard_normal(pattern.shape)
        picture = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
        picture.convert(kind).save(root / "scans" / f"{place:03}.png")
        caption = f"a {random.choice(SIZES)} {organ} with {random.choice(FINDINGS)}"
        split = "train" if place < count else "test"
        rows.append(f"scans/{place:03}.png,{organ},{caption},{split},patient {place // 2},{'ab'[place % 2]}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


def changed(data: Path, root: Path, captions: list[str] | None = None, rows: int | None = None) -> Path:
    """A copy of a folder with other captions in turn, or with its first rows only."""
    shutil.copytree(data, root)
    lines = (root / "metadata.csv").read_text().splitlines()
    if captions is not None:
        lines = [lines[0], *(",".join([*line.split(",")[:2], captions[place % len(captions)], *line.split(",")[3:]])
                             for place, line in enumerate(lines[1:]))]  # fmt: skip
    (root / "metadata.csv").write_text("\n".join(lines[: None if rows is None else rows + 1]) + "\n")
    return root
