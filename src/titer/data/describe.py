"""What `titer check --data` says: counts, what crosses splits, what cannot be read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titer.data.example import Data, Example
from titer.data.load import load_all
from titer.errors import PictureError
from titer.progress import progress

_NO_LABEL = "(no label)"
_SHOWN = 5  # unreadable pictures told one by one


@dataclass(frozen=True)
class DataReport:
    """A data set after every picture has been read once.

    Args:
        name: the data set's.
        classes: labels in order of their indices.
        columns: attributes of the table.
        counts: split -> label -> images.
        sizes: (height, width) of the smallest and the largest picture, by pixels; empty if none can be read.
        channels: 1, 3 or both.
        unreadable: id -> reason.
        identical: ids of examples in different splits that show the same file.
        contradicting: ids of examples with different labels that show the same file.
        crossing: groups with examples in different splits.
    """

    name: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    sizes: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    unreadable: Mapping[str, str]
    identical: tuple[tuple[str, ...], ...]
    contradicting: tuple[tuple[str, ...], ...]
    crossing: tuple[str, ...]

    @property
    def images(self) -> int:
        """Examples in all splits."""
        return sum(sum(of_split.values()) for of_split in self.counts.values())

    @property
    def warnings(self) -> list[str]:
        """What the user should know before trusting a number measured on this set, a line each."""
        shown = list(self.unreadable.items())[:_SHOWN]
        more = len(self.unreadable) - len(shown)
        return [
            *_such_as(self.identical, "pictures are the same file in more than one split"),
            *_such_as(self.contradicting, "pictures are there with more than one label"),
            *_such_as([(group,) for group in self.crossing], "groups are in more than one split"),
            *(f"cannot be read: {identifier}: {reason}" for identifier, reason in shown),
            *([f"cannot be read: {more} more"] if more else []),
        ]


def describe(data: Data, advance: Callable[[], None] = lambda: None) -> DataReport:
    """Read every picture and say what is there.

    Args:
        data: all splits of a set (`load_all`).
        advance: called after each picture.
    """
    same_file: dict[str, list[Example]] = defaultdict(list)
    shapes: set[tuple[int, ...]] = set()
    unreadable = {}
    for example in data.examples:
        try:
            picture = data.read(example)
        except PictureError as error:
            unreadable[example.id] = str(error)
        else:
            same_file[picture.sha256].append(example)
            shapes.add(picture.pixels.shape)
        advance()
    by_area = sorted(((height, width) for height, width, _ in shapes), key=lambda size: (size[0] * size[1], size))
    return DataReport(
        name=data.name,
        classes=tuple(text.label for text in data.classes),
        columns=data.columns,
        counts=_counts(data),
        sizes=(by_area[0], by_area[-1]) if by_area else (),
        channels=tuple(sorted({channels for _, _, channels in shapes})),
        unreadable=unreadable,
        identical=_differing(same_file.values(), lambda example: example.split),
        contradicting=_differing(same_file.values(), lambda example: example.label),
        crossing=_crossing(data.examples),
    )


def describe_data(name: str | Path) -> dict[str, Any]:
    """The report on a data set by name, as a document for people and programs.

    Returns:
        name, images, classes, sizes, channels, columns, counts (split -> label -> images), warnings.
    """
    data = load_all(name)
    with progress("reading", len(data)) as advance:
        report = describe(data, advance)
    smallest, largest = [f"{height}x{width}" for height, width in report.sizes] or ("none", "none")
    return {
        "name": report.name,
        "images": report.images,
        "classes": len(report.classes),
        "smallest (height x width)": smallest,
        "largest (height x width)": largest,
        "channels": list(report.channels),
        "columns": list(report.columns),
        "counts": report.counts,
        "warnings": report.warnings,
    }


def _counts(data: Data) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for example in data.examples:
        of_split = counts.setdefault(example.split, {text.label: 0 for text in data.classes})
        label = _NO_LABEL if example.label is None else data.classes[example.label].label
        of_split[label] = of_split.get(label, 0) + 1
    return counts


def _differing(files: Iterable[list[Example]], key: Callable[[Example], object]) -> tuple[tuple[str, ...], ...]:
    """Ids of the examples of each file that differ in ``key``."""
    return tuple(tuple(example.id for example in shown) for shown in files if len(set(map(key, shown))) > 1)


def _crossing(examples: Iterable[Example]) -> tuple[str, ...]:
    splits: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        if example.group is not None:
            splits[example.group].add(example.split)
    return tuple(sorted(group for group, names in splits.items() if len(names) > 1))


def _such_as(cases: Iterable[tuple[str, ...]], what: str) -> list[str]:
    found = list(cases)
    return [f"{len(found)} {what}, such as {' = '.join(found[0])}"] if found else []
