"""A table of many rows: pictures are read as they are needed and let go, so memory is that of the rows."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import brightness_encoder
from titer.data import describe, load_all
from titer.data.example import Data, Example, Picture
from titer.features.clean import clean_features

ROWS, FILES, SIDE = 5000, 50, 24
PICTURE = SIDE * SIDE * 3 * 4  # bytes, decoded
ROW = 1200  # bytes that a row with five cells may take: what is kept is six short texts and what holds them


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 rows that show fifty pictures."""
    root = tmp_path_factory.mktemp("many")
    for place in range(FILES):
        Image.fromarray(np.full((SIDE, SIDE, 3), 5 * place, np.uint8)).save(root / f"{place}.png")
    rows = [f"row {row},{row % FILES}.png,{row % 4},patient {row // 3},site {row % 7}" for row in range(ROWS)]
    (root / "rows.csv").write_text("\n".join(["id,path,label,group,site", *rows]))
    return root / "rows.csv"


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def watched(data: Data, held: list[int]) -> Data:
    """The same data, which write down how much memory is in use at each tenth of the pictures."""
    every, read = len(data) // 10, data.read
    places = {example.id: place for place, example in enumerate(data.examples)}

    def note(example: Example) -> Picture:
        if places[example.id] % every == 0:
            held.append(tracemalloc.get_traced_memory()[0])
        return read(example)

    return replace(data, read=note)


@pytest.mark.usefixtures("traced")
def test_rows_are_small_and_no_picture_is_read_with_them(table: Path) -> None:
    data = load_all(table)
    held, peak = tracemalloc.get_traced_memory()
    assert len(data) == ROWS
    assert held < ROWS * ROW
    assert peak < 2 * ROWS * ROW


@pytest.mark.usefixtures("traced")
def test_a_pass_holds_features_and_no_pictures(table: Path) -> None:
    held: list[int] = []
    features, read = clean_features(brightness_encoder(), watched(load_all(table), held), workers=2)
    assert (len(features), len(read), len(held)) == (ROWS, ROWS, 10)
    assert max(held[1:]) - min(held[1:]) < ROWS * PICTURE / 50


@pytest.mark.usefixtures("traced")
def test_a_check_holds_a_print_of_each_picture(table: Path) -> None:
    held: list[int] = []
    data = load_all(table)
    some = replace(data, examples=data.examples[: ROWS // 3])
    report = describe(watched(some, held), workers=2)
    assert report.images == len(some)
    assert (held[-1] - held[1]) / (0.8 * len(some)) < PICTURE / 3
