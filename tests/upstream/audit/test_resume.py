"""Audits that were stopped, and pictures that fail: the records are those of an audit that was not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from images import timeless
from titer.errors import InputError
from titer.upstream.audit.session import audit
from upstream.audit.making import folder, toy

FEW = {"canaries": 6, "steps": 2, "captions": 50}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("audit") / "data")


def test_what_is_killed_goes_on_to_the_same_records(data: Path, tmp_path: Path) -> None:
    one = audit(toy(), data, out=tmp_path / "one", settings=FEW, workers=1)
    cut = audit(toy(), data, out=tmp_path / "cut", settings=FEW, workers=2)
    for name, left in (("features.jsonl", 30), ("planted.jsonl", 11), ("samples.jsonl", 5)):
        lines = (cut.path / name).read_bytes().split(b"\n")
        (cut.path / name).write_bytes(b"\n".join([*lines[:left], lines[left][:40]]))
    (cut.path / "canaries.jsonl").unlink()
    again = audit(toy(), data, out=tmp_path / "cut", settings=FEW, workers=2)
    assert timeless(one) == timeless(cut) == timeless(again)
    assert (again.path / "canaries.jsonl").read_bytes() == (one.path / "canaries.jsonl").read_bytes()
    before = (again.path / "samples.jsonl").read_bytes()
    audit(toy(), data, out=tmp_path / "cut", settings=FEW)
    assert (again.path / "samples.jsonl").read_bytes() == before
    with pytest.raises(InputError, match=r"settings.k was 16, now 9"):
        audit(toy(), data, out=tmp_path / "cut", settings={**FEW, "k": 9})
    with pytest.raises(InputError, match="seed was 0, now 1"):
        audit(toy(), data, out=tmp_path / "cut", settings=FEW, seed=1)


def test_a_picture_that_fails_is_in_no_population_and_comes_back(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    whole = audit(toy(), tmp_path / "data", out=tmp_path / "whole", settings=FEW)
    kept = (tmp_path / "data/scans/007.png").read_bytes()
    (tmp_path / "data/scans/007.png").write_bytes(b"no picture")
    found = audit(toy(), tmp_path / "data", out=tmp_path / "run", settings=FEW)
    assert [failure["sample_id"] for failure in found.failures] == ["scans/007.png"]
    assert len(found.records) == 119
    (tmp_path / "data/scans/007.png").write_bytes(kept)
    again = audit(toy(), tmp_path / "data", out=tmp_path / "run", settings=FEW)
    assert sorted(record["rank"] for record in again.records) == list(range(1, 121))
    assert {r["sample_id"]: r["score"] for r in again.records} == {r["sample_id"]: r["score"] for r in whole.records}
