"""Comparisons: what is fitted once, what is paired, and what goes on after an interruption."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import titer
from evaluate.test_fitting import facts_in, two_splits
from images import timeless
from tiny_models import clip_directory
from titer.attacks.apgd import ApgdDlr
from titer.attacks.pgd import Pgd
from titer.certify import Gaussian
from titer.defenses import Coop, LinearProbe, PromptSmooth, Tpt
from titer.errors import InputError
from titer.evaluate import fits
from titer.evaluate import study as studies
from titer.evaluate.benchmarks import BENCHMARKS
from titer.evaluate.fitting import fit
from titer.evaluate.smoothing import certify
from titer.evaluate.study import AttackEntry, Cell, Entry, Study, prompt_sets, run_study
from titer.features.stream import threads
from titer.report.base_to_new import base_to_new_tables
from titer.results.study import read_study

COOP = Coop(epochs=2, context=2)
SMOOTH = PromptSmooth(epochs=2, context=2)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Kernels this small lose more by waiting for each other than they gain."""
    with threads(1):
        yield


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model and a data set."""
    root = tmp_path_factory.mktemp("made")
    return str(clip_directory(root / "clip")), str(two_splits(root / "data"))


def study_of(
    places: tuple[str, str], *entries: Entry, sigmas: tuple[float, ...] = (0.1, 0.25), **changes: Any
) -> Study:
    cell = Cell("main", tuple(entry.name for entry in entries), Gaussian(n0=50, n=50), sigmas, (2,), (1,), 4)
    return Study("A study", *places, "test", {entry.name: entry for entry in entries}, (cell,), **changes)


ENTRIES = (Entry("zero-shot", baseline=True), Entry("coop", COOP), Entry("twin", COOP))


def told(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "study.json").read_text())
    return found


@pytest.fixture(scope="module")
def finished(places: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_study(study_of(places, *ENTRIES), tmp_path_factory.mktemp("out") / "study", seed=7)


def test_a_study_says_what_it_is_of(finished: Path) -> None:
    facts = told(finished)
    assert (facts["title"], facts["seed"], facts["data"]) == ("A study", 7, {"name": "data", "split": "test"})
    assert facts["entries"]["coop"]["settings"] == dataclasses.asdict(COOP)
    assert [facts["entries"][name]["method"] for name in facts["entries"]] == ["zero-shot", "coop", "coop"]
    assert facts["entries"]["zero-shot"]["baseline"] is True
    assert facts["cells"][0]["runs"] == ["runs/main-sigma0.1", "runs/main-sigma0.25"]
    assert facts["cells"][0]["certifier"] == {"name": "gaussian", **dataclasses.asdict(Gaussian(n0=50, n=50))}
    assert set(facts["prompts"]) == {"zero-shot", "coop-2-s1", "twin-2-s1"}
    said = facts["prompts"]["coop-2-s1"]
    weights = finished / "prompts" / "coop-2-s1" / "adapter_model.safetensors"
    assert (said["entry"], said["shots"], said["seed"], said["sigma"], said["images"]) == ("coop", 2, 1, None, 4)
    assert said["bytes"] == weights.stat().st_size
    assert said["fit_seconds"] == facts_in(weights.parent)["seconds"]
    for name, sigma in (("main-sigma0.1", 0.1), ("main-sigma0.25", 0.25)):
        run = titer.read_run(finished / "runs" / name)
        assert (run.info["status"], run.info["seed"], run.info["settings"]["sigma"]) == ("done", 7, [sigma])
        assert len(run.records) == 4 * 3
        assert not (run.path / "images").exists()


def test_prompt_sets_of_a_cell_see_the_same_noise(finished: Path) -> None:
    """Two methods that learned the same get the same votes on every image."""
    for run in map(titer.read_run, sorted((finished / "runs").iterdir())):
        votes = {
            name: [(r["sample_id"], r["counts"], r["counts0"]) for r in run.records if r["prompts"] == name]
            for name in ("coop-2-s1", "twin-2-s1", "zero-shot")
        }
        assert len(votes["coop-2-s1"]) == 4
        assert votes["coop-2-s1"] == votes["twin-2-s1"]
        assert votes["coop-2-s1"] != votes["zero-shot"]


def test_a_finished_study_is_left_alone(
    finished: Path, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(finished)
    monkeypatch.setattr(fits, "fit", forbidden)
    run_study(study_of(places, *ENTRIES), finished)
    assert contents(finished) == before


def contents(out: Path) -> dict[str, bytes]:
    """Every file but study.json and run.json, which say how often they were looked at."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files if path.name not in ("study.json", "run.json")}


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("it was done before")


