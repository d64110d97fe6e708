"""A comparison as read from its directory: ``study.json``, and the runs that it names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from titer.errors import InputError
from titer.results.arms import Arm, AttackArm
from titer.results.robustness import Stand, restricted, stands, worst
from titer.results.store import Run, read_facts, read_run
from titer.results.summary import Cell, cells

STUDY = "study.json"
ZERO_SHOT = "zero-shot"
"""The method that fits nothing: the model's own answer."""
ALL_SHOTS: Literal["all"] = "all"
Shots = int | Literal["all"]
"""Images of each class that a method is fitted on."""


def sigma_run(cell: str, sigma: float) -> str:
    """Directory, below the comparison's, of what a cell certifies at a sigma."""
    return f"runs/{cell}-sigma{sigma:g}"


def attack_run(cell: str, attack: str) -> str:
    """Directory, below the comparison's, of what an attack makes of a cell."""
    return f"runs/{cell}-{attack}"


@dataclass(frozen=True, eq=False)
class StudyCell:
    """What was certified together, attacked together, or both.

    Args:
        name: of the cell.
        runs: one for each sigma, then one for each attack, as far as they hold finished images.
        missing: names of those that do not.
        arms: methods by rising sigma, in the recipe's order, with the fewest shots first.
        attacked: methods by attack, in the recipe's order, with the fewest shots first; of several attacks under one norm
            then their worst case. It takes in what other cells tried on all of the same prompt sets and images.
        part: of a benchmark, such as ``base``; None where the comparison follows none.
        of: the recipe's cell that it is a part of.
    """

    name: str
    runs: tuple[Run, ...]
    missing: tuple[str, ...]
    arms: tuple[Arm, ...]
    attacked: tuple[AttackArm, ...] = ()
    part: str | None = None
    of: str | None = None

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, rising."""
        return tuple(sorted({arm.sigma for arm in self.arms}))

    def at(self, sigma: float) -> list[Arm]:
        """Arms at a sigma; of each method those with the most shots."""
        last = {arm.entry: arm for arm in self.arms if arm.sigma == sigma}
        return list(last.values())

    @property
    def norms(self) -> tuple[str, ...]:
        """Norms of its attacks."""
        return tuple(dict.fromkeys(arm.norm for arm in self.attacked))

    def strongest(self, norm: str) -> list[AttackArm]:
        """Arms under the worst case of all attacks of a norm, or under the only one; of each method those with the most shots."""
        last = {(arm.entry, arm.fitted_for): arm for arm in self.under_strongest(norm)}
        return list(last.values())

    def under_strongest(self, norm: str) -> list[AttackArm]:
        """The same of all shots."""
        own = [arm for arm in self.attacked if arm.norm == norm]
        return [arm for arm in own if arm.attacks == own[-1].attacks]


@dataclass(frozen=True, eq=False)
class StudyResults:
    """A comparison, finished or not.

    Args:
        path: its directory.
        info: what study.json holds.
        cells: what was certified and attacked.
    """

    path: Path
    info: Mapping[str, Any]
    cells: tuple[StudyCell, ...]

    def cell(self, name: str) -> StudyCell | None:
        """The cell of this name, if it has any results."""
        return next((cell for cell in self.cells if cell.name == name and cell.arms), None)


def is_study(path: Path) -> bool:
    """Whether a directory holds a comparison."""
    return (path / STUDY).exists()


def read_study(path: Path | str) -> StudyResults:
    """Read the directory of a comparison.

    Raises:
        InputError: if it is none.
    """
    path = Path(path)
    info = read_facts(path / STUDY)
    if info is None:
        raise InputError(f"{path} is no comparison: it holds no {STUDY}; expected a directory of titer run")
    there = {
        name: read_run(path / name)
        for told in info["cells"]
        for name in told["runs"]
        if (path / name / "run.json").exists()
    }
    runs = {name: run for name, run in there.items() if run.records}
    tried = {attack_run(told["name"], attack): attack for told in info["cells"] for attack in told.get("attacks", ())}
    return StudyResults(path, info, tuple(_cell(info, told, runs, tried) for told in info["cells"]))


def _cell(
    info: Mapping[str, Any], told: Mapping[str, Any], runs: Mapping[str, Run], tried: Mapping[str, str]
) -> StudyCell:
    """A cell of a study.

    Args:
        info: what study.json holds.
        told: what it says of the cell.
        runs: all runs of the study that have records.
        tried: the attack of each run that is one.
    """
    own = {name: runs[name] for name in told["runs"] if name in runs}
    return StudyCell(
        name=told["name"],
        runs=tuple(own.values()),
        missing=tuple(name for name in told["runs"] if name not in runs),
        arms=tuple(arm for name, run in own.items() if name not in tried for arm in _arms(info, run)),
        attacked=tuple(
            _attacked(
                info,
                [Tried(attack, own[name]) for name, attack in tried.items() if name in own],
                [Tried(attack, runs[name]) for name, attack in tried.items() if name in runs and name not in own],
            )
        ),
        part=told.get("part"),
        of=told.get("of"),
    )


@dataclass(frozen=True, eq=False)
class Tried:
    """A run of an attack of the recipe."""

    attack: str
    run: Run

    @property
    def norm(self) -> str:
        """Of the perturbations."""
        return str(self.run.info["settings"]["norm"])

    @property
    def of(self) -> set[tuple[Any, ...]]:
        """What was attacked, with fingerprints, at which budget."""
        made = self.run.info["prompts"]
        return {(r["prompts"], made[r["prompts"]], r["eps"], r["sample_id"], r.get("sha256")) for r in self.run.records}


def _attacked(info: Mapping[str, Any], own: Sequence[Tried], others: Sequence[Tried]) -> Iterator[AttackArm]:
    for norm in dict.fromkeys(one.norm for one in own):
        alike = [one for one in own if one.norm == norm]
        for one in alike:
            yield from _attack_arms(info, one.run.info["prompts"], stands(one.run), (one.attack,))
        names = {one.attack for one in alike}
        all_of_it = set.union(*(one.of for one in alike))
        # what attacked only a part would take images or fits away from the worst case
        alike += [one for one in others if one.norm == norm and one.attack not in names and one.of >= all_of_it]
        if len(alike) > 1:
            prompts, images = alike[0].run.info["prompts"], {part[3] for part in all_of_it}
            parts = [restricted(one.run, prompts, images) for one in alike]
            yield from _attack_arms(info, prompts, worst(parts), tuple(dict.fromkeys(one.attack for one in alike)))


def _attack_arms(
    info: Mapping[str, Any], prompts: Mapping[str, str], parts: Sequence[Stand], attacks: tuple[str, ...]
) -> Iterator[AttackArm]:
    """Methods under one attack, on the images and at the budgets that all prompt sets have finished."""
    by_set: dict[str, dict[float, Stand]] = {}
    for part in parts:
        by_set.setdefault(part.prompts, {})[part.epsilon] = part
    if not by_set:
        return
    budgets = sorted(set.intersection(*(set(ladder) for ladder in by_set.values())))
    seen = ({r["sample_id"] for r in ladder[at].records} for ladder in by_set.values() for at in budgets)
    ids = tuple(sorted(set.intersection(*seen))) if budgets else ()
    if not ids:
        return
    for own, facts in _by_method(info, list(by_set)):
        yield AttackArm(
            **facts,
            ids=ids,
            attacks=attacks,
            ladders=tuple(tuple(by_set[name][at] for at in budgets) for name in own),
            fingerprints=tuple(prompts.get(name) for name in own),
        )


def _by_method(info: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Prompt sets of one method and its shots, and what study.json says of them.

    In the recipe's order, with the fewest shots first; fits for one sigma are by themselves.
    """
    found: dict[tuple[str, float | None, float | None], list[str]] = {}
    for name in names:
        told = info["prompts"][name]
        shots = math.inf if told["shots"] == ALL_SHOTS else told["shots"]
        found.setdefault((told["entry"], shots, told.get("sigma")), []).append(name)
    order = list(info["entries"])
    for entry, shots, sigma in sorted(found, key=lambda key: (order.index(key[0]), key[2] or 0, key[1] or 0)):
        own = found[entry, shots, sigma]
        sets = tuple(info["prompts"][name] for name in own)
        yield own, {"entry": entry, "facts": info["entries"][entry], "shots": shots, "sets": sets}


def _arms(info: Mapping[str, Any], run: Run) -> Iterator[Arm]:
    parts = {part.prompts: part for part in cells(run)}
    ids = _shared(list(parts.values()))
    for own, facts in _by_method(info, list(parts)):
        yield Arm(**facts, ids=ids, parts=tuple(parts[name] for name in own))


def _shared(parts: Sequence[Cell]) -> tuple[str, ...]:
    """Labelled images that all prompt sets have, in order of id."""
    common = set.intersection(*({record["sample_id"] for record in part.labelled} for part in parts))
    return tuple(sorted(common))
