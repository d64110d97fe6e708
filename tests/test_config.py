"""Recipes: what they extend, sizes, changes, and mistakes in them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from titer.attacks.apgd import ApgdCe
from titer.attacks.pgd import Pgd
from titer.certify import Anytime, Gaussian
from titer.config import SIZES, is_of_questions, read_question_recipe, read_recipe, read_tables, recipes_here
from titer.defenses import CaptSmooth, Coop, PromptSmooth
from titer.errors import InputError
from titer.evaluate.study import AttackEntry, prompt_sets, run_study

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))

SMALL = """
title = "Small"
[model]
name = "titer:tiny"
[data]
name = "titer:phantoms"
limit = 12
[certifier]
n = 500
[grid]
shots = [1, 4]
seeds = [1, 2]
sigma = [0.25, 0.5]
[defenses.zero-shot]
method = "zero-shot"
baseline = true
[defenses.coop]
method = "coop"
epochs = 3
[defenses.few-shot]
method = "promptsmooth"
shots = 2
per_sigma = true
[quick]
grid = { sigma = 0.25 }
defenses = { coop = { epochs = 1 } }
"""


def written(folder: Path, text: str = SMALL, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as told:
        read_recipe(path, **options)
    assert "\n" not in str(told.value)
    assert str(told.value).count(str(path)) == 1
    return str(told.value)


def test_a_recipe_becomes_methods_and_cells(tmp_path: Path) -> None:
    study = read_recipe(written(tmp_path))
    assert (study.title, study.model, study.data, study.split) == ("Small", "titer:tiny", "titer:phantoms", "test")
    assert list(study.entries) == ["zero-shot", "coop", "few-shot"]
    assert study.entries["zero-shot"].defense is None
    assert study.entries["zero-shot"].baseline
    assert study.entries["coop"].defense == Coop(epochs=3)
    assert not study.entries["coop"].baseline
    assert study.entries["few-shot"].defense == PromptSmooth()
    assert (study.entries["few-shot"].shots, study.entries["few-shot"].per_sigma) == ((2,), True)
    (cell,) = study.cells
    assert (cell.name, cell.entries) == ("main", ("zero-shot", "coop", "few-shot"))
    assert (cell.shots, cell.seeds, cell.sigmas, cell.limit) == ((1, 4), (1, 2), (0.25, 0.5), 12)
    assert cell.certifier == Gaussian(n=500)


def test_shots_may_be_all(tmp_path: Path) -> None:
    study = read_recipe(
        written(tmp_path), changes={"grid": {"shots": [4, "all"]}, "defenses": {"coop": {"shots": "all"}}}
    )
    assert (study.cells[0].shots, study.entries["coop"].shots) == ((4, "all"), ("all",))
    names = [prompts.name for prompts in prompt_sets(study, study.cells[0], 0.25)]
    assert {"coop-all-s1", "coop-all-s2"} < set(names)


def test_a_size_is_merged_key_by_key(tmp_path: Path) -> None:
    study = read_recipe(written(tmp_path), changes={"size": "quick"})
    assert study.cells[0].sigmas == (0.25,)
    assert study.cells[0].shots == (1, 4)
    assert study.entries["coop"].defense == Coop(epochs=1)


def test_changes_win_over_the_size(tmp_path: Path) -> None:
    changes = {"size": "quick", "grid": {"sigma": (0.1, 1)}, "defenses": {"coop": {"epochs": 7, "baseline": True}}}
    study = read_recipe(written(tmp_path), changes=changes)
    assert study.cells[0].sigmas == (0.1, 1.0)
    assert study.entries["coop"].defense == Coop(epochs=7)
    assert study.entries["coop"].baseline


def test_a_change_can_add_a_method(tmp_path: Path) -> None:
    study = read_recipe(written(tmp_path), changes={"defenses": {"more": {"method": "coop", "context": 4}}})
    assert study.entries["more"].defense == Coop(context=4)


def test_model_and_data_replace_those_of_the_recipe(tmp_path: Path) -> None:
    study = read_recipe(written(tmp_path), model="vinid/plip", data="some/folder")
    assert (study.model, study.data) == ("vinid/plip", "some/folder")
    assert study.cells[0].limit == 12


def test_a_recipe_goes_over_the_one_it_extends(tmp_path: Path) -> None:
    written(tmp_path, SMALL, "base/common.toml")
    middle = written(tmp_path, 'extends = "base/common.toml"\n[data]\nlimit = 5\n', "middle.toml")
    top = written(tmp_path, 'extends = "../middle.toml"\ntitle = "Top"\n[grid]\nseeds = [9]\n', "sets/top.toml")
    study = read_recipe(top)
    assert (study.title, study.data) == ("Top", "titer:phantoms")
    assert (study.cells[0].limit, study.cells[0].seeds, study.cells[0].shots) == (5, (9,), (1, 4))
    assert read_tables(middle)["data"] == {"name": "titer:phantoms", "limit": 5}


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 'extends = "b.toml"', "a.toml")
    written(tmp_path, 'extends = "a.toml"', "b.toml")
    with pytest.raises(InputError, match=r"a\.toml extends itself"):
        read_recipe(tmp_path / "a.toml")


CELLS = (
    SMALL
    + """
