"""Noisy image features kept for reuse.

The image encoder is frozen and text prompts never touch it, so the features of a fit's images are computed once per
(model, image, sigmas, seed) and serve every text-prompt method, every ablation and every epoch. Their noise has the
purpose ``fit``: no certificate ever uses a draw that a store holds.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from titer.errors import InputError, RunError
from titer.features.stream import noisy_images, one_thread
from titer.features.views import CropAndFlip
from titer.models.encoder import Encoder
from titer.noise import BLOCK, SAMPLER, NoiseStream
from titer.progress import progress

Half = NDArray[np.float16]
Places = NDArray[np.int64]

_IN_MEMORY = 2**31  # bytes; a larger store stays on its disk, where it has one


@dataclass(frozen=True, eq=False)
class FeatureStore:
    """Unit features of noisy copies of images, in half precision.

    Args:
        images: one array (draws, dim) for each image, in memory or mapped from disk.
        sigmas: standard deviation of the noise of each draw (images, draws), in [0, 1] pixel units.
    """

    images: Sequence[Half]
    sigmas: NDArray[np.float32]

    @property
    def draws(self) -> int:
        """Noisy copies of each image."""
        return int(self.sigmas.shape[1])

    def rows(self, images: Places, draws: Places) -> Tensor:
        """Features (images, draws, dim) in float32 of these draws of these images."""
        return torch.from_numpy(np.stack([self.images[image][draws] for image in images]).astype(np.float32))

    def everything(self) -> Tensor:
        """Features (images, draws, dim) in float32 of all draws."""
        return self.rows(np.arange(len(self.images)), np.arange(self.draws))


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
    """Features of noisy copies of each image; the sigmas take turns, beginning at a place that depends on the image.

    Args:
        encoder: the frozen dual encoder.
        image: place -> image (3, size, size) in [0, 1].
        ids: of the images.
        sigmas: standard deviations of the noise; 0 is a clean copy. Clean copies without views are encoded once.
        draws: copies of each image.
        seed: of the noise.
        views: a random crop of its own for each copy, before the noise.
        directory: where to keep a file for each image, and to look for those of an earlier store. A file is known by
            the image's pixels and all else that its numbers depend on; a damaged one is made again.
        workers: threads. Changes no number.

    Raises:
        InputError: for draws that are no positive multiple of the block, since the encoder runs on whole blocks, or a
            directory that cannot be written.
        RunError: if the features hold nan or infinity.
    """
    if draws < 1 or draws % BLOCK:
        raise InputError(f"draws of a feature store: expected a multiple of {BLOCK}, got {draws}")
    turns = np.stack([_turns(sample, sigmas, draws) for sample in ids])
    bytes_needed = len(ids) * draws * encoder.dim * np.dtype(np.float16).itemsize
    mapped: Literal["r"] | None = "r" if directory is not None and bytes_needed > _IN_MEMORY else None

    def features_of(place: int) -> Half:
        shown = image(place)
        facts = [
            encoder.fingerprint,
            ids[place],
            _digest(shown),
            list(sigmas),
            draws,
            seed,
            repr(views),
            SAMPLER,
            BLOCK,
        ]
        file = None if directory is None else directory / f"{_name(facts)}.npy"
        found = None if file is None else _kept(file, (draws, encoder.dim), mapped)
        if found is None:
            found = _features(encoder, shown, ids[place], turns[place], seed, views)
            if file is not None:
                _keep(found, file)
                found = np.asarray(np.load(file, mmap_mode=mapped))
        advance()
        return found

    with (
        ThreadPoolExecutor(workers, initializer=one_thread) as pool,
        progress(f"features ({bytes_needed / 1e6:.0f} MB)", len(ids)) as advance,
    ):
        return FeatureStore(tuple(pool.map(features_of, range(len(ids)))), turns)


def _features(
    encoder: Encoder, image: Tensor, sample: str, sigmas: NDArray[np.float32], seed: int, views: CropAndFlip | None
) -> Half:
    if views is None and not sigmas.any():
        return _finite(np.repeat(_encoded(encoder, image[None]), len(sigmas), axis=0), encoder, sample)
    stream, found = NoiseStream(seed, "fit"), []
    for block in range(len(sigmas) // BLOCK):
        rows = range(block * BLOCK, (block + 1) * BLOCK)
        shown = [image] if views is None else [views(image, sample, seed, view) for view in rows]
        noise = noisy_images(torch.zeros_like(image), sample, torch.from_numpy(sigmas[rows]), stream, block)
        found.append(_encoded(encoder, noise + torch.stack(shown)))
    return _finite(np.concatenate(found), encoder, sample)


def _encoded(encoder: Encoder, images: Tensor) -> Half:
    with torch.inference_mode():
        return np.asarray(encoder.encode_image(images).cpu().half().numpy())


def _finite(features: Half, encoder: Encoder, sample: str) -> Half:
    if not np.isfinite(features).all():
        raise RunError(f"{encoder.name} gave nan or infinity for {sample}; nothing can be learned from it")
    return features


def _turns(sample: str, sigmas: Sequence[float], draws: int) -> NDArray[np.float32]:
    start = int.from_bytes(hashlib.sha256(sample.encode()).digest()[:4], "little")
    return np.asarray(sigmas, np.float32)[(start + np.arange(draws)) % len(sigmas)]


def _name(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _digest(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().data).hexdigest()


def _kept(file: Path, shape: tuple[int, ...], mapped: Literal["r"] | None) -> Half | None:
    """The features in a file; None where there is none, or it is damaged."""
    try:
        found = np.asarray(np.load(file, mmap_mode=mapped))
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.float16 else None


def _keep(features: Half, file: Path) -> None:
    """Written under a name of its own first, so that a half-written file is never taken for a store."""
    partial = file.with_suffix(f".{secrets.token_hex(4)}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            np.save(stream, features)
        partial.replace(file)
    except OSError as error:
        raise InputError(f"cannot keep features in {file.parent}: {error.strerror}; choose another --cache") from error
