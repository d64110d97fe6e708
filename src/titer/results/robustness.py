"""Numbers of attack runs, computed from their records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titer.errors import InputError
from titer.results.store import Record, Run
from titer.results.summary import correct, groups, spoken
from titer.statistics.intervals import Interval, clustered

_GREY = 255
_NOT_MADE = "not made"


@dataclass(frozen=True)
class Stand:
    """How one prompt set stands against one attack, or the worst of several, at one epsilon.

    Args:
        prompts: name of the prompt set.
        attack: name of the attack; of several, joined by ``+``.
        norm: of the perturbation.
        epsilon: its largest length.
        records: one per image.
        suspicions: self-checks that failed; None where none were made.
    """

    prompts: str
    attack: str
    norm: str
    epsilon: float
    records: tuple[Record, ...]
    suspicions: tuple[str, ...] | None

    @property
    def was_right(self) -> NDArray[np.bool_]:
        """Which images (images,) are answered rightly without attack."""
        return np.array([record["clean_prediction"] == record["label"] for record in self.records], bool)

    @property
    def holds(self) -> NDArray[np.bool_]:
        """Which images (images,) are answered rightly without and under attack."""
        return self.was_right & correct(self.records)

    @property
    def clean(self) -> Interval:
        """Accuracy without attack, with its 95 % interval."""
        return clustered(self.was_right.astype(float), groups(self.records))

    @property
    def robust(self) -> Interval:
        """Share of all images that are answered rightly even under attack, with its 95 % interval."""
        return clustered(self.holds.astype(float), groups(self.records))

    @property
    def success(self) -> Interval:
        """Share of the images answered rightly without attack that the attack broke, with its 95 % interval."""
        attacked = [record for record, right in zip(self.records, self.was_right, strict=True) if right]
        return clustered((~self.holds[self.was_right]).astype(float), groups(attacked))

    @property
    def epsilon_text(self) -> str:
        """Epsilon as it is usually said: in grey levels for linf."""
        return length_text(self.epsilon, self.norm)

    @property
    def verdict(self) -> str:
        """What the self-checks say of these numbers."""
        if self.suspicions is None:
            return _NOT_MADE
        return f"masking suspected: {'; '.join(self.suspicions)}" if self.suspicions else "passed"


def length_text(length: float, norm: str) -> str:
    """A length as text: ``4/255`` for linf where that is what it is, else the number."""
    levels = length * _GREY
    if norm == "linf" and abs(levels - round(levels, 3)) < 1e-6:
        return f"{round(levels, 3):g}/255"
    return f"{length:g}"


def meant(length: float) -> str:
    """The length that someone who typed a whole number of grey levels probably meant."""
    return f"{Fraction(length).limit_denominator(1000)}/{_GREY}"


def check_budgets(place: str, budgets: Sequence[float], norm: str) -> None:
    """Refuse an linf budget that must have been meant in 255 grey levels.

    Raises:
        InputError: naming the place and the budget.
    """
    for budget in budgets:
        if norm == "linf" and budget >= 1:
            raise InputError(
                f"{place}: {budget:g} is the whole range of [0, 1] pixels; probably {meant(budget)} was meant"
            )


def stands(run: Run) -> list[Stand]:
    """Every prompt set at every epsilon: in the order of the run's settings, epsilons upward.

    Raises:
        InputError: if the run attacked nothing.
    """
    if run.info.get("verb") != "attack":
        raise InputError(f"{run.path} was written by {run.info.get('verb')}; expected a run of attack")
    found: dict[tuple[str, float], list[Record]] = {}
    for record in run.records:
        found.setdefault((record["prompts"], record["eps"]), []).append(record)
    order = list(run.info.get("prompts", {}))
    return [
        Stand(
            prompts=prompts,
            attack=run.info["settings"]["attack"],
            norm=run.info["settings"]["norm"],
            epsilon=epsilon,
            records=tuple(found[prompts, epsilon]),
            suspicions=suspicions(run, prompts),
        )
        for prompts, epsilon in sorted(found, key=lambda key: (order.index(key[0]), key[1]))
    ]


def suspicions(run: Run, prompts: str) -> tuple[str, ...] | None:
    """The self-checks that a prompt set failed; None where none were made."""
    made = [check for check in run.info.get("checks", ()) if check["prompts"] == prompts]
    return tuple(check["check"] for check in made if check["verdict"] == "failed") if made else None


def worst(runs: Sequence[Run]) -> list[Stand]:
    """The worst case over several attacks on the same model, images and prompt sets, image by image.

    At an epsilon, an image is broken if any of the attacks broke it there or at a smaller one. Only images and epsilons
    that every run has are counted.

    Raises:
        InputError: if the runs are not of the same model, prompt sets, classes and norm.
    """
    first, *rest = runs
    for run in rest:
        for name, was, now in ((name, _who(first)[name], _who(run)[name]) for name in _who(first)):
            if was != now:
                raise InputError(f"{run.path} and {first.path} differ in {name}: there is no worst case of both")
    tables = [{(stand.prompts, stand.epsilon): stand for stand in stands(run)} for run in runs]
    return [_worst_of(tables, *key) for key in tables[0] if all(key in table for table in tables)]


def restricted(run: Run, prompts: Collection[str], images: Collection[str]) -> Run:
    """A run of attack as if only these prompt sets and images had been attacked."""

    def kept(told: Mapping[str, Any]) -> dict[str, Any]:
        return {**told, "prompts": {name: made for name, made in told["prompts"].items() if name in prompts}}

    return replace(
        run,
        info={**kept(run.info), "identity": kept(run.info["identity"])},
        records=tuple(r for r in run.records if r["prompts"] in prompts and r["sample_id"] in images),
    )


def _who(run: Run) -> dict[str, object]:
    identity = run.info.get("identity", {})
    return {
        **{name: identity.get(name) for name in ("model", "prompts", "classes")},
        "norm": run.info.get("settings", {}).get("norm"),
    }


def _worst_of(tables: Sequence[dict[tuple[str, float], Stand]], prompts: str, epsilon: float) -> Stand:
    here = [table[prompts, epsilon] for table in tables]
    smaller = [
        stand for table in tables for (name, other), stand in table.items() if name == prompts and other <= epsilon
    ]
    broken: dict[str, Record] = {}
    for stand in smaller:
        for record in stand.records:
            if record["prediction"] != record["label"]:
                broken.setdefault(record["sample_id"], record)
    shared = set.intersection(*({record["sample_id"] for record in stand.records} for stand in here))
    records = tuple(broken.get(r["sample_id"], r) for r in here[0].records if r["sample_id"] in shared)
    doubts = [stand.suspicions for stand in here if stand.suspicions is not None]
    return Stand(
        prompts=prompts,
        attack="+".join(dict.fromkeys(stand.attack for stand in here)),
        norm=here[0].norm,
        epsilon=epsilon,
        records=records,
        suspicions=tuple(dict.fromkeys(text for texts in doubts for text in texts)) if doubts else None,
    )


def robust_accuracy(run: Run, epsilon: float | None = None, prompts: str | None = None) -> Interval:
    """Share of all images that are right even under attack, with a 95 % interval.

    Args:
        run: an attack run.
        epsilon: budget, if the run has several.
        prompts: the prompt set, if the run has several.

    Raises:
        InputError: if it is not said which part is meant, or there is none.
    """
    found = [
        stand
        for stand in stands(run)
        if prompts in (None, stand.prompts) and (epsilon is None or np.isclose(epsilon, stand.epsilon, rtol=1e-6))
    ]
    if len(found) != 1:
        known = "; ".join(f"{stand.prompts} at {stand.epsilon_text}" for stand in stands(run))
        raise InputError(f"{len(found)} parts of {run.path} match; name prompts and eps of one of: {known or 'none'}")
    return found[0].robust


@dataclass(frozen=True)
class RobustnessRow:
    """One line of the table that ``attack`` prints at its end."""

    prompts: str
    attack: str
    norm: str
    eps: str
    images: int
    clean: str
    robust: str
    success_rate: str
    checks: str


def overview(run: Run) -> list[RobustnessRow]:
    """Clean and robust accuracy with intervals, the attack's success rate and the self-checks, a row for each part."""
    return [
        RobustnessRow(
            prompts=stand.prompts,
            attack=stand.attack,
            norm=stand.norm,
            eps=stand.epsilon_text,
            images=len(stand.records),
            clean=spoken(stand.clean),
            robust=spoken(stand.robust),
            success_rate=spoken(stand.success),
            checks=stand.verdict,
        )
        for stand in stands(run)
    ]
