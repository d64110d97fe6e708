"""Accuracies that APT's evaluator writes (``evaluation.yaml``, ``dist_shift.yaml``), beside those of a run, and back.

Such a file holds ``{prompt: {clean: x, pgd: y}}`` in percent, below the data set's name where that is another than the one of
the training. It names no epsilon, no images and no model, so nothing of it is paired with ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from titer.errors import InputError
from titer.results.robustness import Stand, stands
from titer.results.store import Run
from titer.results.summary import spoken

SUFFIXES = (".yaml", ".yml")
CLEAN = "clean"
ATTACKS = {"autoattack": "aa"}
"""Our name of an attack -> theirs, where they differ."""

_EXPECTED = "expected APT's {prompt: {clean: percent, pgd: percent}}, or that below the name of a data set"


@dataclass(frozen=True)
class Published:
    """One accuracy of someone else's file.

    Args:
        data: the data set, where the file names one.
        prompts: ``prompter`` for learned ones, a template, or ``linear_probe``.
        attack: ``clean``, ``pgd``, ``tpgd``, ``cw`` or ``aa``.
        accuracy: in [0, 1].
    """

    data: str
    prompts: str
    attack: str
    accuracy: float


@dataclass(frozen=True)
class Beside:
    """A line of the table that ``compare`` prints of a run and such a file.

    Args:
        ours: prompt set of the run.
        theirs: prompts of the file, with their data set where it says one.
        at: which accuracy; with our epsilon, as theirs is not in the file.
        share: ours, with its 95 % interval.
        published: theirs.
        within: whether theirs lies in our interval.
    """

    ours: str
    theirs: str
    at: str
    share: str
    published: str
    within: str


def read_published(path: Path) -> list[Published]:
    """The accuracies of a file, in its order.

    Raises:
        InputError: for a file that cannot be read, or of another layout.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from error
    found = list(_entries(path, content, ()))
    if not found:
        raise InputError(f"{path}: {_EXPECTED}; it holds no accuracy")
    return found


def _entries(path: Path, content: Any, names: tuple[str, ...]) -> Iterator[Published]:
    place = " ".join(map(repr, names)) or "the file"
    if isinstance(content, Mapping) and len(names) < 3:
        for key, value in content.items():
            yield from _entries(path, value, (*names, str(key)))
        return
    numeric = isinstance(content, int | float) and not isinstance(content, bool)
    if len(names) < 2 or not numeric or not 0 <= content <= 100:
        raise InputError(f"{path}: {_EXPECTED}; at {place} it has {str(content)[:40]!r}")
    *data, prompts, attack = names
    yield Published("".join(data), prompts, attack, content / 100)


def beside(run: Run, published: list[Published]) -> list[Beside]:
    """Each accuracy of a file next to every one of the run's that is of the same attack.

    Raises:
        InputError: if the run attacked nothing, or with none of the file's attacks.
    """
    shares = [share for stand in stands(run) for share in _shares(stand)]
    rows = {
        Beside(
            ours=stand.prompts,
            theirs=f"{theirs.data} {theirs.prompts}".strip(),
            at=attack if attack == CLEAN else f"{attack} {stand.epsilon_text}",
            share=spoken(share),
            published=f"{theirs.accuracy:.3f}",
            within="yes" if share.low <= theirs.accuracy <= share.high else "no",
        ): None
        for theirs in published
        for stand, attack, share in shares
        if attack == theirs.attack
    }
    if not any(row.at != CLEAN for row in rows) and any(theirs.attack != CLEAN for theirs in published):
        asked, made = (
            sorted({each.attack for each in published} - {CLEAN}),
            {attack for _, attack, _ in shares} - {CLEAN},
        )
        raise InputError(f"the file has accuracies of {', '.join(asked)}, and {run.path} was attacked with {max(made)}")
    return list(rows)


def _shares(stand: Stand) -> list[tuple[Stand, str, Any]]:
    return [(stand, CLEAN, stand.clean), (stand, ATTACKS.get(stand.attack, stand.attack), stand.robust)]


def write_published(run: Run, out: Path) -> list[Path]:
    """A run of attack in that layout, a file for each epsilon; its name is put before the suffix where there are several."""
    found = stands(run)
    epsilons = dict.fromkeys(stand.epsilon_text for stand in found)
    written = []
    for epsilon in epsilons:
        named = f"{out.stem}.eps_{epsilon.replace('/', '-')}{out.suffix}"
        path = out if len(epsilons) == 1 else out.with_name(named)
        content = {
            stand.prompts: {attack: 100 * share.estimate for _, attack, share in _shares(stand)}
            for stand in found
            if stand.epsilon_text == epsilon
        }
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
        written.append(path)
    return written
