"""Retrieval, computed from the records of a run: recalls before and after an attack, and its success by three definitions.

A record holds the features of an image and of its captions, clean and attacked, so that ranks need nothing but records.
"""

from __future__ import annotations

import base64
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from titer.errors import InputError
from titer.results.store import Record, Run
from titer.statistics.comparisons import paired
from titer.statistics.intervals import Interval, clustered

Direction = Literal["image to text", "text to image"]
Floats = NDArray[np.float64]

DEPTHS = (1, 5, 10)
SUCCESS: Mapping[str, str] = {
    "of_right": "of the queries with a right item among the first k before, the share with none after (as SGA reports)",
    "of_all": "of all queries, the share with a right item among the first k before and none after",
    "drop": "recall at k before less recall at k after (as Co-Attack reports)",
}
"""Definitions of an attack's success; they are not comparable with one another."""


@dataclass(frozen=True, eq=False)
class Queries:
    """The queries of one direction at one budget.

    Args:
        direction: what is asked with what.
        eps: budget of the images, in [0, 1] pixels.
        ids: of the queries: images or captions.
        groups: what ties queries together: the table's group, else the image.
        clean: (queries,) rank of the best right item, from 1, among clean items.
        attacked: (queries,) the same where queries and items are all attacked.
        items: how many there are to be found.
    """

    direction: Direction
    eps: float
    ids: tuple[str, ...]
    groups: tuple[Hashable, ...]
    clean: NDArray[np.int64]
    attacked: NDArray[np.int64]
    items: int


@dataclass(frozen=True)
class RecallRow:
    """Recall at one depth, before and after, and the attack's success by each definition of ``SUCCESS``."""

    attack: str
    eps: float
    direction: Direction
    k: int
    queries: int
    items: int
    clean: Interval
    attacked: Interval
    of_right: Interval
    of_all: Interval
    drop: Interval


def packed(features: ArrayLike) -> str:
    """Features as a record holds them: float32, little-endian, base64."""
    return base64.b64encode(np.asarray(features, "<f4").tobytes()).decode()


def unpacked(text: str) -> Floats:
    """The features (dim,) that ``packed`` wrote."""
    return np.frombuffer(base64.b64decode(text), "<f4").astype(float)


def ranks(scores: Floats, right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank (queries,) of each query's best right item, from 1; a wrong item that scores the same stands before it.

    Args:
        scores: (queries, items) similarity.
        right: (queries, items) which items are an answer; at least one of each query's.
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    before: NDArray[np.int64] = np.count_nonzero(~right & (scores >= best), axis=1)
    return before + 1


def queries(run: Run) -> Iterator[Queries]:
    """Ranks of all queries: budgets upward, images first.

    A caption answers an image if the image has a caption of the same words before any attack; so do its image and any
    other image with these words answer the caption.

    Raises:
        InputError: if the run is not one of retrieval.
    """
    if run.info.get("verb") != "retrieval":
        raise InputError(
            f"{run.path} was written by {run.info.get('verb')}; expected a run of retrieval (attack sga, ...)"
        )
    for eps in sorted({record["eps"] for record in run.records}):
        yield from _at([record for record in run.records if record["eps"] == eps], eps)


def _at(records: Sequence[Record], eps: float) -> Iterator[Queries]:
    captions = [(row, caption) for row, record in enumerate(records) for caption in record["captions"]]
    words = [{caption["text"] for caption in record["captions"]} for record in records]
    right = np.array([[caption["text"] in known for _, caption in captions] for known in words], bool)
    clean, attacked = (
        _stack(records, name) @ _stack([caption for _, caption in captions], name).T
        for name in ("features", "attacked_features")
    )
    groups = [record.get("group", ("image", record["sample_id"])) for record in records]
    yield Queries(
        direction="image to text",
        eps=eps,
        ids=tuple(record["sample_id"] for record in records),
        groups=tuple(groups),
        clean=ranks(clean, right),
        attacked=ranks(attacked, right),
        items=len(captions),
    )
    yield Queries(
        direction="text to image",
        eps=eps,
        ids=tuple(caption["id"] for _, caption in captions),
        groups=tuple(groups[row] for row, _ in captions),
        clean=ranks(clean.T, right.T),
        attacked=ranks(attacked.T, right.T),
        items=len(records),
    )


def _stack(records: Sequence[Record], name: str) -> Floats:
    return np.stack([unpacked(record[name]) for record in records])


def recalls(run: Run, depths: Sequence[int] = DEPTHS) -> list[RecallRow]:
    """Recalls and success at each depth, with 95 % intervals over groups; the items that are searched are taken as given.

    Raises:
        InputError: if the run is not one of retrieval.
    """
    attack = str(run.info["settings"]["attack"]) if run.info.get("verb") == "retrieval" else ""
    return [_row(attack, found, depth) for found in queries(run) for depth in depths]


def _row(attack: str, found: Queries, depth: int) -> RecallRow:
    before, after = found.clean <= depth, found.attacked <= depth
    lost = (before & ~after).astype(float)
    groups = np.empty(len(found.groups), object)
    groups[:] = found.groups
    drop = paired(before, after, np.zeros(len(before), int), found.groups)
    return RecallRow(
        attack=attack,
        eps=found.eps,
        direction=found.direction,
        k=depth,
        queries=len(found.ids),
        items=found.items,
        clean=clustered(before.astype(float), found.groups),
        attacked=clustered(after.astype(float), found.groups),
        of_right=clustered(lost[before], list(groups[before])),
        of_all=clustered(lost, found.groups),
        drop=Interval(drop.difference, drop.low, drop.high),
    )


@dataclass(frozen=True)
class SwapCounts:
    """What happened to the captions at one budget: how many there are, how many were swapped, by meaning, and cut."""

    eps: float
    captions: int
    swapped: int
    preserving: int
    changing: int
    unjudged: int
    cut: int


def swap_counts(run: Run) -> list[SwapCounts]:
    """Counts of swaps by meaning, budgets upward; captions that were cut to what the text tower takes are counted, too."""
    found = []
    for eps in sorted({record["eps"] for record in run.records}):
        captions = [caption for record in run.records if record["eps"] == eps for caption in record["captions"]]
        meanings = [change["meaning"] for caption in captions for change in caption["changes"]]
        found.append(
            SwapCounts(
                eps=eps,
                captions=len(captions),
                swapped=sum(bool(caption["changes"]) for caption in captions),
                preserving=meanings.count("preserving"),
                changing=meanings.count("changing"),
                unjudged=meanings.count("unjudged"),
                cut=sum("cut" in caption for caption in captions),
            )
        )
    return found
