"""titer run, fit, and what list, show and report say of recipes and comparisons, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import titer
from cli.test_main import typed
from evaluate.test_fitting import two_splits
from test_config import SMALL
from tiny_models import clip_directory
from titer.features.stream import threads

RECIPE = """
title = "Tiny"
[certifier]
n0 = 50
n = 50
[grid]
shots = [1, 2]
sigma = [0.1]
[defenses.zero-shot]
method = "zero-shot"
baseline = true
[defenses.coop]
method = "coop"
epochs = 2
context = 2
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data and a recipe that names neither."""
    root = tmp_path_factory.mktemp("made")
    clip_directory(root / "clip")
    two_splits(root / "data")
    (root / "tiny.toml").write_text(RECIPE)
    return root


@pytest.mark.parametrize("verb", ["run", "fit"])
def test_both_verbs_have_help_with_an_example(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = typed(capfd, verb, "--help")
    assert status == 0
    assert f"Example: titer {verb}" in " ".join(out.split())


def test_from_a_recipe_to_a_page_and_on(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    command = ("run", made / "tiny.toml", "--model", made / "clip", "--data", made / "data", "--out", out)
    status, told, err = typed(capfd, *command, "--set", "grid.shots=2", "--seed", 3)
    assert (status, told) == (0, "")
    assert err.strip().split("\n")[-1] == f"wrote {out / 'report.html'}"
    page = (out / "report.html").read_text()
    assert "Comparison of defenses" in page
    assert "Tiny" in page
    run = titer.read_run(out / "runs" / "main-sigma0.1")
    assert {record["prompts"] for record in run.records} == {"zero-shot", "coop-2-s1"}
    assert run.info["seed"] == 3
    before = (run.path / "samples.jsonl").read_bytes()
    assert typed(capfd, *command, "--set", "grid.shots=2")[0] == 0
    assert (run.path / "samples.jsonl").read_bytes() == before
    status, told, err = typed(capfd, *command)
    assert (status, told) == (2, "")
    assert err.startswith(f"titer: {out} belongs to another comparison: cells.main.shots was [2], now [1, 2]")
    assert len(err.strip().split("\n")) == 1
    assert typed(capfd, "report", out, "--out", tmp_path / "again.html")[0] == 0
    assert "Comparison of defenses" in (tmp_path / "again.html").read_text()
    status, _, err = typed(capfd, "report", out, run.path, "--out", tmp_path / "both.html")
    assert status == 2
    assert "give them pages of their own" in err


ATTACKING = """
[attacks.pgd]
eps = ["1/255"]
steps = 2
checks = false
[cells.hit]
attacks = ["pgd"]
shots = [2]
"""


def test_a_recipe_that_only_attacks_gets_a_page(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "attacking.toml").write_text(RECIPE + ATTACKING)
    out = tmp_path / "study"
    command = ("run", tmp_path / "attacking.toml", "--model", made / "clip", "--data", made / "data", "--out", out)
    status, _, err = typed(capfd, *command)
    assert (status, err.strip().split("\n")[-1]) == (0, f"wrote {out / 'report.html'}")
    assert "Accuracy under attack" in (out / "report.html").read_text()
    before = (out / "runs" / "hit-pgd" / "samples.jsonl").read_bytes()
    assert typed(capfd, *command)[0] == 0
    assert (out / "runs" / "hit-pgd" / "samples.jsonl").read_bytes() == before
    status, _, err = typed(capfd, *command, "--set", "attacks.pgd.steps=3")
    assert status == 2
    assert "attacks.pgd.settings.steps was 2, now 3" in err
    assert len(err.strip().split("\n")) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no/such.toml",), "there is no recipe no/such.toml"),
        (("RECIPE", "--set", "size=huge"), "it has no size 'huge'; expected 'quick'"),
        (("RECIPE", "--set", "grid.sigmma=1"), "unknown key of [grid] 'sigmma'; did you mean 'sigma'"),
        (("RECIPE", "--set", "sigma=1"), "unknown table 'sigma'"),
        (("RECIPE", "--set", "grid.sigma=-1"), "sigma"),
        (("RECIPE", "--set", "grid.sigma=much"), "sigma: expected numbers, got 'much'"),
        (("RECIPE", "--set", "defenses.cop.epochs=1"), "unknown defense 'cop'; did you mean 'coop'"),
        (("RECIPE", "--set", "defenses.coop.epoch=1"), "did you mean 'epochs'"),
        (("RECIPE", "--set", "defenses.x.method=promtsmooth"), "did you mean 'promptsmooth'"),
        (("RECIPE", "--set", "certifier.n=2"), "n = 2 can never give an answer"),
        (("RECIPE", "--set", "grid"), "--set: expected key=value, got 'grid'"),
        (("RECIPE", "--seed", "many"), "--seed: expected a whole number, got 'many'"),
        (("RECIPE", "--seed", "-1"), "seed: expected at least 0, got -1"),
        (("RECIPE", "--workers", "0"), "workers: expected at least 1, got 0"),
        (("RECIPE", "--data", "titer:phantom"), "did you mean 'titer:phantoms'"),
        (("RECIPE", "--model", "titer:tinny"), "did you mean 'titer:tiny'"),
        (("RECIPE", "--modle", "x"), "--modle"),
        (("BROKEN",), "is not valid TOML"),
        ((), "recipe"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(SMALL)
    (tmp_path / "broken.toml").write_text("[grid\n")
    files = {"RECIPE": "recipe.toml", "BROKEN": "broken.toml"}
    given = [str(tmp_path / files[argument]) if argument in files else argument for argument in arguments]
    status, out, err = typed(capfd, "run", *given, "--out", tmp_path / "out")
    assert (status, out) == (2, "")
    assert len(err.strip().split("\n")) == 1, err
    assert err.startswith("titer: ")
    assert words in err.lower() if words == "recipe" else words in err
    assert not (tmp_path / "out").exists()


def test_fit_takes_all_shots_and_certify_takes_the_fit(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ("--model", made / "clip", "--data", made / "data")
    small = ("--set", "epochs=2", "--set", "context=2")
    status, out, _ = typed(capfd, "fit", "coop", *where, "--out", tmp_path / "all", "--shots", "all", *small)
    assert status == 0
    header, row = (line.split("\t") for line in out.strip().split("\n"))
    assert header == ["defense", "images", "loss", "seconds", "out"]
    assert (row[0], row[1], row[4]) == ("coop", "8", str(tmp_path / "all"))
    status, out, _ = typed(capfd, "fit", "coop", *where, "--out", tmp_path / "one", "--shots", 1, *small, "--json")
    assert status == 0
    assert json.loads(out)["images"] == 2
    assert json.loads(out)["left_out"] == 0
    certify = ("certify", *where, "--sigma", "0.1", "--certifier", "gaussian", "--n", 50, "--n0", 50, "--no-images")
    assert typed(capfd, *certify, "--prompts", tmp_path / "all", "--out", tmp_path / "run")[0] == 0
    assert {record["prompts"] for record in titer.read_run(tmp_path / "run").records} == {"all"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cop",), "unknown defense 'cop'; did you mean 'coop'"),
        (("coop", "--shots", "many"), "--shots: expected a whole number or all, got 'many'"),
        (("coop", "--shots", "9"), "expected 9 shots of each class in split 'train', but brain has 4, lung has 4"),
        (("coop", "--set", "epoch=1"), "did you mean 'epochs'"),
        (("coop", "--seed", "-1"), "seed: expected a whole number of at least 0, got -1"),
        (("coop", "--split", "tarin"), "there is no split 'tarin'"),
    ],
)
def test_a_mistake_in_fit_is_one_line_and_exit_status_2(
    arguments: tuple[str, ...], words: str, made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ("--model", made / "clip", "--data", made / "data", "--out", tmp_path / "out")
    status, out, err = typed(capfd, "fit", *arguments, *where)
    assert (status, out) == (2, "")
    assert len(err.strip().split("\n")) == 1, err
    assert words in err
    assert not (tmp_path / "out").exists()


def test_recipes_are_listed_where_they_lie_and_shown_with_what_they_extend(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = typed(capfd, "list", "recipes")
    assert (status, out) == (0, "kind\tname\tdescription\n")
    assert err.strip() == "there is no folder recipes/ here; a recipe is a file: titer run FILE.toml --out DIR"
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.toml").write_text(SMALL)
    (tmp_path / "recipes" / "other.toml").write_text('extends = "small.toml"\n[data]\nlimit = 3\n')
    assert typed(capfd, "list", "recipes")[1].split("\n")[2] == "recipes\trecipes/small.toml\tSmall"
    shown = typed(capfd, "show", "recipe", "recipes/other.toml")[1].split("\n")
    assert "data.limit\t3" in shown
    assert "data.name\ttiter:phantoms" in shown
    assert "defenses.coop.epochs\t3" in shown
    assert json.loads(typed(capfd, "show", "recipe", "recipes/small.toml", "--json")[1])["grid"]["sigma"] == [0.25, 0.5]
    status, _, err = typed(capfd, "show", "recipe", "recipes/smal.toml")
    assert status == 2
    assert "did you mean 'recipes/small.toml'" in err


def test_what_is_left_is_told_before_and_alone(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    command = ("run", made / "tiny.toml", "--model", made / "clip", "--data", made / "data", "--out", out, "--seed", 3)
    status, told, err = typed(capfd, *command, "--estimate")
    assert (status, out.exists()) == (0, False)
    lines = [line.split("\t") for line in told.strip().split("\n")]
    assert lines[0] == ["work", "in all", "left", "minutes"]
    assert [line[:3] for line in lines[1:]] == [["fits", "2", "2"], ["attacked", "0", "0"], ["certified", "18", "18"]]
    assert err.strip() == "guessed from short trials: coop; attacks as if no image broke"
    status, told, err = typed(capfd, *command, "--estimate", "--json")
    assert [share["left"] for share in json.loads(told)["shares"]] == [2, 0, 18]
    status, told, err = typed(capfd, *command, "--minutes", 0)
    assert (status, told) == (0, "")
    first, _, last = err.strip().split("\n")
    assert first.startswith("left: 2 of 2 fits, 18 of 18 certified; about ")
    assert last.startswith(f"stopped after 0 minutes; {out} keeps what is done. Go on with: titer")
    assert not (out / "report.html").exists()
    assert typed(capfd, *command)[0] == 0
    status, told, err = typed(capfd, *command)
    assert err.strip() == f"wrote {out / 'report.html'}"


def test_a_study_of_upstream_noise_has_no_pieces(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise.toml").write_text("[upstream]\n")
    for option in (("--estimate",), ("--minutes", 5)):
        status, _, err = typed(capfd, "run", tmp_path / "noise.toml", "--out", tmp_path / "out", *option)
        assert (status, "no --estimate and no --minutes" in err) == (2, True)
