"""Noisy image features kept for reuse.

The image encoder is frozen and text prompts never touch it, so the features of a fit's images are computed once per
(model, image, sigmas, seed) and serve every text-prompt method, every ablation and every epoch. Their noise has the
purpose ``fit``: no certificate ever uses a draw that a store holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from titer.errors import InputError, RunError
from titer.features.stream import noisy_images, one_thread
from titer.features.views import CropAndFlip
from titer.models.encoder import Encoder
from titer.noise import BLOCK, NoiseStream
from titer.progress import progress


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Unit features of noisy copies of images, in half precision.

    Args:
        features: (images, draws, dim) float16; an array on disk where the store has a directory.
        sigmas: standard deviation of the noise of each draw (images, draws), in [0, 1] pixel units.
    """

    features: NDArray[np.float16]
    sigmas: NDArray[np.float32]

    @property
    def draws(self) -> int:
        """Noisy copies of each image."""
        return int(self.features.shape[1])

    def rows(self, images: Sequence[int] | NDArray[np.int64], draws: slice) -> Tensor:
        """Features (images, draws, dim) in float32."""
        return torch.from_numpy(self.features[np.asarray(images), draws].astype(np.float32))


def build_store(
    encoder: Encoder,
    image: Callable[[int], Tensor],
    ids: Sequence[str],
    sigmas: Sequence[float],
    draws: int,
    seed: int,
    *,
    views: CropAndFlip | None = None,
    directory: Path | None = None,
    workers: int = 2,
) -> FeatureStore:
    """Features of ``draws`` noisy copies of each image; the sigmas take turns, beginning at a place that depends on the image.

    Args:
        encoder: the frozen dual encoder.
        image: place -> image (3, size, size) in [0, 1].
        ids: of the images; each may occur once.
        sigmas: standard deviations of the noise; 0 is a clean copy.
        draws: copies of each image.
        seed: of the noise.
        views: a random crop of its own for each copy, before the noise.
        directory: where to keep it, and to look for one of the same content. It takes ``size_of(...)`` bytes.
        workers: threads. Changes no number.

    Raises:
        InputError: for draws that are no positive multiple of the block, since the encoder runs on whole blocks.
        RunError: if the features hold nan or infinity.
    """
    if draws < 1 or draws % BLOCK:
        raise InputError(f"draws of a feature store: expected a multiple of {BLOCK}, got {draws}")
    turns = np.stack([_turns(sample, sigmas, draws) for sample in ids])
    facts = [encoder.fingerprint, list(ids), list(sigmas), draws, seed, repr(views), BLOCK]
    file = None if directory is None else directory / f"{_name(facts)}.npy"
    if file is not None and file.exists():
        return FeatureStore(np.load(file, mmap_mode="r"), turns)
    features = _empty(file, (len(ids), draws, encoder.dim))
    stream = NoiseStream(seed, "fit")

    def fill(place: int) -> None:
        pixels = image(place)
        for block in range(draws // BLOCK):
            rows = slice(block * BLOCK, (block + 1) * BLOCK)
            shown = (
                [pixels] if views is None else [views(pixels, ids[place], seed, view) for view in range(draws)[rows]]
            )
            levels = torch.from_numpy(turns[place, rows])
            noise = noisy_images(torch.zeros_like(pixels), ids[place], levels, stream, block)
            with torch.inference_mode():
                found = encoder.encode_image((noise + torch.stack(shown)).to(encoder.device))
            features[place, rows] = found.cpu().numpy()
            advance()
        if not np.isfinite(features[place]).all():
            raise RunError(f"{encoder.name} gave nan or infinity for {ids[place]}; nothing can be learned from it")

    with (
        ThreadPoolExecutor(workers, initializer=one_thread) as pool,
        progress("features", len(ids) * draws // BLOCK) as advance,
    ):
        for _ in pool.map(fill, range(len(ids))):
            pass
    return FeatureStore(_keep(features, file), turns)


def size_of(images: int, draws: int, dim: int) -> int:
    """Bytes that a store takes, in memory or on disk."""
    return images * draws * dim * np.dtype(np.float16).itemsize


def _turns(sample: str, sigmas: Sequence[float], draws: int) -> NDArray[np.float32]:
    start = int.from_bytes(hashlib.sha256(sample.encode()).digest()[:4], "little")
    return np.asarray(sigmas, np.float32)[(start + np.arange(draws)) % len(sigmas)]


def _name(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _empty(file: Path | None, shape: tuple[int, ...]) -> NDArray[np.float16]:
    if file is None:
        return np.empty(shape, np.float16)
    file.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(file.with_suffix(".partial"), mode="w+", dtype=np.float16, shape=shape)


def _keep(features: NDArray[np.float16], file: Path | None) -> NDArray[np.float16]:
    """A finished store on disk gets its name at once, so that a half-written one is never taken for it."""
    if file is None:
        return features
    if isinstance(features, np.memmap):
        features.flush()
    file.with_suffix(".partial").replace(file)
    return np.asarray(np.load(file, mmap_mode="r"))
