"""What the page says of runs on questions: answers without a look, without attack and under each attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from titer.errors import InputError
from titer.report.attacked import checks_part
from titer.report.ladders import judged as judged_in
from titer.report.ladders import prompt_names, run_name
from titer.report.parts import Drawing, Part, SectionHead
from titer.report.plots import answers_figure
from titer.report.strip import address
from titer.report.tables import MISSING, Share, Table, Value, class_names, settings_table
from titer.report.words import alarms
from titer.results import answered
from titer.results.answered import KINDS, AnswerRow, Ladder
from titer.results.robustness import length_text
from titer.results.store import Record, Run, thumbnail_name
from titer.statistics.intervals import Interval

VERBS = (answered.VERB,)
"""Verbs whose runs this module reports."""

NO_LOOK, CLEAN = "no look", "no attack"
_SHOWN = 6  # questions of the strip
_WORDINGS = 20
_VERDICTS = 4
_MOVED = "more steps, more restarts and a larger epsilon of the picture break no fewer questions, noise no more"
_SWAPPED = "of all swaps of one word none breaks a question that the attack left"
_CHECKED = {"image": f"{_MOVED}. ", "text": f"{_SWAPPED}. ", "both": f"{_MOVED}; {_SWAPPED}. "}
_HALVES = {"image": "image", "text": "words", "both": "image and words"}


@dataclass(frozen=True)
class Asked:
    """A question before and after.

    Args:
        why: at which budget, by what.
        picture: as the model sees it, PNG as a data address.
        attacked: the attacked picture; empty where it was left as it is.
        name: sample id.
        question: as it was asked.
        swapped: as it was asked after the attack; empty where no word was swapped.
        truth: the right answer.
        before: the answer before.
        after: the answer after.
    """

    why: str
    picture: str
    attacked: str
    name: str
    question: str
    swapped: str
    truth: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Section(SectionHead):
    """Everything the page says of questions on one data set."""

    parts: tuple[Part, ...]
    asked: tuple[Asked, ...]
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Tried:
    """A prompt set under one attack.

    Args:
        name: of the prompt set in the section.
        attack: name of the attack, and what of a question it changes.
        short: what it changes, where no other attack of the section changes the same.
        run: where it is from.
        ladders: one for each budget, upward.
    """

    name: str
    attack: str
    short: str
    run: Run
    ladders: tuple[Ladder, ...]

    @property
    def moves_images(self) -> bool:
        """Whether a budget means something."""
        return _halves(self.run) != "text"

    @property
    def questions(self) -> frozenset[str]:
        """Those that were asked at every budget."""
        return frozenset.intersection(*(_ids(part) for part in self.ladders))

    def said(self, part: Ladder, *, short: bool = False) -> str:
        """The attack with its budget."""
        name = self.short if short else self.attack
        return f"{name} {self.budget(part)}" if self.moves_images else name

    def budget(self, part: Ladder) -> str:
        """Of the image."""
        return length_text(part.eps, str(self.run.info["settings"]["norm"])) if self.moves_images else MISSING


def section(runs: Sequence[Run]) -> Section:
    """Everything the page says of runs on questions about one data set.

    Args:
        runs: at least one.

    Raises:
        InputError: for a run without finished samples.
    """
    for run in runs:
        if not run.records:
            raise InputError(f"{run.path} has no finished samples to report")
    tried = list(_tried(runs))
    sets = _on_the_same(tried)
    return Section(
        title=str(runs[0].info["data"]["name"]),
        facts=tuple(_facts(runs)),
        alarms=tuple(dict.fromkeys([*(text for run in runs for text in alarms(run)), *_doubts(runs), *_blind(sets)])),
        verdicts=tuple(_verdicts(sets)),
        parts=(
            *(part for place, own in enumerate(sets) for part in _parts(own, place, len(sets) > 1)),
            *_words(tried),
            *(checks_part(run, _CHECKED[_halves(run)]) for run in runs if run.info.get("checks")),
        ),
        asked=tuple(_strip(tried)),
        failures=tuple((line["sample_id"], line["error"]) for run in runs for line in run.failures),
        settings=tuple(settings_table(run) for run in runs),
    )


def _tried(runs: Sequence[Run]) -> Iterator[Tried]:
    names, called, changed = prompt_names(runs), [_called(run) for run in runs], [_halves(run) for run in runs]
    for run, attack, halves in zip(runs, called, changed, strict=True):
        found: dict[str, list[Ladder]] = {}
        for part in answered.ladder(run):
            found.setdefault(part.prompts, []).append(part)
        own = f"{attack} ({run_name(run, runs)})" if called.count(attack) > 1 else attack
        short = _HALVES[halves] if changed.count(halves) == 1 else own
        for prompts, parts in found.items():
            yield Tried(names[prompts, judged_in(run, prompts)], own, short, run, tuple(parts))


def _halves(run: Run) -> str:
    """What of a question a run's attack changes: ``image``, ``text`` or ``both``."""
    settings = run.info["settings"]
    return str(settings.get("halves", "both")) if settings.get("words") else "image"


