"""A study of upstream noise end to end on made-up pictures: every model, every head, one page; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tiny_models import clip_directory
from titer.cli.main import run
from titer.config import is_of_upstream, read_recipe, read_upstream_recipe
from titer.data.load import load_all
from titer.errors import InputError
from titer.models import load_model
from titer.report.upstream import compare, upstream_page
from titer.results.upstream import UpstreamModel, UpstreamResults, read_upstream
from titer.upstream.craft import craft
from titer.upstream.study import UpstreamStudy, corpus_of, mixed, run_upstream

RECIPES = Path(__file__).parents[2] / "recipes" / "upstream"
SIDE = 16
RECIPE = """
title = "Small"
[data]
limit = 6
[certifier]
n = 40
n0 = 10
[upstream]
seeds = [1, 2]
tasks = ["{task}"]
base = {{ epochs = 1, batch = 8, start = "scratch", rate = 1e-3 }}
pretraining = {{ epochs = 1, batch = 8, rate = 1e-3, keep = "last" }}
only = {{ judged = ["words-40-s1"], certified = ["clean-s1"] }}
[upstream.arms.words]
attack = "random-word"
ratios = [0.2, 0.4]
[upstream.arms.noise]
attack = "random-noise"
eps = "4/255"
ratios = [0.4]
[upstream.arms.own]
attack = "sga"
halves = "image"
steps = 2
scales = []
eps = "8/255"
ratios = [0.4]
surrogate = "base"
[grid]
shots = [2]
[defenses.linear-probe]
method = "linear-probe"
images = "clean"
[defenses.ran]
method = "ran"
epochs = 2
[attacks.fgsm]
eps = ["1/255"]
checks = false
[attacks.pgd]
steps = 2
eps = ["1/255"]
checks = false
[cells.heads]
attacks = ["fgsm"]
[cells.judged]
attacks = ["pgd"]
[cells.certified]
sigma = [0.25]
"""


def pictures(root: Path, caption: bool) -> Path:
    root.mkdir()
    random = np.random.default_rng(1 if caption else 2)
    rows = ["file_name,label,split" + (",caption" if caption else "")]
    for place in range(40):
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(root / f"{place}.png")
        text = f",a scan of a {('small', 'large')[place % 2]} lung {place}" if caption else ""
        rows.append(f"{place}.png,{'ab'[place % 2]},{'train' if place < 30 else 'test'}{text}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    clip_directory(root / "model", size=SIDE)
    pictures(root / "corpus", caption=True)
    pictures(root / "task", caption=False)
    (root / "recipe.toml").write_text(RECIPE.format(task=root / "task"))
    return root


@pytest.fixture(scope="module")
def results(place: Path) -> UpstreamResults:
    line = [
        "run",
        str(place / "recipe.toml"),
        "--model",
        str(place / "model"),
        "--data",
        str(place / "corpus"),
        "--seed",
    ]
    assert run([*line, "3", "--workers", "1", "--out", str(place / "out")]) == 0
    return read_upstream(place / "out")


def test_every_model_is_judged_and_the_clean_one_once_a_seed(results: UpstreamResults) -> None:
    names = [model.name for model in results.models]
    assert names == [
        f"{name}-s{seed}" for seed in (1, 2) for name in ("clean", "words-20", "words-40", "noise-40", "own-40")
    ]
    assert {(level.arm, level.ratio, level.method) for level in results.levels} == {
        (arm, ratio, method)
        for arm, ratio in ((None, 0.0), ("words", 0.2), ("words", 0.4), ("noise", 0.4), ("own", 0.4))
        for method in ("linear-probe", "ran")
    }
    assert all(sorted(level.fits) == [1, 2] for level in results.levels)
    models = results.path / "models"
    weights = [(models / name / "model.safetensors").read_bytes() for name in (*names, "base-s1", "base-s2")]
    assert len(set(weights)) == len(weights)


def test_noise_is_made_for_each_seeds_own_clean_model(results: UpstreamResults) -> None:
    told = {
        seed: [
            json.loads(line) for line in (results.path / f"corpora/own/s{seed}/noise.jsonl").read_text().splitlines()
        ]
        for seed in (1, 2)
    }
    for seed, records in told.items():
        own = load_model(results.path / "models" / f"base-s{seed}").fingerprint
        assert {record["surrogate"] for record in records} == {own}
        assert all(record["noised_cosine"] < record["cosine"] for record in records)
    pairs = [{record["sample_id"] for record in records} for records in told.values()]
    assert pairs[0] == pairs[1]  # seeds differ in the models, not in the pairs
    fixed = [json.loads(line) for line in (results.path / "corpora/noise/noise.jsonl").read_text().splitlines()]
    assert {record["sample_id"] for record in fixed} == pairs[0]


def test_a_model_learns_the_noise_of_its_own_seed(results: UpstreamResults, place: Path) -> None:
    study = read_upstream_recipe(place / "recipe.toml", model=str(place / "model"), data=str(place / "corpus"))
    own = [model for model in study.models() if model.arm == "own"]
    learned = [set(_corpus_digests(study, model, results.path)) for model in own]
    stored = [set(_digests(results.path / f"corpora/own/s{model.seed}")) for model in own]
    other = [set(_digests(results.path / name)) for name in ("corpora/own/s2", "corpora/own/s1")]
    clean = set(_digests(results.path / "corpora/clean"))
    for mixed_files, own_files, other_files in zip(learned, stored, other, strict=True):
        assert mixed_files - clean == own_files - clean != other_files - clean


def _corpus_digests(study: UpstreamStudy, model: UpstreamModel, out: Path) -> list[str]:
    corpus = corpus_of(study, model, out, 3)
    return [corpus.digest(example) for example in corpus.examples]


def _digests(path: Path) -> list[str]:
    data = load_all(path)
    return [data.digest(example) for example in data.examples]


def test_only_some_models_are_judged_by_more(results: UpstreamResults) -> None:
    cells = {model: [cell.name for cell in study.cells] for (model, _), study in results.studies.items()}
    assert cells["clean-s1"] == ["heads", "certified"]
    assert cells["words-40-s1"] == ["heads", "judged"]
    assert cells["noise-40-s2"] == ["heads"]


def test_a_head_never_sees_what_its_model_was_trained_on(results: UpstreamResults, place: Path) -> None:
    seen = json.loads((results.path / "models" / "words-40-s2" / "upstream.json").read_text())
    sources = {digest for name, files in seen.items() if name.endswith("sources") for digest in files.values()}
    corpus = load_all(place / "corpus")
    assert sources == {corpus.digest(example) for example in corpus.examples if example.split == "train"}


def test_the_page_says_what_was_found(results: UpstreamResults, place: Path) -> None:
    page = (results.path / "report.html").read_text()
    for text in ("Noise upstream", "RAN-style", "words 40 %", "Holm", "effective rank", "Margins of noised pairs",
                 "certified, sigma 0.25", "each seed&#39;s own clean model",
                 f"noise made for {place}", "2 seeds of pre-training"):  # fmt: skip
        assert text in page
    assert {"words", "own/s1"} <= results.warnings.keys()  # surrogates that know nothing
    assert "clean" not in results.warnings  # nothing was made for a surrogate there
    assert "own/s1: " in page
    assert "is at chance on these pairs" in page
    assert upstream_page([results.path], results.path / "again.html").read_text() == page


def test_a_difference_is_of_the_same_images_and_seeds(results: UpstreamResults) -> None:
    one, clean = results.level("task", "words", 0.4, "ran"), results.level("task", None, 0.0, "ran")
    assert one is not None
    assert clean is not None
    found = compare(one, clean, 1 / 255)
    assert found is not None
    assert found.seeds == (1, 2)
    assert found.comparison.difference == pytest.approx(sum(found.by_seed) / 2)
    nothing = compare(clean, clean, None)
    assert nothing is not None
    assert nothing.comparison.difference == 0


def test_it_goes_on_and_refuses_another_study(place: Path, results: UpstreamResults) -> None:
    study = read_upstream_recipe(place / "recipe.toml", model=str(place / "model"), data=str(place / "corpus"))
    before = {file: file.stat().st_mtime_ns for file in results.path.rglob("*.safetensors")}
    run_upstream(study, results.path, workers=1)
    assert {file: file.stat().st_mtime_ns for file in results.path.rglob("*.safetensors")} == before
    with pytest.raises(InputError, match="belongs to another study: seed was 3, now 4"):
        run_upstream(study, results.path, seed=4)
    (place / "foreign").mkdir()
    (place / "foreign" / "a.txt").write_text("")
    with pytest.raises(InputError, match="holds no study of upstream noise"):
        run_upstream(study, place / "foreign")


def test_a_smaller_ratio_is_what_craft_would_have_written(place: Path, tmp_path: Path) -> None:
    """The corpus of 20 % mixed from those of 0 and 40 % has the files and captions of one crafted at 20 %."""
    shared: dict[str, Any] = {"attack": "random-noise", "eps": 4 / 255, "workers": 1, "seed": 3}
    for ratio in (0.0, 0.2, 0.4):
        craft(str(place / "model"), place / "corpus", out=tmp_path / str(ratio), ratio=ratio, **shared)
    clean, some, more = (load_all(tmp_path / str(ratio)) for ratio in (0.0, 0.2, 0.4))
    ids = {json.loads(line)["sample_id"] for line in (tmp_path / "0.2" / "noise.jsonl").read_text().splitlines()}
    found = mixed(clean, more, ids, "mixed")
    assert [found.digest(example) for example in found.examples] == [some.digest(example) for example in some.examples]
    assert [example.caption for example in found.examples] == [example.caption for example in some.examples]
    assert {example.id for example in found.examples if found.digest(example) != clean.digest(example)} == ids


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": {"words": {"ratios": [0]}}}, "expected shares above 0"),
        ({"arms": {"words": {"attack": "random-words"}}}, "did you mean 'random-word'"),
        ({"arms": {"noise": {"eps": 4}}}, "4/255"),
        ({"base": {"rates": 1}}, "did you mean 'rate'"),
        ({"tasks": []}, "expected corpus"),
        ({"seed": 1}, "did you mean 'seeds'"),
        ({"only": {"judged": ["words-50-s1"]}}, "did you mean 'words-20-s1'|did you mean 'words-40-s1'"),
        ({"only": {"judge": ["words-40-s1"]}}, "did you mean 'judged'"),
    ],
)
def test_mistakes(changes: dict[str, Any], words: str, place: Path) -> None:
    with pytest.raises(InputError, match=words):
        read_upstream_recipe(
            place / "recipe.toml", model=str(place / "model"), data=str(place / "corpus"), changes={"upstream": changes}
        )


@pytest.mark.parametrize("name", ["noise.toml", "real.toml"])
def test_the_projects_recipes(name: str) -> None:
    assert is_of_upstream(RECIPES / name)
    study = read_upstream_recipe(RECIPES / name)
    assert len(study.models()) == 3 * (1 + 3 * 4 + 2 + 1 + 1 + 3)
    assert len(read_upstream_recipe(RECIPES / name, changes={"size": "quick"}).models()) == 5
    with pytest.raises(InputError, match="upstream"):
        read_recipe(RECIPES / name)


def test_an_arm_can_be_left_out(place: Path) -> None:
    changes = {"upstream": {"arms": {"noise": False, "own": False}}}
    study = read_upstream_recipe(
        place / "recipe.toml", model=str(place / "model"), data=str(place / "corpus"), changes=changes
    )
    assert [arm.name for arm in study.arms] == ["words"]
