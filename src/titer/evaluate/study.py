"""A comparison of methods on one data set: fits, then runs that certify all of them on the same noise, or attack them.

Everything is kept below one directory and goes on where it stopped: ``prompts/`` holds what was fitted, ``features/`` noisy
features that fits share, ``runs/`` a run for each cell and sigma or attack, and ``study.json`` says which prompt set is what.
"""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from titer.attacks import ATTACKS, Attack, Norm
from titer.data import load_data
from titer.data.classes import Wording
from titer.data.derived import hashed_once
from titer.data.example import Data
from titer.data.load import load_all
from titer.defenses import DEFENSES, Defense
from titer.defenses.adapter import CONFIG, WEIGHTS, facts_of, load_classifier
from titer.defenses.card import CARD
from titer.errors import InputError
from titer.evaluate.attacking import attack, check_task
from titer.evaluate.benchmarks import Part
from titer.evaluate.fits import FitJob, Source, fit_all
from titer.evaluate.ladders import without_later
from titer.evaluate.plan import Certifier, certifier_name
from titer.evaluate.running import NEVER, Deadline
from titer.evaluate.smoothing import certify
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.registry import settings_of
from titer.results.store import differences, write_facts
from titer.results.study import ALL_SHOTS, STUDY, ZERO_SHOT, Shots, attack_run, sigma_run

LOCK = ".lock"


@dataclass(frozen=True)
class Entry:
    """A method under comparison.

    Args:
        name: what tables call it.
        defense: the method; None for the model's own zero-shot answer.
        guarantee: what its certificates say, where it adapts to the image.
        baseline: whether it is something that a user would do instead.
        shots: images of each class to fit it on, or ``all``; the cell's unless given.
        seeds: of its fits; the cell's unless given.
        per_sigma: fit it anew for each noise level rather than once for all of them.
        template: zero-shot: a text with ``{}`` for the class's words; the words themselves where None.
    """

    name: str
    defense: Defense | None = None
    guarantee: str | None = None
    baseline: bool = False
    shots: tuple[Shots, ...] | None = None
    seeds: tuple[int, ...] | None = None
    per_sigma: bool = False
    template: str | None = None


@dataclass(frozen=True)
class AttackEntry:
    """An attack of a comparison.

    Args:
        name: what tables call it.
        attack: with its settings.
        norm: of the perturbations.
        eps: budgets in [0, 1] pixels, upward.
        checks: whether self-checks look for signs that it was weak.
    """

    name: str
    attack: Attack
    norm: Norm
    eps: tuple[float, ...]
    checks: bool = True

    @property
    def method(self) -> str:
        """The attack's registered name."""
        return next(name for name in ATTACKS if ATTACKS[name] is type(self.attack))


@dataclass(frozen=True)
class Cell:
    """Methods that are certified together, attacked together, or both.

    Args:
        name: of its runs.
        entries: names of the methods.
        certifier: with which they are certified.
        sigmas: standard deviations of the noise, in [0, 1] pixel units; none where nothing is certified.
        shots, seeds: of the fits.
        limit: images, class-balanced.
        attacks: names of the attacks.
        part: of the comparison's benchmark; the comparison's own data where it has none.
        of: the recipe's cell that it is a part of.
    """

    name: str
    entries: tuple[str, ...]
    certifier: Certifier
    sigmas: tuple[float, ...]
    shots: tuple[Shots, ...]
    seeds: tuple[int, ...]
    limit: int | None
    attacks: tuple[str, ...] = ()
    part: Part | None = None
    of: str | None = None

    @property
    def moved(self) -> bool:
        """Whether its images are of other classes than those of the fits."""
        return self.part is not None and self.part.moved

    @property
    def runs(self) -> tuple[str, ...]:
        """Directories of its runs, below the comparison's."""
        certified = (sigma_run(self.name, sigma) for sigma in self.sigmas)
        return (*certified, *(attack_run(self.name, name) for name in self.attacks))