[defenses.costly]
method = "promptsmooth"
mode = "combined"
guarantee = "per-draw"
cells = ["small"]
[cells.curves]
[cells.headline]
sigma = 0.25
certifier = { name = "anytime", radii = [0.25] }
[cells.small]
defenses = ["zero-shot", "costly"]
limit = 4
"""
)


def test_a_cell_overrides_the_grid_and_names_its_methods(tmp_path: Path) -> None:
    curves, headline, small = read_recipe(written(tmp_path, CELLS)).cells
    assert curves.entries == headline.entries == ("zero-shot", "coop", "few-shot")
    assert (headline.sigmas, headline.certifier) == ((0.25,), Anytime(n=500, radii=(0.25,)))
    assert (small.entries, small.limit, small.shots) == (("zero-shot", "costly"), 4, (1, 4))


def test_a_cell_can_be_left_out(tmp_path: Path) -> None:
    study = read_recipe(written(tmp_path, CELLS), changes={"cells": {"headline": False}})
    assert [cell.name for cell in study.cells] == ["curves", "small"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gird": {"sigma": 1}}, "unknown table 'gird'; did you mean 'grid'"),
        ({"grid": {"sigmma": 1}}, "unknown key of [grid] 'sigmma'; did you mean 'sigma'"),
        ({"data": {"limits": 1}}, "unknown key of [data] 'limits'; did you mean 'limit'"),
        ({"data": 3}, "[data]: expected a table, got 3"),
        ({"data": {"limit": 0}}, "limit: expected at least 1, got 0"),
        ({"data": {"limit": "many"}}, "limit: expected whole numbers, got 'many'"),
        ({"grid": {"sigma": -0.5}}, "-0.5"),
        ({"grid": {"sigma": "0.25,0.5"}}, "sigma: expected numbers, got '0.25,0.5'"),
        ({"grid": {"sigma": ()}}, "sigma: expected numbers, got ()"),
        ({"grid": {"shots": 1.5}}, "shots: expected whole numbers, got 1.5"),
        ({"grid": {"shots": [4, "al"]}}, "shots: expected whole numbers, got 'al'"),
        ({"grid": {"shots": []}}, "shots: expected whole numbers, got []"),
        ({"grid": {"shots": 0}}, "shots: expected at least 1, got 0"),
        ({"grid": {"seeds": -1}}, "seeds: expected at least 0, got -1"),
        ({"certifier": {"n": 3}}, "n = 3 can never give an answer at alpha 0.001"),
        ({"certifier": {"name": "anytim"}}, "did you mean 'anytime'"),
        ({"certifier": {"draws": 3}}, "unknown setting of certifier 'gaussian': 'draws'"),
        ({"certifier": 3}, "[certifier]: expected a table, got 3"),
        ({"defenses": {"cop": {"epochs": 1}}}, "unknown defense 'cop'; did you mean 'coop'"),
        ({"defenses": {"coop": {"method": "promtsmooth"}}}, "[defenses.coop]: unknown defense 'promtsmooth'; did you mean"),
        ({"defenses": {"coop": {"epoch": 1}}}, "[defenses.coop]: unknown setting of defense 'coop': 'epoch'; did you mean"),
        ({"defenses": {"coop": {"epochs": 0}}}, "[defenses.coop]: epochs: expected at least 1, got 0"),
        ({"defenses": {"coop": {"per_sigma": True}}}, "not fitted on noise"),
        ({"defenses": {"coop": {"baseline": "yes"}}}, "[defenses.coop] baseline: expected true or false, got 'yes'"),
        ({"defenses": {"coop": {"guarantee": "condtional"}}}, "did you mean 'conditional'"),
        ({"defenses": {"coop": {"cells": "main"}}}, "[defenses.coop] cells: expected a list of names, got 'main'"),
        ({"defenses": {"coop": {"cells": ["man"]}}}, "unknown cell of [defenses.coop] cells 'man'"),
        ({"defenses": {"coop": 3}}, "[defenses.coop]: expected a table with method = '...'"),
        ({"defenses": {"a/b": {"method": "coop"}}}, "[defenses.a/b]: expected a name of letters"),
        ({"defenses": {"zero-shot": {"epochs": 3}}}, "zero-shot has no settings, got 'epochs'"),
        ({"defenses": {"plain": {"method": "zero-shot"}}}, "'zero-shot', 'plain' are the same"),
        ({"cells": {"main": {"defenses": ["cop"]}}}, "unknown defense of [cells.main] 'cop'; did you mean 'coop'"),
        ({"cells": {"main": {"sigmas": 1}}}, "unknown key of [cells.main] 'sigmas'; did you mean 'sigma'"),
        ({"cells": {"main": True}}, "[cells.main]: expected a table, or false"),
        ({"cells": {"main": False}}, "all of its cells are false"),
        ({"attacks": {"pdg": {}}}, "[attacks.pdg]: unknown attack 'pdg'; did you mean 'pgd'"),
        ({"attacks": {"mine": {"method": "pdg"}}}, "[attacks.mine]: unknown attack 'pdg'; did you mean 'pgd'"),
        ({"attacks": {"sga": {}}}, "[attacks.sga]: unknown attack 'sga'"),
        ({"attacks": {"a/b": {"method": "pgd"}}}, "[attacks.a/b]: expected a name of letters"),
        ({"attacks": {"pgd": 3}}, "[attacks.pgd]: expected a table, got 3"),
        ({"attacks": 3}, "[attacks]: expected a table, got 3"),
        ({"attacks": {"pgd": {"step": "far"}}}, "[attacks.pgd]: attack 'pgd': step: expected a number, got 'far'"),
        ({"attacks": {"pgd": {"stepps": 2}}}, "[attacks.pgd]: unknown setting of attack 'pgd': 'stepps'; did you mean 'steps'"),
        ({"attacks": {"pgd": {"steps": 0}}}, "[attacks.pgd]: steps: expected at least 1, got 0"),
        ({"attacks": {"pgd": {"norm": "l3"}}}, "[attacks.pgd]: unknown norm of attack 'pgd' 'l3'"),
        ({"attacks": {"smoothadv": {"norm": "l1"}}}, "[attacks.smoothadv]: unknown norm of attack 'smoothadv' 'l1'"),
        ({"attacks": {"pgd": {"eps": "much"}}}, "[attacks.pgd]: eps: expected a number or a fraction such as 1/255, got 'much'"),
        ({"attacks": {"pgd": {"eps": ()}}}, "[attacks.pgd]: eps: expected numbers, got []"),
        ({"attacks": {"pgd": {"eps": True}}}, "[attacks.pgd]: eps: expected numbers, got [True]"),
        ({"attacks": {"pgd": {"eps": [0.01, 0]}}}, "[attacks.pgd]: eps: expected a length above 0 in [0, 1] pixels"),
        ({"attacks": {"pgd": {"eps": 4}}}, "[attacks.pgd]: eps: 4 is the whole range of [0, 1] pixels; probably 4/255 was meant"),
        ({"attacks": {"pgd": {"checks": "no"}}}, "[attacks.pgd] checks: expected true or false, got 'no'"),
        ({"attacks": {"pgd": {}}, "cells": {"main": {"attacks": ["pdg"]}}},
         "unknown attack of [cells.main] 'pdg'; did you mean 'pgd'"),
        ({"attacks": {"pgd": {}}, "cells": {"main": {"attacks": "pgd"}}},
         "[cells.main] attacks: expected a list of names, got 'pgd'"),
        ({"size": "huge"}, "it has no size 'huge'; expected 'quick'"),
        ({"size": {"x": 1}}, "it has no size {'x': 1}"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_it(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(written(tmp_path), changes=changes)


ATTACKS = (
    SMALL
    + """
