"""From decoded pictures to the model's input, and the normalisation that belongs to the model.

Images are [0, 1] at the model's input size; normalisation happens inside the encoder, so that sigma, radius and epsilon
have one unit whatever the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from titer.errors import InputError
from titer.models.resizing import FILTERS, Side, norm

Triple = tuple[float, float, float]

_LUMA = np.array([[0.299], [0.587], [0.114]], dtype=np.float32)


@dataclass(frozen=True)
class Preprocess:
    """Resizes pictures as a model expects them.

    Args:
        size: height and width of the model's input, in pixels.
        mean, std: the model's normalisation, per channel.
        mode: ``crop`` brings the short side to ``resize`` and cuts the centre out (CLIP); ``squash`` brings both sides to
            ``size`` (SigLIP); ``pad`` puts the grey picture into the middle of a black square of at least ``size``, and
            brings that to it (MedCLIP).
        resize: length of the short side before the crop; ``size`` unless given.
        resample: Pillow's number of the filter (3 is bicubic); all are antialiased.
    """

    size: int
    mean: Triple
    std: Triple
    mode: Literal["crop", "squash", "pad"] = "crop"
    resize: int | None = None
    resample: int = int(Image.Resampling.BICUBIC)

    def __call__(self, pixels: NDArray[np.float32]) -> Tensor:
        """Resize in float32, without rounding to 8 bits; what a filter overshoots is clipped.

        Args:
            pixels: (height, width, 1 or 3) in [0, 1].

        Returns:
            Float32 (3, size, size) in [0, 1]; one channel is replicated.
        """
        rows, columns = self.sides(*pixels.shape[:2])
        shown = _padded(_grey(pixels), rows, columns) if self.mode == "pad" else pixels
        resized = self._resized(shown, rows.made, columns.made)
        kept = resized[:, rows.start : rows.start + self.size, columns.start : columns.start + self.size]
        return torch.from_numpy(np.broadcast_to(kept.clip(0, 1), (3, self.size, self.size)).copy())

    def sides(self, height: int, width: int) -> tuple[Side, Side]:
        """What becomes of the two sides of a picture, in pixels."""
        short, longest = min(height, width), max(self.size, height, width)

        def side(length: int) -> Side:
            if self.mode == "squash":
                return Side(length, 0, length, self.size, 0, self.size)
            if self.mode == "pad":
                return Side(length, (longest - length) // 2, longest, self.size, 0, self.size)
            made = self.resize or self.size
            made = made if length == short else int(length * (made / short))
            return Side(length, 0, length, made, (made - self.size) // 2, self.size)

        return side(height), side(width)

    def stretch(self, height: int, width: int, bands: int, channels: int) -> float | None:
        """How many times longer, in L2, a change of a picture can become on its way to the model's input; rounded up.

        So a radius R there is one of R / stretch at the picture's own size. All steps but the clipping are linear, and
        clipping brings no two images further apart, so it takes nothing from that.

        Args:
            height, width: of the picture as decoded, in pixels.
            bands: 1 for a grey picture, whose one channel is changed; 3 for colour.
            channels: in how many channels of the model's input R is measured; 1 where noise is drawn once for all three.

        Returns:
            None for a filter whose weights are not known.
        """
        if self.resample not in FILTERS:
            return None
        rows, columns = self.sides(height, width)
        copies = (
            channels if bands == 1 or self.mode == "pad" else 1
        )  # a change is repeated in each, and grows by the root
        luma = float(np.linalg.norm(_LUMA)) if bands == 3 and self.mode == "pad" else 1.0
        longest = luma * math.sqrt(copies) * norm(rows, self.resample) * norm(columns, self.resample)
        return math.ceil(longest * 1e6) / 1e6

    def normalise(self, images: Tensor) -> Tensor:
        """(images - mean) / std, for images (batch, 3, size, size) in [0, 1]."""
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std

    def _resized(self, pixels: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        bands = [Image.fromarray(np.ascontiguousarray(pixels[..., band])) for band in range(pixels.shape[2])]
        return np.stack([np.asarray(band.resize((width, height), Image.Resampling(self.resample))) for band in bands])


def _grey(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Luma of ITU-R 601, as Pillow's mode L, (height, width, 1)."""
    return pixels if pixels.shape[2] == 1 else pixels @ _LUMA


def _padded(pixels: NDArray[np.float32], rows: Side, columns: Side) -> NDArray[np.float32]:
    square = np.zeros((rows.padded, columns.padded, pixels.shape[2]), dtype=np.float32)
    square[rows.before : rows.before + rows.length, columns.before : columns.before + columns.length] = pixels
    return square


def from_config(config: Mapping[str, Any], image_size: int) -> Preprocess:
    """What a Hugging Face ``preprocessor_config.json`` says.

    Args:
        config: the file's content.
        image_size: the vision tower's input size.

    Raises:
        InputError: for an input that is not square, or a step this package does not do.
    """
    if not np.isclose(config.get("rescale_factor", 1 / 255), 1 / 255):
        raise InputError(f"preprocessor_config.json: expected rescale_factor 1/255, got {config['rescale_factor']}")
    crops = bool(config.get("do_center_crop", False))
    size, squash = _size(config.get("size", image_size))
    target = _size(config.get("crop_size", image_size))[0] if crops else size
    if target != image_size:
        raise InputError(f"preprocessor_config.json makes {target} pixels, but the vision tower takes {image_size}")
    normal = config.get("do_normalize", True)
    return Preprocess(
        size=image_size,
        mean=triple(config.get("image_mean", (0.5, 0.5, 0.5))) if normal else (0.0, 0.0, 0.0),
        std=triple(config.get("image_std", (0.5, 0.5, 0.5))) if normal else (1.0, 1.0, 1.0),
        mode="squash" if squash and not crops else "crop",
        resize=size,
        resample=int(config.get("resample", Image.Resampling.BICUBIC)),
    )


def _size(value: Any) -> tuple[int, bool]:
    """(pixels, whether both sides are brought to them)."""
    if isinstance(value, int):
        return value, False
    if "shortest_edge" in value:
        return int(value["shortest_edge"]), False
    if value.get("height") != value.get("width") or "height" not in value:
        raise InputError(f"preprocessor_config.json: expected a square size, got {dict(value)}")
    return int(value["height"]), True


def triple(values: Any) -> Triple:
    """Three numbers, one for each channel."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue
