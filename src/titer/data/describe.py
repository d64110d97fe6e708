"""What `titer check --data` says: counts, what crosses splits, what cannot be read."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from titer.data.example import Data, Example
from titer.data.load import load_all
from titer.errors import PictureError
from titer.progress import progress


def describe_data(name: str | Path) -> dict[str, Any]:
    """Read every picture of a set and say what is there.

    Returns:
        name, images, size range, channels, counts (split -> label -> images), warnings.
    """
    data = load_all(name)
    splits: dict[str, set[str]] = defaultdict(set)
    sizes, channels, unreadable = [], set(), []
    with progress("reading", len(data)) as advance:
        for example in data.examples:
            try:
                picture = data.read(example)
            except PictureError as error:
                unreadable.append(f"{example.id}: {error}")
            else:
                splits[picture.sha256].add(example.split)
                sizes.append(picture.pixels.shape[:2])
                channels.add(picture.pixels.shape[2])
            advance()
    shared = sum(len(names) > 1 for names in splits.values())
    return {
        "name": data.name,
        "images": len(data),
        "classes": len(data.classes),
        "smallest (height x width)": "x".join(map(str, min(sizes, default=()))),
        "largest (height x width)": "x".join(map(str, max(sizes, default=()))),
        "channels": sorted(channels),
        "columns": list(data.columns),
        "counts": _counts(data),
        "warnings": [
            *([f"{shared} pictures are the same file in two splits"] if shared else []),
            *_crossing_groups(data.examples),
            *(f"cannot be read: {line}" for line in unreadable),
        ],
    }


def _counts(data: Data) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for example in data.examples:
        label = "(no label)" if example.label is None else data.classes[example.label].label
        of_split = counts.setdefault(example.split, {})
        of_split[label] = of_split.get(label, 0) + 1
    return counts


def _crossing_groups(examples: tuple[Example, ...]) -> list[str]:
    splits: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        if example.group is not None:
            splits[example.group].add(example.split)
    crossing = sorted(group for group, names in splits.items() if len(names) > 1)
    return [f"{len(crossing)} groups are in more than one split, such as {crossing[0]!r}"] if crossing else []
