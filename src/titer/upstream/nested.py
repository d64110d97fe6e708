"""Which pairs are noised: subsets that are nested in the ratio, drawn by patient, article or whatever ties pairs together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from titer.errors import InputError

_SLACK = 0.1  # share of the pairs asked for


def drawn_groups(sizes: Mapping[str, int], ratio: float, seed: int) -> frozenset[str]:
    """The groups to noise: first ones in order of the SHA-256 of (seed, group), so that a smaller ratio's are among them.

    Args:
        sizes: pairs of each group.
        ratio: share of all pairs, from 0 to 1.
        seed: of the order.

    Raises:
        InputError: for a ratio outside [0, 1], or one that whole groups miss by more than a tenth.
    """
    if not 0 <= ratio <= 1:
        raise InputError(f"ratio: expected a share from 0 to 1, got {ratio:g}")
    total = sum(sizes.values())
    wanted = round(ratio * total)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}\x00{group}".encode()).hexdigest())
    taken, count = 0, 0
    while taken < len(order) and count + sizes[order[taken]] <= wanted:
        count += sizes[order[taken]]
        taken += 1
    if wanted - count > _SLACK * wanted or (ratio > 0 and wanted == 0):
        beyond = count + (sizes[order[taken]] if taken < len(order) else 0)
        raise InputError(
            f"ratio {ratio:g}: of {total} pairs in {len(order)} groups whole groups give {count / total:.4g} or "
            f"{beyond / total:.4g}; expected one of these, or another --seed"
        )
    return frozenset(order[:taken])
