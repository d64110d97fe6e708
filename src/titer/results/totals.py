"""PromptSmooth's totals: the lines of prose behind the rows of its per-image files.

They count an image as certified at r where its radius is above r (R > r); Cohen's analysis, and every table here, where it
is at least r (R >= r).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from titer.statistics.curves import certified

RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5)
"""At which PromptSmooth prints a total."""

_LINE = re.compile(r"Total accuracy is (\S+) against radii (\S+)\s*")


def total_lines(correct: Sequence[bool], radii: Sequence[float]) -> Iterator[str]:
    """The totals of images, one or more, as PromptSmooth writes them: percent with R > r."""
    for at in RADII:
        yield f"Total accuracy is {_percent(correct, radii, at, strict=True)} against radii {at:g}"


def read_totals(lines: Iterable[str]) -> dict[float, float]:
    """Percent by radius, from the lines that are totals; those that hold no numbers are passed over."""
    found = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        try:
            found.update({float(match[2]): float(match[1])} if match else {})
        except ValueError:
            continue
    return found


def contradiction(totals: Mapping[float, float], correct: Sequence[bool], radii: Sequence[float]) -> str | None:
    """Where totals are not those of the rows they stand behind, in words, or None.

    Radii were rounded after the totals were made, so one that is printed as r may have been above r or not.
    """
    for at, said in sorted(totals.items() if len(correct) else ()):
        low, high = (_percent(correct, radii, at, strict) for strict in (True, False))
        if not low - 1e-6 <= said <= high + 1e-6:
            return (
                f"The file says {said:g} % certified with R > {at:g}, its {len(correct)} rows give {low:g} %. Totals of "
                "PromptSmooth's code are shares of its option --n, not of its rows; the numbers here are of the rows."
            )
    return None


def _percent(correct: ArrayLike, radii: ArrayLike, at: float, strict: bool) -> float:
    hits = certified(correct, radii, at, strict)
    return 100 * int(np.sum(hits)) / len(hits)
