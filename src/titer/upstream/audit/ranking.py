"""From what is kept of pairs and canaries to what their records say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from titer.results.retrieval import unpacked
from titer.results.store import Record
from titer.upstream.audit.canaries import FAMILIES, Canary, plantings
from titer.upstream.audit.pairs import Features, Floats, Pairs
from titer.upstream.audit.signals import Population, Rule, combined, percentiles, planted, signals

Visit = tuple[Sequence[int], range]
"""Rows of trusted pairs, and of as many audited ones that take their places."""


def pairs_of(records: Sequence[Record]) -> Pairs:
    """Pairs from what lines hold: ``caption``, ``features`` of each encoder, ``residual``, perhaps ``surprisal``."""

    def stacked(place: int, name: str) -> Floats:
        return np.stack([unpacked(record["features"][place][name]) for record in records])

    features = tuple(
        Features(
            stacked(place, "image"),
            stacked(place, "text"),
            np.array([record["features"][place]["shifts"] for record in records], float),
        )
        for place in range(len(records[0]["features"]))
    )
    residuals = np.array([record["residual"] for record in records])
    told = np.array([record["surprisal"] for record in records]) if "surprisal" in records[0] else None
    return Pairs(tuple(record["caption"] for record in records), features, residuals, told)


def ranked(real: Population, records: Sequence[Record], rule: Rule, seed: int) -> Iterator[tuple[int, Record]]:
    """The row and the record of each real pair, the most suspicious first; of equal scores the smaller id.

    Args:
        real: all real pairs.
        records: what is kept of each.
        rule: how they are ranked.
        seed: of the ranking.
    """
    found = signals(real, rule, seed)
    score, shares = combined(found), {name: percentiles(values) for name, values in found.items()}
    yield from _in_order(
        {
            **_told(record),
            "score": _digits(score[row]),
            "signals": {name: _digits(values[row]) for name, values in found.items()},
            "percentiles": {name: _digits(values[row]) for name, values in shares.items()},
        }
        for row, record in enumerate(records)
    )


def ranked_among(
    trusted: Population, guests: Iterable[Visit], records: Sequence[Record], rule: Rule, seed: int
) -> Iterator[tuple[int, Record]]:
    """The same of pairs that are not of the population, each ranked among trusted ones as a canary is."""
    yield from _in_order(
        record
        for places, rows in guests
        for record in placed(trusted, places, [records[row] for row in rows], rule, seed)
    )


def _in_order(records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
    """Row and record with its rank, the highest score first."""
    rows = sorted(enumerate(records), key=lambda one: (-one[1]["score"], one[1]["sample_id"]))
    for rank, (row, record) in enumerate(rows, start=1):
        yield row, {**record, "rank": rank}


def visits(pairs: int, ties: Sequence[str | None], together: int, seed: int) -> Iterator[Visit]:
    """Which trusted pairs make room for which audited ones: a few at a time, as for canaries.

    Args:
        pairs: how many are audited.
        ties: of the trusted ones, what ties them together.
        together: fewest at a time.
        seed: of the order.
    """
    first = 0
    for planting in plantings(ties, together, seed, "audited"):
        rows = range(first, min(first + len(planting), pairs))
        if not rows:
            return
        yield [canary.row for canary in planting[: len(rows)]], rows
        first = rows.stop


def placed(real: Population, rows: Sequence[int], records: Sequence[Record], rule: Rule, seed: int) -> Iterator[Record]:
    """The records of pairs that take the places of a few real ones, each ranked among those that are left.

    Args:
        real: all real pairs.
        rows: those that are replaced.
        records: what is kept of the pairs in their places.
        rule: how they are ranked.
        seed: of the ranking.
    """
    places = np.array(rows)
    found = signals(planted(real, places, pairs_of(records), rule), rule, seed)
    others = np.ones(len(real.pairs), np.bool_)
    others[places] = False
    score = combined(found)
    for place, record in zip(rows, records, strict=True):
        yield {
            **_told(record),
            "score": _digits(score[place]),
            "real": int(others.sum()),
            "ahead": int(np.count_nonzero(score[others] >= score[place])),
            "percentile": above(score[place], score[others]),
            "signals": {name: _digits(values[place]) for name, values in found.items()},
            "percentiles": {name: above(values[place], values[others]) for name, values in found.items()},
        }


def _told(record: Record) -> Record:
    """What a record begins with: all that is kept of a pair but for what signals are computed from."""
    return {
        name: value for name, value in record.items() if name not in ("features", "residual", "surprisal", "changed")
    }


def above(value: float, others: Floats) -> float:
    """Share of the others that a value is above, ties counted half."""
    ties = np.count_nonzero(others == value)
    return _digits((np.count_nonzero(others < value) + ties / 2) / len(others))


def planted_together(made: Mapping[Canary, Record]) -> list[list[Canary]]:
    """The canaries of each planting that their family could change."""
    found: dict[tuple[int, int, int], list[Canary]] = {}
    for canary in sorted(made, key=order_of):
        if made[canary]["changed"]:
            found.setdefault(order_of(canary)[:3], []).append(canary)
    return list(found.values())


def order_of(canary: Canary) -> tuple[int, int, int, int]:
    """Where a canary stands: by family, how often its planting was there before, planting, and row."""
    return list(FAMILIES).index(canary.family), canary.again, canary.planting, canary.row


def _digits(value: float) -> float:
    """Nine significant digits."""
    return float(f"{value:.9g}")