def _called(run: Run) -> str:
    return f"{run.info['settings']['attack']}, {_HALVES[_halves(run)]}"


def _ids(part: Ladder) -> frozenset[str]:
    return frozenset(record["sample_id"] for record in part.records)


def _on_the_same(tried: Sequence[Tried]) -> list[list[Tried]]:
    """Those that asked the same questions, together: the others have other numbers without attack."""
    found: dict[frozenset[str], list[Tried]] = {}
    for one in tried:
        found.setdefault(one.questions, []).append(one)
    return list(found.values())


def _facts(runs: Sequence[Run]) -> Iterator[str]:
    yield ", ".join(dict.fromkeys(str(run.info["model"]["name"]) for run in runs))
    yield from (f"{split} split" for split in dict.fromkeys(run.info["data"].get("split") for run in runs) if split)
    records = [record for run in runs for record in run.records]
    yield f"{len({record['sample_id'] for record in records}):,} questions"
    yield f"{len({record['path'] for record in records}):,} pictures"
    yield f"{len(runs[0].info['classes']):,} answers to choose from"


def _doubts(runs: Sequence[Run]) -> Iterator[str]:
    """What the self-checks say against the numbers."""
    for run in runs:
        checks = run.info.get("checks", ())
        if not checks:
            yield f"{_called(run)}: no self-checks were made; nothing says whether the attack was strong."
        failed: dict[str, list[str]] = {}
        for check in checks:
            if check["verdict"] == "failed":
                failed.setdefault(check["prompts"], []).append(check["check"])
        for prompts, texts in failed.items():
            yield f"{prompts}, {_called(run)}: it does not hold that {'; '.join(texts)}. Do not trust these numbers."


def _sets(tried: Sequence[Tried]) -> dict[str, list[Tried]]:
    """By prompt set."""
    found: dict[str, list[Tried]] = {}
    for one in tried:
        found.setdefault(one.name, []).append(one)
    return found


def _blind(sets: Sequence[Sequence[Tried]]) -> Iterator[str]:
    """Prompt sets of which it is not shown that they look at the picture."""
    for tried in sets:
        for name, own in _sets(tried).items():
            part = own[0].ladders[0]
            more = answered.over_prior(part)
            if more.low <= 0:
                yield (
                    f"{name} is not shown to be above the commonest answer to each question, which looks at no picture: "
                    f"{100 * more.difference:+.0f} points ({100 * more.low:+.0f} to {100 * more.high:+.0f}). "
                    f"{answered.as_prior(part)} of its {len(part.records)} answers are that one. Robustness of an answer that "
                    "does not depend on the picture is no strength."
                )


def _verdicts(sets: Sequence[Sequence[Tried]]) -> Iterator[str]:
    """One paragraph for each prompt set."""
    whole = [(name, own) for tried in sets for name, own in _sets(tried).items()]
    for name, own in whole[:_VERDICTS]:
        row = _all(own[0].ladders[0])
        said = "; ".join(
            f"{_share(_all(part).attacked, row).text} ({_share(_all(part).attacked, row).range} %) under {one.said(part)}"
            for one in own
            for part in one.ladders
        )
        yield (
            f"{name} answers {_share(row.clean, row).text} ({_share(row.clean, row).range} %) of {row.questions:,} questions "
            f"rightly, the commonest answer to each {_share(row.prior, row).text}. It still does for {said}."
        )


def _all(part: Ladder) -> AnswerRow:
    return answered.by_kind(part)[-1]


def _share(interval: Interval, row: AnswerRow) -> Share:
    return Share(interval, row.questions)