@dataclass(frozen=True)
class Study:
    """A comparison, as a recipe says it.

    Args:
        title: of its page.
        model: a model's name.
        data: a data set's name or directory, which methods are fitted on, and judged on where a cell says nothing else.
        split: where the images that are certified or attacked come from.
        entries: methods by name.
        cells: what is certified and attacked.
        wording: classes and words in the place of the data set's own.
        attacks: attacks by name.
    """

    title: str
    model: str
    data: str
    split: str
    entries: Mapping[str, Entry]
    cells: tuple[Cell, ...]
    wording: Wording | None = None
    attacks: Mapping[str, AttackEntry] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptSet:
    """One fit of a method.

    Args:
        entry: the method.
        shots: images of each class, or ``all``; None where it needs no labels.
        seed: of the fit.
        sigma: the only noise level it was fitted for; None for the method's own.
    """

    entry: Entry
    shots: Shots | None = None
    seed: int = 0
    sigma: float | None = None

    @property
    def name(self) -> str:
        """What records call it."""
        if self.entry.defense is None:
            return ZERO_SHOT if self.entry.template is None else self.entry.template
        sigma = "" if self.sigma is None else f"-sigma{self.sigma:g}"
        return f"{self.entry.name}{sigma}{'' if self.shots is None else f'-{self.shots}'}-s{self.seed}"

    @property
    def defense(self) -> Defense | None:
        """The method with the one noise level in its settings."""
        if self.entry.defense is None or self.sigma is None:
            return self.entry.defense
        return dataclasses.replace(self.entry.defense, sigmas=(self.sigma,))  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class Opened:
    """What a comparison works on, loaded.

    Args:
        encoder: the model.
        data: what methods are fitted on, all splits.
        judged: the images of each cell, by its name.
    """

    encoder: Encoder
    data: Data
    judged: Mapping[str, Data]


def open_study(study: Study, out: Path, device: str | None = None) -> Opened:
    """Load and check all that can be refused before the first fit.

    Args:
        study: the comparison.
        out: its directory.
        device: ``cpu`` or ``cuda``; found by itself unless given.

    Raises:
        InputError: for whatever is wrong with the input.
    """
    all_sets(study, study.cells)
    _check_runs(study)
    _refuse_foreign(out)
    opened = Opened(
        load_model(study.model, device=device),
        hashed_once(load_all(study.data, study.wording)),
        {
            cell.name: hashed_once(
                load_data(cell.part.data if cell.part else study.data, study.split, cell.limit, study.wording)
            )
            for cell in study.cells
        },
    )
    for cell in study.cells:
        for entry in (study.attacks[name] for name in cell.attacks):
            check_task(entry.method, entry.attack, opened.judged[cell.name])
    return opened


def run_study(
    study: Study,
    out: str | Path,
    *,
    seed: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    command: str = "titer.run",
    deadline: Deadline = NEVER,
    before: Callable[[Opened], None] | None = None,
) -> Path:
    """Fit, certify and attack everything a comparison asks for, or go on with it.

    Args:
        study: the comparison.
        out: its directory.
        seed: of the noise and of the attacks; the recorded one on resume, else a fresh one of the operating system.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        workers: threads that judge, one per core unless given; where given, also processes that fit, each with a model of
            its own. Changes no number.
        command: what study.json says it was made by.
        deadline: after which no fit, no image and no chunk of images is begun.
        before: is shown what was loaded, before the first fit.

    Returns:
        ``out``.

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no image could be certified or attacked.
        TimeIsUpError: if the deadline passed before all was done; the same call goes on.
    """
    out = Path(out)
    for name, value, least in (("seed", seed, 0), ("workers", workers, 1)):
        if value is not None and value < least:
            raise InputError(f"{name}: expected at least {least}, got {value}")
    opened = open_study(study, out, device)
    encoder, judged = opened.encoder, opened.judged
    with alone(out):
        said = _begun(out, _said(study, encoder, opened.data, judged, command), seed)
        if before is not None:
            before(opened)
        source = Source(study.model, study.data, study.wording, encoder.device.type)
        how: dict[str, Any] = {"seed": said["seed"], "workers": workers, "command": command, "deadline": deadline}
        for cell in study.cells:
            sets = all_sets(study, [cell])
            left = list(fits_left(sets, opened, out))
            if workers is not None and min(workers, len(left)) > 1:
                fit_all(left, source, workers, deadline)
            for prompts in sets:
                for job in fits_left([prompts], opened, out):
                    deadline.check()
                    job.run(encoder, opened.data)
                said["prompts"].setdefault(prompts.name, {}).update(_fitted(prompts, out))
                write_facts(out / STUDY, said)
            for sigma in cell.sigmas:
                _certified(study, cell, sigma, encoder, judged[cell.name], out, **how)
            if cell.attacks:
                fixed = _fixed(study, cell, encoder, judged[cell.name], out, said)
                write_facts(out / STUDY, said)
                for name in cell.attacks:
                    _attacked(
                        study.attacks[name], encoder, judged[cell.name], out / attack_run(cell.name, name),
                        **how, **_shown(fixed, out, cell),
                    )  # fmt: skip
    return out


