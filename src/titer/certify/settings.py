"""Checks that every certifier makes of its settings before the first draw."""

from __future__ import annotations

from typing import Literal, get_args

from titer.errors import InputError, unknown

BoundName = Literal["one-vs-rest", "runner-up"]


def check_settings(*, n: int, alpha: float, n0: int = 1, bound: str = "one-vs-rest") -> None:
    """Refuse counts below one, an alpha outside (0, 1) and a bound that does not exist.

    Raises:
        InputError: naming the value.
    """
    if n0 < 1:
        raise InputError(f"n0 is the number of selection draws: expected at least 1, got {n0}")
    if n < 1:
        raise InputError(f"n is the number of draws: expected at least 1, got {n}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha is an error probability: expected a value between 0 and 1, got {alpha:g}")
    if bound not in get_args(BoundName):
        raise unknown("bound", bound, get_args(BoundName))


def check_sigma(sigma: float) -> None:
    """Refuse a standard deviation that is not a positive number.

    Raises:
        InputError: naming the value.
    """
    if not 0 < sigma < float("inf"):
        raise InputError(
            f"sigma is the standard deviation of the noise in [0, 1] pixels: expected above 0, got {sigma:g}"
        )
