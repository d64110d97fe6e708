"""Skin lesions under the dermatoscope: a naevus, a melanoma, a scaly plaque."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from titer.data.phantoms.canvas import (
    Drawing,
    Field,
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

_TONES = ((0.93, 0.76, 0.67), (0.86, 0.66, 0.54), (0.72, 0.52, 0.40))
_SIZES = ("small", "large")


def _skin(generator: np.random.Generator) -> Callable[[], Field]:
    """Draws skin with a few hairs."""
    tone = jitter(generator, _TONES[int(generator.integers(3))], 0.03)
    fine, coarse = noise(generator), noise(generator)
    hairs = [(*generator.uniform(0, 1, 2), *generator.normal(0, 0.3, 2)) for _ in range(int(generator.integers(0, 5)))]

    def drawn() -> Field:
        canvas = plain(tone, 0.015 * texture(fine, 0.012) + 0.02 * texture(coarse, 0.1))
        for x, y, dx, dy in hairs:
            paint(canvas, stroke(x, y, x + dx, y + dy, 0.006), (0.25, 0.18, 0.14), 0.6)
        return canvas

    return drawn


def _size(generator: np.random.Generator) -> tuple[str, float]:
    place = int(generator.integers(2))
    return _SIZES[place], (generator.uniform(0.13, 0.18), generator.uniform(0.24, 0.30))[place]


def naevus(generator: np.random.Generator) -> Drawing:
    skin = _skin(generator)
    size, radius = _size(generator)
    yield f"a dermoscopy picture of a {size} symmetric naevus of even colour"
    canvas = skin()
    x, y = generator.uniform(0.4, 0.6, 2)
    colour = jitter(generator, (0.50, 0.32, 0.22))
    paint(
        canvas,
        ellipse(x, y, radius, radius * generator.uniform(0.8, 1.0), generator.uniform(0, np.pi), 0.06),
        colour,
        0.9,
    )
    return np.clip(canvas, 0, 1)


def melanoma(generator: np.random.Generator) -> Drawing:
    skin = _skin(generator)
    size, radius = _size(generator)
    yield f"a dermoscopy picture of a {size} irregular melanoma of several colours"
    canvas = skin()
    x, y = generator.uniform(0.4, 0.6, 2)
    lesion = blob(x, y, radius, outline(generator, 0.22), 0.03)
    paint(canvas, lesion, jitter(generator, (0.45, 0.28, 0.20)), 0.9)
    for dark in ((0.16, 0.10, 0.10), (0.30, 0.30, 0.42), (0.62, 0.36, 0.30)):
        offset = generator.normal(0, radius * 0.5, 2)
        paint(
            canvas,
            blob(x + offset[0], y + offset[1], radius * 0.45, outline(generator, 0.25), 0.06) * lesion,
            jitter(generator, dark),
            0.85,
        )
    return np.clip(canvas, 0, 1)


def plaque(generator: np.random.Generator) -> Drawing:
    skin = _skin(generator)
    size, radius = _size(generator)
    yield f"a dermoscopy picture of a {size} red plaque with white scales"
    canvas = skin()
    x, y = generator.uniform(0.4, 0.6, 2)
    lesion = blob(x, y, radius * 1.2, outline(generator, 0.10), 0.05)
    paint(canvas, lesion, jitter(generator, (0.80, 0.42, 0.38)), 0.75)
    for scale_x, scale_y in scattered(generator, 40, 0.06):
        flake = ellipse(scale_x, scale_y, generator.uniform(0.015, 0.035), 0.012, generator.uniform(0, np.pi))
        paint(canvas, flake * lesion, (0.95, 0.90, 0.86), 0.8)
    return np.clip(canvas, 0, 1)
