"""Protocols as data: on which images methods are fitted, and on which they are judged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from titer.data.derived import BASE, NEW
from titer.errors import InputError
from titer.registry import Registry


@dataclass(frozen=True)
class Part:
    """Images that all methods are judged on.

    Args:
        name: of the part, which cells and runs carry.
        data: a data set's name.
        moved: whether they are of other classes than those of the fit; what is bound to its classes is refused then.
    """

    name: str
    data: str
    moved: bool


class Benchmark(Protocol):
    """A frozen dataclass whose fields are all of its settings."""

    def fitted_on(self, data: str) -> str:
        """The data set that methods are fitted on."""

    def parts(self, data: str) -> tuple[Part, ...]:
        """What they are judged on, each by itself."""


@dataclass(frozen=True)
class BaseToNew:
    """Fitted on the first half of a set's classes, judged on each half by itself (Zhou et al., CVPR 2022, arXiv 2203.05557)."""

    def fitted_on(self, data: str) -> str:
        """The first half of the classes."""
        return f"classes:{BASE}@{data}"

    def parts(self, data: str) -> tuple[Part, ...]:
        """Both halves, each among its own classes."""
        return Part(BASE, f"classes:{BASE}@{data}", moved=False), Part(NEW, f"classes:{NEW}@{data}", moved=True)


@dataclass(frozen=True)
class Elsewhere:
    """Settings of benchmarks that judge on other sets as well.

    Args:
        on: names of these data sets; ``coop:NAME`` is one below the same root as the ``coop:`` set of the fit.
    """

    on: tuple[str, ...] = ()

    def fitted_on(self, data: str) -> str:
        """The whole set."""
        return data

    def _others(self, data: str, *, moved: bool) -> tuple[Part, ...]:
        if not self.on:
            raise InputError("on: expected the names of data sets to judge on beside the one of the fit")
        whole = [_rooted(other, data) for other in self.on]
        return tuple(Part(short_name(other), other, moved) for other in whole)


@dataclass(frozen=True)
class CrossDataset(Elsewhere):
    """Fitted on one set, judged on it and on others with classes of their own."""

    def parts(self, data: str) -> tuple[Part, ...]:
        """The set of the fit, then the others."""
        return Part(short_name(data), data, moved=False), *self._others(data, moved=True)


@dataclass(frozen=True)
class Shift(Elsewhere):
    """Fitted on one set, judged on it and on others of the same classes: another hospital's, or a corrupted version."""

    def parts(self, data: str) -> tuple[Part, ...]:
        """The set of the fit, then the others."""
        return Part(short_name(data), data, moved=False), *self._others(data, moved=False)


def _rooted(other: str, data: str) -> str:
    """A set of CoOp's layout that names no root has that of the set of the fit."""
    if not other.startswith("coop:") or "@" in other:
        return other
    if not data.startswith("coop:") or "@" not in data:
        raise InputError(
            f"on: {other!r} names no root, and {data} has none; expected {other}@ROOT, or --data coop:NAME@ROOT"
        )
    return f"{other}@{data.partition('@')[2]}"


def short_name(data: str) -> str:
    """A data set's name without its directories, for the names of runs: ``corrupted:jpeg/3@a/b`` is ``jpeg-3-b``."""
    made, _, inner = data.rpartition("@")
    name = f"{made.partition(':')[2]}-{Path(inner).name}" if made else Path(data).name
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-") or "data"


BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark", "titer.benchmarks", {"base-to-new": BaseToNew, "cross-dataset": CrossDataset, "shift": Shift}
)
