"""A comparison as read from its directory: ``study.json``, and the runs that it names."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titer.errors import InputError
from titer.results.store import Record, Run, read_run
from titer.results.summary import Cell, cells, groups
from titer.statistics import curves

STUDY = "study.json"
ZERO_SHOT = "zero-shot"
"""The method that fits nothing: the model's own answer."""

Shares = NDArray[np.float64]


def sigma_run(cell: str, sigma: float) -> str:
    """Directory, below the comparison's, of what a cell certifies at a sigma."""
    return f"runs/{cell}-sigma{sigma:g}"


def attack_run(cell: str, attack: str) -> str:
    """Directory, below the comparison's, of what an attack makes of a cell."""
    return f"runs/{cell}-{attack}"


@dataclass(frozen=True, eq=False)
class Arm:
    """A method with its shots at one sigma, in one cell: a prompt set for each seed of the fit, on the same images.

    Args:
        entry: the method's name in the recipe.
        facts: what study.json says of the method.
        shots: images of each class it was fitted on; None where it needs no labels.
        sets: what study.json says of each prompt set.
        parts: records of each prompt set.
        ids: images that all prompt sets of the cell have finished, in order.
    """

    entry: str
    facts: Mapping[str, Any]
    shots: int | None
    sets: tuple[Mapping[str, Any], ...]
    parts: tuple[Cell, ...]
    ids: tuple[str, ...]

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return self.parts[0].sigma

    @property
    def guarantee(self) -> str:
        """Which statement the certificates make."""
        return str(self.parts[0].records[0]["guarantee"])

    @property
    def collapsed(self) -> int:
        """How many of its fits collapsed."""
        return sum(any("collapsed" in text for text in told.get("warnings", ())) for told in self.sets)

    @cached_property
    def records(self) -> tuple[tuple[Record, ...], ...]:
        """Records of each prompt set, in order of ``ids``."""
        wanted = set(self.ids)
        return tuple(tuple(record for record in part.records if record["sample_id"] in wanted) for part in self.parts)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image."""
        return np.array([record["label"] for record in self.records[0]], np.int64)

    @property
    def groups(self) -> list[Hashable | None]:
        """What ties images together."""
        return groups(self.records[0])

    def certified(self, radius: float) -> Shares:
        """For each image, the share of seeds whose prompt set is right and certified at a radius."""
        return self._mean(lambda record: record["radius"] >= radius and record["prediction"] == record["label"])

    @property
    def clean(self) -> Shares:
        """For each image, the share of seeds whose prompt set is right without noise and without smoothing."""
        return self._mean(lambda record: record["clean_prediction"] == record["label"])

    def _mean(self, hit: Any) -> Shares:
        hits = np.array([[hit(record) for record in part] for part in self.records], float)
        return np.asarray(hits.mean(axis=0))

    def of_seed(self, place: int, radius: float) -> NDArray[np.bool_]:
        """Which images one prompt set gets right and certified at a radius."""
        records = self.records[place]
        right = [record["prediction"] == record["label"] for record in records]
        return curves.certified(right, [record["radius"] for record in records], radius)

    def median(self, name: str) -> float | None:
        """Median of a field over all records; None where they do not have it."""
        values = [record[name] for part in self.records for record in part if name in record]
        return float(np.median(values)) if values else None

    def median_of_sets(self, name: str) -> float | None:
        """Median over prompt sets of something that study.json says of them."""
        values = [told[name] for told in self.sets if told.get(name) is not None]
        return float(np.median(values)) if values else None


@dataclass(frozen=True, eq=False)
class StudyCell:
    """What was certified together.

    Args:
        name: of the cell.
        runs: one for each sigma, as far as they hold finished images.
        missing: names of those that do not.
        arms: methods by rising sigma, in the recipe's order, with the fewest shots first.
    """

    name: str
    runs: tuple[Run, ...]
    missing: tuple[str, ...]
    arms: tuple[Arm, ...]

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels, rising."""
        return tuple(sorted({arm.sigma for arm in self.arms}))

    def at(self, sigma: float) -> list[Arm]:
        """Arms at a sigma; of each method those with the most shots."""
        last = {arm.entry: arm for arm in self.arms if arm.sigma == sigma}
        return list(last.values())


@dataclass(frozen=True, eq=False)
class StudyResults:
    """A comparison, finished or not.

    Args:
        path: its directory.
        info: what study.json holds.
        cells: what was certified.
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
    try:
        info = json.loads((path / STUDY).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} is no comparison: it holds no {STUDY}; expected a directory of titer run") from error
    except ValueError as error:
        raise InputError(f"{path / STUDY} is not valid JSON: {error}") from error
    return StudyResults(path, info, tuple(_cell(path, info, told) for told in info["cells"]))


def _cell(path: Path, info: Mapping[str, Any], told: Mapping[str, Any]) -> StudyCell:
    there = {name: read_run(path / name) for name in told["runs"] if (path / name / "run.json").exists()}
    runs = tuple(run for run in there.values() if run.records)
    missing = tuple(name for name in told["runs"] if name not in there or not there[name].records)
    return StudyCell(told["name"], runs, missing, tuple(arm for run in runs for arm in _arms(info, run)))


def _arms(info: Mapping[str, Any], run: Run) -> Iterator[Arm]:
    parts = list(cells(run))
    ids = _shared(parts)
    found: dict[tuple[str, int | None], list[Cell]] = {}
    for part in parts:
        told = info["prompts"][part.prompts]
        found.setdefault((told["entry"], told["shots"]), []).append(part)
    order = list(info["entries"])
    for entry, shots in sorted(found, key=lambda key: (order.index(key[0]), key[1] or 0)):
        own = tuple(found[entry, shots])
        sets = tuple(info["prompts"][part.prompts] for part in own)
        yield Arm(entry, info["entries"][entry], shots, sets, own, ids)


def _shared(parts: Sequence[Cell]) -> tuple[str, ...]:
    """Labelled images that all prompt sets have, in order of id."""
    common = set.intersection(*({record["sample_id"] for record in part.labelled} for part in parts))
    return tuple(sorted(common))