[attacks.pgd]
eps = ["2/255", 0.001, "1/255"]
steps = 20
[attacks.far]
method = "apgd-ce"
norm = "l2"
eps = 0.5
checks = false
[cells.curves]
[cells.hit]
attacks = ["pgd", "far", "pgd"]
seeds = [1]
[cells.both]
attacks = ["pgd"]
sigma = 0.1
[cells.certified-as-the-grid-says]
attacks = ["pgd"]
certifier = { n = 600 }
"""
)


def test_a_cell_attacks_instead_of_or_beside_certifying(tmp_path: Path) -> None:
    study = read_recipe(written(tmp_path, ATTACKS))
    assert study.attacks["pgd"] == AttackEntry("pgd", Pgd(steps=20), "linf", (0.001, 1 / 255, 2 / 255))
    assert study.attacks["far"] == AttackEntry("far", ApgdCe(), "l2", (0.5,), checks=False)
    found = {cell.name: (cell.attacks, cell.sigmas, cell.seeds) for cell in study.cells}
    assert found == {
        "curves": ((), (0.25, 0.5), (1, 2)),
        "hit": (("pgd", "far"), (), (1,)),
        "both": (("pgd",), (0.1,), (1, 2)),
        "certified-as-the-grid-says": (("pgd",), (0.25, 0.5), (1, 2)),
    }


def test_settings_may_be_fractions(tmp_path: Path) -> None:
    more = """