def _parts(tried: Sequence[Tried], place: int, several: bool) -> Iterator[Part]:
    """Figure and tables of those that asked the same questions."""
    count, sets, detail = len(tried[0].questions), _sets(tried), _accuracy(tried)
    several_sets = len(sets) > 1
    yield Part(
        title="Accuracy" + (f" on {count:,} questions" if several else ""),
        text="Closed questions are answered by yes or no, or are called so by the table. No look: the commonest training answer "
        "to the same question. A question that a smaller epsilon breaks counts as broken at a larger one.",
        figures=(_drawing(tried, place),),
        tables=(_compared(tried) if several_sets else detail,),
        folded=(
            *([detail] if several_sets else []),
            _broken(tried),
            *(_wordings(name, own) for name, own in sets.items()),
        ),
    )


def _drawing(tried: Sequence[Tried], place: int) -> Drawing:
    panels: dict[str, dict[str, list[tuple[str, Interval]]]] = {}
    for name, own in _sets(tried).items():
        for row in answered.by_kind(own[0].ladders[0]):
            panels.setdefault(row.kind, {})[name] = [(NO_LOOK, row.prior), (CLEAN, row.clean)]
        for one in own:
            for part in one.ladders:
                for row in answered.by_kind(part):
                    panels[row.kind][name].append((one.said(part, short=True), row.attacked))
    words = "; ".join(
        f"{name}: " + ", ".join(f"{100 * value.estimate:.0f} % {what}" for what, value in points)
        for name, points in panels["all"].items()
    )
    return Drawing(
        svg=Markup(answers_figure(panels, str(place))),  # noqa: S704
        words=f"Accuracy on all questions. {words}.",
        caption="Accuracy with pointwise 95 % intervals over pictures. Every mark under attack is an upper bound: a stronger "
        "attack may break more.",
    )


def _compared(tried: Sequence[Tried]) -> Table:
    """A row for each prompt set, of all questions."""
    sets = _sets(tried)
    under = list(dict.fromkeys(one.said(part, short=True) for one in tried for part in one.ladders))
    several = any(len(own) > 1 for own in sets.values())
    rows: list[tuple[Value, ...]] = []
    for name, own in sets.items():
        first = _all(own[0].ladders[0])
        found = {one.said(part, short=True): _cell(_all(part), "attacked") for one in own for part in one.ladders}
        shares = [found.get(said, MISSING) for said in under]
        worst = [_cell(_all(_worst(own)), "attacked")] if several else []
        rows.append((name, _cell(first, "prior"), _cell(first, "clean"), *shares, *worst))
    return Table(
        title="All questions answered rightly",
        caption="Share of questions, with 95 % intervals over pictures (or the table's groups). No look: the commonest training "
        "answer. Any: right under every attack that was tried.",
        columns=("answered by", NO_LOOK, CLEAN, *under, *(["any"] if several else [])),
        rows=tuple(rows),
    )


def _accuracy(tried: Sequence[Tried]) -> Table:
    rows: list[tuple[Value, ...]] = []
    priors: list[tuple[Value, ...]] = []
    for name, own in _sets(tried).items():
        first = own[0].ladders[0]
        blind = ("commonest answer", NO_LOOK, MISSING, *_cells(first, "prior"))
        if blind not in priors:
            priors.append(blind)
        rows.append((name, CLEAN, MISSING, *_cells(first, "clean")))
        rows += [(name, one.attack, one.budget(part), *_cells(part, "attacked")) for one in own for part in one.ladders]
        if len(own) > 1:
            rows.append((name, "any of these", MISSING, *_cells(_worst(own), "attacked")))
    return Table(
        title="Answered rightly",
        caption="Share of questions, with 95 % intervals over pictures (or the table's groups): questions about one picture are "
        "not independent. A question whose answer the fit never had counts as answered wrongly.",
        columns=("answered by", "under", "epsilon", *KINDS),
        rows=(*priors, *rows),
    )


def _worst(own: Sequence[Tried]) -> Ladder:
    return answered.worst([part for one in own for part in one.ladders])


def _cells(part: Ladder, what: str) -> list[Value]:
    """A share for each kind; of the broken ones, of those that were right before."""
    found = {row.kind: row for row in answered.by_kind(part)}
    return [_cell(found.get(kind), what) for kind in KINDS]


def _cell(row: AnswerRow | None, what: str) -> Value:
    if row is None:
        return MISSING
    interval: Interval = getattr(row, what)
    among = round(row.clean.estimate * row.questions) if what == "of_right" else row.questions
    return Share(interval, among, round(interval.estimate * among)) if among else MISSING


