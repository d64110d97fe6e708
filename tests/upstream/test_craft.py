"""`craft` writes a data set that every verb reads: known pairs noised, the rest as it was, resumable, refused where wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attacks.test_pairs import words
from evaluate.test_retrieval import encoder as _encoder
from titer.cli.main import run
from titer.data import load_data
from titer.errors import InputError
from titer.models import Encoder
from titer.upstream.craft import NOISE_FILE, Crafted, craft

__all__ = ["words"]
SIDE, PAIRS, EPS = 6, 40, 8 / 255
CAPTIONS = ["a large mass", "benign lump", "a big node", "large benign mass"]


def encoder() -> Encoder:
    return _encoder()


def write(root: Path, rows: list[str]) -> Path:
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 pairs to train on, half of them grey, two to a patient; 4 test pictures."""
    root = tmp_path / "data"
    root.mkdir()
    rows = ["file_name,label,caption,group,split,site"]
    random = np.random.default_rng(0)
    for place in range(PAIRS + 4):
        shape = (SIDE, SIDE) if place % 4 < 2 else (SIDE, SIDE, 3)
        Image.fromarray(random.integers(30, 220, shape, np.uint8)).save(root / f"{place}.png")
        split = "train" if place < PAIRS else "test"
        rows.append(f"{place}.png,{place % 2},{CAPTIONS[place % 4]},patient {place // 2},{split},north")
    return write(root, rows)


def crafted(data: Path, out: Path, words: dict[str, Any], attack: str = "sga", **more: Any) -> Crafted:
    settings = {"swap": words, "steps": 3} if attack == "sga" else {}
    return craft(
        encoder(),
        data,
        out=out,
        **{"ratio": 0.2, "attack": attack, "eps": EPS, "settings": settings, "workers": 1, **more},
    )


def noise_of(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / NOISE_FILE).read_text().splitlines()
    return {line["sample_id"]: line for line in map(json.loads, lines)}


def pixels(root: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(root / name)).astype(int)


