"""How well findings are told from their absence, computed from the records of a run: AUROC of each, and their mean."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from titer.errors import InputError
from titer.results.store import Record, Run
from titer.statistics.intervals import Interval
from titer.statistics.ranking import auroc, macro_auroc

VERB = "findings"
MACRO = "mean of all"


@dataclass(frozen=True)
class FindingRow:
    """Area under the curve of one finding at one budget, with 95 % intervals over images (or their groups).

    ``finding`` is its name, or `MACRO` for the mean over those that some images have and others have not; ``there`` and
    ``absent`` count images of which that is known, for the mean the findings that it is of and those it is not.
    """

    prompts: str
    attack: str
    eps: float
    finding: str
    there: int
    absent: int
    clean: Interval
    attacked: Interval


def areas(run: Run) -> list[FindingRow]:
    """The mean first, then each finding, for each prompt set and budget (upward).

    Raises:
        InputError: if the run is not one of findings.
    """
    if run.info.get("verb") != VERB:
        raise InputError(
            f"{run.path} was written by {run.info.get('verb')}; expected a run of several labels for an image"
        )
    parts: dict[tuple[str, float], list[Record]] = defaultdict(list)
    for record in run.records:
        parts[record["prompts"], record["eps"]].append(record)
    names = [entry["label"] for entry in run.info["classes"]]
    return [row for (prompts, eps), records in sorted(parts.items()) for row in _rows(prompts, eps, records, names)]


def _rows(prompts: str, eps: float, records: list[Record], names: list[str]) -> list[FindingRow]:
    truth = np.array([[np.nan if there is None else float(there) for there in one["findings"]] for one in records])
    clean, attacked = (np.array([one[key] for one in records], float) for key in ("clean_scores", "scores"))
    groups = [one.get("group") for one in records]
    attack = str(records[0]["attack"])
    mixed = [len(np.unique(own[~np.isnan(own)])) == 2 for own in truth.T]
    rows = [
        FindingRow(
            prompts, attack, eps, MACRO, sum(mixed), len(mixed) - sum(mixed),
            macro_auroc(truth, clean, groups), macro_auroc(truth, attacked, groups),
        )
    ]  # fmt: skip
    for place, name in enumerate(names):
        known = ~np.isnan(truth[:, place])
        there = truth[known, place] == 1
        whose = [group for group, chosen in zip(groups, known, strict=True) if chosen]
        of = (auroc(there, scores[known, place], whose) for scores in (clean, attacked))
        rows.append(FindingRow(prompts, attack, eps, name, int(there.sum()), int((~there).sum()), *of))
    return rows
