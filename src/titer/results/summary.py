"""Numbers of a run, computed from its records."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from titer.errors import InputError
from titer.results.store import Record, Run
from titer.statistics import curves
from titer.statistics.intervals import Interval, clustered

_GRID = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)


@dataclass(frozen=True)
class Cell:
    """The records of one prompt set at one sigma."""

    run: Run
    prompts: str
    sigma: float
    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """Prompt set and sigma, as captions and legends say it."""
        return f"{self.prompts}, sigma {self.sigma_text}"

    @property
    def sigma_text(self) -> str:
        """Sigma, or that a foreign file does not say it."""
        return "not recorded" if math.isnan(self.sigma) else f"{self.sigma:g}"

    @property
    def labelled(self) -> tuple[Record, ...]:
        """Records whose image has a label; accuracy is about these."""
        return tuple(record for record in self.records if record.get("label") is not None)

    @property
    def counted(self) -> tuple[Record, ...]:
        """The records that shares are of: the labelled ones, or all where no image has a label."""
        return self.labelled or self.records

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which of ``counted`` are right; answered at all, where no image has a label."""
        if self.labelled:
            return correct(self.counted)
        return np.array([record["prediction"] >= 0 for record in self.counted], bool)

    @property
    def left_open(self) -> int:
        """Images with a radius that the draws could have decided and did not."""
        largest = largest_provable(self)
        return sum(any(radius <= largest for radius in record.get("open", ())) for record in self.records)

    @property
    def asks_one_radius(self) -> bool:
        """Whether the run decided one radius above 0: then -1 means "not certified at r", and is no abstention."""
        settings = self.run.info.get("settings", {})
        asked: Sequence[float] = settings.get("radii") or ()
        sequential = settings.get("certifier") == "anytime" and not settings.get("tolerance")
        return sequential and len(asked) == 1 and asked[0] > 0


def cells(run: Run) -> Iterator[Cell]:
    """The parts of a run, by rising sigma, then by prompt set in the order of its settings.

    Raises:
        InputError: if the run neither certified nor predicted.
    """
    if run.records and "sigma" not in run.records[0]:
        raise InputError(f"{run.path} was written by {run.info.get('verb')}; expected a run of certify or predict")
    found: dict[tuple[str, float], list[Record]] = {}
    for record in run.records:
        found.setdefault((record["prompts"], record["sigma"]), []).append(record)
    order = list(run.info.get("prompts", {}))
    for prompts, sigma in sorted(found, key=lambda key: (key[1], order.index(key[0]) if key[0] in order else 0)):
        yield Cell(run, prompts, sigma, tuple(found[prompts, sigma]))


def one_cell(run: Run, prompts: str | None = None, sigma: float | None = None) -> Cell:
    """The part of a run that is meant; may be left unsaid where there is only one.

    Raises:
        InputError: if there is none or more than one.
    """
    found = [cell for cell in cells(run) if prompts in (None, cell.prompts) and sigma in (None, cell.sigma)]
    if len(found) != 1:
        known = "; ".join(cell.title for cell in cells(run))
        raise InputError(f"{len(found)} parts of {run.path} match; name prompts and sigma of one of: {known or 'none'}")
    return found[0]


def correct(records: Sequence[Record]) -> NDArray[np.bool_]:
    """Whether each prediction is the label; an abstention is not."""
    return np.array([record["prediction"] == record["label"] for record in records], bool)


def radii(records: Sequence[Record]) -> NDArray[np.float64]:
    """Certified radii."""
    return np.array([record["radius"] for record in records], float)


def groups(records: Sequence[Record]) -> list[Hashable | None]:
    """What ties images together, or None."""
    return [record.get("group") for record in records]


def certified_accuracy(run: Run, radius: float, prompts: str | None = None, sigma: float | None = None) -> Interval:
    """Share of all labelled images that are right and certified at this radius, with a 95 % interval.

    Args:
        run: a certify run.
        radius: L2, in [0, 1] pixel units at the model's input size.
        prompts: the prompt set, if the run has several.
        sigma: the noise, if the run has several.

    Raises:
        InputError: for a radius below 0, a run without radii, or if it is not said which part is meant.
    """
    if not radius >= 0:
        raise InputError(f"radius: expected at least 0, got {radius}")
    if run.records and not run_certifies(run):
        raise InputError(f"{run.path} is a {run.info.get('verb')} run; certified accuracy needs one of certify")
    records = one_cell(run, prompts, sigma).labelled
    return curves.certified_accuracy(correct(records), radii(records), radius, groups(records))


def share_at(cell: Cell, radius: float) -> Interval:
    """Share of ``cell.counted`` that is good and certified at a radius, with its 95 % interval."""
    return curves.certified_accuracy(cell.good, radii(cell.counted), radius, groups(cell.counted))


@dataclass(frozen=True)
class OverviewRow:
    """One line of the table that a verb prints at its end."""

    prompts: str
    sigma: float
    images: int
    accuracy: str
    answered: str
    mean_draws: int
    certified: str = ""


def overview(run: Run) -> list[OverviewRow]:
    """Accuracy with intervals, and how often there was an answer, per prompt set and sigma."""
    return [_overview_row(cell) for cell in cells(run)]


def _overview_row(cell: Cell) -> OverviewRow:
    records = cell.labelled
    answered = [record["prediction"] >= 0 for record in cell.records]
    draws = [record["draws"] + record.get("draws0", 0) for record in cell.records]
    accuracy = clustered(correct(records).astype(float), groups(records))
    certified = ""
    if run_certifies(cell.run) and records:
        shown = [radius for radius in radii_shown(cell) if radius > 0]
        certified = ", ".join(
            f"{radius:g}: {curves.certified_accuracy(correct(records), radii(records), radius).estimate:.3f}"
            for radius in shown
        )
    return OverviewRow(
        prompts=cell.prompts,
        sigma=cell.sigma,
        images=len(cell.records),
        accuracy=spoken(accuracy),
        answered=f"{np.mean(answered):.3f}",
        mean_draws=round(float(np.mean(draws))),
        certified=certified,
    )


def run_certifies(run: Run) -> bool:
    """Whether records carry radii."""
    return bool(run.records) and "radius" in run.records[0]


def noise_channels(run: Run) -> int:
    """1 where noise was drawn once for all three channels, so that radii are of the one-channel picture; else 3."""
    return 1 if any(record.get("channels") == 1 for record in run.records[:1]) else 3


def radii_shown(cell: Cell) -> list[float]:
    """Radii at which tables show certified accuracy: those asked for, else a grid, as far as draws could prove them."""
    settings: Any = cell.run.info.get("settings", {})
    asked = settings.get("radii") if not settings.get("tolerance") else None
    largest = largest_provable(cell)
    return [float(radius) for radius in asked or _GRID if radius <= largest]


def largest_provable(cell: Cell) -> float:
    """Sigma * Phi^-1(alpha^(1/n)): what unanimous votes would prove. Beyond it nothing was measured."""
    n, alpha = cell.run.info.get("settings", {}).get("n"), cell.records[0].get("alpha")
    if n is None or alpha is None:
        return float(radii(cell.records).max(initial=0.1))
    return cell.sigma * float(ndtri(alpha ** (1 / n)))


def spoken(interval: Interval) -> str:
    """An interval as text: ``0.812 (0.750 to 0.862)``."""
    return (
        "-"
        if interval.estimate != interval.estimate
        else f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"
    )


def spoken_rows(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows of a dataclass for a table, their intervals as text."""
    return [
        {name: spoken(value) if isinstance(value, Interval) else value for name, value in vars(row).items()}
        for row in rows
    ]
