"""titer attack, of an image and its captions together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.errors import InputError


def attack_pairs(
    name: str, model: str, data: str, out: Path, *, prompts: list[str] | None, json: bool, **options: Any
) -> None:
    """Attack images and captions, and say which still find each other."""
    from titer.evaluate.retrieval import attack_pairs as run

    if prompts:
        raise InputError(f"attack {name!r} is of images and their captions; --prompts and --template are for classes")
    with o.told(out):
        finished = run(model, data, name, out=out, command=o.command(), **options)
    _summary(finished, json)


def _summary(finished: Any, json: bool) -> None:
    from titer.results.retrieval import SUCCESS, recalls, swap_counts
    from titer.results.summary import spoken_rows

    swaps = [vars(counts) for counts in swap_counts(finished)]
    if json:
        rows = [{name: plain(value) for name, value in vars(row).items()} for row in recalls(finished)]
        document({"recalls": rows, "swaps": swaps, "success": dict(SUCCESS)})
        return
    for lines in (spoken_rows(recalls(finished)), swaps):
        table([name.replace("_", " ") for name in lines[0]], [list(line.values()) for line in lines])
    for name, text in SUCCESS.items():
        note(f"{name.replace('_', ' ')}: {text}")
    o.ran(finished.info["settings"])
    o.counted(finished)


def plain(value: Any) -> Any:
    """An interval as a dictionary, without the nan that JSON has no word for."""
    if not hasattr(value, "estimate"):
        return value
    return {name: None if number != number else number for name, number in vars(value).items()}
