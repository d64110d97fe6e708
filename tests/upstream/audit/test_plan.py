"""What an audit refuses, in one line, before or while it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from titer.errors import InputError, RunError
from titer.upstream.audit.session import audit
from upstream.audit.making import changed, folder, toy

FEW = {"canaries": 2, "steps": 1, "captions": 50}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("audit") / "data")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"captions": [""]}, "has no captions in the split 'train'"), ({"captions": ["one", "One "]}, "have one caption"),
     ({"rows": 49}, "has 49 captioned pairs"), ({"captions": ["", "b", "", "", "c"]}, "has 48 captioned pairs")],
)  # fmt: skip
def test_bad_pairs_are_refused(options: dict[str, object], words: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        audit(toy(), changed(data, tmp_path / "data", **options), out=tmp_path / "run")  # type: ignore[arg-type]


def test_rows_without_caption_are_counted(data: Path, tmp_path: Path) -> None:
    found = audit(
        toy(), changed(data, tmp_path / "data", ["", "a liver", "b lung"]), out=tmp_path / "run", settings=FEW
    )
    assert (found.info["without_caption"], len(found.records)) == (40, 80)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"kk": 3}, "unknown setting of verb 'audit'"), ({"k": 0}, "k: expected at least 1"), ({"k": "many"}, "a whole number"),
     ({"surprisal": "bert"}, "surprisal.path"), ({"surprisal": {"path": "nowhere"}}, "no masked language model")],
)  # fmt: skip
def test_wrong_settings_are_one_line(settings: dict[str, object], words: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        audit(toy(), data, out=tmp_path / "run", settings=settings)


def test_too_many_failures_end_the_run(data: Path, tmp_path: Path) -> None:
    root = changed(data, tmp_path / "data")
    for place in range(80):
        (root / "scans" / f"{place:03}.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match="only 40 of 120 pairs can be used"):
        audit(toy(), root, out=tmp_path / "run", settings=FEW)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
