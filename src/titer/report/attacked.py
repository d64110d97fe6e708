"""What the page says of runs of attack, challenge and retrieval on one data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from titer.errors import InputError
from titer.report.parts import Drawing, Part
from titer.report.plots import bounds_figure, robust_figure
from titer.report.strip import address
from titer.report.tables import MISSING, Line, Share, Table, Value, class_names, radius_text, settings_table
from titer.report.words import alarms
from titer.results import challenged, retrieval
from titer.results.robustness import Stand, length_text, stands, worst
from titer.results.store import Record, Run, thumbnail_name
from titer.results.summary import certified_accuracy, largest_provable, run_certifies
from titer.statistics.intervals import Interval

VERBS = ("attack", "challenge", "retrieval")
"""Verbs whose runs this module reports."""

_SHOWN = 6  # attacked images of the strip
_VERDICTS = 3


@dataclass(frozen=True)
class Attacked:
    """An image before and after.

    Args:
        why: at which budget, by what.
        clean: PNG as a data address.
        change: what was added, ten times as large, around grey.
        attacked: the sum.
        name: sample id.
        truth: its label in words.
        before: the answer to the clean image, in words.
        after: the answer to the attacked one.
    """

    why: str
    clean: str
    change: str
    attacked: str
    name: str
    truth: str
    before: str
    after: str


@dataclass(frozen=True)
class Section:
    """Everything the page says of attacks on one data set."""

    title: str
    facts: tuple[str, ...]
    alarms: tuple[str, ...]
    verdicts: tuple[str, ...]
    parts: tuple[Part, ...]
    strip: tuple[Attacked, ...]
    failures: tuple[tuple[str, str], ...]
    settings: tuple[Table, ...]


def section(runs: Sequence[Run], certified: Sequence[Line] = ()) -> Section:
    """Everything the page says of runs of attack, challenge and retrieval on one data set.

    Args:
        runs: at least one.
        certified: parts of runs of certificates on the same data, drawn beside l2 attacks on the same model and prompts.

    Raises:
        InputError: for a run without finished samples.
    """
    for run in runs:
        if not run.records:
            raise InputError(f"{run.path} has no finished samples to report")
    attacks, challenges, retrievals = ([run for run in runs if run.info.get("verb") == verb] for verb in VERBS)
    parts = _stands(attacks)
    return Section(
        title=str(runs[0].info.get("data", {}).get("name")),
        facts=tuple(_facts(runs)),
        alarms=tuple(dict.fromkeys([text for run in runs for text in alarms(run)] + list(_doubts(parts)))),
        verdicts=tuple(_verdicts(attacks, parts)),
        parts=(
            *(_robust(norm, [stand for stand in parts if stand.norm == norm]) for norm in _norms(parts)),
            *_beside(parts, attacks, certified),
            *(_checks(run) for run in attacks if run.info.get("checks")),
            *([_challenges(challenges)] if challenges else []),
            *(_retrieval(run) for run in retrievals),
        ),
        strip=tuple(shown for run in attacks[:1] for shown in _strip(run)),
        failures=tuple((line["sample_id"], line["error"]) for run in runs for line in run.failures),
        settings=tuple(settings_table(run) for run in runs),
    )


def _stands(runs: Sequence[Run]) -> list[Stand]:
    """Those of every run, and of runs of the same model and norm the worst case."""
    found = [stand for run in runs for stand in stands(run)]
    alike: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        identity = run.info.get("identity", {})
        alike.setdefault((str(identity.get("model")), str(run.info["settings"]["norm"])), []).append(run)
    for several in alike.values():
        names = [run.info["settings"]["attack"] for run in several]
        if len(several) > 1 and all(run.info["prompts"] == several[0].info["prompts"] for run in several):
            found += [stand for stand in worst(several) if len(set(names)) > 1]
    return found


def _norms(parts: Sequence[Stand]) -> list[str]:
    return list(dict.fromkeys(stand.norm for stand in parts))


def _facts(runs: Sequence[Run]) -> Iterator[str]:
    yield ", ".join(dict.fromkeys(str(run.info.get("model", {}).get("name")) for run in runs))
    yield from (
        f"{split} split" for split in dict.fromkeys(run.info.get("data", {}).get("split") for run in runs) if split
    )
    yield f"{len({record['sample_id'] for run in runs for record in run.records}):,} images"
    yield from dict.fromkeys(
        f"{run.info['settings']['attack']} ({run.info['settings'].get('norm', 'image and caption')})" for run in runs
    )


def _doubts(parts: Sequence[Stand]) -> Iterator[str]:
    """What the self-checks say against the numbers."""
    for stand in parts:
        if stand.suspicions:
            yield f"{stand.prompts}, {stand.attack}: {stand.verdict}. Do not trust these numbers."
        elif stand.suspicions is None:
            yield f"{stand.prompts}, {stand.attack}: no self-checks were made; nothing says whether the attack was strong."


def _verdicts(runs: Sequence[Run], parts: Sequence[Stand]) -> Iterator[str]:
    """One paragraph for each prompt set, of the strongest of its attacks."""
    for norm, prompts in list(dict.fromkeys((stand.norm, stand.prompts) for stand in parts))[:_VERDICTS]:
        own = [stand for stand in parts if (stand.norm, stand.prompts) == (norm, prompts)]
        last = own[-1].attack  # the worst case stands behind its members
        shown = [stand for stand in own if stand.attack == last]
        model, data = (runs[0].info.get(name, {}).get("name") for name in ("model", "data"))
        said = "; ".join(
            f"{_share(stand.robust, stand).text} ({_share(stand.robust, stand).range} %) at {stand.epsilon_text}"
            for stand in shown
        )
        yield (
            f"{model} with {prompts} prompts answers {_share(shown[0].clean, shown[0]).text} of {len(shown[0].records):,} "
            f"images of {data} rightly. Under {last}, {norm}, it still does for {said}."
        )


def _share(interval: Interval, stand: Stand) -> Share:
    return Share(interval, len(stand.records))


def _robust(norm: str, parts: Sequence[Stand]) -> Part:
    """Figure and tables of one norm."""
    words = "; ".join(
        f"{stand.prompts}, {stand.attack}, {stand.epsilon_text}: {100 * stand.robust.estimate:.0f} %" for stand in parts
    )
    figure = Drawing(
        svg=Markup(robust_figure(parts)),  # noqa: S704
        words=f"Accuracy against epsilon. {words}.",
        caption="Accuracy without attack at 0, under attack at each epsilon, with pointwise 95 % intervals. What holds under "
        "these attacks may fall to a stronger one: every line is an upper bound of robust accuracy.",
    )
    return Part(
        title=f"Accuracy under attack, {norm}",
        figures=(figure,),
        tables=(_table(parts, "Robust accuracy", "robust"),),
        folded=(_table(parts, "Success rate", "success"),),
    )


_CAPTIONS = {
    "robust": "Share of all images that are answered rightly without and under attack, with 95 % intervals. An image "
    "broken at one epsilon counts as broken at every larger one.",
    "success": "Of the images answered rightly without attack the share that the attack broke, with 95 % intervals.",
}


def _table(parts: Sequence[Stand], title: str, what: str) -> Table:
    """A row for each prompt set and attack, a column for each epsilon."""
    budgets = sorted({stand.epsilon for stand in parts})
    rows: dict[tuple[str, str], dict[float, Stand]] = {}
    for stand in parts:
        rows.setdefault((stand.prompts, stand.attack), {})[stand.epsilon] = stand
    return Table(
        title=title,
        caption=_CAPTIONS[what],
        columns=(
            "prompts",
            "attack",
            "clean",
            *(length_text(budget, parts[0].norm) for budget in budgets),
            "self-checks",
        ),
        rows=tuple(_row(*key, found, budgets, what) for key, found in rows.items()),
    )


def _row(
    prompts: str, attack: str, found: dict[float, Stand], budgets: Sequence[float], what: str
) -> tuple[Value, ...]:
    first = next(iter(found.values()))
    cells = [_counted(found[budget], what) if budget in found else MISSING for budget in budgets]
    clean = Share(first.clean, len(first.records), int(first.was_right.sum()))
    return (prompts, attack, clean, *cells, first.verdict)


def _counted(stand: Stand, what: str) -> Value:
    right, holds = int(stand.was_right.sum()), int(stand.holds.sum())
    if what == "robust":
        return Share(stand.robust, len(stand.records), holds)
    return Share(stand.success, right, right - holds) if right else MISSING


def _beside(parts: Sequence[Stand], attacks: Sequence[Run], certified: Sequence[Line]) -> Iterator[Part]:
    """Certified and empirical accuracy in one plot, where both are l2, of one model and of one prompt set."""
    models = {run.info.get("model", {}).get("fingerprint") for run in attacks}
    lines = [
        line
        for line in certified
        if run_certifies(line.cell.run)
        and line.cell.run.info.get("model", {}).get("fingerprint") in models
        and any((stand.norm, stand.prompts) == ("l2", line.cell.prompts) for stand in parts)
    ]
    if not lines:
        return
    own = [stand for stand in parts if stand.norm == "l2"]
    rows = tuple(row for line in lines for row in _gaps(line, own))
    yield Part(
        title="Certified and under attack, L2",
        text="Two classifiers: the certificate is of the smoothed one and bounds its accuracy from below, the attack is on the "
        "model without smoothing and bounds that model's from above. Smoothing may gain more than an attack takes, so "
        "a certified line above an attacked one is no contradiction; titer challenge attacks the smoothed classifier itself.",
        figures=(
            Drawing(
                svg=Markup(bounds_figure(lines, own)),  # noqa: S704
                words="Certified accuracy and accuracy under attack against L2 distance; the numbers are in the table.",
                caption="Lines: certified, smoothed. Marks: under attack, not smoothed, with pointwise 95 % intervals.",
            ),
        ),
        tables=(
            Table(
                title="Side by side",
                caption="Certified accuracy of the smoothed model, and accuracy of the model itself under attack.",
                columns=("prompts", "sigma", "attack", "epsilon", "certified", "under attack", "certified lies below"),
                rows=rows,
            ),
        ),
    )


def _gaps(line: Line, parts: Sequence[Stand]) -> Iterator[tuple[Value, ...]]:
    cell = line.cell
    for stand in parts:
        if stand.prompts != cell.prompts or stand.epsilon > largest_provable(cell):
            continue
        proven = certified_accuracy(cell.run, stand.epsilon, cell.prompts, cell.sigma)
        below = "yes" if proven.estimate <= stand.robust.estimate else "no"
        head = (line.name, cell.sigma_text, stand.attack, radius_text(stand.epsilon))
        yield (*head, Share(proven, len(cell.counted)), _share(stand.robust, stand), below)


def _checks(run: Run) -> Part:
    rows = tuple(
        (check["prompts"], check["check"], check["verdict"], check["detail"]) for check in run.info.get("checks", ())
    )
    failed = [row for row in rows if row[2] == "failed"]
    return Part(
        title=f"Self-checks of {run.path.name}",
        text=f"{len(failed)} of {len(rows)} failed. A check that passes proves nothing; "
        "one that fails says that the number is not to be trusted.",
        folded=(
            Table(
                "All checks",
                "On a few images of each prompt set.",
                ("prompts", "what should hold", "verdict", "figures"),
                rows,
            ),
        ),
    )


def _challenges(runs: Sequence[Run]) -> Part:
    """Breaks of certificates."""
    rows = [asdict(challenged.row_of(part)) for part in challenged.pooled(runs)]
    return Part(
        title="Certificates challenged",
        text="Each certificate is attacked at shares of the radius that it claims; the smoothed classifier answers on fresh "
        "draws. Inside the radius no more breaks are allowed than chance explains.",
        tables=(
            _plain_table(
                "Challenges",
                "Breaks inside the claimed radius, and at how many radii the first break came outside.",
                rows,
            ),
        ),
    )


def _retrieval(run: Run) -> Part:
    swaps = [asdict(row) for row in retrieval.swap_counts(run)]
    return Part(
        title=f"Retrieval under {run.info['settings']['attack']}",
        tables=(
            _plain_table(
                "Recall", "Before and after the attack, by three definitions of success.", retrieval.spoken_rows(run)
            ),
        ),
        folded=(_plain_table("Words swapped", "Captions and what the table says of each swap.", swaps),)
        if swaps
        else (),
    )


def _plain_table(title: str, caption: str, rows: Sequence[dict[str, Any]]) -> Table:
    columns = tuple(name.replace("_", " ") for name in rows[0]) if rows else ("",)
    return Table(title, caption, columns, tuple(tuple(_said(value) for value in row.values()) for row in rows))


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _strip(run: Run) -> Iterator[Attacked]:
    """Images that broke, at the smallest epsilon that broke them, and images that held at the largest one tried."""
    first = next(iter(run.info.get("prompts", {})), "")
    own = [
        record for record in run.records if record["prompts"] == first and _picture(run, record, "attacked").exists()
    ]
    broken = {r["sample_id"]: r for r in reversed(own) if r["prediction"] != r["label"] and "broken_at" not in r}
    held = {record["sample_id"]: record for record in own if record["sample_id"] not in broken}
    chosen = [*sorted(broken.values(), key=lambda r: (r["eps"], r["sample_id"])), *held.values()]
    for record in chosen[:_SHOWN]:
        yield _attacked(run, record)


def _picture(run: Run, record: Record, kind: str) -> Path:
    name = f"{record['sample_id']}|{record['prompts']}|{record['eps']:g}"
    return run.path / "images" / kind / thumbnail_name(name)


def _attacked(run: Run, record: Record) -> Attacked:
    names = class_names(run)
    text = length_text(record["eps"], record["norm"])
    by = record.get("broken_by")
    return Attacked(
        why=f"{'broken' if by else 'holds'} at {text}" + (f" by {by}" if by and by != record["attack"] else ""),
        clean=_read(run.path / "images" / thumbnail_name(record["sample_id"])),
        change=_read(_picture(run, record, "change")),
        attacked=_read(_picture(run, record, "attacked")),
        name=record["sample_id"],
        truth=names[record["label"]],
        before=names[record["clean_prediction"]],
        after=names[record["prediction"]],
    )


def _read(path: Path) -> str:
    with Image.open(path) as stored:
        return address(np.asarray(stored.convert("RGB"), np.float32) / 255)
