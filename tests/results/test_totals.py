"""PromptSmooth's totals, against its own two lines of code and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titer.results.totals import RADII, contradiction, read_totals, total_lines

IMAGES = st.lists(st.tuples(st.booleans(), st.one_of(st.sampled_from(RADII), st.floats(0, 3.2))), min_size=1)


def published(correct: list[bool], radii: list[float], radius: float) -> float:
    """100 * (images that are correct with a radius above r) / images, one at a time."""
    return 100 * sum(right and found > radius for right, found in zip(correct, radii, strict=True)) / len(correct)


@given(IMAGES)
def test_totals_read_back_are_those_of_the_images(images: list[tuple[bool, float]]) -> None:
    correct, radii = [right for right, _ in images], [radius for _, radius in images]
    lines = list(total_lines(correct, radii))
    assert read_totals(lines) == {at: published(correct, radii, at) for at in RADII}
    assert contradiction(read_totals(lines), correct, radii) is None


def test_they_are_the_lines_that_promptsmooth_prints() -> None:
    lines = list(total_lines([True, True, False], [0.1, 0.75, 2.0]))
    assert lines[:3] == [
        "Total accuracy is 66.66666666666667 against radii 0",
        "Total accuracy is 33.333333333333336 against radii 0.1",
        "Total accuracy is 33.333333333333336 against radii 0.25",
    ]
    assert lines[5:] == [f"Total accuracy is 0.0 against radii {at:g}" for at in (0.75, *RADII[5:])][1:]
    assert [line.rpartition(" ")[2] for line in lines] == [
        "0", "0.1", "0.25", "0.5", "0.75", "1", "1.25", "1.5", "1.75", "2", "2.5",
    ]  # fmt: skip


def test_other_lines_are_no_totals() -> None:
    assert read_totals(["0\t1\t1\t0.8\t1\t1.0\n", "Total accuracy is x against radii 0", "Total accuracy", ""]) == {}
    assert read_totals(["Total accuracy is 12.5 against radii 0.25\n"]) == {0.25: 12.5}


@pytest.mark.parametrize("said", [50.0, 75.0, 100.0])
def test_a_radius_that_was_rounded_to_r_may_have_been_above_it_or_not(said: float) -> None:
    assert contradiction({0.25: said}, [True] * 4, [0.25, 0.25, 0.3, 0.3]) is None


@pytest.mark.parametrize("said", [0.0, 49.0, 80.0])
def test_totals_of_another_number_of_images_are_told(said: float) -> None:
    text = contradiction({0.1: 75.0, 0.25: said}, [True] * 3 + [False], [0.25, 0.3, 0.3, 0.9])
    assert text is not None
    assert text.startswith(f"The file says {said:g} % certified with R > 0.25, its 4 rows give 50 %. ")


def test_a_file_without_labels_contradicts_nothing() -> None:
    assert contradiction({0.0: 10.0}, [], []) is None
