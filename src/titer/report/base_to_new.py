"""Tables of the base-to-new protocol: how well methods do on the classes of their fit and on others, under attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from titer.report.arms import clean_share, fits_of, name_of
from titer.report.arms_attacked import robust_share
from titer.report.tables import Share, Table, Value
from titer.results.arms import AttackArm, Shares
from titer.results.robustness import length_text
from titer.results.study import StudyCell, StudyResults
from titer.statistics.harmonic import harmonic, share_of_level
from titer.statistics.intervals import Interval
from titer.statistics.ranking import balanced_mean

BASE, NEW = "base", "new"


def base_to_new_tables(study: StudyResults) -> list[Table]:
    """A table for each cell, norm and budget that both halves were attacked with."""
    return [
        _table(base, norm, epsilon, pairs)
        for base, new in _halves(study.cells)
        for norm in base.norms
        for epsilon, pairs in _pairs(base, new, norm)
    ]


def _halves(cells: Sequence[StudyCell]) -> Iterator[tuple[StudyCell, StudyCell]]:
    new = {cell.of: cell for cell in cells if cell.part == NEW and cell.attacked}
    return ((cell, new[cell.of]) for cell in cells if cell.part == BASE and cell.attacked and cell.of in new)


Halves = tuple[AttackArm, AttackArm]


def _pairs(base: StudyCell, new: StudyCell, norm: str) -> Iterator[tuple[float, list[Halves]]]:
    """Of each budget the methods with their shots that both halves have, under the strongest attack of both."""
    first, second = (
        {(arm.entry, arm.shots, arm.fitted_for): arm for arm in cell.under_strongest(norm)} for cell in (base, new)
    )
    found = [(first[key], second[key]) for key in first if key in second]
    budgets = sorted({at for one, other in found for at in one.budgets if at in other.budgets})
    for at in budgets:
        yield at, [(one, other) for one, other in found if at in one.budgets and at in other.budgets]


def _table(base: StudyCell, norm: str, epsilon: float, pairs: Sequence[Halves]) -> Table:
    images = [sorted({len(pair[half].ids) for pair in pairs}) for half in (0, 1)]
    counted = " and ".join("/".join(map(str, each)) for each in images)
    return Table(
        title=f"Base to new ({base.of}), {norm} {length_text(epsilon, norm)}",
        caption=f"Class-balanced shares of {counted} images of the fit's classes (base) and of others (new), each among its own "
        "classes: right, and right under attack as well; mean over fits. H2 is the harmonic mean of both clean shares, H4 that "
        "of all four. Their intervals are made of intervals of the parts that hold together at 95 % (Bonferroni), so they are "
        "wide rather than wrong.",
        columns=("method", "fitted on", "base clean", "base attacked", "new clean", "new attacked", "H2 clean", "H4"),
        rows=tuple(_row(one, other, epsilon) for one, other in pairs),
    )


def _row(base: AttackArm, new: AttackArm, epsilon: float) -> tuple[Value, ...]:
    clean = [(base, base.clean), (new, new.clean)]
    robust = [(base, base.robust(epsilon)), (new, new.robust(epsilon))]
    shown = (clean_share(base), robust_share(base, epsilon), clean_share(new), robust_share(new, epsilon))
    return name_of(base), fits_of(base), *shown, _mean(clean), _mean([*clean, *robust])


def _mean(parts: Sequence[tuple[AttackArm, Shares]]) -> Share:
    return Share(harmonic_of(parts), sum(len(arm.ids) for arm in dict(parts)))


def harmonic_of(parts: Sequence[tuple[AttackArm, Shares]]) -> Interval:
    """Harmonic mean of class-balanced shares, with an interval that holds whatever ties them."""
    level = share_of_level(len(parts))
    return harmonic([balanced_mean(values, arm.labels, arm.groups, level) for arm, values in parts])
