"""titer challenge as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import titer
from cli.test_main import typed

QUICK = ("--set", "steps=2", "--set", "draws=2", "--n", 100, "--inside", "1", "--outside", "2")
MODEL = ("--model", "titer:tiny", "--data", "titer:phantoms")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "certified"
    titer.certify(
        "titer:tiny", "titer:phantoms", sigma=0.1, limit=2, n=100, n0=50, certifier="gaussian", seed=0, out=out
    )
    return out


def test_help_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = typed(capfd, "challenge", "--help")
    assert status == 0
    assert "Example: titer challenge" in " ".join(out.split())


def test_a_table_then_the_same_as_json(certified: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ("challenge", certified, *MODEL, *QUICK, "--out", tmp_path / "run")
    status, out, err = typed(capfd, *command, "--seed", 7)
    assert status == 0, err
    header, row = out.strip().split("\n")
    assert header.split("\t")[:6] == ["prompts", "guarantee", "sigma", "certificates", "inside", "breaks"]
    assert row.split("\t")[:2] == ["zero-shot", "fixed"]
    assert "certified images done, 0 failed" in err
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    status, out, _ = typed(capfd, *command, "--json")  # resumes without a seed, and does nothing
    assert status == 0
    assert json.loads(out)[0]["verdict"] in ("holds", "broken: more breaks than chance explains")
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before
    info = titer.read_run(tmp_path / "run").info
    assert info["command"].split()[0] == "titer"
    assert info["settings"]["steps"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--set", "stepps=3"), "did you mean 'steps'"),
        (("--attack", "smoothad"), "did you mean 'smoothadv'"),
        (("--inside", "2"), "inside: expected shares"),
        (("--outside", "much"), "--outside: expected a number"),
        (("--n", "many"), "--n: expected a whole number"),
        (("--prompts", "no/such"), "no/such"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    changes: tuple[str, ...], words: str, certified: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, err = typed(capfd, "challenge", certified, *MODEL, "--out", tmp_path / "run", *changes)
    assert (status, out) == (2, "")
    assert words in err
    assert len(err.strip().split("\n")) == 1


def test_what_is_no_run_of_certify_is_exit_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, err = typed(capfd, "challenge", tmp_path / "nothing", *MODEL, "--out", tmp_path / "run")
    assert status == 2
    assert "is no run" in err


def test_another_data_set_is_exit_2(certified: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from images import folder

    other = ("--model", "titer:tiny", "--data", folder(tmp_path / "other"))
    status, _, err = typed(capfd, "challenge", certified, *other, "--out", tmp_path / "run")
    assert status == 2
    assert "certified something else: classes was" in err