def test_an_interruption_between_two_runs_costs_no_fit_and_no_certificate(
    finished: Path, places: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = study_of(places, *ENTRIES), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(studies, "certify", interrupted_after(1, certify))
        with pytest.raises(KeyboardInterrupt):
            run_study(study, out, seed=7)
    before = contents(out)
    assert [path.name for path in (out / "runs").iterdir()] == ["main-sigma0.1"]
    monkeypatch.setattr(fits, "fit", forbidden)
    run_study(study, out)
    assert before.items() <= contents(out).items()
    for name in ("main-sigma0.1", "main-sigma0.25"):
        resumed, whole = (titer.read_run(path / "runs" / name) for path in (out, finished))
        assert timeless(resumed) == timeless(whole)


def interrupted_after(calls: int, real: Any) -> Any:
    left = [calls]

    def patched(*arguments: Any, **options: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments, **options)

    return patched


def test_an_interruption_between_two_fits_costs_no_fit(
    places: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out, real = study_of(places, *ENTRIES, sigmas=(0.1,)), tmp_path / "out", fit
    with monkeypatch.context() as patch:
        patch.setattr(fits, "fit", interrupted_after(1, real))
        with pytest.raises(KeyboardInterrupt):
            run_study(study, out)
    (done,) = (out / "prompts").iterdir()
    learned = (done / "adapter_model.safetensors").read_bytes()
    seed = told(out)["seed"]
    monkeypatch.setattr(fits, "fit", interrupted_after(1, real))
    run_study(study, out)
    assert (done / "adapter_model.safetensors").read_bytes() == learned
    assert told(out)["seed"] == seed == titer.read_run(out / "runs" / "main-sigma0.1").info["seed"]


def test_a_fit_that_was_cut_between_its_two_files_is_made_again(places: tuple[str, str], tmp_path: Path) -> None:
    study, out = study_of(places, ENTRIES[1], sigmas=(0.1,)), tmp_path / "out"
    run_study(study, out)
    (out / "prompts" / "coop-2-s1" / "adapter_config.json").unlink()
    run_study(study, out)
    assert facts_in(out / "prompts" / "coop-2-s1")["shots"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"entries": (Entry("zero-shot"), Entry("coop", Coop(epochs=3, context=2)), ENTRIES[2])},
         "defenses.coop.settings.epochs was 2, now 3"),
        ({"entries": ENTRIES[:2]}, 'cells.main.defenses was ["zero-shot", "coop", "twin"], now ["zero-shot", "coop"]'),
        ({"sigmas": (0.1, 0.3)}, "cells.main.sigma was [0.1, 0.25], now [0.1, 0.3]"),
        ({"seed": 8}, "seed was 7, now 8"),
    ],
)  # fmt: skip
def test_another_recipe_is_refused_with_the_differences(
    change: dict[str, Any], words: str, finished: Path, places: tuple[str, str]
) -> None:
    seed = change.pop("seed", None)
    study = study_of(places, *change.pop("entries", ENTRIES), **change)
    before = (finished / "study.json").read_text()
    with pytest.raises(InputError) as refused:
        run_study(study, finished, seed=seed)
    assert words in str(refused.value)
    assert "choose another --out" in str(refused.value)
    assert (finished / "study.json").read_text() == before


