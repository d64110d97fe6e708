"""What `titer check --data` says: counts, what crosses splits, what cannot be read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titer.ahead import ahead
from titer.data.alike import LENGTH, alike, print_of
from titer.data.example import Data, Example, Picture
from titer.data.fingerprint import digest
from titer.data.load import load_all
from titer.errors import PictureError
from titer.progress import progress

_NO_LABEL = "(no label)"
_SHOWN = 5  # of a list that may be long


@dataclass(frozen=True)
class DataReport:
    """A data set after every picture has been read once.

    Args:
        name: the data set's.
        classes: labels in order of their indices.
        columns: attributes of the table.
        counts: split -> label -> images; where an image may have several labels it counts for each of them.
        sizes: (height, width) of the smallest and the largest picture, by pixels; empty if none can be read.
        modes: grey and colour -> pictures.
        mean, deviation: of all pixels by channel (one, or red, green and blue as soon as one picture has colour), each picture
            counting once; empty if none can be read.
        decoded: how DICOM files were decoded -> pictures.
        unreadable: id -> reason.
        identical: ids of examples in different splits that show the same file.
        contradicting: ids of examples with different labels that show the same file.
        near: pairs of ids in different splits that look alike though their files differ.
        crossing: groups with examples in different splits.
        checksum: of the list of files: SHA-256 over split, id and the file's own SHA-256, in the order of splits and ids.
    """

    name: str
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    sizes: tuple[tuple[int, int], ...]
    modes: Mapping[str, int]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    decoded: Mapping[str, int]
    unreadable: Mapping[str, str]
    identical: tuple[tuple[str, ...], ...]
    contradicting: tuple[tuple[str, ...], ...]
    near: tuple[tuple[str, str], ...]
    crossing: tuple[str, ...]
    checksum: str

    @property
    def images(self) -> int:
        """Examples in all splits."""
        return sum(self.modes.values()) + len(self.unreadable)

    @property
    def warnings(self) -> list[str]:
        """What the user should know before trusting a number measured on this set, a line each."""
        shown = list(self.unreadable.items())[:_SHOWN]
        more = len(self.unreadable) - len(shown)
        return [
            *_such_as(self.identical, "pictures are the same file in more than one split"),
            *_such_as(self.contradicting, "pictures are there with more than one label"),
            *_such_as(self.near, "pairs of pictures in different splits look alike"),
            *_such_as([(group,) for group in self.crossing], "groups are in more than one split"),
            *(f"cannot be read: {identifier}: {reason}" for identifier, reason in shown),
            *([f"cannot be read: {more} more"] if more else []),
        ]


def describe(data: Data, advance: Callable[[], None] = lambda: None, workers: int = 1) -> DataReport:
    """Read every picture and say what is there.

    Args:
        data: all splits of a set (`load_all`).
        advance: called after each picture.
        workers: threads that read; changes nothing that is said.
    """

    def look(example: Example) -> _Seen | PictureError:
        try:
            return _Seen.of(example, data.read(example))
        except PictureError as error:
            return error

    seen: list[_Seen] = []
    unreadable = {}
    for example, found in zip(data.examples, ahead(look, data.examples, workers), strict=True):
        if isinstance(found, PictureError):
            unreadable[example.id] = str(found)
        else:
            seen.append(found)
        advance()
    by_area = sorted({each.shape[:2] for each in seen}, key=lambda size: (size[0] * size[1], size))
    mean, deviation = _moments(seen)
    return DataReport(
        name=data.name,
        classes=tuple(text.label for text in data.classes),
        columns=data.columns,
        counts=_counts(data),
        sizes=(by_area[0], by_area[-1]) if by_area else (),
        modes=Counter("grey" if each.shape[2] == 1 else "colour" for each in seen),
        mean=mean,
        deviation=deviation,
        decoded=Counter(each.decoded for each in seen if each.decoded is not None),
        unreadable=unreadable,
        identical=_differing(seen, lambda each: each.sha256, lambda example: example.split),
        contradicting=_differing(seen, lambda each: each.picture, lambda example: example.label),
        near=_near(seen),
        crossing=_crossing(data.examples),
        checksum=_checksum(seen, unreadable),
    )


@dataclass(frozen=True)
class _Seen:
    """What is kept of a picture that was read: its moments by channel and its print, not its pixels."""

    example: Example
    sha256: str
    shape: tuple[int, int, int]
    decoded: str | None
    mean: NDArray[np.float64]
    square: NDArray[np.float64]
    print: NDArray[np.int8]

    @classmethod
    def of(cls, example: Example, picture: Picture) -> _Seen:
        pixels = picture.pixels
        height, width, channels = pixels.shape
        # band by band: NumPy's mean over both axes of a picture with a short last one costs more than decoding it
        bands = (pixels[..., channel].astype(np.float64) for channel in range(channels))
        mean, square = np.array([(band.mean(), np.square(band).mean()) for band in bands]).T
        return cls(example, picture.sha256, (height, width, channels), picture.decoded, mean, square, print_of(pixels))

    @property
    def picture(self) -> tuple[str, str]:
        """The file, and of a DICOM file the frame too: frames of one file may have labels of their own."""
        return self.sha256, "" if self.decoded is None else self.example.path.partition("#")[2]


def _moments(seen: Sequence[_Seen]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = max((each.shape[2] for each in seen), default=0)
    if not channels:
        return (), ()
    mean, square = (
        np.mean([np.broadcast_to(values, channels) for values in of], axis=0)
        for of in ([each.mean for each in seen], [each.square for each in seen])
    )
    return tuple(map(float, mean)), tuple(map(float, np.sqrt(np.maximum(square - mean**2, 0))))


def _near(seen: Sequence[_Seen]) -> tuple[tuple[str, str], ...]:
    prints = np.array([each.print for each in seen], np.int8).reshape(-1, LENGTH)
    pairs = [(seen[one], seen[two]) for one, two in alike(prints, [each.example.split for each in seen])]
    return tuple((one.example.id, two.example.id) for one, two in pairs if one.sha256 != two.sha256)


def describe_data(name: str | Path, workers: int = 1, *, allow: Sequence[str] = ()) -> dict[str, Any]:
    """The report on a data set by name, as a document for people and programs.

    Args:
        name: as for ``load_data``.
        workers: threads that read.
        allow: as for ``load_data``.

    Returns:
        name, images, classes, sizes, modes, mean, deviation, columns, checksum, counts (split -> label -> images), warnings; of
        DICOM files how they were decoded.
    """
    data = load_all(name, allow=allow)
    with progress("reading", len(data)) as advance:
        report = describe(data, advance, workers)
    smallest, largest = [f"{height}x{width}" for height, width in report.sizes] or ("none", "none")
    return {
        "name": report.name,
        "images": report.images,
        "classes": len(report.classes),
        "smallest (height x width)": smallest,
        "largest (height x width)": largest,
        **{f"{mode} pictures": count for mode, count in report.modes.items()},
        "mean (of pixels in [0, 1])": [round(value, 4) for value in report.mean],
        "standard deviation": [round(value, 4) for value in report.deviation],
        **({"decoded": _most(report.decoded)} if report.decoded else {}),
        "columns": list(report.columns),
        "checksum of the files": report.checksum,
        "counts": report.counts,
        "warnings": report.warnings,
    }


def _checksum(seen: Iterable[_Seen], unreadable: Iterable[str]) -> str:
    """The same wherever the same files stand under the same ids; one that cannot be read counts without its content."""
    lines = [(each.example.split, each.example.id, each.sha256) for each in seen]
    return digest(
        f"{split}\x00{name}\x00{sha256}"
        for split, name, sha256 in sorted([*lines, *(("", name, "") for name in unreadable)])
    )


def _most(counts: Mapping[str, int]) -> list[str]:
    """The most frequent, with how often; scanners give each slice a window of its own."""
    shown = [f"{what} ({count})" for what, count in Counter(counts).most_common(_SHOWN)]
    return [*shown, f"{len(counts) - _SHOWN} other ways"] if len(counts) > _SHOWN else shown


def _counts(data: Data) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for example in data.examples:
        of_split = counts.setdefault(example.split, {text.label: 0 for text in data.classes})
        if not data.exclusive:
            for text, there in zip(data.classes, example.findings, strict=True):
                of_split[text.label] += there is True
            continue
        label = _NO_LABEL if example.label is None else data.classes[example.label].label
        of_split[label] = of_split.get(label, 0) + 1
    return counts


def _differing(
    seen: Iterable[_Seen], same: Callable[[_Seen], object], key: Callable[[Example], object]
) -> tuple[tuple[str, ...], ...]:
    """Ids of the examples that are the ``same`` and differ in ``key``."""
    shown: dict[object, list[Example]] = defaultdict(list)
    for each in seen:
        shown[same(each)].append(each.example)
    return tuple(tuple(each.id for each in group) for group in shown.values() if len(set(map(key, group))) > 1)


def _crossing(examples: Iterable[Example]) -> tuple[str, ...]:
    splits: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        if example.group is not None:
            splits[example.group].add(example.split)
    return tuple(sorted(group for group, names in splits.items() if len(names) > 1))


def _such_as(cases: Iterable[tuple[str, ...]], what: str) -> list[str]:
    found = list(cases)
    return [f"{len(found)} {what}, such as {' = '.join(found[0])}"] if found else []
