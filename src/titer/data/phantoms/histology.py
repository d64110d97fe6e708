"""Stained tissue: glands, a solid sheet of tumour cells, fibrous stroma, fat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from titer.data.phantoms.canvas import (
    Drawing,
    Field,
    X,
    Y,
    blob,
    ellipse,
    jitter,
    noise,
    outline,
    paint,
    plain,
    scattered,
    stroke,
    texture,
)

_PINK, _PURPLE, _PALE = (0.90, 0.66, 0.78), (0.42, 0.24, 0.55), (0.96, 0.92, 0.95)


def _tissue(generator: np.random.Generator, colour: tuple[float, ...] = _PINK) -> Callable[[], Field]:
    """Draws tissue without cells."""
    stain, fine, coarse = jitter(generator, colour), noise(generator), noise(generator)
    return lambda: plain(stain, 0.03 * texture(fine, 0.02) + 0.03 * texture(coarse, 0.08))


def _nucleus(canvas: Field, x: float, y: float, size: float, generator: np.random.Generator) -> None:
    shape = ellipse(
        x, y, size * generator.uniform(0.8, 1.2), size * generator.uniform(0.7, 1.0), generator.uniform(0, np.pi), 0.015
    )
    paint(canvas, shape, jitter(generator, _PURPLE, 0.05), generator.uniform(0.75, 0.95))


def _finish(canvas: Field, generator: np.random.Generator) -> Field:
    stain = generator.normal(1, 0.05, 3)
    return np.clip(1 - (1 - canvas) * stain, 0, 1)


def glands(generator: np.random.Generator) -> Drawing:
    tissue = _tissue(generator)
    centres = scattered(generator, int(generator.integers(2, 5)), 0.38, 0.15)
    yield f"an H&E tile with {len(centres)} round glands"
    canvas = tissue()
    for x, y in centres:
        radius, turn = generator.uniform(0.13, 0.18), generator.uniform(0, np.pi)
        paint(canvas, ellipse(x, y, radius, radius * 0.85, turn), jitter(generator, (0.80, 0.55, 0.74)))
        paint(canvas, ellipse(x, y, radius * 0.55, radius * 0.45, turn), jitter(generator, _PALE, 0.02))
        for angle in np.arange(0, 2 * np.pi, 0.42) + generator.uniform(0, 0.4):
            _nucleus(canvas, x + 0.82 * radius * np.cos(angle), y + 0.72 * radius * np.sin(angle), 0.020, generator)
    for x, y in scattered(generator, 14, 0.08):
        _nucleus(canvas, x, y, 0.014, generator)
    return _finish(canvas, generator)


def solid(generator: np.random.Generator) -> Drawing:
    tissue = _tissue(generator, (0.82, 0.58, 0.76))
    crowded = generator.random() < 0.5
    yield f"an H&E tile with a solid sheet of {'densely' if crowded else 'loosely'} packed tumour nuclei"
    canvas = tissue()
    for x, y in scattered(generator, 90 if crowded else 55, 0.06 if crowded else 0.085, 0.0):
        _nucleus(canvas, x, y, generator.uniform(0.024, 0.038), generator)
    return _finish(canvas, generator)


def stroma(generator: np.random.Generator) -> Drawing:
    yield "an H&E tile of fibrous stroma with spindle nuclei"
    canvas = _tissue(generator)()
    angle = generator.uniform(0, np.pi)
    across = X * np.cos(angle) + Y * np.sin(angle) + 0.03 * texture(noise(generator), 0.12)
    canvas += (
        0.09
        * np.sin(across * generator.uniform(70, 110) + texture(noise(generator), 0.1))[..., None]
        * np.array([0.4, 1.0, 0.7])
    )
    along = np.array([-np.sin(angle), np.cos(angle)])
    for x, y in scattered(generator, int(generator.integers(10, 22)), 0.09):
        paint(
            canvas,
            stroke(x, y, x + 0.06 * float(along[0]), y + 0.06 * float(along[1]), 0.009),
            jitter(generator, _PURPLE),
            0.85,
        )
    return _finish(canvas, generator)


def fat(generator: np.random.Generator) -> Drawing:
    yield "an H&E tile of fat with large empty cells"
    canvas = _tissue(generator, (0.88, 0.60, 0.72))()
    cells = scattered(generator, 26, 0.17, 0.0)
    for x, y in cells:
        paint(
            canvas,
            blob(x, y, generator.uniform(0.075, 0.10), outline(generator, 0.06)),
            jitter(generator, _PALE, 0.02),
            0.95,
        )
        if generator.random() < 0.4:
            _nucleus(canvas, x + 0.09, y, 0.013, generator)
    return _finish(canvas, generator)
