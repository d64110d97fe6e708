"""titer audit: one command, its tables, its files; mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from titer.cli.main import run
from titer.upstream.audit import plan
from upstream.audit.making import folder, toy

FAST = ("--set", "canaries=2", "--set", "steps=1", "--set", "captions=50")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("audit") / "data", count=60)


def audit(data: Path, out: Path, *more: str) -> int:
    return run(["audit", "--model", "titer:tiny", "--data", str(data), "--out", str(out), *FAST, *more])


def test_one_command(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "load_model", lambda name, **_: toy(name))  # small enough to be attacked in a second
    out = tmp_path / "run"
    assert audit(data, out, "--by", "site", "--drop", "0.1", "--workers", "1") == 0
    told = capfd.readouterr()
    lines = told.out.splitlines()
    assert lines[0].split("\t") == ["rank", "score", "sample", "raised by", "caption"]
    assert [line.split("\t")[0] for line in lines[1:21]] == [str(rank) for rank in range(1, 21)]
    assert lines[21].startswith("canaries of\tcanaries\t1 % flagged")
    assert "unknown" in lines[22]
    assert "all\t\t60\t6\t10 %" in told.out
    assert "site\ta\t30\t" in told.out
    assert "Nothing was deleted" in told.err
    assert "2 canaries; at least 100 are needed" in told.err
    assert "kept.csv: 64 rows" in told.err
    for name in ("run.json", "samples.jsonl", "canaries.jsonl", "queue.csv", "kept.csv", "report.html"):
        assert (out / name).is_file(), name
    assert audit(data, out, "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert set(document) == {
        "queue", "power", "flagged", "reviewed", "auroc", "base_rates", "removed", "warnings"
    }  # fmt: skip
    assert len(document["queue"]) == 20
    assert document["removed"] is None
    assert {row["power"] for row in document["power"]} == {None}
    assert document["auroc"][0]["area"].keys() == {"estimate", "low", "high"}
    assert run(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert "Nothing was deleted" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--drop", "2"), "--drop: expected a number from 0 to 1"),
        (("--drop", "0.1", "--drop-below", "0.1"), "expected one of --drop-below TRUST and --drop SHARE"),
        (("--drop", "0.1", "--limit", "55"), "with --limit only some rows are judged"),
        (("--trusted", "nowhere"), "nowhere"),
        (("--trusted", "titer:phantoms"), "titer:phantoms has no captions in the split 'all'"),
        (("--limit", "20"), "has 20 captioned pairs"),
        (("--split", "val"), "there is no split 'val'; expected one of test, train, all"),
        (("--model", "titer:tiny"), "titer:tiny is given twice"),
        (("--by", "sight"), "did you mean 'site'"),
        (("--set", "kk=3"), "unknown setting"),
        (("--seed", "-1"), "at least 0"),
    ],
)
def test_mistakes_are_one_line(
    more: tuple[str, ...], words: str, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert audit(data, tmp_path / "run", *more) == 2
    told = capfd.readouterr().err.strip()
    assert words in told
    assert "\n" not in told
    assert not (tmp_path / "run").exists()