def _broken(tried: Sequence[Tried]) -> Table:
    return Table(
        title="Success of the attacks",
        caption="Of the questions answered rightly before, the share answered wrongly after, with 95 % intervals.",
        columns=("answered by", "under", "epsilon", *KINDS),
        rows=tuple(
            (one.name, one.attack, one.budget(part), *_cells(part, "of_right")) for one in tried for part in one.ladders
        ),
    )


def _wordings(name: str, own: Sequence[Tried]) -> Table:
    """One prompt set by the wording of the question."""
    asked = answered.by_question(own[0].ladders[0])[:_WORDINGS]
    parts = [
        (one.said(part, short=True), {row.kind: row for row in answered.by_question(part)})
        for one in own
        for part in one.ladders
    ]
    return Table(
        title=f"By question: {name}",
        caption=f"The {len(asked)} most asked questions. Where the clean answer is right exactly as often as without a look, the "
        "picture may have no part in it.",
        columns=("question", "asked", NO_LOOK, CLEAN, *(said for said, _ in parts)),
        rows=tuple(
            (row.kind, str(row.questions), _cell(row, "prior"), _cell(row, "clean"),
             *(_cell(found.get(row.kind), "attacked") for _, found in parts))
            for row in asked
        ),
    )  # fmt: skip


def _words(tried: Sequence[Tried]) -> Iterator[Part]:
    """Which words were swapped."""
    runs = list({id(one.run): one.run for one in tried}.values())
    rows = tuple(
        (row.prompts, _called(run), f"{row.word} → {row.replacement}", str(row.questions), str(row.broken))
        for run in runs
        for row in answered.swapped_words(run)
    )
    if rows:
        yield Part(
            title="Words swapped",
            text="Words are swapped for others of the same meaning, by a table, guided by the loss of the right answer: nobody "
            "who asks would expect another one.",
            folded=(
                Table(
                    "All swaps",
                    "At the largest epsilon, the most harmful first.",
                    ("answered by", "under", "swap", "questions", "answered wrongly after"),
                    rows,
                ),
            ),
        )


def _strip(tried: Sequence[Tried]) -> Iterator[Asked]:
    """A few questions of each attack on the first prompt set of which pictures were kept."""
    shown = [one for one in tried if any(_kept(one.run, record) for record in one.run.records)]
    first = [one for one in shown if one.name == shown[0].name]
    for one in first:
        yield from _examples(one, max(1, _SHOWN // len(first)))


def _examples(one: Tried, most: int) -> Iterator[Asked]:
    """Questions that broke, at the smallest epsilon that broke them, then some that held at the largest."""
    right = [
        record
        for part in one.ladders
        for record in part.records
        if record["clean_prediction"] == record["label"] and _kept(one.run, record)
    ]
    own = sorted(right, key=lambda record: (record["eps"], record["sample_id"]))
    broken = {record["sample_id"]: record for record in reversed(own) if record["prediction"] != record["label"]}
    held = {record["sample_id"]: record for record in own if record["sample_id"] not in broken}
    ordered = sorted(broken.values(), key=lambda record: (record["eps"], record["sample_id"]))
    for record in [*ordered, *held.values()][:most]:
        yield _example(one, record)


def _example(one: Tried, record: Record) -> Asked:
    names = class_names(one.run)
    changed = str(record.get("attacked", record["question"]))
    broken = record["prediction"] != record["label"]
    at = f" at {length_text(record['eps'], record['norm'])}" if one.moves_images else ""
    return Asked(
        why=f"{'broken' if broken else 'holds'}{at} by {one.attack}",
        picture=_read(one.run.path / "images" / thumbnail_name(record["sample_id"])),
        attacked=_read(_attacked(one.run, record)) if one.moves_images else "",
        name=record["sample_id"],
        question=record["question"],
        swapped=changed if changed != record["question"] else "",
        truth=names[record["label"]],
        before=names[record["clean_prediction"]],
        after=names[record["prediction"]],
    )


def _attacked(run: Run, record: Record) -> Path:
    name = f"{record['sample_id']}|{record['prompts']}|{record['eps']:g}"
    return run.path / "images" / "attacked" / thumbnail_name(name)


def _kept(run: Run, record: Record) -> bool:
    return _attacked(run, record).exists()


def _read(path: Path) -> str:
    with Image.open(path) as stored:
        return address(np.asarray(stored.convert("RGB"), np.float32) / 255)
