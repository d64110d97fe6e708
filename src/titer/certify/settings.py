"""Checks that every certifier makes of its settings before the first draw."""

from __future__ import annotations

from titer.errors import InputError


def check_settings(*, n: int, alpha: float, n0: int = 1) -> None:
    """Refuse counts below one and an alpha outside (0, 1).

    Raises:
        InputError: naming the value.
    """
    if n0 < 1:
        raise InputError(f"n0 is the number of selection draws: expected at least 1, got {n0}")
    if n < 1:
        raise InputError(f"n is the number of draws: expected at least 1, got {n}")
    if not 0 < alpha < 1:
        raise InputError(f"alpha is an error probability: expected a value between 0 and 1, got {alpha:g}")


def check_sigma(sigma: float) -> None:
    """Refuse a standard deviation that is not a positive number.

    Raises:
        InputError: naming the value.
    """
    if not 0 < sigma < float("inf"):
        raise InputError(f"sigma is the standard deviation of the noise in [0, 1] pixels: expected above 0, got {sigma:g}")
