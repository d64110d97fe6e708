"""From what is kept of pairs and canaries to what their records say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from titer.results.retrieval import unpacked
from titer.results.store import Record
from titer.upstream.audit.canaries import FAMILIES, Canary
from titer.upstream.audit.pairs import Features, Floats, Pairs
from titer.upstream.audit.signals import Population, Rule, combined, percentiles, planted, signals


def pairs_of(records: Sequence[Record]) -> Pairs:
    """Pairs from what lines hold of them: ``caption``, ``features`` of each encoder, and ``surprisal`` where there is one."""

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
    told = np.array([record["surprisal"] for record in records]) if "surprisal" in records[0] else None
    return Pairs(tuple(record["caption"] for record in records), features, told)


def ranked(real: Population, records: Sequence[Record], rule: Rule, seed: int) -> Iterator[tuple[int, Record]]:
    """The row and the record of each real pair, the most suspicious first; of equal scores the smaller id.

    Args:
        real: all real pairs.
        records: what each record starts with.
        rule: how they are ranked.
        seed: of the ranking.
    """
    found = signals(real, rule, seed)
    score, shares = combined(found), {name: percentiles(values) for name, values in found.items()}
    order = sorted(range(len(records)), key=lambda row: (-score[row], records[row]["sample_id"]))
    for rank, row in enumerate(order, start=1):
        yield (
            row,
            {
                **records[row],
                "rank": rank,
                "score": _digits(score[row]),
                "signals": {name: _digits(values[row]) for name, values in found.items()},
                "percentiles": {name: _digits(values[row]) for name, values in shares.items()},
            },
        )


def ranked_canaries(
    real: Population, rows: Sequence[int], records: Sequence[Record], rule: Rule, seed: int
) -> Iterator[Record]:
    """The records of canaries that are planted together, each ranked among the real pairs that are left.

    Args:
        real: all real pairs.
        rows: those that the canaries replace.
        records: what is kept of the canaries.
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
            **{name: value for name, value in record.items() if name not in ("features", "surprisal", "changed")},
            "score": _digits(score[place]),
            "real": int(others.sum()),
            "ahead": int(np.count_nonzero(score[others] >= score[place])),
            "percentile": above(score[place], score[others]),
            "signals": {name: _digits(values[place]) for name, values in found.items()},
            "percentiles": {name: above(values[place], values[others]) for name, values in found.items()},
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
