"""A study of upstream noise as read from its directory: which model is what, and what its heads reached."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from titer.errors import InputError
from titer.results.arms import AttackArm, Shares
from titer.results.store import Run, read_facts, read_run
from titer.results.study import StudyResults, is_study, read_study

UPSTREAM = "upstream.json"
CORPORA = "corpora"
OWN_BASE = "base"
"""In the place of a surrogate's name: noise is made for each seed's own clean model, which is as near as an attacker can get."""
MEASURES = "measures"


@dataclass(frozen=True)
class UpstreamModel:
    """A pre-trained model of the study.

    Args:
        name: of its directory.
        arm: kind of noise; None for the clean one.
        ratio: share of the pairs that was noised.
        seed: of its pre-training.
    """

    name: str
    arm: str | None
    ratio: float
    seed: int


def model_name(arm: str | None, ratio: float, seed: int) -> str:
    """Name of a model's directory."""
    return f"clean-s{seed}" if arm is None else f"{arm}-{100 * ratio:g}-s{seed}"


def corpus_directory(arm: str | None, surrogate: str, seed: int) -> str:
    """Directory, below the study's, of the pairs that an arm noised for the models of a seed; None is the clean corpus."""
    if arm is None:
        return f"{CORPORA}/clean"
    return f"{CORPORA}/{arm}/s{seed}" if surrogate == OWN_BASE else f"{CORPORA}/{arm}"


def task_directory(model: str, task: str) -> str:
    """Directory, below the study's, of the comparison of heads on one model and task."""
    return f"tasks/{model}/{task}"


def answers_directory(model: str, source: str) -> str:
    """Directory, below the study's, of heads that answer questions on one model, and of the run that attacks them."""
    return f"answers/{model}/{source}"


@dataclass(frozen=True, eq=False)
class Level:
    """One kind of noise at one ratio on one task, for one head: a fit on a model of each seed, on the same images.

    Args:
        task: the data set.
        arm: kind of noise; None without noise.
        ratio: share of the pairs.
        method: the head's name in the recipe.
        fits: of each seed, the head under attack.
    """

    task: str
    arm: str | None
    ratio: float
    method: str
    fits: Mapping[int, AttackArm]

    @property
    def ids(self) -> frozenset[str]:
        """Images that all of its fits have finished."""
        return frozenset.intersection(*(frozenset(fit.ids) for fit in self.fits.values()))

    def of(self, seeds: Collection[int]) -> Level:
        """The same, of these seeds alone."""
        return replace(self, fits={seed: self.fits[seed] for seed in sorted(seeds)})

    def on(self, seeds: Collection[int], ids: Collection[str]) -> Level:
        """The same, of these seeds on these images alone."""
        return replace(self, fits={seed: self.fits[seed].on(self.fits[seed].names, ids) for seed in sorted(seeds)})

    def clean(self, seeds: Sequence[int]) -> Shares:
        """For each image, the share of these seeds whose head is right without attack."""
        return np.asarray(np.mean([self.fits[seed].clean for seed in seeds], axis=0))

    def robust(self, epsilon: float, seeds: Sequence[int]) -> Shares:
        """For each image, the share of these seeds whose head is right without attack and under it."""
        return np.asarray(np.mean([self.fits[seed].robust(epsilon) for seed in seeds], axis=0))


@dataclass(frozen=True, eq=False)
class UpstreamResults:
    """A study, finished or not.

    Args:
        path: its directory.
        info: what upstream.json holds.
        models: that have been judged at all.
        levels: what heads reached under the study's first attack.
        studies: the comparison of each (model, task).
        measures: of each model, what upstream/study.py measured of its features.
        warnings: of the noise, such as a surrogate at chance: corpus -> what was told.
        answers: the run of each (model, set of questions).
    """

    path: Path
    info: Mapping[str, Any]
    models: tuple[UpstreamModel, ...]
    levels: tuple[Level, ...]
    studies: Mapping[tuple[str, str], StudyResults]
    measures: Mapping[str, Mapping[str, Any]]
    warnings: Mapping[str, tuple[str, ...]]
    answers: Mapping[tuple[str, str], Run]

    def level(self, task: str, arm: str | None, ratio: float, method: str) -> Level | None:
        """The one of these, if any seed of it is there."""
        asked = (task, arm, ratio, method)
        return next((one for one in self.levels if (one.task, one.arm, one.ratio, one.method) == asked), None)


def is_upstream(path: Path) -> bool:
    """Whether a directory holds a study of upstream noise."""
    return (path / UPSTREAM).exists()


def read_upstream(path: Path | str) -> UpstreamResults:
    """Read the directory of a study of upstream noise.

    Raises:
        InputError: if it is none.
    """
    path = Path(path)
    info = read_facts(path / UPSTREAM)
    if info is None:
        raise InputError(f"{path} is no study of upstream noise: it holds no {UPSTREAM}")
    models = [UpstreamModel(**told) for told in info["models"]]
    studies = {
        (model.name, task): read_study(directory)
        for model in models
        for task in info["tasks"].values()
        if is_study(directory := path / task_directory(model.name, task))
    }
    measured = {
        model.name: facts
        for model in models
        if (facts := read_facts(path / MEASURES / f"{model.name}.json")) is not None
    }
    answers = {
        (model.name, name): read_run(directory)
        for model in models
        for name in ((info.get("questions") or {}).get("sets") or {}).values()
        if (directory := path / answers_directory(model.name, name) / "run").is_dir()
    }
    there = tuple(model for model in models if any(name == model.name for name, _ in studies))
    return UpstreamResults(
        path, info, there, tuple(_levels(models, studies)), studies, measured, _warnings(path), answers
    )


def _warnings(path: Path) -> dict[str, tuple[str, ...]]:
    """What `craft` warned of, corpus by corpus; the clean one has no surrogate to warn of."""
    runs = sorted(set((path / CORPORA).glob("**/run.json")) - {path / corpus_directory(None, "", 0) / "run.json"})
    told = {run: (read_facts(run) or {}).get("warnings", ()) for run in runs}
    return {
        run.parent.relative_to(path / CORPORA).as_posix(): tuple(warnings) for run, warnings in told.items() if warnings
    }


def _levels(models: Sequence[UpstreamModel], studies: Mapping[tuple[str, str], StudyResults]) -> list[Level]:
    found: dict[tuple[str, str | None, float, str], dict[int, AttackArm]] = {}
    for model in models:
        for (name, task), study in studies.items():
            if name == model.name:
                for arm in _first_attack(study):
                    found.setdefault((task, model.arm, model.ratio, arm.entry), {})[model.seed] = arm
    return [Level(*key, fits) for key, fits in found.items()]


def _first_attack(study: StudyResults) -> list[AttackArm]:
    """The heads of the first attacked cell under its first attack; of each those with the most shots."""
    cell = next((cell for cell in study.cells if cell.attacked), None)
    if cell is None:
        return []
    first = cell.attacked[0].attacks
    return list({arm.entry: arm for arm in cell.attacked if arm.attacks == first}.values())
