import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report.synthetic import write_run
from titer.report.strip import Example, examples
from titer.report.tables import lines
from titer.results.store import Record


def strip(path: Path, **options: object) -> list[Example]:
    return examples(lines([write_run(path, thumbnails=True, **options)])[0])  # type: ignore[arg-type]


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))), float)


def mixed(place: int, record: Record) -> Record:
    if place < 3:
        return {**record, "prediction": -1, "radius": 0.0}
    return (
        {**record, "prediction": (record["label"] + 1) % 3} if place < 6 else {**record, "prediction": record["label"]}
    )


def test_best_and_worst_are_shown(tmp_path: Path) -> None:
    found = strip(tmp_path / "run", change=mixed)
    assert [example.why for example in found] == [
        "largest radius",
        "largest radius",
        "smallest radius",
        "smallest radius",
        "wrong, yet certified",
        "wrong, yet certified",
        "no answer",
        "no answer",
    ]
    first, *_, last = found
    assert float(first.radius) >= float(found[3].radius)
    assert first.answer == first.truth
    assert (last.answer, last.radius) == ("none", "")
    assert len({example.name for example in found}) == 8


def test_noise_has_the_sigma_of_the_run_and_is_the_same_each_time(tmp_path: Path) -> None:
    found, again = (strip(tmp_path / name, sigmas=(0.1,)) for name in ("one", "two"))
    assert found == again
    spread = np.std(pixels(found[0].noisy) - pixels(found[0].clean)[..., :]) / 255
    assert spread == pytest.approx(0.1, rel=0.1)


def test_one_channel_noise_is_grey(tmp_path: Path) -> None:
    found = strip(tmp_path / "run", change=lambda _, record: {**record, "channels": 1})
    noisy = pixels(found[0].noisy)
    assert (noisy == noisy[..., :1]).all()


def test_radii_at_the_pictures_own_size_are_beside_them(tmp_path: Path) -> None:
    def sized(_: int, record: Record) -> Record:
        return {**record, "radius": 0.125, "prediction": record["label"], "size": [300, 400, 3], "stretch": 0.3}

    assert [example.original for example in strip(tmp_path / "run", images=1, change=sized)] == ["0.416 at 400 × 300"]


def test_radii_are_rounded_down(tmp_path: Path) -> None:
    found = strip(tmp_path / "run", images=1, change=lambda _, r: {**r, "radius": 0.12399, "prediction": r["label"]})
    assert [example.radius for example in found] == ["0.123"]


def test_without_thumbnails_there_is_no_strip(tmp_path: Path) -> None:
    assert examples(lines([write_run(tmp_path / "run")])[0]) == []


def test_images_without_a_label(tmp_path: Path) -> None:
    found = strip(tmp_path / "run", images=5, change=lambda _, record: {**record, "label": None})
    assert {example.truth for example in found} == {""}
    assert "wrong" not in {example.why for example in found}


def test_predictions_have_no_radius(tmp_path: Path) -> None:
    found = strip(tmp_path / "run", verb="predict")
    assert {example.radius for example in found} == {""}
    assert found[0].why == "right"
