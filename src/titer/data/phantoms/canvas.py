"""What all phantoms are made of: soft shapes on a unit square, smooth textures, and random choices by name.

A shape is worked out where it changes a picture and nowhere else, which changes no bit of it.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float64]
Drawing = Generator[str, None, Field]
"""Yields the caption as soon as it is decided, and returns the picture: who wants the caption alone draws nothing."""

SIDE = 96
"""Pixels a side. Coordinates run from 0 to 1, x to the right and y down."""

_PLACES = (np.arange(SIDE) + 0.5) / SIDE
X, Y = np.meshgrid(_PLACES, _PLACES)
_FAINT = 40.0  # exp(-40) of a colour is below the last bit of what it is laid on


@dataclass(frozen=True, eq=False)
class Mask:
    """How much of each pixel a shape covers.

    Args:
        window: rows and columns outside which it covers nothing.
        values: in there, from 0 to 1.
    """

    window: tuple[slice, slice]
    values: Field

    def __mul__(self, other: Mask) -> Mask:
        """Where both are."""
        return Mask(self.window, self.values * other.whole[self.window])

    def without(self, other: Mask) -> Mask:
        """Where this one is and the other is not."""
        return Mask(self.window, np.clip(self.values - other.whole[self.window], 0, 1))

    @property
    def whole(self) -> Field:
        """Of every pixel."""
        found = np.zeros((SIDE, SIDE))
        found[self.window] = self.values
        return found


def ellipse(x: float, y: float, width: float, height: float, angle: float = 0.0, soft: float = 0.02) -> Mask:
    """An ellipse, 1 inside and 0 outside with an edge of width ``soft``; half-axes ``width`` and ``height``."""
    edge = soft / min(width, height)
    window = _window(x, y, max(width, height) * _reach(edge))
    across, down = X[window] - x, Y[window] - y
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = (across * cosine + down * sine) / width, (down * cosine - across * sine) / height
    return Mask(window, _edge(np.hypot(*turned), edge))


def outline(generator: np.random.Generator, roughness: float) -> list[tuple[float, float]]:
    """How a blob's outline wavers by ``roughness`` (0 is round, 0.4 is ragged): height and phase of each wave."""
    return [
        (roughness * generator.normal() / waves**0.7, generator.uniform(0, 2 * np.pi)) for waves in range(_SLOWEST, 8)
    ]


def blob(x: float, y: float, radius: float, wavering: Sequence[tuple[float, float]], soft: float = 0.02) -> Mask:
    """A disc with an `outline`."""
    largest = 1 + sum(abs(height) for height, _ in wavering)
    window = _window(x, y, radius * max(largest, _THINNEST) * _reach(soft / radius))
    across, down = X[window] - x, Y[window] - y
    angle = np.arctan2(down, across)
    found = np.ones_like(angle)
    for waves, (height, phase) in enumerate(wavering, start=_SLOWEST):
        found += height * np.cos(waves * angle + phase)
    return Mask(window, _edge(np.hypot(across, down) / (radius * np.maximum(found, _THINNEST)), soft / radius))


_SLOWEST = 2  # waves around a blob
_THINNEST = 0.35  # of a blob's radius


def stroke(x0: float, y0: float, x1: float, y1: float, width: float, soft: float = 0.01) -> Mask:
    """A line of half-width ``width`` between two points."""
    along = np.array([x1 - x0, y1 - y0])
    length = max(1e-6, float(along @ along))
    far = math.sqrt(length) / 2 + width * _reach(soft / width)
    window = _window((x0 + x1) / 2, (y0 + y1) / 2, far)
    across, down = X[window] - x0, Y[window] - y0
    place = np.clip((across * along[0] + down * along[1]) / length, 0, 1)
    return Mask(window, _edge(np.hypot(across - place * along[0], down - place * along[1]) / width, soft / width))


def noise(generator: np.random.Generator) -> Field:
    """A random number for each pixel."""
    return generator.standard_normal((SIDE, SIDE))


def texture(noise: Field, grain: float) -> Field:
    """Smooth texture of mean 0 and standard deviation 1 made of `noise`; ``grain`` is its scale as a share of the side."""
    field = gaussian_filter(noise, grain * SIDE, mode="wrap")
    return np.asarray((field - field.mean()) / field.std())


def plain(colour: tuple[float, ...], light: Field) -> Field:
    """A canvas (side, side, 3) of one colour under uneven light.

    Each colour is a plane of its own in memory: arrays are fast along their innermost axis, which should not be the short one.
    """
    return np.moveaxis(np.asarray(colour)[:, None, None] + light, 0, -1)


def paint(canvas: Field, mask: Mask, colour: tuple[float, ...], opacity: float = 1.0) -> None:
    """Lay a colour over a canvas (side, side, 3), in place."""
    share = (mask.values * opacity)[..., None]
    part = canvas[mask.window]
    part *= 1 - share
    part += share * np.asarray(colour)


def jitter(generator: np.random.Generator, colour: tuple[float, ...], amount: float = 0.04) -> tuple[float, ...]:
    """A colour near this one."""
    changes = generator.normal(scale=amount, size=3).tolist()
    return tuple(min(max(value + change, 0.0), 1.0) for value, change in zip(colour, changes, strict=True))


def scattered(
    generator: np.random.Generator, count: int, distance: float, margin: float = 0.05
) -> list[tuple[float, float]]:
    """Up to ``count`` places that keep a distance from each other."""
    places: list[tuple[float, float]] = []
    for _ in range(count * 12):
        x, y = generator.uniform(margin, 1 - margin, 2).tolist()
        if all(math.hypot(x - other_x, y - other_y) > distance for other_x, other_y in places):
            places.append((x, y))
        if len(places) == count:
            break
    return places


def _window(x: float, y: float, far: float) -> tuple[slice, slice]:
    """Rows and columns of the pixels that are at most so far from a point along each axis."""
    rows, columns = (
        slice(max(0, math.floor((place - far) * SIDE)), max(0, math.ceil((place + far) * SIDE))) for place in (y, x)
    )
    return rows, columns


def _reach(soft: float) -> float:
    """The distance, in the shape's own measure, beyond which its edge is too faint to change a picture."""
    return 1 + _FAINT * soft / 4


def _edge(distance: Field, soft: float) -> Field:
    """1 where a distance is below 1, 0 above, with a smooth edge of width ``soft``."""
    return np.asarray(1 / (1 + np.exp(np.minimum((distance - 1) / (soft / 4), 50))))