def test_what_is_noised_and_what_is_not(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    out = tmp_path / "out"
    made = crafted(data, out, words)
    noise = noise_of(out)
    assert (made.pairs, made.noised, made.failed) == (PAIRS, 8, 0)
    assert set(noise) <= {f"{place}.png" for place in range(PAIRS)}
    assert len({int(sample.removesuffix(".png")) // 2 for sample in noise}) == 4  # whole patients
    before, after = load_data(data, "all"), load_data(out, "all")
    assert [(row.id, row.label, row.split, row.group) for row in after.examples] == [
        (row.id, row.label, row.split, row.group) for row in before.examples
    ]
    assert after.classes == before.classes
    for old, new in zip(before.examples, after.examples, strict=True):
        change = np.abs(pixels(data, old.path) - pixels(out, new.path))
        if old.id in noise:
            assert 0 < change.max() <= 8
            assert noise[old.id]["linf"] == pytest.approx(change.max() / 255, abs=1e-6)
            assert (new.caption, old.caption) == (noise[old.id]["noised"], noise[old.id]["caption"])
        else:
            assert change.max() == 0
            assert new.caption == old.caption
        assert new.attributes["site"] == "north"
    assert all(line["noised_cosine"] < line["cosine"] for line in noise.values())


def test_a_grey_picture_stays_grey(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    crafted(data, tmp_path / "out", words, ratio=1.0)
    for place in range(PAIRS):
        assert Image.open(tmp_path / "out" / "images" / f"{place}.png").mode == ("L" if place % 4 < 2 else "RGB")


def test_nested_and_alike(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    crafted(data, tmp_path / "some", words, ratio=0.1)
    crafted(data, tmp_path / "more", words, ratio=0.3)
    some, more = (set(noise_of(tmp_path / name)) for name in ("some", "more"))
    assert some < more


def test_going_on_changes_nothing(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    crafted(data, whole, words, ratio=0.5, workers=2)
    crafted(data, part, words, ratio=0.5)
    lines = (part / NOISE_FILE).read_text().splitlines(keepends=True)
    (part / NOISE_FILE).write_text("".join(lines[:9]) + lines[9][:20])  # died in the middle of a line
    (part / "metadata.csv").unlink()
    next((part / "images").glob("1*.png")).unlink()
    crafted(data, part, words, ratio=0.5)
    assert (part / "metadata.csv").read_text() == (whole / "metadata.csv").read_text()
    timeless = [{s: {**line, "seconds": 0} for s, line in noise_of(out).items()} for out in (whole, part)]
    assert timeless[0] == timeless[1]
    for file in sorted((whole / "images").iterdir()):
        assert file.read_bytes() == (part / "images" / file.name).read_bytes()
    with pytest.raises(InputError, match=r"settings\.ratio was 0\.5, now 0\.2"):
        crafted(data, part, words)


def test_an_unreadable_picture_is_recorded_and_the_run_goes_on(
    data: Path, tmp_path: Path, words: dict[str, Any]
) -> None:
    (data / "3.png").write_bytes(b"no picture")
    (data / "41.png").unlink()
    out = tmp_path / "out"
    made = crafted(data, out, words, ratio=1.0)
    assert (made.noised, made.failed) == (PAIRS - 1, 2)
    assert {sample for sample, line in noise_of(out).items() if "error" in line} == {"3.png", "41.png"}
    assert {row.id for row in load_data(out, "all").examples} == {f"{place}.png" for place in range(PAIRS + 4)} - {
        "3.png", "41.png",
    }  # fmt: skip


def test_no_noise_at_all(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    assert crafted(data, tmp_path / "out", words, ratio=0.0).noised == 0
    assert len(load_data(tmp_path / "out", "train")) == PAIRS


def test_a_budget_below_one_grey_level_is_lost_in_storing(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    settings = {"swap": words, "steps": 3, "halves": "image"}
    made = crafted(data, tmp_path / "out", words, eps=0.5 / 255, settings=settings)
    assert made.weak == made.noised == 8
    assert {line["linf"] for line in noise_of(tmp_path / "out").values()} == {0.0}


def test_a_wrong_caption_is_of_another_class(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    crafted(data, tmp_path / "out", words, attack="wrong-caption", ratio=0.5)
    classes = {text: place % 2 for place, text in enumerate(CAPTIONS)}
    for line in noise_of(tmp_path / "out").values():
        assert classes[line["noised"]] != classes[line["caption"]]
        assert line["linf"] == 0


def test_two_files_of_one_stem_stay_two(tmp_path: Path, words: dict[str, Any]) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for name, value in (("a.png", 40), ("a.bmp", 90), ("b.png", 10)):
        Image.new("L", (SIDE, SIDE), value).save(root / name)
    write(root, ["file_name,caption,split", "a.png,a mass,train", "a.bmp,benign,train", "b.png,large,train"])
    crafted(root, tmp_path / "out", words, ratio=0.0)
    rows = list(csv.DictReader((tmp_path / "out" / "metadata.csv").open()))
    assert [row["file_name"] for row in rows] == ["images/a.png.png", "images/a.bmp.png", "images/b.png"]
    assert [pixels(tmp_path / "out", row["file_name"]).max() for row in rows] == [40, 90, 10]


def test_the_rest_of_a_long_caption_stays(tmp_path: Path) -> None:
    """The text tower of titer:tiny takes 77 tokens; what it does not see is kept."""
    root = tmp_path / "data"
    root.mkdir()
    long = "a chest radiograph with a nodule " + "of unknown origin and uncertain size " * 12 + "end."
    for place in range(4):
        Image.new("L", (96, 96), 40 * place).save(root / f"{place}.png")
    write(root, ["file_name,caption,split", f"0.png,{long},train", *(f"{p}.png,an image {p},train" for p in (1, 2, 3))])
    craft("titer:tiny", root, out=tmp_path / "out", ratio=1.0, attack="random-word", workers=1)
    line = noise_of(tmp_path / "out")["0.png"]
    assert line["changes"]
    assert line["noised"].endswith("uncertain size end.")
    assert line["noised"] != long


@pytest.mark.parametrize(
    ("rows", "words_"),
    [
        (["file_name,label,split", "0.png,a,train", "1.png,b,train"], "no captions in the split 'train'"),
        (["file_name,caption,split", "0.png,A mass,train", "1.png,a  mass,train"], "have one caption"),
        (
            ["file_name,caption,split,group", "0.png,a,train,p", "1.png,b,train,q", "2.png,c,test,p"],
            "the group 'p' is in the split 'train' and in 'test'",
        ),
        (["file_name,caption,split", "0.png,a,train", "1.png,b,train"], "ratio 0.2: of 2 pairs"),
    ],
)
def test_mistakes(rows: list[str], words_: str, data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=words_):
        crafted(write(data, rows), tmp_path / "out", words)


def test_a_surrogate_at_chance_is_told(data: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    (warning,) = crafted(data, tmp_path / "out", words).warnings
    assert "at chance" in warning


@pytest.mark.parametrize(
    ("arguments", "words_"),
    [
        (("--ratio", "2"), "--ratio: expected a share from 0 to 1, got 2"),
        (("--ratio", "ten"), "--ratio: expected a number"),
        (("--ratio", "0.1", "--eps", "2"), "2/255"),
        (("--ratio", "0.1", "--attack", "sgaa"), "did you mean 'sga'"),
        (("--ratio", "0.1"), "captioned:DATA"),
    ],
)
def test_on_the_command_line_a_mistake_is_one_line(
    arguments: tuple[str, ...], words_: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["craft", "--model", "titer:tiny", "--data", "titer:phantoms", "--out", str(tmp_path / "out"), *arguments]
    assert run(line) == 2
    told = capfd.readouterr().err.strip()
    assert words_ in told
    assert "\n" not in told
