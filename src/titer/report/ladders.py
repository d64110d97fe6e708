"""What a page shows as one line: a prompt set under an attack, or under the worst of several, budgets upward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from titer.results.robustness import Stand, stands, worst
from titer.results.store import Record, Run
from titer.results.summary import Cell

Image = tuple[str, str | None]
"""What tells images apart: id, and hash of the file."""


@dataclass(frozen=True)
class Judged:
    """What was attacked or certified; a name alone does not say it.

    Args:
        model: fingerprint of the encoder.
        prompts: fingerprint of the prompt set.
        classes: labels in the order of the answers.
    """

    model: str | None
    prompts: str | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Ladder:
    """One prompt set under one attack, or under the worst of several, with the names it goes by in a section.

    Args:
        prompts: name of the prompt set, with its model or run where other ones are called the same.
        attack: name of the attack, with its run where one attack was run more than once; of several, joined by ``+``.
        runs: those it is from; several for a worst case.
        stands: one for each budget, upward; at least one.
    """

    prompts: str
    attack: str
    runs: tuple[Run, ...]
    stands: tuple[Stand, ...]

    @property
    def norm(self) -> str:
        """Of the perturbations."""
        return self.stands[0].norm

    @property
    def judged(self) -> Judged:
        """What was attacked."""
        return judged(self.runs[0], self.stands[0].prompts)

    @property
    def images(self) -> frozenset[Image]:
        """Those that were attacked at every budget."""
        return frozenset.intersection(*(frozenset(map(image_of, stand.records)) for stand in self.stands))

    def is_of(self, cell: Cell) -> bool:
        """Whether certificates are of the very model, prompts and classes that were attacked."""
        return self.judged == judged(cell.run, cell.prompts)

    def on(self, images: frozenset[Image]) -> Ladder:
        """The same on these images alone."""
        kept = (
            replace(stand, records=tuple(record for record in stand.records if image_of(record) in images))
            for stand in self.stands
        )
        return replace(self, stands=tuple(kept))


def image_of(record: Record) -> Image:
    """Which image a record is about."""
    return record["sample_id"], record.get("sha256")


def judged(run: Run, prompts: str) -> Judged:
    """What a run says of one of its prompt sets."""
    return Judged(
        model=run.info.get("model", {}).get("fingerprint"),
        prompts=run.info.get("prompts", {}).get(prompts),
        classes=tuple(item["label"] for item in run.info.get("classes", [])),
    )


def prompt_names(runs: Sequence[Run]) -> dict[tuple[str, Judged], str]:
    """A name in a section for each prompt set of its runs: no two that differ are called the same.

    Returns:
        By own name and what is judged: the own name, with the model's where there are several models, and with the
        first run that has it where that is not enough.
    """
    first: dict[tuple[str, Judged], Run] = {}
    for run in runs:
        for prompts in run.info.get("prompts", {}):
            first.setdefault((prompts, judged(run, prompts)), run)
    several = len({who.model for _, who in first}) > 1
    names = {key: key[0] + (f" · {run.info['model']['name']}" if several else "") for key, run in first.items()}
    shared = list(names.values())
    return {
        key: f"{name} ({run_name(first[key], runs)})" if shared.count(name) > 1 else name for key, name in names.items()
    }


def run_name(run: Run, runs: Sequence[Run]) -> str:
    """The name of a run's directory; the whole path where another run's is called the same."""
    alike = [other for other in runs if other.path.name == run.path.name]
    return run.path.name if len(alike) == 1 else str(run.path)


def ladders(runs: Sequence[Run]) -> list[Ladder]:
    """Those of every run of attack, and of runs on one model, one norm and the same prompt sets their worst case."""
    names = prompt_names(runs)
    single = [
        Ladder(names[part[0].prompts, judged(run, part[0].prompts)], part[0].attack, (run,), part)
        for run in runs
        for part in _by_prompts(stands(run))
    ]
    keys = [(one.prompts, one.attack, one.norm) for one in single]
    named = [
        replace(one, attack=f"{one.attack} ({run_name(one.runs[0], runs)})") if keys.count(key) > 1 else one
        for one, key in zip(single, keys, strict=True)
    ]
    return [*named, *(found for several in _alike(runs) for found in _worst(several, named))]


def strongest(tried: Sequence[Ladder]) -> Ladder:
    """Of several ladders of one prompt set the worst case over most runs; without one, what left the fewest images right."""
    return max(tried, key=lambda one: (len(one.runs), -one.stands[-1].robust.estimate))


def _by_prompts(parts: Sequence[Stand]) -> Iterator[tuple[Stand, ...]]:
    for prompts in dict.fromkeys(stand.prompts for stand in parts):
        yield tuple(stand for stand in parts if stand.prompts == prompts)


def _worst(runs: Sequence[Run], single: Sequence[Ladder]) -> Iterator[Ladder]:
    # runs on other images or at other budgets have no worst case
    for part in _by_prompts([stand for stand in worst(runs) if stand.records]):
        members = [
            one for run in runs for one in single if one.runs[0] is run and one.stands[0].prompts == part[0].prompts
        ]
        attack = "+".join(dict.fromkeys(one.attack for one in members))
        yield Ladder(members[0].prompts, attack, tuple(runs), part)


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Several runs that have a worst case: of one model, the same prompt sets and classes, one norm."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        identity = run.info.get("identity", {})
        who = [identity.get(name) for name in ("model", "prompts", "classes")]
        found.setdefault(repr([*who, run.info["settings"]["norm"]]), []).append(run)
    return [several for several in found.values() if len(several) > 1]