[defenses.tuned]
method = "capt-smooth"
eps = "2/255"
sigmas = ["1/4", 0.5]
[attacks.pgd]
step = "1/8"
"""
    study = read_recipe(written(tmp_path, SMALL + more))
    assert study.entries["tuned"].defense == CaptSmooth(eps=2 / 255, sigmas=(0.25, 0.5))
    assert study.attacks["pgd"].attack == Pgd(step=0.125)


def test_attacks_take_changes_and_their_own_names(tmp_path: Path) -> None:
    changes = {"attacks": {"pgd": {"steps": 2, "eps": 4 / 255}, "square": {}}}
    study = read_recipe(written(tmp_path, ATTACKS), changes=changes)
    assert study.attacks["pgd"] == AttackEntry("pgd", Pgd(steps=2), "linf", (4 / 255,))
    assert (study.attacks["square"].method, study.attacks["square"].eps) == ("square", (1 / 255,))


def test_a_recipe_without_cells_does_all_that_it_names(tmp_path: Path) -> None:
    (cell,) = read_recipe(written(tmp_path), changes={"attacks": {"pgd": {}}}).cells
    assert (cell.name, cell.attacks, cell.sigmas) == ("main", ("pgd",), (0.25, 0.5))
    alone = written(tmp_path, '[defenses.coop]\nmethod = "coop"\n[attacks.pgd]\n', "alone.toml")
    (cell,) = read_recipe(alone, model="titer:tiny", data="titer:phantoms").cells
    assert (cell.attacks, cell.sigmas) == (("pgd",), ())


def test_a_recipe_without_data_asks_for_it(tmp_path: Path) -> None:
    path = written(tmp_path, '[model]\nname = "titer:tiny"\n[grid]\nsigma = 1\n[defenses.coop]\nmethod = "coop"\n')
    assert "[data] names no data; expected name = '...', or --data on the command line" in refusal(path)
    assert read_recipe(path, data="titer:phantoms").cells[0].shots == (16,)


def test_a_recipe_without_methods_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "[grid]\nsigma = 1\n")
    assert "it compares nothing" in refusal(path, model="titer:tiny", data="titer:phantoms")


def test_a_missing_recipe_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path, SMALL, "phantoms.toml")
    with pytest.raises(InputError, match=r"there is no recipe .*/phantom\.toml; did you mean '.*/phantoms\.toml'"):
        read_recipe(tmp_path / "phantom.toml")
    with pytest.raises(InputError, match="cannot read the recipe"):
        read_recipe(tmp_path)


def test_broken_toml_says_where(tmp_path: Path) -> None:
    assert "is not valid TOML" in refusal(written(tmp_path, "[data\n"))
    assert "line 1" in refusal(written(tmp_path, "[data\n"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_builds_in_every_size(path: Path) -> None:
    tables = read_tables(path)
    model, data = (
        None if "name" in tables.get(kind, {}) else name
        for kind, name in (("model", "titer:tiny"), ("data", "coop:EuroSAT@data"))
    )
    for size in (None, *(size for size in SIZES if size in tables)):
        if is_of_questions(path):
            assert read_question_recipe(path, changes={} if size is None else {"size": size}).heads
            continue
        study = read_recipe(path, model=model, data=data, changes={} if size is None else {"size": size})
        assert study.cells
        assert {name for cell in study.cells for name in cell.entries} <= study.entries.keys()


def test_there_are_recipes() -> None:
    assert RECIPES
    assert all(tomllib.loads(path.read_text()) for path in RECIPES)


def test_recipes_below_the_current_directory_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipes_here() == {}
    written(tmp_path, SMALL, "recipes/sets/small.toml")
    written(tmp_path, "[grid]\n", "recipes/common.toml")
    written(tmp_path, "[grid\n", "recipes/broken.toml")
    found = recipes_here()
    assert list(found) == ["recipes/broken.toml", "recipes/common.toml", "recipes/sets/small.toml"]
    assert found["recipes/sets/small.toml"] == "Small"
    assert found["recipes/common.toml"] == "Comparison; for any --model, --data"
    assert "not valid TOML" in found["recipes/broken.toml"]


def test_a_benchmark_takes_cells_apart(tmp_path: Path) -> None:
    more = """
