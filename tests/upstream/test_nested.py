"""Noised subsets: nested in the ratio, whole groups, and a ratio that groups cannot give is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titer.errors import InputError
from titer.upstream.nested import drawn_groups

RATIOS = (0.0, 0.05, 0.1, 0.2, 0.3)


@given(st.integers(200, 400), st.integers(0, 5))
def test_a_smaller_ratio_is_inside_a_larger_one_and_exact(count: int, seed: int) -> None:
    sizes = {f"p{place}": 1 for place in range(count)}
    found = [drawn_groups(sizes, ratio, seed) for ratio in RATIOS]
    assert all(small <= large for small, large in pairwise(found))
    assert [len(groups) for groups in found] == [round(ratio * count) for ratio in RATIOS]


@given(st.lists(st.integers(1, 3), min_size=100, max_size=200), st.integers(0, 3))
def test_groups_are_whole_and_never_beyond_the_ratio(counts: list[int], seed: int) -> None:
    sizes = {f"patient {place}": count for place, count in enumerate(counts)}
    for ratio in (0.2, 0.3):
        pairs = sum(sizes[group] for group in drawn_groups(sizes, ratio, seed))
        assert 0.9 * round(ratio * sum(counts)) <= pairs <= round(ratio * sum(counts))


def test_another_seed_draws_other_groups() -> None:
    sizes = {f"p{place}": 1 for place in range(100)}
    assert drawn_groups(sizes, 0.3, 0) != drawn_groups(sizes, 0.3, 1)


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_outside_a_share(ratio: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        drawn_groups({"a": 1}, ratio, 0)


def test_a_ratio_that_whole_groups_cannot_give() -> None:
    with pytest.raises(InputError, match=r"of 100 pairs in 2 groups whole groups give 0 or 0\.5"):
        drawn_groups({"a": 50, "b": 50}, 0.3, 0)
    with pytest.raises(InputError, match=r"whole groups give 0 or 0\.2"):
        drawn_groups({f"p{place}": 1 for place in range(5)}, 0.05, 0)
