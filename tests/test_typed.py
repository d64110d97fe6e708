"""Numbers as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titer.errors import InputError
from titer.typed import number


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_come_back_as_typed(value: float) -> None:
    assert number(repr(value), "--x") == value


def test_fractions() -> None:
    assert number("1/255", "--eps") == 1 / 255
    assert number("0.5/255", "--eps") == 0.5 / 255


@pytest.mark.parametrize("text", ["", "much", "1/0", "1/2/3", "0.1.2", "nan", "inf"])
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(InputError, match=f"--x: expected a number.*{text}"):
        number(text, "--x")
