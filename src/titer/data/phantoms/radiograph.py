"""Chest radiographs: clear lungs, a consolidation, an effusion, a nodule, a large heart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from titer.data.phantoms.canvas import Drawing, Field, X, Y, blob, ellipse, noise, outline, stroke, texture


def _chest(generator: np.random.Generator, heart: float = 0.13) -> Callable[[], tuple[Field, dict[str, Field]]]:
    """Draws a chest without a finding, and the masks of its parts. ``heart`` is half the width of the heart."""
    shift, spread = generator.normal(0, 0.015), generator.normal(1, 0.05)
    air, first_rib = generator.normal(0, 0.03), generator.uniform(0, 0.05)
    coarse, fine = noise(generator), noise(generator)

    def drawn() -> tuple[Field, dict[str, Field]]:
        body = ellipse(0.5 + shift, 0.58, 0.46 * spread, 0.62, soft=0.05).whole
        left = ellipse(0.30 + shift, 0.47, 0.135 * spread, 0.30 * spread, 0.12, soft=0.04).whole  # left of the picture
        right = ellipse(0.70 + shift, 0.47, 0.135 * spread, 0.30 * spread, -0.12, soft=0.04).whole
        film = 0.08 + 0.55 * body
        film -= (0.38 + air) * np.maximum(left, right)
        film += 0.26 * stroke(0.5 + shift, 0.0, 0.5 + shift, 1.0, 0.045, 0.05).whole
        film += 0.22 * ellipse(0.53 + shift, 0.64, heart, 0.14, 0.35, soft=0.05).whole
        for height in np.arange(0.16, 0.8, 0.085) + first_rib:
            for bow in _BOWS:
                film += 0.06 * np.exp(-(((Y - height - _ARCH + bow) / 0.012) ** 2)) * body
        film += 0.02 * texture(coarse, 0.03) + 0.012 * texture(fine, 0.008)
        return film, {"left": left, "right": right}

    return drawn


_ARCH = 0.35 * (np.abs(X - 0.5) - 0.2) ** 2  # of ribs
_BOWS = [0.03 * side * (X - 0.5) / 0.3 for side in (-1, 1)]


def _finish(film: Field, generator: np.random.Generator) -> Field:
    contrast, light = generator.normal(1, 0.08), generator.normal(0, 0.03)
    return np.clip((film - 0.4) * contrast + 0.4 + light, 0, 1)[..., None]


def _side(generator: np.random.Generator) -> tuple[str, str, float]:
    """(side of the picture, side of the patient, x of that lung)."""
    return ("left", "right", 0.30) if generator.random() < 0.5 else ("right", "left", 0.70)


def clear(generator: np.random.Generator) -> Drawing:
    yield "a chest radiograph with clear lungs"
    film, _ = _chest(generator)()
    return _finish(film, generator)


def consolidation(generator: np.random.Generator) -> Drawing:
    chest = _chest(generator)
    place, side, x = _side(generator)
    upper = generator.random() < 0.5
    yield f"a chest radiograph with a consolidation in the {side} {'upper' if upper else 'lower'} zone"
    y = 0.36 if upper else 0.58
    cloud = blob(
        x + generator.normal(0, 0.02),
        y + generator.normal(0, 0.02),
        generator.uniform(0.09, 0.14),
        outline(generator, 0.15),
        0.08,
    )
    patchy = np.clip(1 + 0.35 * texture(noise(generator), 0.03), 0, 1.5)
    film, lungs = chest()
    film += generator.uniform(0.2, 0.32) * cloud.whole * patchy * lungs[place]
    return _finish(film, generator)


def effusion(generator: np.random.Generator) -> Drawing:
    chest = _chest(generator)
    place, side, x = _side(generator)
    level = generator.uniform(0.5, 0.64)
    yield f"a chest radiograph with a {'large' if level < 0.57 else 'small'} pleural effusion on the {side}"
    outward = -1 if place == "left" else 1
    meniscus = level - 0.35 * np.clip((X - x) * outward, -0.1, 0.2)
    fluid = 1 / (1 + np.exp(-(Y - meniscus) / 0.012))
    film, lungs = chest()
    film += generator.uniform(0.27, 0.36) * fluid * lungs[place]
    return _finish(film, generator)


def nodule(generator: np.random.Generator) -> Drawing:
    chest = _chest(generator)
    _, side, x = _side(generator)
    yield f"a chest radiograph with a round nodule in the {side} lung"
    radius = generator.uniform(0.03, 0.05)
    film, _ = chest()
    film += (
        generator.uniform(0.22, 0.34)
        * blob(
            x + generator.normal(0, 0.03), generator.uniform(0.3, 0.62), radius, outline(generator, 0.05), 0.02
        ).whole
    )
    return _finish(film, generator)


def large_heart(generator: np.random.Generator) -> Drawing:
    yield "a chest radiograph with an enlarged heart"
    film, _ = _chest(generator, heart=generator.uniform(0.22, 0.27))()
    return _finish(film, generator)
