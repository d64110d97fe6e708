import pytest
from hypothesis import given
from hypothesis import strategies as st

from titer.cli.values import number, numbers, settings, whole
from titer.errors import InputError


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_come_back_as_typed(value: float) -> None:
    assert number(repr(value), "--x") == value


def test_fractions_and_lists() -> None:
    assert number("1/255", "--eps") == 1 / 255
    assert number("0.5/255", "--eps") == 0.5 / 255
    assert numbers("0, 0.1,1/4", "--radii") == (0.0, 0.1, 0.25)
    assert whole("--n")("12") == 12


@pytest.mark.parametrize("text", ["", "much", "1/0", "1/2/3", "0.1.2", "nan", "inf"])
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(InputError, match=f"--x: expected a number.*{text}"):
        number(text, "--x")
    with pytest.raises(InputError, match="--n: expected a whole number"):
        whole("--n")(text)


def test_settings_are_toml_with_bare_words_and_fractions() -> None:
    typed = [
        "mode=few-shot",
        "eps=4/255",
        "step=0.5/255",
        "sigmas=[25/255, 0.5]",
        'words=["1/2", "x"]',
        "attack.steps=3",
        "crops=true",
    ]
    assert settings(typed) == {
        "mode": "few-shot",
        "eps": 4 / 255,
        "step": 0.5 / 255,
        "sigmas": (25 / 255, 0.5),
        "words": ("1/2", "x"),
        "attack": {"steps": 3},
        "crops": True,
    }


@pytest.mark.parametrize("typed", [["steps"], ["=3"], ["steps=1", "steps=2"]])
def test_settings_without_a_key_or_twice_are_refused(typed: list[str]) -> None:
    with pytest.raises(InputError, match="--set"):
        settings(typed)
