"""Small data sets made for a test."""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from titer.data import Data, Example


def picture(path: Path, value: int = 128, size: tuple[int, int] = (4, 3)) -> Path:
    """A grey picture of one value; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def pictures(root: Path, names: Iterable[str]) -> Path:
    """Pictures that all differ."""
    for value, name in enumerate(names):
        picture(root / name, value)
    return root


def words(root: Path, classes: Mapping[str, object]) -> Path:
    (root / "classes.json").write_text(json.dumps(classes), encoding="utf-8")
    return root


def example(identifier: str, label: int | None = 0, split: str = "test", group: str | None = None) -> Example:
    return Example(identifier, identifier, label, None, group, split, {})


def ids(data: Data) -> list[str]:
    return [each.id for each in data.examples]


def tiff(values: NDArray[np.generic], *, sample_format: int = 1, orientation: int = 1) -> bytes:
    """An uncompressed TIFF with the byte order and depth of its array, which Pillow itself cannot write.

    Args:
        values: (height, width).
        sample_format: 1 unsigned, 2 signed, 3 floating point.
        orientation: the EXIF tag.
    """
    order = ">" if values.dtype.byteorder == ">" else "<"
    height, width = values.shape
    body = values.tobytes()
    short, long = 3, 4
    tags = [
        (256, short, width),
        (257, short, height),
        (258, short, values.itemsize * 8),
        (259, short, 1),
        (262, short, 1),
        (273, long, 8),
        (274, short, orientation),
        (277, short, 1),
        (278, short, height),
        (279, long, len(body)),
        (339, short, sample_format),
    ]
    fields = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}HH" if kind == short else f"{order}I", *cell)
        for tag, kind, value in tags
        for cell in [(value, 0) if kind == short else (value,)]
    )
    head = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(tags)) + fields + struct.pack(f"{order}I", 0)
