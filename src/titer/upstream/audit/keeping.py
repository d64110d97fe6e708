"""A table of the pairs that a filter leaves, to train on again; no picture is copied, moved or deleted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from titer.data.load import load_all
from titer.errors import InputError
from titer.results.audited import write_table
from titer.results.store import Record, Run

KEPT, PICTURES = "kept.csv", "pictures"


@dataclass(frozen=True)
class Kept:
    """What ``keep`` wrote.

    Args:
        path: of the table.
        rows: in it, of all splits.
        unjudged: of these, rows of the audited split that were no pair or could not be read.
    """

    path: Path
    rows: int
    unjudged: int


def keep(run: Run, data: str, taken: Sequence[Record]) -> Kept:
    """Write ``kept.csv`` into the run: all rows of the data set but those taken; other splits stay whole.

    The table's paths lead through ``pictures``, a link to the data set beside it.

    Args:
        run: the audit.
        data: the data set's name, as it was audited: a directory or a table, or ``captioned:`` of one.
        taken: what the filter takes.

    Raises:
        InputError: for a data set that has no files of its own, or was audited in part only.
    """
    place = check_keeps(data, run.info["data"]["limit"])
    everything = load_all(data)
    _link(run.path / PICTURES, (place if place.is_dir() else place.parent).resolve())
    words = {text.label: list(text.texts) for text in everything.classes}
    (run.path / "classes.json").write_text(json.dumps(words, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    gone, judged = {record["sample_id"] for record in taken}, {record["sample_id"] for record in run.records}
    left = [row for row in everything.examples if row.id not in gone]
    table = [
        {
            "file_name": f"{PICTURES}/{row.path}",
            "id": row.id,
            "label": "" if row.label is None else everything.classes[row.label].label,
            "caption": row.caption or "",
            "split": row.split,
            "group": row.group or "",
            **{name: row.attributes.get(name, "") for name in everything.columns},
        }
        for row in left
    ]
    split = run.info["data"]["split"]
    unjudged = sum(row.id not in judged and split in ("all", row.split) for row in left)
    return Kept(write_table(run.path / KEPT, table), len(left), unjudged)


def check_keeps(data: str, limit: int | None) -> Path:
    """Where the data set's files are.

    Args:
        data: its name.
        limit: how many rows of it are audited.

    Raises:
        InputError: for a data set that has no files of its own, or is audited in part only.
    """
    place = Path(data.removeprefix("captioned:"))
    if not place.exists():
        raise InputError(f"--drop: {data} has no table of its own; expected a directory or a table")
    if limit is not None:
        raise InputError("--drop: with --limit only some rows are judged; audit the whole split")
    return place


def _link(link: Path, root: Path) -> None:
    if link.is_symlink() and link.resolve() == root:
        return
    try:
        link.symlink_to(root, target_is_directory=True)
    except OSError as error:
        raise InputError(f"cannot link {link} to the data set: {error.strerror}") from error
