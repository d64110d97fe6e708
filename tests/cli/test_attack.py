"""titer attack as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import titer
from cli.test_main import typed

ATTACK = ("--model", "titer:tiny", "--data", "titer:phantoms", "--limit", "6")


def test_a_run_prints_accuracies_and_checks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ("attack", "pgd", *ATTACK, "--eps", "1/255,4/255", "--set", "steps=5", "--no-checks", "--out", out)
    status, told, err = typed(capfd, *command)
    assert status == 0
    header, *rows = told.strip().split("\n")
    assert header.split("\t")[:4] == ["prompts", "attack", "norm", "eps"]
    assert [row.split("\t")[3] for row in rows[:2]] == ["1/255", "4/255"]
    assert "6 of 6 images done" in err
    run = titer.read_run(out)
    assert run.robust_accuracy(4 / 255).estimate <= run.robust_accuracy(1 / 255).estimate
    status, told, _ = typed(capfd, *command, "--json")
    assert status == 0
    assert len(json.loads(told)["overview"]) == 2
    page = tmp_path / "page.html"
    assert typed(capfd, "report", out, "--out", page)[0] == 0
    assert "what the attack added, ten times as large" in page.read_text()
    status, told, err = typed(capfd, "compare", out, out)
    assert (status, told) == (2, "")
    assert "one prompt set" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pgd", "--eps", "4"), "probably 4/255 was meant"),
        (("pgd", "--eps", "much"), "--eps"),
        (("pgdd",), "did you mean 'pgd'"),
        (("coattack",), "did you mean 'co-attack'"),
        (("pgd", "--norm", "l3"), "unknown norm 'l3'"),
        (("pgd", "--set", "stepps=3"), "did you mean 'steps'"),
    ],
)
def test_wrong_inputs_are_one_line(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = typed(capfd, "attack", *arguments, *ATTACK, "--out", tmp_path / "run")
    assert status == 2
    assert out == ""
    assert words in err
    assert len(err.strip().split("\n")) == 1