def prompt_sets(study: Study, cell: Cell, sigma: float | None) -> Iterator[PromptSet]:
    """What a cell certifies at a noise level, or attacks where it has none.

    Raises:
        InputError: for a method that is fitted for each noise level where there is none.
    """
    for entry in (study.entries[name] for name in cell.entries):
        if entry.per_sigma and sigma is None:
            raise InputError(
                f"cell {cell.name}: {entry.name} is fitted for each sigma, and the cell has none; give it a sigma, or name its "
                "defenses without that one"
            )
        if entry.defense is None:
            yield PromptSet(entry)
            continue
        shots = (cell.shots if entry.shots is None else entry.shots) if entry.defense.needs_labels else (None,)
        for count in shots:
            for seed in cell.seeds if entry.seeds is None else entry.seeds:
                yield PromptSet(entry, count, seed, sigma if entry.per_sigma else None)


def all_sets(study: Study, cells: Sequence[Cell]) -> list[PromptSet]:
    """All that some cells judge, each once; those with the most shots first, since stores of fewer shots are parts of theirs."""
    return sorted(_each_once(study, cells), key=lambda prompts: -_size(prompts.shots))


def _size(shots: Shots | None) -> float:
    return math.inf if shots == ALL_SHOTS else float(shots or 0)


def _each_once(study: Study, cells: Sequence[Cell]) -> list[PromptSet]:
    """All that some cells judge, each once, in the recipe's order.

    Raises:
        InputError: if two of them would have one name.
    """
    found: dict[str, PromptSet] = {}
    for cell in cells:
        for sigma in cell.sigmas or (None,):
            for prompts in prompt_sets(study, cell, sigma):
                if found.setdefault(prompts.name, prompts) != prompts:
                    named = prompts.entry.name, found[prompts.name].entry.name
                    raise InputError(
                        f"{' and '.join(named)} both make prompts named {prompts.name!r}; rename one of them"
                    )
    return list(found.values())


def _check_runs(study: Study) -> None:
    """Names of cells and attacks become names of directories.

    Raises:
        InputError: if two runs would have one directory.
    """
    runs = [run for cell in study.cells for run in cell.runs]
    repeated = next((run for run in runs if runs.count(run) > 1), None)
    if repeated is not None:
        raise InputError(f"two runs would be written to {repeated}; rename a cell or an attack")


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out needs a directory")
    if out.is_dir() and not (out / STUDY).exists() and any(entry.name != LOCK for entry in out.iterdir()):
        raise InputError(f"{out} is not empty and holds no comparison; choose another --out")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Nobody else writes to a comparison meanwhile."""
    lock = FileLock(out / LOCK)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(f"another process is writing to {out}; wait for it or choose another --out") from error
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def _begun(out: Path, said: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """What study.json says from here on: begun now, or earlier with the same recipe and seed."""
    earlier = _earlier(out)
    if earlier is None:
        begun = said | {"seed": secrets.randbits(63) if seed is None else seed}
        write_facts(out / STUDY, begun)
        return begun
    wanted = {} if seed is None else {"seed": seed}
    now = json.loads(json.dumps(earlier | said | wanted))
    found = differences(*_shared(_identity(earlier), _identity(now)))
    if found:
        raise InputError(f"{out} belongs to another comparison: {'; '.join(found)}; choose another --out")
    cells = {cell["name"]: cell for cell in (*earlier["cells"], *said["cells"])}
    return said | {
        "seed": earlier["seed"],
        "prompts": earlier["prompts"],
        "entries": earlier["entries"] | said["entries"],
        "attacks": earlier.get("attacks", {}) | said["attacks"],
        "cells": list(cells.values()),
    }


def _shared(earlier: dict[str, Any], now: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both without what only one of them has: a comparison may grow, or go on in part."""
    both = {kind: earlier[kind].keys() & now[kind].keys() for kind in ("defenses", "attacks", "cells")}
    first, second = (
        told | {kind: {name: told[kind][name] for name in sorted(names)} for kind, names in both.items()}
        for told in (earlier, now)
    )
    return first, second


