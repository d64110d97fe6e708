"""Example images: what was certified, and what noise of that sigma looks like."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from titer.noise import NoiseStream
from titer.report.tables import Line, class_names, radius_text
from titer.results.store import Record, thumbnail_name
from titer.results.summary import Cell

_SIDE = 128  # pixels a side in the page


@dataclass(frozen=True)
class Example:
    """One image of the strip.

    Args:
        why: what it is an example of.
        clean: PNG as a data address.
        noisy: the same with one draw of noise.
        name: sample id.
        truth: its label in words, empty where it has none.
        answer: the prediction in words.
        radius: certified radius, rounded down; empty where there is none.
        original: the same at the picture's own size, and that size; empty where it is not known.
    """

    why: str
    clean: str
    noisy: str
    name: str
    truth: str
    answer: str
    radius: str
    original: str


def examples(line: Line) -> list[Example]:
    """Images of the largest and the smallest radius, wrong ones and unanswered ones; none without thumbnails."""
    cell = line.cell
    kept = [record for record in cell.counted if _thumbnail(cell, record).exists()]
    return [_example(cell, why, record) for why, record in _chosen(kept, cell)]


def _thumbnail(cell: Cell, record: Record) -> Path:
    return cell.run.path / "images" / thumbnail_name(record["sample_id"])


def _chosen(records: Sequence[Record], cell: Cell) -> Iterator[tuple[str, Record]]:
    """By radius, then by id, so that the choice flatters nobody."""
    silent = [record for record in records if record["prediction"] < 0]
    wrong = [r for r in records if r["prediction"] >= 0 and r["label"] is not None and r["prediction"] != r["label"]]
    apart = {record["sample_id"] for record in (*silent, *wrong)}
    right = sorted(
        (record for record in records if record["sample_id"] not in apart),
        key=lambda record: (-record.get("radius", 0), record["sample_id"]),
    )
    certifies = bool(records) and "radius" in records[0]
    largest, smallest = ("largest radius", "smallest radius") if certifies else ("right", "right")
    yield from ((largest, record) for record in right[:2])
    yield from ((smallest, record) for record in right[2:][-2:])
    worst = sorted(wrong, key=lambda record: (-record.get("radius", 0), record["sample_id"]))
    yield from (("wrong, yet certified" if record.get("radius") else "wrong", record) for record in worst[:2])
    yield from (("not certified" if cell.asks_one_radius else "no answer", record) for record in silent[:2])


def _example(cell: Cell, why: str, record: Record) -> Example:
    with Image.open(_thumbnail(cell, record)) as stored:
        pixels = np.asarray(stored.convert("RGB"), np.float32) / 255
    channels = 1 if record.get("channels") == 1 else 3
    noise = NoiseStream(0, "show").block(record["sample_id"], 0, (channels, *pixels.shape[:2]))[0]
    noisy = np.clip(pixels + cell.sigma * noise.transpose(1, 2, 0), 0, 1)
    names, label, prediction = class_names(cell.run), record["label"], record["prediction"]
    certified = "radius" in record and prediction >= 0
    return Example(
        why=why,
        clean=address(pixels),
        noisy=address(noisy),
        name=record["sample_id"],
        truth="" if label is None else names[label],
        answer="none" if prediction < 0 else names[prediction],
        radius=radius_text(record["radius"], 3) if certified else "",
        original=_original(record) if certified and "stretch" in record else "",
    )


def _original(record: Record) -> str:
    height, width, _ = record["size"]
    return f"{radius_text(record['radius'] / record['stretch'], 3)} at {width} × {height}"


def address(pixels: NDArray[np.floating[Any]]) -> str:
    """A picture (height, width, 3) in [0, 1] as a PNG in a data address, at the page's size."""
    picture = Image.fromarray((pixels * 255).round().astype(np.uint8))
    smaller = max(picture.size) < _SIDE
    picture = picture.resize((_SIDE, _SIDE), Image.Resampling.NEAREST if smaller else Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
