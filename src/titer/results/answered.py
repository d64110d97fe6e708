"""Accuracy of answers to questions, computed from the records of a run: open, closed and all, before and under attack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from titer.errors import InputError
from titer.results.store import Record, Run
from titer.statistics.intervals import Interval, clustered

VERB = "answer"
KINDS = ("open", "closed", "all")
SUCCESS: Mapping[str, str] = {
    "of_right": "of the questions answered rightly before, the share answered wrongly after",
    "of_all": "of all questions, the share answered rightly before and wrongly after: clean accuracy less attacked",
}
"""Definitions of an attack's success. Questions that are answered wrongly before are not attacked, and count as wrong."""


@dataclass(frozen=True)
class AnswerRow:
    """Accuracy on questions of one kind at one budget, with 95 % intervals over pictures (or their groups).

    ``prior`` is the accuracy of the commonest training answer to the same question (or, for a question that the fit has not
    seen, to all): what is right without a look at the picture. ``unseen`` counts questions whose answer the fit never had.
    """

    prompts: str
    attack: str
    eps: float
    kind: str
    questions: int
    unseen: int
    prior: Interval
    clean: Interval
    attacked: Interval
    of_right: Interval
    of_all: Interval


def accuracies(run: Run) -> list[AnswerRow]:
    """One row for each prompt set, budget (upward) and kind of which there are questions.

    A question that a smaller budget has broken counts as broken at a larger one, whose images include those.

    Raises:
        InputError: if the run is not one of questions.
    """
    if run.info.get("verb") != VERB:
        raise InputError(f"{run.path} was written by {run.info.get('verb')}; expected a run of questions")
    parts: dict[tuple[str, float], list[Record]] = defaultdict(list)
    for record in run.records:
        parts[record["prompts"], record["eps"]].append(record)
    broken: dict[str, set[str]] = defaultdict(set)
    rows = []
    for (prompts, eps), records in sorted(parts.items()):
        broken[prompts] |= {each["sample_id"] for each in records if each["prediction"] != each["label"]}
        for kind in KINDS:
            own = [each for each in records if kind in (each["kind"], "all")]
            if own:
                rows.append(_row(prompts, eps, kind, own, broken[prompts]))
    return rows


def _row(prompts: str, eps: float, kind: str, records: Sequence[Record], broken: set[str]) -> AnswerRow:
    groups = np.empty(len(records), object)
    groups[:] = [_group(record) for record in records]
    known = np.array([record["label"] is not None for record in records])
    prior, clean = (
        known & np.array([record[name] == record["label"] for record in records])
        for name in ("prior", "clean_prediction")
    )
    after = clean & np.array([record["sample_id"] not in broken for record in records])
    lost = clean & ~after

    def share(hits: Any, among: Any) -> Interval:
        return clustered(hits[among].astype(float), list(groups[among]))

    everyone = np.ones(len(records), bool)
    return AnswerRow(
        prompts=prompts,
        attack=str(records[0]["attack"]),
        eps=eps,
        kind=kind,
        questions=len(records),
        unseen=int((~known).sum()),
        prior=share(prior, everyone),
        clean=share(clean, everyone),
        attacked=share(after, everyone),
        of_right=share(lost, clean),
        of_all=share(lost, everyone),
    )


def _group(record: Record) -> Hashable:
    """What ties questions together: the table's group, else the picture."""
    return ("group", record["group"]) if "group" in record else ("picture", record["path"])


@dataclass(frozen=True)
class Swaps:
    """Questions of which a word was swapped at one budget, and those of them that are answered wrongly."""

    prompts: str
    eps: float
    attacked: int
    swapped: int
    broken: int


def swaps(run: Run) -> list[Swaps]:
    """Counts for each prompt set and budget; none where the attack leaves questions as they are."""
    parts: dict[tuple[str, float], list[Record]] = defaultdict(list)
    for record in run.records:
        if "changes" in record:
            parts[record["prompts"], record["eps"]].append(record)
    return [
        Swaps(
            prompts=prompts,
            eps=eps,
            attacked=sum(each["clean_prediction"] == each["label"] for each in records),
            swapped=sum(bool(each["changes"]) for each in records),
            broken=sum(bool(each["changes"]) and each["prediction"] != each["label"] for each in records),
        )
        for (prompts, eps), records in sorted(parts.items())
    ]
