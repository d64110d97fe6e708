"""``multilabel:COLUMN+COLUMN@DATA``: several labels for an image, each of them there, not there or not known.

Columns of the table are the labels. 1, true and yes say that a finding is there, 0, false and no that it is not; an empty cell
and -1 (uncertain, in CheXpert's tables) are not known, and count neither in a fit nor when it is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from titer.data.example import ClassText, Data, Example
from titer.errors import InputError, unknown

_SAID = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
    **dict.fromkeys(("0", "0.0", "false", "no"), False),
    **dict.fromkeys(("-1", "-1.0", ""), None),
}


def with_findings(data: Data, which: str = "") -> Data:
    """The set with several labels for an image in the place of its classes.

    Args:
        data: a set whose table has the columns, or that has several labels for an image already.
        which: columns joined by ``+``; all that say nothing but whether something is there unless given.

    Raises:
        InputError: for a column it does not have or that is given twice, a cell that is none of the above, and a set
            without such columns.
    """
    if not data.exclusive:
        return _some(data, which)
    columns = which.split("+") if which else [name for name in data.columns if _tells(data.examples, name)]
    for column in columns:
        if column not in data.columns:
            raise unknown(f"column of {data.name}", column, data.columns)
    if not columns or len(set(columns)) < len(columns):
        raise InputError(
            f"multilabel {which!r}: expected columns that say 1 or 0, each once, such as multilabel:edema+effusion@DATA; "
            f"{data.name} has the columns {', '.join(data.columns) or 'none'}"
        )
    return replace(
        data,
        name=f"multilabel:{which}@{data.name}" if which else f"multilabel:{data.name}",
        classes=tuple(ClassText(column, (column.replace("_", " "),)) for column in columns),
        examples=tuple(
            replace(example, label=None, findings=tuple(_said(data.name, example, column) for column in columns))
            for example in data.examples
        ),
        exclusive=False,
    )


def _some(data: Data, which: str) -> Data:
    """A choice of the findings of a set that has such."""
    known = [text.label for text in data.classes]
    chosen = which.split("+") if which else known
    for label in chosen:
        if label not in known:
            raise unknown(f"finding of {data.name}", label, known)
    places = [known.index(label) for label in chosen]
    return replace(
        data,
        name=f"multilabel:{which}@{data.name}" if which else data.name,
        classes=tuple(data.classes[place] for place in places),
        examples=tuple(
            replace(example, findings=tuple(example.findings[place] for place in places)) for example in data.examples
        ),
    )


def _tells(examples: Sequence[Example], column: str) -> bool:
    """Whether a column says of some images that something is there, of others that it is not, and nothing else."""
    cells = {_SAID.get(example.attributes.get(column, "").lower(), column) for example in examples}
    return cells <= {True, False, None} and {True, False} <= cells


def _said(name: str, example: Example, column: str) -> bool | None:
    text = example.attributes.get(column, "")
    if text.lower() not in _SAID:
        raise InputError(f"{name}: {example.id}: expected 1, 0, -1 or nothing in the column {column!r}, got {text!r}")
    return _SAID[text.lower()]
