"""What the page says of runs of attack, challenge and retrieval on one data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from titer.errors import InputError
from titer.report.ladders import Image as ImageKey
from titer.report.ladders import Ladder, image_of, judged, ladders, prompt_names, strongest
from titer.report.parts import Drawing, Part, SectionHead
from titer.report.plots import bounds_figure, robust_figure
from titer.report.strip import address
from titer.report.tables import MISSING, Line, Share, Table, Value, class_names, radius_text, settings_table, title_of
from titer.report.words import alarms
from titer.results import challenged, retrieval
from titer.results.foreign import rounded_down
from titer.results.robustness import Stand, length_text
from titer.results.store import Record, Run, thumbnail_name
from titer.results.summary import largest_provable, run_certifies, share_at, spoken_rows
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
class Strip:
    """Attacked images of one prompt set of a run."""

    title: str
    images: tuple[Attacked, ...]


@dataclass(frozen=True, kw_only=True)
class Section(SectionHead):
    """Everything the page says of attacks on one data set."""

    parts: tuple[Part, ...]
    strips: tuple[Strip, ...]
    failures: tuple[tuple[str, str], ...]


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
    tried, tested = ladders(attacks), list(_tested(challenges))
    doubts = (*(text for run in runs for text in alarms(run)), *_broken(tested), *_doubts(tried))
    return Section(
        title=title_of(runs),
        facts=tuple(_facts(runs)),
        alarms=tuple(dict.fromkeys(doubts)),
        verdicts=tuple(_verdicts(tried)),
        parts=(
            *(_robust([one for one in tried if one.norm == norm], certified) for norm in _norms(tried)),
            *_beside(tried, certified),
            *(checks_part(run) for run in attacks if run.info.get("checks")),
            *([_challenges(tested)] if tested else []),
            *(_retrieval(run) for run in retrievals),
        ),
        strips=tuple(_strips(tried)),
        failures=tuple((line["sample_id"], line["error"]) for run in runs for line in run.failures),
        settings=tuple(settings_table(run) for run in runs),
    )


def _norms(tried: Sequence[Ladder]) -> list[str]:
    return list(dict.fromkeys(one.norm for one in tried))


def _facts(runs: Sequence[Run]) -> Iterator[str]:
    yield ", ".join(dict.fromkeys(str(run.info.get("model", {}).get("name")) for run in runs))
    yield from (
        f"{split} split" for split in dict.fromkeys(run.info.get("data", {}).get("split") for run in runs) if split
    )
    yield f"{len({record['sample_id'] for run in runs for record in run.records}):,} images"
    yield from dict.fromkeys(
        f"{run.info['settings']['attack']} ({run.info['settings'].get('norm', 'image and caption')})" for run in runs
    )


def _doubts(tried: Sequence[Ladder]) -> Iterator[str]:
    """What the self-checks say against the numbers."""
    for one in tried:
        first = one.stands[0]
        if first.suspicions:
            yield f"{one.prompts}, {one.attack}: {first.verdict}. Do not trust these numbers."
        elif first.suspicions is None:
            yield f"{one.prompts}, {one.attack}: no self-checks were made; nothing says whether the attack was strong."


def _tested(runs: Sequence[Run]) -> Iterator[challenged.Challenged]:
    """Challenges by prompt set, guarantee and sigma, of the same model and prompts together, under the names of the section."""
    for (prompts, who), name in prompt_names(runs).items():
        own = [run for run in runs if prompts in run.info.get("prompts", {}) and judged(run, prompts) == who]
        yield from (replace(part, prompts=name) for part in challenged.pooled(own) if part.prompts == prompts)


def _broken(tested: Sequence[challenged.Challenged]) -> Iterator[str]:
    """Certificates that an attack on the smoothed classifier contradicts: here a break is one."""
    for part in tested:
        if not part.holds:
            yield (
                f"{part.prompts}, sigma {part.sigma:g}, {part.guarantee}: {part.breaks} of {len(part.inside)} attacks inside the "
                f"certified radius changed the smoothed classifier's answer (chance explains {part.allowed}), on "
                f"{part.broken_certificates} of {part.certificates} certificates (chance explains "
                f"{part.allowed_certificates}). Do not trust these certificates."
            )


def _verdicts(tried: Sequence[Ladder]) -> Iterator[str]:
    """One paragraph for each prompt set, of the strongest of its attacks."""
    found: dict[tuple[str, str], list[Ladder]] = {}
    for one in tried:
        found.setdefault((one.norm, one.prompts), []).append(one)
    for one in [strongest(own) for own in found.values()][:_VERDICTS]:
        model, data = (one.runs[0].info.get(name, {}).get("name") for name in ("model", "data"))
        first = one.stands[0]
        said = "; ".join(
            f"{_share(stand.robust, stand).text} ({_share(stand.robust, stand).range} %) at {stand.epsilon_text}"
            for stand in one.stands
        )
        yield (
            f"{model} with {one.prompts} prompts answers {_share(first.clean, first).text} of {len(first.records):,} "
            f"images of {data} rightly. Under {one.attack}, {one.norm}, it still does for {said}."
        )


def _share(interval: Interval, stand: Stand) -> Share:
    return Share(interval, len(stand.records))


def _robust(tried: Sequence[Ladder], certified: Sequence[Line]) -> Part:
    """Figure and tables of one norm."""
    words = "; ".join(
        f"{one.prompts}, {one.attack}, {stand.epsilon_text}: {100 * stand.robust.estimate:.0f} %"
        for one in tried
        for stand in one.stands
    )
    figure = Drawing(
        svg=Markup(robust_figure(tried)),  # noqa: S704
        words=f"Accuracy against epsilon. {words}.",
        caption="Accuracy without attack at 0, under attack at each epsilon, with pointwise 95 % intervals. What holds under "
        "these attacks may fall to a stronger one: every line is an upper bound of robust accuracy.",
    )
    return Part(
        title=f"Accuracy under attack, {tried[0].norm}",
        text=_implied(tried, certified),
        figures=(figure,),
        tables=(_table(tried, "Robust accuracy", "robust"),),
        folded=(_table(tried, "Success rate", "success"),),
    )


def _implied(tried: Sequence[Ladder], certified: Sequence[Line]) -> str:
    """What L2 certificates of what was attacked imply in linf; empty where there are none, or none of coloured noise."""
    reach: dict[int, dict[str, float]] = {}
    for line in certified:
        cell = line.cell
        of_these = run_certifies(cell.run) and any(one.norm == "linf" and one.is_of(cell) for one in tried)
        if of_these and cell.records[0].get("channels", 3) == 3:
            own = reach.setdefault(cell.run.info["model"]["size"], {})
            own[cell.sigma_text] = max(own.get(cell.sigma_text, 0.0), largest_provable(cell))
    return " ".join(_implied_at(size, own) for size, own in reach.items())


def _implied_at(size: int, reach: Mapping[str, float]) -> str:
    shrunk = math.sqrt(3 * size * size)
    most = ", ".join(f"{rounded_down(255 * radius / shrunk, 2)}/255 at sigma {at}" for at, radius in reach.items())
    return (
        f"Of linf an L2 certificate of radius r implies no more than r / √(3 × {size} × {size}) = r / {shrunk:.1f}, of the "
        f"smoothed classifier: with the draws made at most {most}."
    )


_CAPTIONS = {
    "robust": "Share of all images that are answered rightly without and under attack, with 95 % intervals. An image "
    "broken at one epsilon counts as broken at every larger one.",
    "success": "Of the images answered rightly without attack the share that the attack broke, with 95 % intervals.",
}


def _table(tried: Sequence[Ladder], title: str, what: str) -> Table:
    """A row for each prompt set and attack, a column for each epsilon."""
    budgets = sorted({stand.epsilon for one in tried for stand in one.stands})
    return Table(
        title=title,
        caption=_CAPTIONS[what],
        columns=(
            "prompts",
            "attack",
            "clean",
            *(length_text(budget, tried[0].norm) for budget in budgets),
            "self-checks",
        ),
        rows=tuple(_row(one, budgets, what) for one in tried),
    )


def _row(ladder: Ladder, budgets: Sequence[float], what: str) -> tuple[Value, ...]:
    first, found = ladder.stands[0], {stand.epsilon: stand for stand in ladder.stands}
    cells = [_counted(found[budget], what) if budget in found else MISSING for budget in budgets]
    clean = Share(first.clean, len(first.records), int(first.was_right.sum()))
    return (ladder.prompts, ladder.attack, clean, *cells, first.verdict)


def _counted(stand: Stand, what: str) -> Value:
    right, holds = int(stand.was_right.sum()), int(stand.holds.sum())
    if what == "robust":
        return Share(stand.robust, len(stand.records), holds)
    return Share(stand.success, right, right - holds) if right else MISSING


def _beside(tried: Sequence[Ladder], certified: Sequence[Line]) -> Iterator[Part]:
    """Certified and empirical accuracy in one plot, where both are l2, of the same model and prompts, on the same images."""
    pairs = [
        pair
        for line in certified
        for one in tried
        if one.norm == "l2" and run_certifies(line.cell.run) and one.is_of(line.cell)
        for pair in _on_the_same(line, one)
    ]
    if not pairs:
        return
    rows = tuple(row for pair in pairs for row in _gaps(*pair))
    images = _images(pairs)
    yield Part(
        title="Certified and under attack, L2",
        text=f"{_crossings(rows)} The two are of different classifiers: the certificate is of the smoothed one and bounds its "
        "accuracy from below, the answers under attack are the model's own without smoothing, whose accuracy they bound "
        "from above. Smoothing may gain more than an attack takes, so a certified line above an attacked one is no "
        "contradiction; titer challenge attacks the smoothed classifier itself.",
        figures=(
            Drawing(
                svg=Markup(bounds_figure(list(_drawn(pairs)))),  # noqa: S704
                words="Certified accuracy and accuracy under attack against L2 distance; the numbers are in the table.",
                caption="Lines: certified, smoothed. Open marks: under attack, the worst case where there are several attacks, "
                f"not smoothed. Both on the {images} images that both have, with pointwise 95 % intervals.",
            ),
        ),
        tables=(
            Table(
                title="Side by side",
                caption=f"Certified accuracy of the smoothed model, and accuracy of the model itself under attack, on the "
                f"{images} images that both have, as far as the draws can prove.",
                columns=("prompts", "sigma", "attack", "epsilon", "images", "certified", "under attack", _BELOW),
                rows=rows,
            ),
        )
        if rows
        else (),
    )


def _on_the_same(line: Line, ladder: Ladder) -> Iterator[tuple[Line, Ladder]]:
    """Both on the images that both have; nothing where there are none."""
    both = ladder.images & frozenset(map(image_of, line.cell.counted))
    if both:
        yield _on(line, both), ladder.on(both)


def _images(pairs: Sequence[tuple[Line, Ladder]]) -> str:
    counts = sorted({len(line.cell.counted) for line, _ in pairs})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"


def _drawn(pairs: Sequence[tuple[Line, Ladder]]) -> Iterator[tuple[Line, Ladder]]:
    """Each line of certificates once, beside the strongest of the attacks."""
    found: dict[tuple[str, str], list[tuple[Line, Ladder]]] = {}
    for line, one in pairs:
        found.setdefault((line.name, line.cell.sigma_text), []).append((line, one))
    for own in found.values():
        most = strongest([one for _, one in own])
        yield next(pair for pair in own if pair[1] is most)


_BELOW = "certified lies below"


def _on(line: Line, images: frozenset[ImageKey]) -> Line:
    kept = tuple(record for record in line.cell.records if image_of(record) in images)
    return replace(line, cell=replace(line.cell, records=kept))


def _gaps(line: Line, ladder: Ladder) -> Iterator[tuple[Value, ...]]:
    cell = line.cell
    for stand in ladder.stands:
        if stand.epsilon > largest_provable(cell):
            continue
        proven = share_at(cell, stand.epsilon)
        below = "yes" if proven.estimate <= stand.robust.estimate else "no"
        head = (line.name, cell.sigma_text, ladder.attack, radius_text(stand.epsilon), f"{len(cell.counted):,}")
        yield (*head, Share(proven, len(cell.counted)), _share(stand.robust, stand), below)


def _crossings(rows: Sequence[tuple[Value, ...]]) -> str:
    """Whether certified accuracy lies below that under attack, over all rows of the table."""
    above = sum(row[-1] == "no" for row in rows)
    if not rows:
        return "No epsilon attacked is within what the draws can prove."
    if not above:
        return "At every epsilon attacked, certified accuracy is not above accuracy under attack."
    return f"In {above} of {len(rows)} rows of the table, certified accuracy lies above accuracy under attack."


_OF_IMAGES = "more steps, more restarts and a larger epsilon break no fewer images, noise and random search no more. "


def checks_part(run: Run, what: str = _OF_IMAGES) -> Part:
    """The self-checks of a run of an attack.

    Args:
        run: that has some.
        what: must come out so, in words.
    """
    rows = tuple(
        (check["prompts"], check["check"], check["verdict"], check["detail"]) for check in run.info.get("checks", ())
    )
    failed = [row for row in rows if row[2] == "failed"]
    made = [row for row in rows if row[2] != "skipped"]
    return Part(
        title=f"Self-checks of {run.path.name}",
        text="After the attack, on a few of them, things were tried that must come out one way if the attack was as strong as it "
        f"seems: {what}{len(failed)} of {len(made)} came out the other way. A check that passes proves nothing; one that fails "
        "says that the numbers of its prompt set are not to be trusted: gradients may be hidden, or the attack too weak.",
        folded=(
            Table(
                "All checks",
                "On a few of each prompt set.",
                ("prompts", "what should hold", "verdict", "figures"),
                rows,
            ),
        ),
    )


def _challenges(tested: Sequence[challenged.Challenged]) -> Part:
    """Breaks of certificates."""
    rows = [asdict(challenged.row_of(part)) for part in tested]
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
                "Recall",
                "Before and after the attack, by three definitions of success.",
                spoken_rows(retrieval.recalls(run)),
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


def _strips(tried: Sequence[Ladder]) -> Iterator[Strip]:
    """One for each prompt set of each run, where pictures were kept."""
    for one in tried:
        if len(one.runs) == 1:
            shown = tuple(_shown(one.runs[0], one.stands[0].prompts))
            yield from [Strip(f"{one.prompts}, {one.attack}, {one.norm}", shown)] if shown else []


def _shown(run: Run, prompts: str) -> Iterator[Attacked]:
    """Images that broke, at the smallest epsilon that broke them, then images that held, at the largest one tried."""
    kept = [
        record for record in run.records if record["prompts"] == prompts and _picture(run, record, "attacked").exists()
    ]
    # the store orders by text, where 10 comes before 2
    own = sorted(kept, key=lambda record: (record["eps"], record["sample_id"]))
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
