"""What all phantoms are made of: soft shapes on a unit square, smooth textures, and random choices by name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float64]

SIDE = 96
"""Pixels a side. Coordinates run from 0 to 1, x to the right and y down."""

_PLACES = (np.arange(SIDE) + 0.5) / SIDE
X, Y = np.meshgrid(_PLACES, _PLACES)


def ellipse(x: float, y: float, width: float, height: float, angle: float = 0.0, soft: float = 0.02) -> Field:
    """An ellipse, 1 inside and 0 outside with an edge of width ``soft``; half-axes ``width`` and ``height``."""
    return _edge(np.hypot(*_turned(x, y, angle, width, height)), soft / min(width, height))


def blob(
    x: float, y: float, radius: float, roughness: float, generator: np.random.Generator, soft: float = 0.02
) -> Field:
    """A disc whose outline wavers by ``roughness`` (0 is round, 0.4 is ragged)."""
    across, down = X - x, Y - y
    angle = np.arctan2(down, across)
    outline = np.ones_like(angle)
    for waves in range(2, 8):
        outline += roughness * generator.normal() / waves**0.7 * np.cos(waves * angle + generator.uniform(0, 2 * np.pi))
    return _edge(np.hypot(across, down) / (radius * np.clip(outline, 0.35, None)), soft / radius)


def stroke(x0: float, y0: float, x1: float, y1: float, width: float, soft: float = 0.01) -> Field:
    """A line of half-width ``width`` between two points."""
    along = np.array([x1 - x0, y1 - y0])
    length = max(1e-6, float(along @ along))
    place = np.clip(((X - x0) * along[0] + (Y - y0) * along[1]) / length, 0, 1)
    return _edge(np.hypot(X - x0 - place * along[0], Y - y0 - place * along[1]) / width, soft / width)


def texture(generator: np.random.Generator, grain: float) -> Field:
    """Smooth random texture of mean 0 and standard deviation 1; ``grain`` is its scale as a share of the side."""
    field = gaussian_filter(generator.normal(size=(SIDE, SIDE)), grain * SIDE, mode="wrap")
    return np.asarray((field - field.mean()) / field.std())


def paint(canvas: Field, mask: Field, colour: tuple[float, ...], opacity: float = 1.0) -> None:
    """Lay a colour over a canvas (side, side, 3), in place."""
    share = (mask * opacity)[..., None]
    canvas *= 1 - share
    canvas += share * np.asarray(colour)


def jitter(generator: np.random.Generator, colour: tuple[float, ...], amount: float = 0.04) -> tuple[float, ...]:
    """A colour near this one."""
    return tuple(float(value) for value in np.clip(np.asarray(colour) + generator.normal(scale=amount, size=3), 0, 1))


def scattered(
    generator: np.random.Generator, count: int, distance: float, margin: float = 0.05
) -> list[tuple[float, float]]:
    """Up to ``count`` places that keep a distance from each other."""
    places: list[tuple[float, float]] = []
    for _ in range(count * 12):
        x, y = generator.uniform(margin, 1 - margin, 2)
        if all(np.hypot(x - other_x, y - other_y) > distance for other_x, other_y in places):
            places.append((float(x), float(y)))
        if len(places) == count:
            break
    return places


def _turned(x: float, y: float, angle: float, width: float, height: float) -> tuple[Field, Field]:
    across, down = X - x, Y - y
    cosine, sine = np.cos(angle), np.sin(angle)
    return (across * cosine + down * sine) / width, (down * cosine - across * sine) / height


def _edge(distance: Field, soft: float) -> Field:
    """1 where a distance is below 1, 0 above, with a smooth edge of width ``soft``."""
    return np.asarray(1 / (1 + np.exp(np.clip((distance - 1) / (soft / 4), -50, 50))))
