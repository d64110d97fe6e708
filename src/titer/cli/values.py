"""Values as people type them: fractions, and lists with commas."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from typing import Any

from titer.errors import InputError
from titer.typed import FRACTION, number


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


def settings(pairs: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """``key=value`` texts as a dictionary; dots in a key reach into nested ones.

    Values are TOML; a bare word is a string, a fraction such as ``1/255`` a number, and a list a tuple.

    Raises:
        InputError: for a text without ``=``, or a key that is given twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise InputError(f"{option}: expected key=value, got {pair!r}")
        *outer, last = key.strip().split(".")
        place = found
        for name in outer:
            place = place.setdefault(name, {})
        if last in place:
            raise InputError(f"{option}: {key.strip()} is given twice")
        place[last] = _value(text.strip())
    return found


def _value(text: str) -> Any:
    if FRACTION.fullmatch(text):
        return number(text, "")
    if text.startswith("[") and '"' not in text and "'" not in text:
        text = FRACTION.sub(lambda found: repr(number(found[0], "")), text)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return tuple(value) if isinstance(value, list) else value
