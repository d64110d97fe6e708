"""Blood smears: red cells alone, with a lymphocyte, with a neutrophil, with sickle cells."""

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
    texture,
)

_GROUND, _RED, _NUCLEUS, _CYTOPLASM = (0.93, 0.88, 0.86), (0.85, 0.56, 0.54), (0.38, 0.20, 0.52), (0.72, 0.68, 0.86)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def _ground(generator: np.random.Generator) -> Callable[[], Field]:
    """Draws the glass."""
    shade, colour = noise(generator), jitter(generator, _GROUND, 0.03)
    return lambda: plain(colour, 0.04 * texture(shade, 0.25))


def _red_cells(
    generator: np.random.Generator, avoid: tuple[float, float] | None = None
) -> tuple[str, Callable[[Field], None]]:
    """How many there are, in words, and what paints them."""
    places = scattered(generator, int(generator.integers(5, 12)), 0.19, 0.06)
    if avoid is not None:
        places = [(x, y) for x, y in places if np.hypot(x - avoid[0], y - avoid[1]) > 0.24]
    cells = [
        (x, y, generator.uniform(0.075, 0.095), jitter(generator, _RED), outline(generator, 0.03)) for x, y in places
    ]

    def painted(canvas: Field) -> None:
        for x, y, radius, colour, wavering in cells:
            paint(canvas, blob(x, y, radius, wavering), colour, 0.9)
            paint(canvas, ellipse(x, y, radius * 0.4, radius * 0.4, soft=0.05), _GROUND, 0.45)

    return f"{_NUMBERS[len(places)]} red blood cells", painted


def _finish(canvas: Field, generator: np.random.Generator) -> Field:
    return np.clip(canvas * generator.normal(1, 0.03, 3), 0, 1)


def red_cells(generator: np.random.Generator) -> Drawing:
    ground = _ground(generator)
    number, paint_cells = _red_cells(generator)
    yield f"a blood smear with {number} and no white cell"
    canvas = ground()
    paint_cells(canvas)
    return _finish(canvas, generator)


def lymphocyte(generator: np.random.Generator) -> Drawing:
    ground = _ground(generator)
    x, y = generator.uniform(0.3, 0.7, 2)
    number, paint_cells = _red_cells(generator, (x, y))
    yield f"a blood smear with a lymphocyte, one round nucleus, and {number}"
    canvas = ground()
    paint_cells(canvas)
    paint(canvas, blob(x, y, 0.15, outline(generator, 0.03)), jitter(generator, _CYTOPLASM), 0.95)
    paint(canvas, blob(x + 0.01, y, 0.125, outline(generator, 0.04)), jitter(generator, _NUCLEUS), 0.95)
    return _finish(canvas, generator)


def neutrophil(generator: np.random.Generator) -> Drawing:
    ground = _ground(generator)
    x, y = generator.uniform(0.3, 0.7, 2)
    number, paint_cells = _red_cells(generator, (x, y))
    wavering, colour = outline(generator, 0.04), jitter(generator, (0.86, 0.76, 0.84))
    lobes = int(generator.integers(3, 6))
    yield f"a blood smear with a neutrophil of {_NUMBERS[lobes]} lobes and {number}"
    canvas = ground()
    paint_cells(canvas)
    paint(canvas, blob(x, y, 0.17, wavering), colour, 0.95)
    start = generator.uniform(0, 2 * np.pi)
    for lobe in range(lobes):
        angle = start + lobe * 1.35
        paint(
            canvas,
            blob(x + 0.085 * np.cos(angle), y + 0.085 * np.sin(angle), 0.05, outline(generator, 0.08)),
            jitter(generator, _NUCLEUS),
            0.95,
        )
    return _finish(canvas, generator)


def sickle(generator: np.random.Generator) -> Drawing:
    ground = _ground(generator)
    number, paint_cells = _red_cells(generator)
    sickles = scattered(generator, int(generator.integers(3, 6)), 0.2, 0.1)
    yield f"a blood smear with {_NUMBERS[len(sickles)]} sickle cells among {number}"
    canvas = ground()
    paint_cells(canvas)
    for x, y in sickles:
        turn = generator.uniform(0, np.pi)
        body = ellipse(x, y, 0.125, 0.034, turn)
        bite = ellipse(x + 0.045 * np.sin(turn), y - 0.045 * np.cos(turn), 0.11, 0.032, turn)
        paint(canvas, body.without(bite), jitter(generator, (0.78, 0.44, 0.45)), 0.95)
    return _finish(canvas, generator)
