"""Corruptions by severity, after ImageNet-C (Hendrycks and Dietterich, ICLR 2019) and MedMNIST-C (Di Salvo et al., 2024).

A corruption is a function (pixels, level, random) -> pixels on float32 (height, width, channels) in [0, 1]. Its five levels
are ours, chosen so that 5 still leaves a picture that a person can read. Lengths are shares of the shorter side, so that a
level means the same on every size.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter

from titer.data.example import Data, Example, Picture
from titer.errors import InputError, unknown

Pixels = NDArray[np.float32]
Floats = NDArray[np.float64]
Change = Callable[[Floats, float, np.random.Generator], Floats]
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruption:
    """A change of a picture.

    Args:
        change: of pixels (height, width, channels), at a level.
        levels: of severities 1 to 5.
    """

    change: Change
    levels: tuple[float, float, float, float, float]

    def __call__(self, pixels: Pixels, severity: int, key: str) -> Pixels:
        """The corrupted picture, in [0, 1]; ``key`` decides all that is random in it."""
        random = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()[:16]))
        changed = self.change(pixels.astype(np.float64), self.levels[severity - 1], random)
        return np.clip(changed, 0, 1).astype(np.float32)


def corrupted(data: Data, name: str, severity: str) -> Data:
    """A data set whose pictures are corrupted as they are read; digests stay those of the files.

    Args:
        data: any.
        name: of a corruption.
        severity: "1" to "5".

    Raises:
        InputError: for an unknown corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in map(str, SEVERITIES):
        raise InputError(f"corruption {name}: expected a severity from 1 to 5, as in {name}/3, got {severity!r}")
    made, said = CORRUPTIONS[name], f"{name}/{severity}"

    def read(example: Example) -> Picture:
        picture = data.read(example)
        return replace(picture, pixels=made(picture.pixels, int(severity), f"{said}\x00{example.id}"))

    return replace(data, name=f"corrupted:{said}@{data.name}", read=read, altered=(*data.altered, said))


def _gaussian_noise(pixels: Floats, level: float, random: np.random.Generator) -> Floats:
    return pixels + level * random.standard_normal(pixels.shape)


def _speckle_noise(pixels: Floats, level: float, random: np.random.Generator) -> Floats:
    return pixels + pixels * level * random.standard_normal(pixels.shape)


def _shot_noise(pixels: Floats, level: float, random: np.random.Generator) -> Floats:
    return np.asarray(random.poisson(pixels / level) * level, np.float64)


def _impulse_noise(pixels: Floats, level: float, random: np.random.Generator) -> Floats:
    drawn = random.random(pixels.shape)
    return np.where(drawn < level / 2, 0.0, np.where(drawn < level, 1.0, pixels))


def _gaussian_blur(pixels: Floats, level: float, _: np.random.Generator) -> Floats:
    width = level * min(pixels.shape[:2])
    return np.asarray(gaussian_filter(pixels, (width, width, 0), mode="reflect"))


def _defocus_blur(pixels: Floats, level: float, _: np.random.Generator) -> Floats:
    return _blurred(pixels, _disc(level * min(pixels.shape[:2])))


def _motion_blur(pixels: Floats, level: float, random: np.random.Generator) -> Floats:
    reach, angle = level * min(pixels.shape[:2]), random.uniform(0, np.pi)
    half = max(1, int(np.ceil(reach)))
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    for at in np.linspace(-reach, reach, 8 * half + 1):
        kernel[half + round(at * np.sin(angle)), half + round(at * np.cos(angle))] += 1
    return _blurred(pixels, kernel)


def _disc(radius: float) -> Floats:
    half = max(1, int(np.ceil(radius)))
    down, right = np.mgrid[-half : half + 1, -half : half + 1]
    return np.asarray(np.clip(radius + 0.5 - np.hypot(down, right), 0, 1), np.float64)


def _blurred(pixels: Floats, kernel: Floats) -> Floats:
    return np.asarray(convolve(pixels, (kernel / kernel.sum())[..., None], mode="reflect"))


