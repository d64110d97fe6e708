"""titer attack, of several labels for an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from titer.cli import options as o
from titer.cli.output import document, table
from titer.cli.retrieval import plain
from titer.errors import InputError


def gives_findings(prompts: Sequence[str]) -> bool:
    """Whether the prompt sets give an image several labels.

    Raises:
        InputError: if only some of them do.
    """
    from titer.defenses.adapter import tells_findings

    found = [name for name in prompts if tells_findings(Path(name))]
    if found and len(found) < len(prompts):
        other = next(name for name in prompts if name not in found)
        raise InputError(f"--prompts: {found[0]} gives an image several labels, {other} one; expected a run for each")
    return bool(found)


def attack_findings(name: str, model: str, data: str, out: Path, *, json: bool, **options: Any) -> None:
    """Attack images, and say how well each finding is still told from its absence."""
    from titer.evaluate.findings import attack_findings as run
    from titer.results.findings import areas
    from titer.results.summary import spoken_rows

    with o.told(out):
        finished = run(model, data, name, out=out, command=o.command(), **options)
    rows = areas(finished)
    if json:
        document({"areas": [{key: plain(value) for key, value in vars(row).items()} for row in rows]})
        return
    lines = spoken_rows(rows)
    table([key.replace("_", " ") for key in lines[0]], [list(line.values()) for line in lines])
    o.ran(finished.info["settings"])
    o.counted(finished)