def test_a_study_may_grow_and_go_on_in_part(places: tuple[str, str], tmp_path: Path) -> None:
    """New methods and cells are added, those that are left out are kept in their order, and nothing is done twice."""
    small = study_of(places, *ENTRIES[:2], sigmas=(0.1,))
    out = run_study(small, tmp_path / "study", seed=7)
    before = contents(out)
    more = dataclasses.replace(small.cells[0], name="more", entries=("zero-shot", "twin"))
    entries = {entry.name: entry for entry in ENTRIES}
    run_study(dataclasses.replace(small, entries=entries, cells=(more,)), out)
    assert [cell["name"] for cell in told(out)["cells"]] == ["main", "more"]
    assert set(told(out)["prompts"]) == {"zero-shot", "coop-2-s1", "twin-2-s1"}
    assert before.items() <= contents(out).items()
    changed = dataclasses.replace(small.cells[0], limit=2)
    with pytest.raises(InputError, match=r"cells\.main\.limit was 4, now 2"):
        run_study(dataclasses.replace(small, cells=(changed,)), out)


def test_title_and_baselines_can_change(finished: Path, places: tuple[str, str]) -> None:
    entries = (*ENTRIES[:2], dataclasses.replace(ENTRIES[2], baseline=True))
    run_study(dataclasses.replace(study_of(places, *entries), title="Renamed"), finished)
    assert told(finished)["title"] == "Renamed"
    assert told(finished)["entries"]["twin"]["baseline"] is True
    run_study(study_of(places, *ENTRIES), finished)


def test_one_fit_for_each_noise_level_is_certified_at_its_own(places: tuple[str, str], tmp_path: Path) -> None:
    study = study_of(places, Entry("each", SMOOTH, per_sigma=True))
    run_study(study, tmp_path / "out")
    assert set(told(tmp_path / "out")["prompts"]) == {"each-sigma0.1-2-s1", "each-sigma0.25-2-s1"}
    for sigma in (0.1, 0.25):
        name = f"each-sigma{sigma}-2-s1"
        assert facts_in(tmp_path / "out" / "prompts" / name)["settings"]["sigmas"] == [sigma]
        run = titer.read_run(tmp_path / "out" / "runs" / f"main-sigma{sigma}")
        assert {record["prompts"] for record in run.records} == {name}
        assert not any("warnings" in record and "fitted for" in str(record["warnings"]) for record in run.records)


def test_fewer_shots_use_the_features_of_more(places: tuple[str, str], tmp_path: Path) -> None:
    shots = Entry("coop", COOP, shots=(1, 2, 4))
    run_study(study_of(places, shots, sigmas=(0.1,)), tmp_path / "out")
    assert len(list((tmp_path / "out" / "features").glob("*.npy"))) == 2 * 4
    assert set(told(tmp_path / "out")["prompts"]) == {"coop-1-s1", "coop-2-s1", "coop-4-s1"}


def test_methods_without_labels_have_no_shots(places: tuple[str, str]) -> None:
    entries = (
        Entry("zero-shot"),
        Entry("offline", PromptSmooth(mode="offline"), seeds=(1, 2)),
        Entry("coop", COOP, shots=(1, 8)),
    )
    study = study_of(places, *entries)
    names = [prompts.name for prompts in prompt_sets(study, study.cells[0], 0.1)]
    assert names == ["zero-shot", "offline-s1", "offline-s2", "coop-1-s1", "coop-8-s1"]


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "out"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("entries", "options", "words"),
    [
        ((Entry("a-2", PromptSmooth(mode="offline")), Entry("a", COOP)), {}, "both make prompts named 'a-2-s1'"),
        (ENTRIES, {"seed": -1}, "seed: expected at least 0, got -1"),
        (ENTRIES, {"workers": 0}, "workers: expected at least 1, got 0"),
    ],
)
def test_a_mistake_is_found_before_anything_is_written(
    entries: tuple[Entry, ...], options: dict[str, Any], words: str, places: tuple[str, str], untouched: Path
) -> None:
    with pytest.raises(InputError, match=words):
        run_study(study_of(places, *entries), untouched, **options)


