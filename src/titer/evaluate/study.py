"""A comparison of methods on one data set: fits, then runs that certify all of them on the same noise.

Everything is kept below one directory and goes on where it stopped: ``prompts/`` holds what was fitted, ``features/`` noisy
features that fits share, ``runs/`` a run for each cell and sigma, and ``study.json`` says which prompt set is what.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from titer.data import load_data
from titer.data.example import Data
from titer.data.load import load_all
from titer.defenses import DEFENSES, Defense
from titer.defenses.adapter import CONFIG, WEIGHTS, facts_of
from titer.errors import InputError
from titer.evaluate.fitting import fit
from titer.evaluate.plan import Certifier
from titer.evaluate.smoothing import certify
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.registry import settings_of
from titer.results.study import STUDY

ZERO_SHOT = "zero-shot"


@dataclass(frozen=True)
class Entry:
    """A method under comparison.

    Args:
        name: what tables call it.
        defense: the method; None for the model's own zero-shot answer.
        guarantee: what its certificates say, where it adapts to the image.
        baseline: whether it is something that a user would do instead.
        shots: images of each class to fit it on; the cell's unless given.
        seeds: of its fits; the cell's unless given.
        per_sigma: fit it anew for each noise level rather than once for all of them.
    """

    name: str
    defense: Defense | None = None
    guarantee: str | None = None
    baseline: bool = False
    shots: tuple[int, ...] | None = None
    seeds: tuple[int, ...] | None = None
    per_sigma: bool = False


@dataclass(frozen=True)
class Cell:
    """Methods that are certified together.

    Args:
        name: of its runs.
        entries: names of the methods.
        certifier: with which they are certified.
        sigmas: standard deviations of the noise, in [0, 1] pixel units.
        shots, seeds: of the fits.
        limit: images, class-balanced.
    """

    name: str
    entries: tuple[str, ...]
    certifier: Certifier
    sigmas: tuple[float, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    limit: int | None


@dataclass(frozen=True)
class Study:
    """A comparison, as a recipe says it.

    Args:
        title: of its page.
        model: a model's name.
        data: a data set's name or directory.
        split: where the images that are certified come from.
        entries: methods by name.
        cells: what is certified.
    """

    title: str
    model: str
    data: str
    split: str
    entries: Mapping[str, Entry]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class PromptSet:
    """One fit of a method.

    Args:
        entry: the method.
        shots: images of each class; None where it needs no labels.
        seed: of the fit.
        sigma: the only noise level it was fitted for; None for the method's own.
    """

    entry: Entry
    shots: int | None = None
    seed: int = 0
    sigma: float | None = None

    @property
    def name(self) -> str:
        """What records call it."""
        if self.entry.defense is None:
            return ZERO_SHOT
        sigma = "" if self.sigma is None else f"-sigma{self.sigma:g}"
        return f"{self.entry.name}{sigma}{'' if self.shots is None else f'-{self.shots}'}-s{self.seed}"

    @property
    def defense(self) -> Defense | None:
        """The method with the one noise level in its settings."""
        if self.entry.defense is None or self.sigma is None:
            return self.entry.defense
        return dataclasses.replace(self.entry.defense, sigmas=(self.sigma,))  # type: ignore[type-var]


def run_study(
    study: Study,
    out: str | Path,
    *,
    seed: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    command: str = "titer.run",
) -> Path:
    """Fit and certify everything a comparison asks for, or go on with it.

    Args:
        study: the comparison.
        out: its directory.
        seed: of the noise; the recorded one on resume, else a fresh one of the operating system.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        workers: threads; one per core unless given. Changes no number.
        command: what study.json says it was made by.

    Returns:
        ``out``.

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no image could be certified.
    """
    out = Path(out)
    encoder, everything = load_model(study.model, device=device), load_all(study.data)
    number = _seed(out, seed)
    said = _said(study, encoder, number, command)
    _write(out, said)
    for prompts in _prompt_sets(study):
        said["prompts"][prompts.name] = _fitted(prompts, encoder, everything, out)
        _write(out, said)
    for cell in study.cells:
        data = load_data(study.data, split=study.split, limit=cell.limit)
        for sigma in cell.sigmas:
            _certified(study, cell, sigma, encoder, data, out, number, workers, command)
    return out


def prompt_sets(study: Study, cell: Cell, sigma: float) -> Iterator[PromptSet]:
    """What a cell certifies at a noise level."""
    for entry in (study.entries[name] for name in cell.entries):
        if entry.defense is None:
            yield PromptSet(entry)
            continue
        shots = (cell.shots if entry.shots is None else entry.shots) if entry.defense.needs_labels else (None,)
        for count in shots:
            for seed in cell.seeds if entry.seeds is None else entry.seeds:
                yield PromptSet(entry, count, seed, sigma if entry.per_sigma else None)


def _prompt_sets(study: Study) -> list[PromptSet]:
    """All of them, each once; those with the most shots first, since stores of fewer shots are parts of theirs."""
    found = {
        prompts.name: prompts
        for cell in study.cells
        for sigma in cell.sigmas
        for prompts in prompt_sets(study, cell, sigma)
    }
    return sorted(found.values(), key=lambda prompts: -(prompts.shots or 0))


def _seed(out: Path, seed: int | None) -> int:
    try:
        recorded = json.loads((out / STUDY).read_text(encoding="utf-8"))["seed"]
    except (FileNotFoundError, NotADirectoryError):
        return secrets.randbits(63) if seed is None else seed
    except (ValueError, KeyError) as error:
        raise InputError(f"{out / STUDY} is damaged: {error}") from error
    if seed not in (None, recorded):
        raise InputError(f"{out} was begun with seed {recorded}, now {seed}; choose another --out")
    return int(recorded)


def _said(study: Study, encoder: Encoder, seed: int, command: str) -> dict[str, Any]:
    """What study.json says before the first fit."""
    return {
        "title": study.title,
        "command": command,
        "seed": seed,
        "model": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "data": {"name": study.data, "split": study.split},
        "entries": {
            name: {
                "method": ZERO_SHOT if entry.defense is None else _method(entry.defense),
                "settings": {} if entry.defense is None else settings_of(entry.defense),
                "baseline": entry.baseline,
                "per_sigma": entry.per_sigma,
            }
            for name, entry in study.entries.items()
        },
        "prompts": {},
        "cells": [{"name": cell.name, "runs": [_run(cell, sigma) for sigma in cell.sigmas]} for cell in study.cells],
    }


def _method(defense: Defense) -> str:
    return next(name for name in DEFENSES if DEFENSES[name] is type(defense))


def _run(cell: Cell, sigma: float) -> str:
    return f"runs/{cell.name}-sigma{sigma:g}"


def _write(out: Path, said: Mapping[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / STUDY).write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from error


def _fitted(prompts: PromptSet, encoder: Encoder, data: Data, out: Path) -> dict[str, Any]:
    """Fit a prompt set unless this was done, and say what it is."""
    told: dict[str, Any] = {
        "entry": prompts.entry.name, "shots": prompts.shots, "seed": prompts.seed, "sigma": prompts.sigma,
    }  # fmt: skip
    defense = prompts.defense
    if defense is None:
        return told | {"shots": None, "seed": None}
    path = out / "prompts" / prompts.name
    expected = facts_of(_method(defense), defense, encoder, data.classes) | {
        "shots": prompts.shots,
        "seed": prompts.seed,
    }
    if not _is_done(path, expected):
        fit(
            defense, encoder, data, out=path, shots=prompts.shots, seed=prompts.seed, cache=out / "features",
            command=f"part of {out.name}",
        )  # fmt: skip
    facts = json.loads((path / CONFIG).read_text(encoding="utf-8"))["titer"]
    kept = {"fit_seconds": facts["seconds"], "images": len(facts["ids"]), "warnings": facts["warnings"]}
    return told | kept | {"bytes": (path / WEIGHTS).stat().st_size}


def _is_done(path: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a fit with these facts is there.

    Raises:
        InputError: if another one is.
    """
    if not (path / CONFIG).exists() or not (path / WEIGHTS).exists():
        return False
    facts = json.loads((path / CONFIG).read_text(encoding="utf-8"))["titer"]
    differing = [name for name, value in json.loads(json.dumps(expected)).items() if facts.get(name) != value]
    if differing:
        raise InputError(
            f"{path} was fitted with another {', '.join(differing)} than the recipe says; choose another --out, or "
            "remove that directory"
        )
    return True


def _certified(
    study: Study,
    cell: Cell,
    sigma: float,
    encoder: Encoder,
    data: Data,
    out: Path,
    seed: int,
    workers: int | None,
    command: str,
) -> None:
    sets = list(prompt_sets(study, cell, sigma))
    certify(
        encoder,
        data,
        sigma=sigma,
        out=out / _run(cell, sigma),
        certifier=cell.certifier,
        seed=seed,
        workers=workers,
        prompts=tuple(
            ZERO_SHOT if prompts.defense is None else str(out / "prompts" / prompts.name) for prompts in sets
        ),
        guarantee={prompts.name: prompts.entry.guarantee for prompts in sets if prompts.entry.guarantee is not None},
        command=command,
        images=False,
    )
