"""What a radius means to whoever knows grey levels and pixels: tables of a report, from records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from titer.report.tables import Line, Table, radius_text
from titer.results.store import Record, Run
from titer.results.summary import noise_channels, radii_shown

_WHITE = 255  # grey levels from black
_ROOT = math.sqrt(3)


def unit_tables(parts: Sequence[Line]) -> list[Table]:
    """A table for each input size of the models; none for files that do not say it, or without a radius above 0.

    Args:
        parts: certified, all in one or all in three channels.
    """
    sizes = [line.cell.run.info.get("model", {}).get("size") for line in parts]
    found = (
        _table(size, [line for line, its in zip(parts, sizes, strict=True) if its == size])
        for size in dict.fromkeys(sizes)
        if size
    )
    return [table for table in found if table.rows]


def _table(size: int, parts: Sequence[Line]) -> Table:
    runs = list({line.cell.run.path: line.cell.run for line in parts}.values())
    records = _pictures(parts)
    channels = noise_channels(runs[0])
    values = channels * size * size
    columns: dict[str, Callable[[float], str]] = {
        "r": radius_text,
        "all values by": lambda radius: radius_text(_WHITE * radius / math.sqrt(values), 3),
        "a single value by": lambda radius: radius_text(_WHITE * min(radius, 1), 1),
    }
    said = [
        f"In grey levels ({_WHITE} from black to white) of the model's input of {size} × {size} × {channels} values: r is the "
        f"length of a change of all of them by {_WHITE} r / √{values:,} in the root mean square, or of one by {_WHITE} r."
    ]
    if channels == 1:
        said.append("Noise was drawn once for the three channels, so r is of the one-channel picture.")
    grey = [record for record in records if record.get("size", ())[2:] == [1]]
    if grey and channels == 3:
        columns["a grey picture, r / √3"] = lambda radius: radius_text(radius / _ROOT, 3)
        said.append(
            f"{len(grey):,} of {len(records):,} pictures are grey. The model is shown one as three equal channels, where a "
            "change of it is repeated and so √3 times as long: of the grey picture itself changes up to r / √3 are covered."
        )
    stretches = [record["stretch"] for record in records if "stretch" in record]
    if len(stretches) == len(records):
        columns |= _own_size(records)
        said.append(
            f"The pictures' own size is {_sizes(records)}: there r becomes r / s, where s is how many times longer resizing can "
            "make a change (it is linear, in float32 and unrounded): the largest singular values of its two matrices, multiplied"
            + (", for a grey picture times √3" if grey and channels == 3 else "")
            + f", rounded up; here {_between(min(stretches), max(stretches), 6)}."
        )
    else:
        said.append(f"No radius at the pictures' own size, because {_why_not(runs, records)}.")
    shown = sorted({radius for line in parts for radius in radii_shown(line.cell) if radius > 0})
    return Table(
        title="What a radius means",
        caption=" ".join(said),
        columns=tuple(columns),
        rows=tuple(tuple(say(radius) for say in columns.values()) for radius in shown),
    )


def _own_size(records: Sequence[Record]) -> dict[str, Callable[[float], str]]:
    """A column for grey and one for colour pictures, whose radii are in one and in three channels."""
    kinds = {
        name: [r["stretch"] for r in records if r["size"][2] == bands] for name, bands in (("grey", 1), ("colour", 3))
    }
    return {f"at own size, {name} pictures": partial(_shrunk, min(own), max(own)) for name, own in kinds.items() if own}


def _shrunk(least: float, most: float, radius: float) -> str:
    return _between(radius / most, radius / least, 3)


def _pictures(parts: Sequence[Line]) -> list[Record]:
    """A record for each picture and way in which it was prepared."""
    found = {
        (record["sample_id"], str(record.get("size")), record.get("stretch")): record
        for line in parts
        for record in line.cell.records
    }
    return list(found.values())


def _between(low: float, high: float, digits: int) -> str:
    least, most = radius_text(low, digits), radius_text(high, digits)
    return least if least == most else f"{least} to {most}"


def _sizes(records: Sequence[Record]) -> str:
    """Width and height of the smallest and the largest picture."""
    sizes = sorted((record["size"][:2] for record in records), key=lambda size: (size[0] * size[1], size))
    least, most = (f"{width} × {height}" for height, width in (sizes[0], sizes[-1]))
    return f"{least} pixels" if sizes[0] == sizes[-1] else f"from {least} to {most} pixels"


def _why_not(runs: Sequence[Run], records: Sequence[Record]) -> str:
    altered = {change for run in runs for change in run.info.get("identity", {}).get("altered", ())}
    if altered:
        return f"pictures were altered between their files and resizing ({', '.join(sorted(altered))}), which need not be linear"
    if any("size" not in record for record in records):
        return "some records do not say how large the pictures were"
    return "the model's filter is not one whose weights are known here"
