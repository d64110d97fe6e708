"""Which images are taken is a pure function of their ids."""

import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.making import example
from titer.data import Example
from titer.data.splits import limited, of_split, shots
from titer.errors import InputError

LABELS = st.one_of(st.none(), st.integers(0, 4))
SETS = st.dictionaries(st.text(min_size=1, max_size=4).filter(str.isprintable), LABELS, min_size=1, max_size=40).map(
    lambda labels: [example(identifier, label) for identifier, label in labels.items()]
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def names(examples: tuple[Example, ...]) -> list[str]:
    return [each.id for each in examples]


def test_limit_takes_the_classes_in_turn_each_by_hash() -> None:
    examples = [example(f"{label}/{place}", label) for label in range(3) for place in range(5)]
    firsts = [min((each.id for each in examples if each.label == label), key=sha) for label in range(3)]
    assert names(limited(examples, 1)) == firsts[:1]
    assert names(limited(examples, 3)) == sorted(firsts)
    assert Counter(each.label for each in limited(examples, 8)) == {0: 3, 1: 3, 2: 2}


def test_a_class_that_runs_out_is_passed_over() -> None:
    examples = [example("a", 0), *(example(f"b{place}", 1) for place in range(5)), example("c", 2), example("d", 2)]
    assert Counter(each.label for each in limited(examples, 6)) == {0: 1, 1: 3, 2: 2}


def test_a_limit_beyond_the_end_is_everything() -> None:
    examples = [example(f"{place}", place % 2) for place in range(10)]
    assert len(limited(examples, 1_000)) == 10
    assert limited(examples, None) == tuple(examples)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one(limit: int) -> None:
    with pytest.raises(InputError, match="at least 1 image, got"):
        limited([example("a")], limit)


@settings(deadline=None)
@given(SETS, st.integers(1, 45), st.integers(1, 45))
def test_limits_are_nested(examples: list[Example], one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert set(names(limited(examples, few))) <= set(names(limited(examples, many)))
    assert len(limited(examples, many)) == min(many, len(examples))


@settings(deadline=None)
@given(SETS, st.integers(1, 45), st.randoms(use_true_random=False))
def test_limits_do_not_depend_on_the_order_of_a_listing(
    examples: list[Example], limit: int, generator: random.Random
) -> None:
    shuffled = generator.sample(examples, len(examples))
    assert limited(shuffled, limit) == limited(examples, limit)


@settings(deadline=None)
@given(SETS, st.integers(1, 45))
def test_limits_are_balanced(examples: list[Example], limit: int) -> None:
    """No class is behind another by more than one image, unless it has run out."""
    there = Counter(each.label for each in examples)
    taken = Counter(each.label for each in limited(examples, limit))
    most = max(taken.values())
    assert all(taken[label] >= min(most - 1, there[label]) for label in there)


def test_shots_are_the_first_by_hash_of_seed_and_id() -> None:
    examples = [example(f"{label}/{place}", label) for label in range(2) for place in range(9)]
    expected = [
        identifier
        for label in range(2)
        for identifier in sorted((f"{label}/{place}" for place in range(9)), key=lambda text: sha(f"5\0{text}"))[:4]
    ]
    assert names(shots(examples, 4, seed=5)) == sorted(expected)
    assert shots(examples, 4, seed=5) != shots(examples, 4, seed=6)


@settings(deadline=None)
@given(SETS, st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.randoms(use_true_random=False))
def test_shots_are_nested_and_independent_of_order(
    examples: list[Example], one: int, other: int, seed: int, generator: random.Random
) -> None:
    few, many = sorted((one, other))
    assert set(names(shots(examples, few, seed))) <= set(names(shots(examples, many, seed)))
    assert shots(generator.sample(examples, len(examples)), few, seed) == shots(examples, few, seed)
    there = Counter(each.label for each in examples if each.label is not None)
    assert Counter(each.label for each in shots(examples, few, seed)) == {
        label: min(few, count) for label, count in there.items()
    }


def test_all_shots_are_all_labelled_examples() -> None:
    examples = [example("a", 0), example("b", 1), example("c", None)]
    assert names(shots(examples, None, seed=0)) == ["a", "b"]


def test_no_shots() -> None:
    with pytest.raises(InputError, match="shots: expected at least 1"):
        shots([example("a")], 0, seed=0)


def test_a_split_comes_in_order_of_id() -> None:
    examples = [example("b"), example("c", split="train"), example("a")]
    assert names(of_split(examples, "test")) == ["a", "b"]


def test_all_is_every_split() -> None:
    examples = [example("b"), example("c", split="train"), example("a", split="all")]
    assert names(of_split(examples, "all")) == ["a", "b", "c"]


def test_a_split_that_does_not_exist() -> None:
    with pytest.raises(InputError, match="no split 'val'; expected one of test, train, all"):
        of_split([example("a"), example("b", split="train")], "val")