def _earlier(out: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads((out / STUDY).read_text(encoding="utf-8"))
        _identity(told)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{out / STUDY} is damaged: {error}") from error
    return told


def _identity(told: Mapping[str, Any]) -> dict[str, Any]:
    """All of study.json that changes a number; which methods are baselines is the page's, and self-checks may be made later."""
    return {
        "seed": told["seed"],
        "model": told["model"]["fingerprint"],
        "data": told["data"],
        "defenses": {
            name: {key: value for key, value in facts.items() if key != "baseline"}
            for name, facts in told["entries"].items()
        },
        "attacks": {
            name: {
                **{key: value for key, value in facts.items() if key != "checks"},
                "settings": without_later(facts["settings"]),
            }
            for name, facts in told.get("attacks", {}).items()
        },
        "cells": {cell["name"]: cell for cell in told["cells"]},
    }


def _said(study: Study, encoder: Encoder, data: Data, judged: Mapping[str, Data], command: str) -> dict[str, Any]:
    """What study.json says before the first fit, but for the seed."""
    return {
        "title": study.title,
        "command": command,
        "model": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "data": {"name": data.name, "split": study.split, **({} if study.wording is None else vars(study.wording))},
        "entries": {
            name: {
                "method": ZERO_SHOT if entry.defense is None else _method(entry.defense),
                "settings": _settings(entry),
                "guarantee": entry.guarantee,
                "baseline": entry.baseline,
                "shots": entry.shots,
                "seeds": entry.seeds,
                "per_sigma": entry.per_sigma,
            }
            for name, entry in study.entries.items()
        },
        "attacks": {
            name: {
                "method": entry.method,
                "settings": settings_of(entry.attack),
                "norm": entry.norm,
                "eps": entry.eps,
                "checks": entry.checks,
            }
            for name, entry in study.attacks.items()
        },
        "prompts": {},
        "cells": [_told(cell, judged[cell.name]) for cell in study.cells],
    }


def _settings(entry: Entry) -> dict[str, Any]:
    if entry.defense is not None:
        return settings_of(entry.defense)
    return {} if entry.template is None else {"template": entry.template}


def _told(cell: Cell, judged: Data) -> dict[str, Any]:
    """What is certified says with what, what is attacked by what, and a part of a benchmark of which data."""
    certified = {
        "certifier": {"name": certifier_name(cell.certifier), **settings_of(cell.certifier)},
        "sigma": cell.sigmas,
    }
    return {
        "name": cell.name,
        "runs": cell.runs,
        "defenses": cell.entries,
        **(certified if cell.sigmas else {}),
        **({"attacks": cell.attacks} if cell.attacks else {}),
        **({} if cell.part is None else {"of": cell.of, "part": cell.part.name, "data": judged.name}),
        "shots": cell.shots,
        "seeds": cell.seeds,
        "limit": cell.limit,
    }


def _method(defense: Defense) -> str:
    return next(name for name in DEFENSES if DEFENSES[name] is type(defense))


def fits_left(sets: Sequence[PromptSet], opened: Opened, out: Path) -> Iterator[FitJob]:
    """Fits that are still to be made below a comparison's directory, in order.

    Raises:
        InputError: if another fit stands in the place of one.
    """
    for prompts in sets:
        defense = prompts.defense
        if defense is None:
            continue
        path = out / "prompts" / prompts.name
        shots = None if prompts.shots == ALL_SHOTS else prompts.shots
        facts = facts_of(_method(defense), defense, opened.encoder, opened.data.classes)
        if not fit_is_done(path, facts | {"shots": shots, "seed": prompts.seed}):
            yield FitJob(defense, path, shots, prompts.seed, out / "features", f"part of {out.name}")


def _fitted(prompts: PromptSet, out: Path) -> dict[str, Any]:
    """What study.json says of a prompt set that was fitted."""
    told: dict[str, Any] = {
        "entry": prompts.entry.name, "shots": prompts.shots, "seed": prompts.seed, "sigma": prompts.sigma,
    }  # fmt: skip
    if prompts.defense is None:
        return told | {"shots": None, "seed": None}
    path = out / "prompts" / prompts.name
    facts = fit_facts(path)
    kept = {"fit_seconds": facts["seconds"], "images": len(facts["ids"]), "warnings": facts["warnings"]}
    return told | kept | {"bytes": (path / WEIGHTS).stat().st_size}


def fit_is_done(path: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a fit with these facts is there.

    Raises:
        InputError: if another one is.
    """
    if not (path / CONFIG).exists():
        for name in (WEIGHTS, CARD):  # of a fit that was interrupted before its last file
            (path / name).unlink(missing_ok=True)
        return False
    facts = fit_facts(path)
    found = differences({name: facts.get(name) for name in expected}, json.loads(json.dumps(expected)))
    if found:
        raise InputError(
            f"{path} is another fit than the recipe says: {'; '.join(found)}; choose another --out, or remove that directory"
        )
    return True


def fit_facts(path: Path) -> dict[str, Any]:
    """What a fit says of itself."""
    try:
        facts: dict[str, Any] = json.loads((path / CONFIG).read_text(encoding="utf-8"))["titer"]
    except (ValueError, KeyError) as error:
        raise InputError(f"{path / CONFIG} is damaged: {error}; remove {path} to fit it again") from error
    return facts


def _certified(
    study: Study,
    cell: Cell,
    sigma: float,
    encoder: Encoder,
    data: Data,
    out: Path,
    **how: Any,
) -> None:
    sets = list(prompt_sets(study, cell, sigma))
    certify(
        encoder,
        data,
        sigma=sigma,
        out=out / sigma_run(cell.name, sigma),
        certifier=cell.certifier,
        guarantee={prompts.name: prompts.entry.guarantee for prompts in sets if prompts.entry.guarantee is not None},
        images=False,
        **how,
        **_shown(sets, out, cell),
    )


def _shown(sets: Sequence[PromptSet], out: Path, cell: Cell) -> dict[str, Any]:
    """Prompt sets and templates as those who judge take them."""
    return {
        "new_classes": cell.moved,
        "prompts": tuple(_place(prompts, out) for prompts in sets if prompts.entry.template is None),
        "templates": tuple(prompts.entry.template for prompts in sets if prompts.entry.template is not None),
    }


def _place(prompts: PromptSet, out: Path) -> str:
    return ZERO_SHOT if prompts.defense is None else str(out / "prompts" / prompts.name)


def _fixed(
    study: Study, cell: Cell, encoder: Encoder, data: Data, out: Path, said: Mapping[str, Any]
) -> list[PromptSet]:
    """The prompt sets of a cell that attacks can attack: study.json says of the others that they adapt to the image.

    Only a fit tells: whether a method adapts may depend on what it learned.

    Raises:
        InputError: if all of them adapt.
    """
    found = []
    for prompts in _each_once(study, [cell]):
        if (
            prompts.defense is not None
            and load_classifier(out / "prompts" / prompts.name, encoder, data, new_classes=cell.moved).adapts_to_input
        ):
            said["prompts"][prompts.name]["adapts"] = True
        else:
            found.append(prompts)
    if not found:
        raise InputError(
            f"cell {cell.name}: {', '.join(cell.entries)} adapt to each image they are shown, so there is nothing to attack; "
            "add a fixed method, or leave the cell out with false"
        )
    return found


def _attacked(entry: AttackEntry, encoder: Encoder, data: Data, out: Path, **options: Any) -> None:
    attack(
        encoder,
        data,
        entry.method,
        out=out,
        norm=entry.norm,
        eps=entry.eps,
        settings=settings_of(entry.attack),
        checks=entry.checks,
        images=False,
        **options,
    )
