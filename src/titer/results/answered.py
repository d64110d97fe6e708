"""Accuracy of answers to questions, computed from the records of a run: open, closed and all, before and under attack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from titer.errors import InputError
from titer.results.store import Record, Run
from titer.statistics.comparisons import Comparison, paired
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


@dataclass(frozen=True)
class Ladder:
    """One prompt set of a run at one budget.

    Args:
        prompts: the set.
        eps: the budget.
        records: one for each question.
        broken: questions that are answered wrongly at this budget or a smaller one, whose images are among its own.
    """

    prompts: str
    eps: float
    records: tuple[Record, ...]
    broken: frozenset[str]


def ladder(run: Run) -> list[Ladder]:
    """Every prompt set of a run at every budget, upward.

    Raises:
        InputError: if the run is not one of questions.
    """
    if run.info.get("verb") != VERB:
        raise InputError(f"{run.path} was written by {run.info.get('verb')}; expected a run of questions")
    parts: dict[tuple[str, float], list[Record]] = defaultdict(list)
    for record in run.records:
        parts[record["prompts"], record["eps"]].append(record)
    broken: dict[str, set[str]] = defaultdict(set)
    found = []
    for (prompts, eps), records in sorted(parts.items()):
        broken[prompts] |= {each["sample_id"] for each in records if each["prediction"] != each["label"]}
        found.append(Ladder(prompts, eps, tuple(records), frozenset(broken[prompts])))
    return found


def accuracies(run: Run) -> list[AnswerRow]:
    """One row for each prompt set, budget (upward) and kind of which there are questions.

    Raises:
        InputError: if the run is not one of questions.
    """
    return [row for part in ladder(run) for row in by_kind(part)]


def by_kind(part: Ladder) -> list[AnswerRow]:
    """One row for each of ``KINDS`` of which there are questions."""
    found = ((kind, [each for each in part.records if kind in (each["kind"], "all")]) for kind in KINDS)
    return [_row(part, kind, own) for kind, own in found if own]


def by_question(part: Ladder) -> list[AnswerRow]:
    """One row for each wording of a question, in the place of its kind; the most asked first."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in part.records:
        found[record["question"]].append(record)
    return [_row(part, text, own) for text, own in sorted(found.items(), key=lambda one: (-len(one[1]), one[0]))]


def worst(parts: Sequence[Ladder]) -> Ladder:
    """One prompt set under several attacks of the same questions: what any of them breaks is broken."""
    last = max(parts, key=lambda part: part.eps)
    return replace(last, broken=frozenset().union(*(part.broken for part in parts)))


def over_prior(part: Ladder) -> Comparison:
    """How much more often the answer is right, without attack, than the commonest training answer to the same question."""
    clean, prior = (
        [float(each["label"] is not None and each[name] == each["label"]) for each in part.records]
        for name in ("clean_prediction", "prior")
    )
    return paired(clean, prior, np.zeros(len(clean), np.int64), [_group(record) for record in part.records])


def as_prior(part: Ladder) -> int:
    """How many questions are answered, without attack, by the commonest training answer to them."""
    return sum(each["clean_prediction"] == each["prior"] for each in part.records)


def _row(part: Ladder, kind: str, records: Sequence[Record]) -> AnswerRow:
    groups = np.empty(len(records), object)
    groups[:] = [_group(record) for record in records]
    known = np.array([record["label"] is not None for record in records])
    prior, clean = (
        known & np.array([record[name] == record["label"] for record in records])
        for name in ("prior", "clean_prediction")
    )
    after = clean & np.array([record["sample_id"] not in part.broken for record in records])
    lost = clean & ~after

    def share(hits: Any, among: Any) -> Interval:
        return clustered(hits[among].astype(float), list(groups[among]))

    everyone = np.ones(len(records), bool)
    return AnswerRow(
        prompts=part.prompts,
        attack=str(records[0]["attack"]),
        eps=part.eps,
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


@dataclass(frozen=True)
class SwapRow:
    """One swap of words.

    Args:
        prompts: the set whose questions it is of.
        word: as it stood there, in lower case.
        replacement: what was put in its place.
        questions: in which it was put.
        broken: those of them that are answered wrongly after.
    """

    prompts: str
    word: str
    replacement: str
    questions: int
    broken: int


def swapped_words(run: Run) -> list[SwapRow]:
    """Every swap at the largest budget of each prompt set, the most harmful first."""
    found: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    largest = {part.prompts: part for part in ladder(run)}
    for part in largest.values():
        for record in part.records:
            for change in record.get("changes", ()):
                key = part.prompts, change["word"].lower(), change["replacement"].lower()
                found[key].append(record["prediction"] != record["label"])
    rows = [SwapRow(*key, len(hits), sum(hits)) for key, hits in found.items()]
    return sorted(rows, key=lambda row: (row.prompts, -row.broken, -row.questions, row.word, row.replacement))