def _jpeg(pixels: Floats, level: float, _: np.random.Generator) -> Floats:
    file = io.BytesIO()
    _picture(pixels).save(file, "JPEG", quality=round(level))
    return _values(Image.open(file), pixels.shape[2])


def _pixelate(pixels: Floats, level: float, _: np.random.Generator) -> Floats:
    picture = _picture(pixels)
    small = [max(1, round(side * level)) for side in picture.size]
    coarse = picture.resize((small[0], small[1]), Image.Resampling.BOX)
    return _values(coarse.resize(picture.size, Image.Resampling.NEAREST), pixels.shape[2])


def _picture(pixels: Floats) -> Image.Image:
    grey = np.round(pixels * 255).astype(np.uint8)
    return Image.fromarray(grey[..., 0] if grey.shape[2] == 1 else grey)


def _values(picture: Image.Image, channels: int) -> Floats:
    return np.asarray(picture, np.float64).reshape(picture.height, picture.width, channels) / 255


def _brightness(pixels: Floats, level: float, _: np.random.Generator) -> Floats:
    return pixels + level


def _contrast(pixels: Floats, level: float, _: np.random.Generator) -> Floats:
    middle = pixels.mean(axis=(0, 1), keepdims=True)
    return np.asarray(middle + level * (pixels - middle), np.float64)


def _gamma(pixels: Floats, level: float, _: np.random.Generator) -> Floats:
    return pixels**level


def _saturation(pixels: Floats, level: float, _: np.random.Generator) -> Floats:
    grey = pixels.mean(axis=2, keepdims=True)
    return np.asarray(grey + level * (pixels - grey), np.float64)


CORRUPTIONS: Mapping[str, Corruption] = {
    "brightness-down": Corruption(_brightness, (-0.05, -0.1, -0.15, -0.2, -0.3)),  # darker
    "brightness-up": Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),  # brighter
    "contrast-down": Corruption(_contrast, (0.8, 0.65, 0.5, 0.4, 0.3)),  # nearer to the mean of each channel
    "contrast-up": Corruption(_contrast, (1.2, 1.4, 1.7, 2.0, 2.5)),  # further from it
    "defocus-blur": Corruption(_defocus_blur, (0.006, 0.01, 0.015, 0.02, 0.03)),  # a disc of this radius
    "gamma-down": Corruption(_gamma, (0.9, 0.8, 0.7, 0.6, 0.5)),  # an exponent below 1: dark parts brighter
    "gamma-up": Corruption(_gamma, (1.1, 1.3, 1.5, 1.8, 2.2)),  # an exponent above 1: dark parts darker
    "gaussian-blur": Corruption(_gaussian_blur, (0.004, 0.007, 0.01, 0.015, 0.02)),  # a Gaussian of this width
    "gaussian-noise": Corruption(_gaussian_noise, (0.02, 0.04, 0.07, 0.11, 0.16)),  # of this standard deviation
    "impulse-noise": Corruption(_impulse_noise, (0.005, 0.01, 0.02, 0.04, 0.08)),  # a share of values black or white
    "jpeg": Corruption(_jpeg, (70, 45, 28, 16, 9)),  # this JPEG quality
    "motion-blur": Corruption(
        _motion_blur, (0.01, 0.015, 0.02, 0.03, 0.045)
    ),  # a line of this half length, any direction
    "pixelate": Corruption(_pixelate, (0.75, 0.6, 0.45, 0.35, 0.25)),  # this share of the resolution
    "saturation-down": Corruption(_saturation, (0.8, 0.6, 0.4, 0.2, 0.0)),  # paler; nothing on grey pictures
    "saturation-up": Corruption(_saturation, (1.2, 1.5, 1.8, 2.2, 2.8)),  # more colourful; nothing on grey pictures
    "shot-noise": Corruption(
        _shot_noise, (0.002, 0.005, 0.01, 0.02, 0.04)
    ),  # Poisson counts, one of them this much light
    "speckle-noise": Corruption(_speckle_noise, (0.05, 0.1, 0.17, 0.25, 0.35)),  # of this share of each value
}