def test_a_split_or_data_that_are_not_there_are_found_before_the_first_fit(
    places: tuple[str, str], untouched: Path
) -> None:
    with pytest.raises(InputError, match="there is no split 'validation'; expected one of test, train, all"):
        run_study(dataclasses.replace(study_of(places, *ENTRIES), split="validation"), untouched)
    with pytest.raises(InputError, match="no/such/set"):
        run_study(dataclasses.replace(study_of(places, *ENTRIES), data="no/such/set"), untouched)


def test_data_lie_relative_to_the_current_directory(
    places: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(places[1]).parent)
    study = dataclasses.replace(study_of(places, ENTRIES[0], sigmas=(0.1,)), data="data")
    assert told(run_study(study, tmp_path / "out"))["data"]["name"] == "data"


def test_what_is_no_study_is_not_written_to(places: tuple[str, str], tmp_path: Path) -> None:
    study = study_of(places, *ENTRIES)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no comparison; choose another --out"):
        run_study(study, tmp_path)
    with pytest.raises(InputError, match="is a file; --out needs a directory"):
        run_study(study, tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_second_process_is_refused(finished: Path, places: tuple[str, str]) -> None:
    with (
        FileLock(finished / ".lock"),
        pytest.raises(InputError, match=r"another process is writing to .*; wait for it or choose another --out"),
    ):
        run_study(study_of(places, *ENTRIES), finished)


def test_damaged_files_are_named(finished: Path, places: tuple[str, str]) -> None:
    study = study_of(places, *ENTRIES)
    for name in ("study.json", "prompts/coop-2-s1/adapter_config.json"):
        whole = (finished / name).read_text()
        (finished / name).write_text(whole[:40])
        with pytest.raises(InputError, match=f"{name} is damaged"):
            run_study(study, finished)
        (finished / name).write_text(whole)
    run_study(study, finished)


def test_a_fit_of_other_settings_is_not_taken_for_this_one(places: tuple[str, str], tmp_path: Path) -> None:
    study, out = study_of(places, ENTRIES[1], sigmas=(0.1,)), tmp_path / "out"
    run_study(study, out)
    config = out / "prompts" / "coop-2-s1" / "adapter_config.json"
    config.write_text(config.read_text().replace('"epochs": 2', '"epochs": 9'))
    with pytest.raises(
        InputError, match=r"coop-2-s1 is another fit than the recipe says: settings\.epochs was 9, now 2"
    ):
        run_study(study, out)


PGD = AttackEntry("short", Pgd(steps=2), "linf", (1 / 255, 4 / 255), checks=False)


def attacks_of(
    places: tuple[str, str], *entries: Entry, attacks: tuple[AttackEntry, ...] = (PGD,), **changes: Any
) -> Study:
    """A study with one cell that only attacks."""
    study = study_of(places, *entries)
    names = tuple(entry.name for entry in attacks)
    cell = dataclasses.replace(study.cells[0], name="hit", sigmas=(), attacks=names)
    whole = dataclasses.replace(study, cells=(cell,), attacks={entry.name: entry for entry in attacks})
    return dataclasses.replace(whole, **changes)


@pytest.fixture(scope="module")
def attacked(places: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_study(attacks_of(places, *ENTRIES), tmp_path_factory.mktemp("attacked") / "study", seed=7)


def test_a_cell_attacks_all_of_its_prompt_sets(attacked: Path) -> None:
    facts = told(attacked)
    assert facts["cells"] == [
        {"name": "hit", "runs": ["runs/hit-short"], "defenses": ["zero-shot", "coop", "twin"], "attacks": ["short"],
         "shots": [2], "seeds": [1], "limit": 4},
    ]  # fmt: skip
    assert facts["attacks"] == {
        "short": {"method": "pgd", "settings": dataclasses.asdict(Pgd(steps=2)), "norm": "linf",
                  "eps": [1 / 255, 4 / 255], "checks": False},
    }  # fmt: skip
    run = titer.read_run(attacked / "runs" / "hit-short")
    assert (run.info["verb"], run.info["status"], run.info["seed"]) == ("attack", "done", 7)
    assert "checks" not in run.info
    assert len(run.records) == 4 * 3 * 2
    assert not (run.path / "images").exists()
    answers = {
        name: [(r["sample_id"], r["eps"], r["prediction"], r["l2"]) for r in run.records if r["prompts"] == name]
        for name in ("coop-2-s1", "twin-2-s1")
    }
    assert answers["coop-2-s1"] == answers["twin-2-s1"]  # what learned the same is attacked with the same randomness


def test_a_finished_attack_is_left_alone(
    attacked: Path, places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(attacked)
    monkeypatch.setattr(fits, "fit", forbidden)
    monkeypatch.setattr(Pgd, "__call__", forbidden)
    run_study(attacks_of(places, *ENTRIES), attacked)
    assert contents(attacked) == before


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (dataclasses.replace(PGD, attack=Pgd(steps=3)), "attacks.short.settings.steps was 2, now 3"),
        (dataclasses.replace(PGD, eps=(1 / 255,)), "attacks.short.eps was"),
        (dataclasses.replace(PGD, norm="l2"), 'attacks.short.norm was "linf", now "l2"'),
        (dataclasses.replace(PGD, name="other"), 'cells.hit.attacks was ["short"], now ["other"]'),
    ],
)
def test_another_attack_is_refused_with_the_differences(
    attack: AttackEntry, words: str, attacked: Path, places: tuple[str, str]
) -> None:
    before = (attacked / "study.json").read_text()
    with pytest.raises(InputError) as refused:
        run_study(attacks_of(places, *ENTRIES, attacks=(attack,)), attacked)
    assert words in str(refused.value)
    assert (attacked / "study.json").read_text() == before


def test_a_comparison_of_certificates_may_grow_by_attacks_and_these_by_self_checks(
    places: tuple[str, str], tmp_path: Path
) -> None:
    """study.json of earlier versions says nothing of attacks."""
    small = study_of(places, ENTRIES[0], sigmas=(0.1,))
    out = run_study(small, tmp_path / "study", seed=7)
    (out / "study.json").write_text(json.dumps({key: value for key, value in told(out).items() if key != "attacks"}))
    before = contents(out)
    more = attacks_of(places, ENTRIES[0])
    run_study(more, out)
    assert [cell["name"] for cell in told(out)["cells"]] == ["main", "hit"]
    assert before.items() <= contents(out).items()
    checked = dataclasses.replace(PGD, checks=True)
    run_study(attacks_of(places, ENTRIES[0], attacks=(checked,)), out)
    assert titer.read_run(out / "runs" / "hit-short").info["checks"]
    run_study(small, out)  # in part
    assert set(told(out)["attacks"]) == {"short"}


def test_a_cell_may_certify_and_attack(places: tuple[str, str], tmp_path: Path) -> None:
    study = attacks_of(places, ENTRIES[0], Entry("each", SMOOTH, per_sigma=True))
    cell = dataclasses.replace(study.cells[0], sigmas=(0.1, 0.25))
    out = run_study(dataclasses.replace(study, cells=(cell,)), tmp_path / "out")
    assert told(out)["cells"][0]["runs"] == ["runs/hit-sigma0.1", "runs/hit-sigma0.25", "runs/hit-short"]
    prompts = {record["prompts"] for record in titer.read_run(out / "runs" / "hit-short").records}
    assert prompts == {"zero-shot", "each-sigma0.1-2-s1", "each-sigma0.25-2-s1"}


def test_what_adapts_to_the_image_is_left_out_of_attacks_with_a_word(places: tuple[str, str], tmp_path: Path) -> None:
    adapting = Entry("tuned", Tpt(views=2))
    out = run_study(attacks_of(places, ENTRIES[0], adapting), tmp_path / "out")
    assert told(out)["prompts"]["tuned-s1"]["adapts"] is True
    assert "adapts" not in told(out)["prompts"]["zero-shot"]
    assert {record["prompts"] for record in titer.read_run(out / "runs" / "hit-short").records} == {"zero-shot"}
    with pytest.raises(InputError, match="cell hit: tuned adapt to each image they are shown"):
        run_study(attacks_of(places, adapting), tmp_path / "alone")


def test_what_cannot_be_attacked_is_found_before_anything_is_written(places: tuple[str, str], untouched: Path) -> None:
    each = Entry("each", SMOOTH, per_sigma=True)
    with pytest.raises(InputError, match="cell hit: each is fitted for each sigma, and the cell has none"):
        run_study(attacks_of(places, each), untouched)
    ratio = dataclasses.replace(PGD, attack=ApgdDlr())
    with pytest.raises(InputError, match="attack 'apgd-dlr' needs at least 3 classes, data has 2"):
        run_study(attacks_of(places, *ENTRIES, attacks=(ratio,)), untouched)
    study = attacks_of(places, *ENTRIES, attacks=(dataclasses.replace(PGD, name="sigma0.1"),))
    twice = dataclasses.replace(study.cells[0], sigmas=(0.1,))
    with pytest.raises(
        InputError, match=r"two runs would be written to runs/hit-sigma0\.1; rename a cell or an attack"
    ):
        run_study(dataclasses.replace(study, cells=(twice,)), untouched)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two sets in one label space of four classes."""
    root = tmp_path_factory.mktemp("four")
    return f"pooled:{two_splits(root / 'here')},{two_splits(root / 'there', test=2)}"


def in_parts(places: tuple[str, str], four: str, *entries: Entry) -> Study:
    study, halves = attacks_of(places, *entries), BENCHMARKS.build("base-to-new")
    (cell,) = study.cells
    parts = tuple(
        dataclasses.replace(cell, name=f"hit-{part.name}", sigmas=(0.1,), part=part, of="hit")
        for part in halves.parts(four)
    )
    return dataclasses.replace(study, data=halves.fitted_on(four), cells=parts)


def test_a_benchmark_fits_on_one_half_and_judges_both(places: tuple[str, str], four: str, tmp_path: Path) -> None:
    out = run_study(in_parts(places, four, *ENTRIES[:2]), tmp_path / "study", seed=7)
    assert [(cell["name"], cell["of"], cell["part"], cell["data"]) for cell in told(out)["cells"]] == [
        ("hit-base", "hit", "base", "classes:base@pooled:here,there"),
        ("hit-new", "hit", "new", "classes:new@pooled:here,there"),
    ]
    assert [entry["label"] for entry in facts_in(out / "prompts" / "coop-2-s1")["classes"]] == [
        "here/brain",
        "here/lung",
    ]
    for half, name in (("base", "here"), ("new", "there")):
        for run in (titer.read_run(out / "runs" / f"hit-{half}-{kind}") for kind in ("short", "sigma0.1")):
            assert run.info["classes"][0]["label"] == f"{name}/brain"
            assert {record["prompts"] for record in run.records} == {"zero-shot", "coop-2-s1"}
            assert all(record["sample_id"].startswith(name) for record in run.records)
            moved = any("moved to other classes" in text for r in run.records for text in r.get("warnings", ()))
            assert moved == (half == "new")
    (table,) = [table for table in base_to_new_tables(read_study(out)) if table.title.endswith("1/255")]
    assert [str(row[0]).split()[0] for row in table.rows] == ["zero-shot", "coop"]
    assert "4 and 4 images" in table.caption


def test_what_is_bound_to_its_classes_is_not_moved(places: tuple[str, str], four: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bound to the classes"):
        run_study(in_parts(places, four, Entry("probe", LinearProbe())), tmp_path / "study", seed=7)
