"""Values as people type them: fractions, and lists with commas."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from titer.errors import InputError


def number(text: str, option: str) -> float:
    """A number or a fraction such as ``1/255``.

    Raises:
        InputError: naming the option and the text.
    """
    try:
        return float(Fraction(text.strip()))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{option}: expected a number or a fraction such as 1/255, got {text!r}") from error


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return tuple(number(part, option) for part in text.split(","))


def whole(option: str) -> Callable[[str], int]:
    """A parser of whole numbers whose error names the option and the text; the option parser's own does not."""

    def parse(text: str) -> int:
        try:
            return int(text)
        except ValueError as error:
            raise InputError(f"{option}: expected a whole number, got {text!r}") from error

    return parse
