"""Chest radiographs: clear lungs, a consolidation, an effusion, a nodule, a large heart."""

from __future__ import annotations

import numpy as np

from titer.data.phantoms.canvas import Field, X, Y, blob, ellipse, stroke, texture

Drawing = tuple[Field, str]


def _chest(generator: np.random.Generator, heart: float = 0.13) -> tuple[Field, dict[str, Field]]:
    """A chest without a finding, and the masks of its parts. ``heart`` is half the width of the heart."""
    shift, spread = generator.normal(0, 0.015), generator.normal(1, 0.05)
    body = ellipse(0.5 + shift, 0.58, 0.46 * spread, 0.62, soft=0.05)
    left = ellipse(0.30 + shift, 0.47, 0.135 * spread, 0.30 * spread, 0.12, soft=0.04)  # left of the picture
    right = ellipse(0.70 + shift, 0.47, 0.135 * spread, 0.30 * spread, -0.12, soft=0.04)
    film = 0.08 + 0.55 * body
    film -= (0.38 + generator.normal(0, 0.03)) * np.maximum(left, right)
    film += 0.26 * stroke(0.5 + shift, 0.0, 0.5 + shift, 1.0, 0.045, 0.05)
    film += 0.22 * ellipse(0.53 + shift, 0.64, heart, 0.14, 0.35, soft=0.05)
    for height in np.arange(0.16, 0.8, 0.085) + generator.uniform(0, 0.05):
        for side in (-1, 1):
            bow = 0.03 * side * (X - 0.5) / 0.3
            film += 0.06 * np.exp(-(((Y - height - 0.35 * (np.abs(X - 0.5) - 0.2) ** 2 + bow) / 0.012) ** 2)) * body
    film += 0.02 * texture(generator, 0.03) + 0.012 * texture(generator, 0.008)
    return film, {"left": left, "right": right}


def _finish(film: Field, generator: np.random.Generator) -> Field:
    contrast, light = generator.normal(1, 0.08), generator.normal(0, 0.03)
    return np.clip((film - 0.4) * contrast + 0.4 + light, 0, 1)[..., None]


def _side(generator: np.random.Generator) -> tuple[str, str, float]:
    """(side of the picture, side of the patient, x of that lung)."""
    return ("left", "right", 0.30) if generator.random() < 0.5 else ("right", "left", 0.70)


def clear(generator: np.random.Generator) -> Drawing:
    film, _ = _chest(generator)
    return _finish(film, generator), "a chest radiograph with clear lungs"


def consolidation(generator: np.random.Generator) -> Drawing:
    film, lungs = _chest(generator)
    place, side, x = _side(generator)
    upper = generator.random() < 0.5
    y = 0.36 if upper else 0.58
    cloud = blob(
        x + generator.normal(0, 0.02),
        y + generator.normal(0, 0.02),
        generator.uniform(0.09, 0.14),
        0.15,
        generator,
        0.08,
    )
    patchy = np.clip(1 + 0.35 * texture(generator, 0.03), 0, 1.5)
    film += generator.uniform(0.2, 0.32) * cloud * patchy * lungs[place]
    zone = "upper" if upper else "lower"
    return _finish(film, generator), f"a chest radiograph with a consolidation in the {side} {zone} zone"


def effusion(generator: np.random.Generator) -> Drawing:
    film, lungs = _chest(generator)
    place, side, x = _side(generator)
    level = generator.uniform(0.5, 0.64)
    outward = -1 if place == "left" else 1
    meniscus = level - 0.35 * np.clip((X - x) * outward, -0.1, 0.2)
    fluid = 1 / (1 + np.exp(-(Y - meniscus) / 0.012))
    film += generator.uniform(0.27, 0.36) * fluid * lungs[place]
    size = "large" if level < 0.57 else "small"
    return _finish(film, generator), f"a chest radiograph with a {size} pleural effusion on the {side}"


def nodule(generator: np.random.Generator) -> Drawing:
    film, _ = _chest(generator)
    _, side, x = _side(generator)
    radius = generator.uniform(0.03, 0.05)
    film += generator.uniform(0.22, 0.34) * blob(
        x + generator.normal(0, 0.03), generator.uniform(0.3, 0.62), radius, 0.05, generator, 0.02
    )
    return _finish(film, generator), f"a chest radiograph with a round nodule in the {side} lung"


def large_heart(generator: np.random.Generator) -> Drawing:
    film, _ = _chest(generator, heart=generator.uniform(0.22, 0.27))
    return _finish(film, generator), "a chest radiograph with an enlarged heart"
