"""Methods of a comparison as its runs show them: certified at a sigma, or attacked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from titer.results.robustness import Stand
from titer.results.store import Record
from titer.results.summary import Cell, groups
from titer.statistics import curves

Shares = NDArray[np.float64]
Records = tuple[tuple[Record, ...], ...]
"""Of each prompt set, one per image, in one order."""


@dataclass(frozen=True, eq=False)
class Fits(ABC):
    """A method with its shots in one cell: a prompt set for each seed of the fit, on the same images.

    Args:
        entry: the method's name in the recipe.
        facts: what study.json says of the method.
        shots: images of each class it was fitted on, infinity for all there are; None where it needs no labels.
        sets: what study.json says of each prompt set.
        ids: images that all prompt sets of the cell have finished, in order.
    """

    entry: str
    facts: Mapping[str, Any]
    shots: float | None
    sets: tuple[Mapping[str, Any], ...]
    ids: tuple[str, ...]

    of_each_set: ClassVar[tuple[str, ...]] = ("sets",)
    """Fields with an entry for each prompt set."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the prompt sets."""

    @property
    @abstractmethod
    def records(self) -> Records:
        """Records of each prompt set, in order of ``ids``."""

    @property
    def fitted_for(self) -> float | None:
        """The only noise level that it was fitted for; None for the method's own."""
        sigma: float | None = self.sets[0].get("sigma")
        return sigma

    @property
    def collapsed(self) -> int:
        """How many of its fits collapsed."""
        return sum(any("collapsed" in text for text in told.get("warnings", ())) for told in self.sets)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each image."""
        return np.array([record["label"] for record in self.records[0]], np.int64)

    @property
    def groups(self) -> list[Hashable | None]:
        """What ties images together."""
        return groups(self.records[0])

    @property
    def clean(self) -> Shares:
        """For each image, the share of seeds whose prompt set is right without noise, smoothing and attack."""
        return mean_over_seeds(self.records, lambda record: record["clean_prediction"] == record["label"])

    def on(self, names: Collection[str], ids: Collection[str]) -> Self:
        """The same, of these prompt sets on these images alone."""
        kept = [place for place, name in enumerate(self.names) if name in names]
        own: dict[str, Any] = {
            field: tuple(getattr(self, field)[place] for place in kept) for field in self.of_each_set
        }
        return replace(self, ids=tuple(sample for sample in self.ids if sample in ids), **own)

    def median_of_sets(self, name: str) -> float | None:
        """Median over prompt sets of something that study.json says of them."""
        values = [told[name] for told in self.sets if told.get(name) is not None]
        return float(np.median(values)) if values else None


@dataclass(frozen=True, eq=False)
class Arm(Fits):
    """A method with its shots, certified at one sigma.

    Args:
        parts: records of each prompt set.
    """

    parts: tuple[Cell, ...]

    of_each_set: ClassVar[tuple[str, ...]] = ("sets", "parts")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the prompt sets."""
        return tuple(part.prompts for part in self.parts)

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return self.parts[0].sigma

    @property
    def guarantee(self) -> str:
        """Which statement the certificates make."""
        return str(self.parts[0].records[0]["guarantee"])

    @cached_property
    def records(self) -> Records:
        """Records of each prompt set, in order of ``ids``."""
        wanted = set(self.ids)
        return tuple(tuple(record for record in part.records if record["sample_id"] in wanted) for part in self.parts)

    def certified(self, radius: float) -> Shares:
        """For each image, the share of seeds whose prompt set is right and certified at a radius."""
        return mean_over_seeds(
            self.records, lambda record: record["radius"] >= radius and record["prediction"] == record["label"]
        )

    def of_seed(self, place: int, radius: float) -> NDArray[np.bool_]:
        """Which images one prompt set gets right and certified at a radius."""
        records = self.records[place]
        right = [record["prediction"] == record["label"] for record in records]
        return curves.certified(right, [record["radius"] for record in records], radius)

    def median(self, name: str) -> float | None:
        """Median of a field over all records; None where they do not have it."""
        values = [record[name] for part in self.records for record in part if name in record]
        return float(np.median(values)) if values else None


