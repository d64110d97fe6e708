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
    theirs = tmp_path / "evaluation.yaml"
    assert typed(capfd, "export", out, "--to", "apt", "--out", theirs)[0] == 0
    status, told, err = typed(capfd, "compare", out, tmp_path / "evaluation.eps_1-255.yaml")
    assert status == 0
    assert [line.split("\t")[-1] for line in told.splitlines()][:3] == ["within", "yes", "yes"]  # the file is its own
    assert "nothing is paired" in err


def test_an_ensemble_says_and_records_what_it_ran(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quick = ("--set", "steps=2", "--set", "queries=3", "--no-checks", "--eps", "1/255")
    phantoms = ("--model", "titer:tiny", "--data", "titer:phantoms", "--limit", "2")
    status, _, err = typed(capfd, "attack", "autoattack", *phantoms, *quick, "--out", tmp_path / "run")
    assert status == 0
    assert "autoattack: steps 2, targets 9, queries 3, norm linf, eps 0.00392157" in err
    assert "apgd-t: steps 2, restarts 1, targets 9, loss dlr" in err
    ran = titer.read_run(tmp_path / "run").info["settings"]["ran"]
    assert [member["name"] for member in ran] == ["apgd-ce", "apgd-t", "fab-t", "square"]


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


@pytest.mark.parametrize("attack", ["pgd", "square", "embedding"])
def test_what_adapts_to_its_input_is_refused_naming_what_attacks_it(
    attack: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    titer.fit("tpt", "titer:tiny", "titer:phantoms", out=tmp_path / "tpt")
    prompts = ("--prompts", "zero-shot", "--prompts", tmp_path / "tpt")
    status, out, err = typed(capfd, "attack", attack, *ATTACK, *prompts, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert "prompt set 'tpt' adapts to each image" in err
    assert "titer challenge" in err
    assert len(err.strip().split("\n")) == 1
    assert not (tmp_path / "run").exists()
