"""Numbers of challenges, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from titer.errors import InputError
from titer.results.challenged import Challenged, allowed_breaks, challenged, overview, pooled
from titer.results.store import Record, Run


def record(sample: str, factor: float, broken: bool = False, **changes: Any) -> Record:
    head = {"sample_id": sample, "prompts": "zero-shot", "guarantee": "fixed", "sigma": 0.25, "alpha": 0.001}
    return {
        **head, "alpha_p": 1e-4, "factor": factor, "inside": factor <= 1, "broken": broken, "radius": 0.2, **changes
    }  # fmt: skip


def run(*records: Record, verb: str = "challenge") -> Run:
    return Run(Path("run"), {"verb": verb, "prompts": {"zero-shot": "x", "other": "y"}}, records, ())


def test_a_thousand_challenges_allow_nine_breaks() -> None:
    assert allowed_breaks(1000, 0.001 + 1e-4) == 9
    for challenges in (1, 24, 340, 5000):
        allowed = allowed_breaks(challenges, 0.0011)
        assert binom.sf(allowed, challenges, 0.0011) <= 1e-6 < binom.sf(allowed - 1, challenges, 0.0011)


def test_breaks_inside_are_counted_by_challenge_and_by_certificate() -> None:
    records = [record(f"{place}", factor, place < 2) for place in range(10) for factor in (0.5, 0.9, 1.0)]
    (part,) = challenged(run(*records, record("0", 1.5, broken=True)))
    assert (len(part.inside), part.breaks, part.certificates, part.broken_certificates) == (30, 6, 10, 2)
    assert part.allowed == int(binom.ppf(1 - 1e-6, 30, 0.0011))
    assert part.allowed_certificates == int(binom.ppf(1 - 1e-6, 10, 0.0013))
    assert not part.holds
    assert part.verdict.startswith("broken")


def test_as_many_breaks_as_are_allowed_hold_and_one_more_does_not() -> None:
    def part(broken: int) -> Challenged:
        return challenged(run(*(record(f"{place}", 1.0, place < broken) for place in range(1000))))[0]

    assert part(9).holds
    assert part(9).verdict == "holds"
    assert not part(10).holds


def test_how_soon_it_breaks_outside_with_certificates_that_never_do() -> None:
    first = {"a": 1.5, "b": 2.0, "c": 2.0, "d": None}
    records = [
        record(sample, factor, factor == at)
        for sample, at in first.items()
        for factor in (1.0, 1.5, 2.0)
        if at is None or factor <= at
    ]
    (part,) = challenged(run(*records))
    assert part.first_breaks == (1.5, 2.0, 2.0, math.inf)
    assert part.unbroken == 1
    assert [part.quantile(share) for share in (0.25, 0.5, 0.75, 1.0)] == [1.5, 2.0, 2.0, math.inf]
    assert overview(run(*records))[0].first_break == "2 (1.5 to 2)"
    assert overview(run(*records))[0].unbroken == "1 of 4"


def test_one_broken_inside_counts_as_broken_there() -> None:
    (part,) = challenged(run(record("a", 0.5, broken=True), record("a", 1.0, broken=True), record("b", 1.0)))
    assert part.first_breaks == (0.5,)
    assert part.quantile(0.5) == 0.5


def test_without_challenges_outside_nothing_is_said_of_them() -> None:
    row = overview(run(record("a", 1.0)))[0]
    assert (row.first_break, row.unbroken) == ("-", "0 of 0")
    outside = overview(run(record("a", 1.5)))[0]
    assert (outside.verdict, outside.allowed, outside.inside) == ("not challenged inside", 0, 0)


def test_parts_are_kept_apart_and_runs_put_together() -> None:
    one = run(record("a", 1.0), record("a", 1.0, prompts="other", guarantee="conditional"), record("a", 1.0, sigma=0.5))
    parts = challenged(one)
    assert [(part.prompts, part.guarantee, part.sigma) for part in parts] == [
        ("zero-shot", "fixed", 0.25), ("zero-shot", "fixed", 0.5), ("other", "conditional", 0.25)
    ]  # fmt: skip
    both = pooled([one, one])
    assert [part.certificates for part in both] == [2, 2, 2]  # one id in two runs is two certificates


def test_alpha_is_the_largest_that_a_certificate_spent() -> None:
    records = [record(f"{place}", 1.0, alpha=0.1 if place else 0.001) for place in range(20)]
    assert challenged(run(*records))[0].allowed == int(binom.ppf(1 - 1e-6, 20, 0.1001))


def test_other_runs_are_refused() -> None:
    with pytest.raises(InputError, match="written by certify; expected a run of challenge"):
        challenged(run(verb="certify"))
