"""Is the image brittle? How far weak transforms move its feature: an adversarial image gives way to them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from titer.attacks.attack import Random
from titer.models.encoder import Encoder
from titer.upstream.audit.pairs import Floats

Transform = Callable[[Tensor, Random], Tensor]

_NOISE = 4 / 255
_QUALITY = 75
_SCALE = 0.9
_TINY = 1e-12


def _noise(images: Tensor, random: Random) -> Tensor:
    return (images + _NOISE * random.normal(*images.shape[1:]).to(images.device)).clamp(0, 1)


def _jpeg(images: Tensor, _: Random) -> Tensor:
    return torch.stack([_stored(image) for image in images.cpu()]).to(images.device)


def _stored(image: Tensor) -> Tensor:
    file = io.BytesIO()
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return torch.from_numpy(np.asarray(Image.open(file), np.float32) / 255).permute(2, 0, 1)


def _pixel(images: Tensor, _: Random) -> Tensor:
    """One pixel down and to the right; the edge is repeated."""
    return F.pad(images, (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]


def _rescale(images: Tensor, _: Random) -> Tensor:
    size = images.shape[-1]
    small = _resized(images, max(1, round(_SCALE * size)))
    return _resized(small, size).clamp(0, 1)


def _resized(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False)


TRANSFORMS: Mapping[str, Transform] = {
    "noise": _noise,  # Gaussian, standard deviation 4/255
    "jpeg": _jpeg,  # quality 75
    "pixel": _pixel,  # shift by one
    "rescale": _rescale,  # to 0.9 and back
}
"""Images (batch, 3, size, size) in [0, 1] -> the same, changed so little that a person sees the same."""


def shifts(encoder: Encoder, images: Tensor, random: Random) -> Tensor:
    """How far each transform moves the images' unit features (Euclidean distance).

    Args:
        encoder: of the features.
        images: (batch, 3, size, size) in [0, 1].
        random: a stream for each image.

    Returns:
        (batch, transforms).
    """
    with torch.no_grad():
        clean = encoder.encode_image(images)
        moved = [encoder.encode_image(change(images, random)) for change in TRANSFORMS.values()]
    return torch.stack([(features - clean).norm(dim=1) for features in moved], dim=1)


def transform(shifted: Floats) -> Floats:
    """(pairs,) mean over transforms of the shift, each as a multiple of the median image's.

    Args:
        shifted: (pairs, transforms), as ``shifts`` gives them.
    """
    return np.asarray(np.mean(shifted / np.maximum(np.median(shifted, axis=0), _TINY), axis=1), float)
