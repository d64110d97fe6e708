"""Example images: what was certified, and what noise of that sigma looks like."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from titer.noise import NoiseStream
from titer.results.foreign import rounded_down
from titer.results.store import Record, thumbnail_name
from titer.results.summary import Cell

_SHOWN = 8
_SIDE = 128  # pixels a side in the page


@dataclass(frozen=True)
class Example:
    """One image of the strip: PNGs as data addresses, and what to say below them."""

    clean: str
    noisy: str
    name: str
    truth: str
    answer: str
    radius: str
    right: bool


def examples(cell: Cell, names: Sequence[str]) -> list[Example]:
    """A few images from the largest radius to the smallest, wrong and unanswered ones among them; none without thumbnails."""
    kept = [
        record for record in cell.labelled if (cell.run.path / "images" / thumbnail_name(record["sample_id"])).exists()
    ]
    return [_example(cell, record, names) for record in _chosen(kept)]


def _chosen(records: Sequence[Record]) -> list[Record]:
    """Evenly spaced over the radii of the right answers, then the first wrong ones and abstentions, by id."""
    right = sorted(
        (r for r in records if r["prediction"] == r["label"]), key=lambda r: (-r.get("radius", 0), r["sample_id"])
    )
    wrong = [record for record in records if record["prediction"] not in (-1, record["label"])][:2]
    silent = [record for record in records if record["prediction"] == -1][:2]
    room = _SHOWN - len(wrong) - len(silent)
    places: list[int] = (
        np.unique(np.linspace(0, len(right) - 1, min(room, len(right))).round().astype(int)).tolist() if right else []
    )
    return [*(right[place] for place in places), *wrong, *silent]


def _example(cell: Cell, record: Record, names: Sequence[str]) -> Example:
    with Image.open(cell.run.path / "images" / thumbnail_name(record["sample_id"])) as stored:
        pixels = np.asarray(stored.convert("RGB"), np.float32) / 255
    channels = 1 if record.get("channels") == 1 else 3
    noise = NoiseStream(0, "show").block(record["sample_id"], 0, (channels, *pixels.shape[:2]))[0]
    noisy = np.clip(pixels + cell.sigma * noise.transpose(1, 2, 0), 0, 1)
    prediction = record["prediction"]
    return Example(
        clean=_address(pixels),
        noisy=_address(noisy),
        name=record["sample_id"],
        truth=names[record["label"]],
        answer="no answer" if prediction < 0 else names[prediction],
        radius=rounded_down(record["radius"], 3) if "radius" in record else "",
        right=prediction == record["label"],
    )


def _address(pixels: NDArray[np.floating[Any]]) -> str:
    picture = Image.fromarray((pixels * 255).round().astype(np.uint8))
    picture = picture.resize(
        (_SIDE, _SIDE), Image.Resampling.NEAREST if picture.width < _SIDE else Image.Resampling.BOX
    )
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