@dataclass(frozen=True, eq=False)
class AttackArm(Fits):
    """A method with its shots under one attack, or under the worst case of several.

    Args:
        attacks: their names in the recipe.
        ladders: of each prompt set how it stands at each budget, upward; all have the same budgets.
        fingerprints: of the prompt sets.
    """

    attacks: tuple[str, ...]
    ladders: tuple[tuple[Stand, ...], ...]
    fingerprints: tuple[str | None, ...]

    of_each_set: ClassVar[tuple[str, ...]] = ("sets", "ladders", "fingerprints")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the prompt sets."""
        return tuple(ladder[0].prompts for ladder in self.ladders)

    @property
    def norm(self) -> str:
        """Of the perturbations."""
        return self.ladders[0][0].norm

    @property
    def budgets(self) -> tuple[float, ...]:
        """Budgets, upward."""
        return tuple(stand.epsilon for stand in self.ladders[0])

    @cached_property
    def records(self) -> Records:
        """Records of each prompt set at the smallest budget, in order of ``ids``."""
        return self._at(self.budgets[0])

    def robust(self, epsilon: float) -> Shares:
        """For each image, the share of seeds whose prompt set is right without attack and under it."""
        return mean_over_seeds(self._at(epsilon), _holds)

    def of_seed(self, place: int, epsilon: float) -> NDArray[np.bool_]:
        """Which images one prompt set gets right without attack and under it."""
        return np.array([_holds(record) for record in self._at(epsilon)[place]], bool)

    @property
    def suspicions(self) -> tuple[str, ...] | None:
        """Self-checks that failed for any of its prompt sets; None where none were made."""
        found = [ladder[0].suspicions for ladder in self.ladders]
        made = [texts for texts in found if texts is not None]
        return tuple(dict.fromkeys(text for texts in made for text in texts)) if made else None

    @property
    def verdict(self) -> str:
        """What the self-checks say of these numbers, and of how many fits where not all were checked."""
        made = sum(ladder[0].suspicions is not None for ladder in self.ladders)
        some = f" ({made} of {len(self.ladders)} fits checked)" if 0 < made < len(self.ladders) else ""
        return replace(self.ladders[0][0], suspicions=self.suspicions).verdict + some

    @property
    def seconds(self) -> float | None:
        """Median over images that were attacked, at one budget; None where none was."""
        spent = [r["seconds"] for ladder in self.ladders for stand in ladder for r in stand.records if r.get("seconds")]
        return float(np.median(spent)) if spent else None

    def _at(self, epsilon: float) -> Records:
        wanted = set(self.ids)
        stands = (next(stand for stand in ladder if stand.epsilon == epsilon) for ladder in self.ladders)
        return tuple(
            tuple(sorted((r for r in stand.records if r["sample_id"] in wanted), key=lambda r: str(r["sample_id"])))
            for stand in stands
        )


def side_by_side(arm: Arm, attacked: AttackArm) -> tuple[Arm, AttackArm] | None:
    """Both on the prompt sets and images that both have; None where there are none, or the methods differ."""
    if (arm.entry, arm.shots) != (attacked.entry, attacked.shots):
        return None
    certified = {(part.prompts, part.run.info["prompts"].get(part.prompts)) for part in arm.parts}
    names = {name for name, _ in certified & set(zip(attacked.names, attacked.fingerprints, strict=True))}
    ids = {sample for sample, _ in _images(arm) & _images(attacked)}
    return (arm.on(names, ids), attacked.on(names, ids)) if names and ids else None


def _images(arm: Fits) -> set[tuple[str, str | None]]:
    """Ids with hashes of the files: a file that changed is another image."""
    return {(record["sample_id"], record.get("sha256")) for record in arm.records[0]}


def mean_over_seeds(records: Sequence[Sequence[Record]], hit: Callable[[Record], bool]) -> Shares:
    """For each image, the share of the prompt sets for whose record something is true."""
    hits = np.array([[hit(record) for record in part] for part in records], float)
    return np.asarray(hits.mean(axis=0))


def _holds(record: Record) -> bool:
    return bool(record["clean_prediction"] == record["label"] == record["prediction"])
