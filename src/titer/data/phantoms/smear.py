"""Blood smears: red cells alone, with a lymphocyte, with a neutrophil, with sickle cells."""

from __future__ import annotations

import numpy as np

from titer.data.phantoms.canvas import SIDE, Field, blob, ellipse, jitter, paint, scattered, texture

Drawing = tuple[Field, str]

_GROUND, _RED, _NUCLEUS, _CYTOPLASM = (0.93, 0.88, 0.86), (0.85, 0.56, 0.54), (0.38, 0.20, 0.52), (0.72, 0.68, 0.86)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def _ground(generator: np.random.Generator) -> Field:
    light = 0.04 * texture(generator, 0.25)[..., None]
    return np.asarray(np.ones((SIDE, SIDE, 3)) * jitter(generator, _GROUND, 0.03) + light)


def _red_cells(canvas: Field, generator: np.random.Generator, avoid: tuple[float, float] | None = None) -> str:
    places = scattered(generator, int(generator.integers(5, 12)), 0.19, 0.06)
    if avoid is not None:
        places = [(x, y) for x, y in places if np.hypot(x - avoid[0], y - avoid[1]) > 0.24]
    for x, y in places:
        radius = generator.uniform(0.075, 0.095)
        colour = jitter(generator, _RED)
        paint(canvas, blob(x, y, radius, 0.03, generator), colour, 0.9)
        paint(canvas, ellipse(x, y, radius * 0.4, radius * 0.4, soft=0.05), _GROUND, 0.45)
    return f"{_NUMBERS[len(places)]} red blood cells"


def _finish(canvas: Field, generator: np.random.Generator) -> Field:
    return np.clip(canvas * generator.normal(1, 0.03, 3), 0, 1)


def red_cells(generator: np.random.Generator) -> Drawing:
    canvas = _ground(generator)
    cells = _red_cells(canvas, generator)
    return _finish(canvas, generator), f"a blood smear with {cells} and no white cell"


def lymphocyte(generator: np.random.Generator) -> Drawing:
    canvas = _ground(generator)
    x, y = generator.uniform(0.3, 0.7, 2)
    cells = _red_cells(canvas, generator, (x, y))
    paint(canvas, blob(x, y, 0.15, 0.03, generator), jitter(generator, _CYTOPLASM), 0.95)
    paint(canvas, blob(x + 0.01, y, 0.125, 0.04, generator), jitter(generator, _NUCLEUS), 0.95)
    return _finish(canvas, generator), f"a blood smear with a lymphocyte, one round nucleus, and {cells}"


def neutrophil(generator: np.random.Generator) -> Drawing:
    canvas = _ground(generator)
    x, y = generator.uniform(0.3, 0.7, 2)
    cells = _red_cells(canvas, generator, (x, y))
    paint(canvas, blob(x, y, 0.17, 0.04, generator), jitter(generator, (0.86, 0.76, 0.84)), 0.95)
    lobes = int(generator.integers(3, 6))
    start = generator.uniform(0, 2 * np.pi)
    for lobe in range(lobes):
        angle = start + lobe * 1.35
        paint(
            canvas,
            blob(x + 0.085 * np.cos(angle), y + 0.085 * np.sin(angle), 0.05, 0.08, generator),
            jitter(generator, _NUCLEUS),
            0.95,
        )
    return _finish(canvas, generator), f"a blood smear with a neutrophil of {_NUMBERS[lobes]} lobes and {cells}"


def sickle(generator: np.random.Generator) -> Drawing:
    canvas = _ground(generator)
    cells = _red_cells(canvas, generator)
    sickles = scattered(generator, int(generator.integers(3, 6)), 0.2, 0.1)
    for x, y in sickles:
        turn = generator.uniform(0, np.pi)
        body = ellipse(x, y, 0.125, 0.034, turn)
        bite = ellipse(x + 0.045 * np.sin(turn), y - 0.045 * np.cos(turn), 0.11, 0.032, turn)
        paint(canvas, np.clip(body - bite, 0, 1), jitter(generator, (0.78, 0.44, 0.45)), 0.95)
    return _finish(canvas, generator), f"a blood smear with {_NUMBERS[len(sickles)]} sickle cells among {cells}"
