"""Which images a fit may see: nested, the same for every method, and never those it will be judged on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.making import example
from titer.data import ClassText, Data, Example
from titer.data.example import Picture
from titer.data.shots import select
from titer.errors import InputError, PictureError

CLASSES = tuple(ClassText(label, (f"a picture of {label}",)) for label in ("dark", "bright"))


def digest(each: Example) -> str:
    """Pictures are alike where their paths are; one whose path ends in ``!`` cannot be read."""
    if each.path.endswith("!"):
        raise PictureError("damaged")
    return hashlib.sha256(each.path.encode()).hexdigest()


def read(each: Example) -> Picture:
    return Picture(np.zeros((4, 4, 3), np.float32), digest(each))


def data(examples: Sequence[Example], classes: tuple[ClassText, ...] = CLASSES) -> Data:
    return Data("made", "all", None, classes, tuple(examples), (), read, digest)


def split(name: str, per_class: int = 6, group: str | None = None) -> list[Example]:
    return [
        example(f"{name}/{place}/{index}", place, name, None if group is None else f"{group} {index}")
        for place in range(2)
        for index in range(per_class)
    ]


def chosen(source: Data, count: int | None, seed: int = 0, **options: object) -> list[str]:
    return [each.id for each in select(source, count=count, seed=seed, **options).data.examples]  # type: ignore[arg-type]


BOTH = data(split("train") + split("test"))


def test_shots_are_the_first_of_each_class_by_the_hash_of_seed_and_id() -> None:
    def order(identifier: str) -> str:
        return hashlib.sha256(f"3\x00{identifier}".encode()).hexdigest()

    expected = [
        identifier
        for place in range(2)
        for identifier in sorted((f"train/{place}/{index}" for index in range(6)), key=order)[:2]
    ]
    assert chosen(BOTH, 2, seed=3) == sorted(expected)


def test_a_selection_says_what_it_took() -> None:
    found = select(BOTH, count=2, seed=0)
    assert found.left_out == 0
    assert found.data.split == "train"
    assert found.data.counts == {"dark": 2, "bright": 2}
    assert found.digests == tuple(digest(each) for each in found.data.examples)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**40), st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_shots_are_nested_and_independent_of_order(seed: int, few: int, many: int, chance: object) -> None:
    few, many = sorted((few, many))
    shuffled = list(BOTH.examples)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    inner, outer = chosen(BOTH, few, seed), chosen(data(shuffled), many, seed)
    assert set(inner) <= set(outer)
    assert chosen(data(shuffled), few, seed) == inner
    assert Counter(identifier.split("/")[1] for identifier in outer) == {"0": many, "1": many}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**40), st.integers(1, 12), st.integers(1, 12))
def test_images_without_labels_are_nested_too(seed: int, few: int, many: int) -> None:
    few, many = sorted((few, many))
    inner, outer = (chosen(BOTH, count, seed, labelled=False) for count in (few, many))
    assert (len(inner), len(outer)) == (few, many)
    assert set(inner) <= set(outer)


def test_another_seed_takes_other_shots() -> None:
    assert len({tuple(chosen(BOTH, 2, seed)) for seed in range(20)}) > 10


def test_all_takes_every_labelled_image() -> None:
    unlabelled = [example(f"train/none/{index}", None, "train") for index in range(3)]
    source = data([*split("train"), *unlabelled, *split("test")])
    assert len(chosen(source, None)) == 12
    assert len(chosen(source, None, labelled=False)) == 15


def test_too_few_images_of_a_class_are_named_with_their_count() -> None:
    source = data([*split("train", 3), example("train/1/x", 1, "train"), *split("test")])
    with pytest.raises(InputError, match=r"made: expected 4 shots of each class in split 'train', but dark has 3$"):
        select(source, count=4, seed=0)
    with pytest.raises(InputError, match=r"dark has 3, bright has 4$"):
        select(source, count=5, seed=0)


@pytest.mark.parametrize("there", [0, 1])
def test_a_class_of_one_image_or_none_is_named_where_all_are_taken(there: int) -> None:
    dark, bright = ([each for each in split("train") if each.label == label] for label in (0, 1))
    told = f"expected at least two images of each class .* but bright has {there}; one picture does not"
    with pytest.raises(InputError, match=told):
        select(data([*dark, *bright[:there]]), count=None, seed=0)
    assert len(select(data([*dark, *bright[:2]]), count=None, seed=0).digests) == len(dark) + 2


def test_data_without_labels_have_no_shots() -> None:
    source = data([example(str(index), None, "train") for index in range(4)], classes=())
    with pytest.raises(InputError, match="there are no labels"):
        select(source, count=1, seed=0)


@pytest.mark.parametrize("count", [0, -1])
def test_no_shots_are_refused(count: int) -> None:
    with pytest.raises(InputError, match=f"got {count}"):
        select(BOTH, count=count, seed=0)


def test_images_that_the_model_was_trained_on_are_left_out_and_counted() -> None:
    everything = chosen(BOTH, 2)
    seen = {digest(each) for each in BOTH.examples if each.id == everything[0]}
    found = select(BOTH, count=2, seed=0, upstream=seen)
    assert found.left_out == 1
    assert everything[0] not in [each.id for each in found.data.examples]
    assert len(found.data) == 4
    allowed = select(BOTH, count=2, seed=0, upstream=seen, allow=["upstream"])
    assert allowed.left_out == 0
    assert [each.id for each in allowed.data.examples] == everything


def test_too_few_that_remain_say_how_many_the_model_was_trained_on() -> None:
    seen = {digest(each) for each in BOTH.examples if each.split == "train" and each.label == 0}
    with pytest.raises(
        InputError, match=r"dark has 0, not counting 6 that the model was trained on \(--allow upstream"
    ):
        select(BOTH, count=2, seed=0, upstream=seen)
    everything = {digest(each) for each in BOTH.examples}
    with pytest.raises(InputError, match="all 12 images of split 'train' were seen in training"):
        select(BOTH, count=2, seed=0, upstream=everything, labelled=False)


def test_a_picture_that_is_also_in_the_test_split_is_refused_unless_allowed() -> None:
    """By bytes: the ids differ."""
    twin = replace(split("test")[3], path="train/0/2")
    source = data([*split("train"), *split("test")[:3], twin, *split("test")[4:]])
    with pytest.raises(InputError, match=r"1 pictures of the fit are also in split 'test', such as test/0/3; --allow"):
        select(source, count=None, seed=0)
    assert len(chosen(source, None, allow=["overlap"])) == 12


def test_a_group_that_is_also_in_the_test_split_is_refused_unless_allowed() -> None:
    source = data(split("train", group="patient") + split("test", 2, group="patient"))
    with pytest.raises(InputError, match=r"2 groups \(patients, slides\) of the fit are also .* 'patient 0'; --allow"):
        select(source, count=None, seed=0)
    assert len(chosen(source, None, allow=["overlap"])) == 12


def test_the_split_that_is_judged_is_refused_where_there_is_another_one() -> None:
    words = r"made: split 'test' is the one that evaluation takes; expected a fit on train or val; --allow overlap"
    for labelled in (True, False):
        with pytest.raises(InputError, match=words):
            select(data([*BOTH.examples, *split("val")]), count=2, seed=0, split="test", labelled=labelled)
    assert len(chosen(BOTH, 2, split="test", allow=["overlap"])) == 4


def test_data_without_splits_are_all_test_and_may_be_learned_from() -> None:
    """Whoever is judged on the same pictures is told so then, by their bytes."""
    assert len(chosen(data(split("test")), 2, split="test")) == 4


def test_only_the_images_that_were_taken_can_overlap() -> None:
    twin = replace(split("test")[0], path=split("train")[0].path)
    source = data([*split("train"), twin])
    taken = chosen(source, 1, allow=["overlap"])
    assert "train/0/0" not in taken
    assert chosen(source, 1) == taken


def test_an_image_without_a_group_shares_none() -> None:
    assert len(chosen(data(split("train") + split("test", group="patient")), None)) == 12


def test_pictures_that_cannot_be_read_equal_no_other() -> None:
    broken = [replace(each, path=f"{each.split}!") for each in (split("train")[0], split("test")[0])]
    source = data([broken[0], *split("train")[1:], broken[1]])
    found = select(source, count=None, seed=0)
    assert len(found.data) == 12
    assert found.digests[0] == ""


def test_an_unknown_allowance_or_split_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'overlap'"):
        select(BOTH, count=1, seed=0, allow=["overlaps"])
    with pytest.raises(InputError, match="there is no split 'vall'; expected one of test, train, all"):
        select(BOTH, count=1, seed=0, split="vall")