[benchmark]
name = "base-to-new"
"""
    study = read_recipe(written(tmp_path, ATTACKS + more), data="some/set")
    assert study.data == "classes:base@some/set"
    assert [cell.name for cell in study.cells][:4] == ["curves-base", "curves-new", "hit-base", "hit-new"]
    base, new = study.cells[2:4]
    assert (base.of, new.of, base.moved, new.moved) == ("hit", "hit", False, True)
    assert (base.attacks, base.seeds) == (new.attacks, new.seeds) == (("pgd", "far"), (1,))
    assert new.part is not None
    assert new.part.data == "classes:new@some/set"
    assert new.runs == ("runs/hit-new-pgd", "runs/hit-new-far")


@pytest.mark.parametrize(
    ("benchmark", "more", "said"),
    [
        ({"name": "base-to-old"}, {}, "unknown benchmark 'base-to-old'; did you mean 'base-to-new'?"),
        ({"on": ["x"]}, {}, "[benchmark]: expected name = '...', one of 'base-to-new', 'cross-dataset', 'shift'"),
        ({"name": "shift"}, {}, "on: expected the names of data sets"),
        ({"name": "base-to-new", "on": ["x"]}, {}, "on"),
        ({"name": "shift", "on": ["a/x", "b/x"]}, {}, "two runs would be written"),
        (
            {"name": "base-to-new"},
            {"classes": {"a": "a", "b": "b"}},
            "[data] classes: a benchmark chooses classes itself",
        ),
    ],
)
def test_wrong_benchmarks(benchmark: dict[str, Any], more: dict[str, Any], said: str, tmp_path: Path) -> None:
    changes = {"benchmark": benchmark, "data": more}
    if "two runs" in said:
        with pytest.raises(InputError, match=said):
            run_study(read_recipe(written(tmp_path), changes=changes), tmp_path / "out")
    else:
        assert said in refusal(written(tmp_path), changes=changes)
