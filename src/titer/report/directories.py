"""The page of whatever directories a user names: runs, comparisons, studies of upstream noise, an audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from titer.errors import InputError
from titer.report.asked import questions_page
from titer.report.audited import write_audit
from titer.report.comparison import compare_page
from titer.report.page import report
from titer.report.upstream import upstream_page
from titer.results.audited import is_audit
from titer.results.questions import is_questions
from titer.results.store import read_run
from titer.results.study import is_study
from titer.results.upstream import is_upstream

_KINDS: Sequence[tuple[str, Callable[[Path], bool]]] = (
    ("an audit", is_audit),
    ("a study of upstream noise", is_upstream),
    ("a comparison on questions", is_questions),
    ("a comparison", is_study),
)


def report_on(paths: Sequence[Path], out: Path, by: str | None = None) -> Path:
    """The page of runs, of comparisons, of studies of upstream noise, or of one audit.

    Args:
        paths: directories of one kind that titer wrote; or run directories and per-image files.
        out: the file to write.
        by: a column of the runs' records to break results down by.

    Raises:
        InputError: for several kinds at once, or whatever the page's own function refuses.
    """
    kinds = [next((name for name, is_kind in _KINDS if is_kind(path)), None) for path in paths]
    kind = kinds[0]
    if kind is None and not any(kinds):
        return report(paths, out, by)
    if len(set(kinds)) > 1:
        one, other = (
            next(place for place, each in enumerate(kinds) if (each == kind) is same) for same in (True, False)
        )
        raise InputError(
            f"{paths[one]} is {kind or 'a run'} and {paths[other]} is {kinds[other] or 'not'}; give them pages of their own"
        )
    if by is not None:
        raise InputError(f"--by {by}: the page of {kind} is not broken down; name one of its runs")
    if kind == "an audit":
        if len(paths) > 1:
            raise InputError("an audit has a page of its own; expected one directory")
        return write_audit(read_run(paths[0]), out=out)
    return _PAGES[kind](paths, out)


_PAGES: Mapping[str | None, Callable[[Sequence[Path], Path], Path]] = {
    "a study of upstream noise": upstream_page,
    "a comparison on questions": questions_page,
    "a comparison": compare_page,
}
