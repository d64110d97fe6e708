import pytest

from titer.cli.values import numbers, settings, whole
from titer.errors import InputError


def test_lists_and_whole_numbers() -> None:
    assert numbers("0, 0.1,1/4", "--radii") == (0.0, 0.1, 0.25)
    assert whole("--n")("12") == 12


@pytest.mark.parametrize("text", ["", "much", "1/2", "0.1"])
def test_what_is_no_whole_number_is_named(text: str) -> None:
    with pytest.raises(InputError, match=f"--n: expected a whole number, got '{text}'"):
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
