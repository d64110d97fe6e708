"""Numbers as people type them, on a command line or in a recipe."""

from __future__ import annotations

import re
from fractions import Fraction

from titer.errors import InputError

FRACTION = re.compile(r"-?\d+(?:\.\d+)?/[1-9]\d*")


def number(text: str, place: str) -> float:
    """A number or a fraction such as ``1/255`` or ``0.5/255``.

    Raises:
        InputError: naming the place and the text.
    """
    try:
        above, below = text.split("/") if "/" in text else (text, "1")
        return float(Fraction(above.strip()) / Fraction(below.strip()))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{place}: expected a number or a fraction such as 1/255, got {text!r}") from error
