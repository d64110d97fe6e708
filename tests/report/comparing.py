"""Directories of comparisons written by hand, on the votes of ``synthetic``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report.synthetic import write_run
from titer.results.store import Record, Run
from titer.results.study import Shots


@dataclass(frozen=True)
class Method:
    """A method of a comparison: what it is, its fits, and how often its answer is spoiled.

    ``spoiled`` answers are wrong: those of the first so many images, a place further for each seed.
    """

    name: str
    method: str = "coop"
    baseline: bool = False
    guarantee: str = "fixed"
    shots: Sequence[Shots | None] = (2,)
    seeds: Sequence[int | None] = (1,)
    per_sigma: bool = False
    spoiled: int = 0
    collapsed: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def sets(self, sigma: float) -> dict[str, dict[str, Any]]:
        """What study.json says of each prompt set."""
        return {
            self._set(shots, seed, sigma): {
                "entry": self.name,
                "shots": shots,
                "seed": seed,
                "sigma": sigma if self.per_sigma else None,
                **({} if self.method == "zero-shot" else self._fit(shots, seed, sigma)),
            }
            for shots in self.shots
            for seed in self.seeds
        }

    def _set(self, shots: Shots | None, seed: int | None, sigma: float) -> str:
        parts = [self.name, f"sigma{sigma:g}" if self.per_sigma else "", str(shots or ""), f"s{seed}" if seed else ""]
        return "-".join(part for part in parts if part)

    def _fit(self, shots: Shots | None, seed: int | None, sigma: float) -> dict[str, Any]:
        name = self._set(shots, seed, sigma)
        warnings = ["collapsed: the loss stayed at ln 3"] if name in self.collapsed else []
        return {
            "fit_seconds": 10.0 + (shots if isinstance(shots, int) else 0) + (seed or 0),
            "images": 6,
            "warnings": warnings,
            "bytes": 1000,
        }


ZERO_SHOT = Method("zero-shot", "zero-shot", baseline=True, shots=(None,), seeds=(None,), spoiled=12)


def write_study(path: Path, *methods: Method, cells: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """A finished comparison; ``cells`` gives options of ``write_run`` for each, ``sigmas`` and ``certifier`` among them.

    ``attacks`` of a cell are a dictionary of options of ``_attack`` for each; such a cell certifies only at the sigmas it names.
    """
    told: dict[str, Any] = {
        "title": "Lesions",
        "command": "titer run lesions.toml --out study",
        "seed": 7,
        "model": {"name": "titer:tiny", "fingerprint": "4ecb57d6" * 8},
        "data": {"name": "lesions", "split": "test"},
        "entries": {
            method.name: {
                "method": method.method,
                "settings": dict(method.settings),
                "guarantee": method.guarantee,
                "baseline": method.baseline,
                "shots": None,
                "seeds": None,
                "per_sigma": method.per_sigma,
            }
            for method in methods
        },
        "attacks": {},
        "prompts": {},
        "cells": [],
    }
    for cell, told_of in (cells or {"main": {}}).items():
        options = dict(told_of)
        attacks = options.pop("attacks", {})
        runs = []
        for sigma in options.get("sigmas", () if attacks else (0.25,)):
            sets = {name: (one, facts) for one in methods for name, facts in one.sets(sigma).items()}
            told["prompts"] |= {name: facts for name, (_, facts) in sets.items()}
            runs.append(f"runs/{cell}-sigma{sigma:g}")
            _write(path / runs[-1], sets, {**options, "sigmas": (sigma,)})
        for attack, how in attacks.items():
            sets = {name: (one, facts) for one in methods for name, facts in one.sets(0.25).items()}
            told["prompts"] |= {name: facts for name, (_, facts) in sets.items() if name not in told["prompts"]}
            runs.append(f"runs/{cell}-{attack}")
            _attack(path / runs[-1], sets, **how)
        names = [method.name for method in methods]
        told["cells"].append({"name": cell, "runs": runs, "defenses": names, "attacks": list(attacks)})
    (path / "study.json").write_text(json.dumps(told))
    return path


def _write(path: Path, sets: Mapping[str, tuple[Method, dict[str, Any]]], options: Mapping[str, Any]) -> Run:
    own = options.get("change", lambda _, record: record)

    def change(place: int, record: Record) -> Record:
        method, facts = sets[record["prompts"]]
        first = (facts["seed"] or 1) - 1
        wrong = first <= place < first + method.spoiled
        answer = (record["label"] + 1) % 3 if wrong else record["prediction"]
        more: Record = {"clean_prediction": (record["label"] + 1) % 3 if wrong else record["label"]}
        more |= {"adapt_seconds": 0.125} if method.guarantee == "conditional" else {}
        changed: Record = own(place, {**record, "prediction": answer, "guarantee": method.guarantee, **more})
        return changed

    return write_run(path, prompts=tuple(sets), **{**options, "change": change})


def _attack(
    path: Path,
    sets: Mapping[str, tuple[Method, dict[str, Any]]],
    *,
    broken: Mapping[float, int],
    norm: str = "linf",
    method: str = "pgd",
    images: Sequence[int] = range(60),
    checks: Mapping[str, str] | None = None,
    skip: int = 0,
    seeds: Sequence[int | None] | None = None,
    change: Any = lambda _, record: record,
) -> None:
    """A run of attack: of each prompt set, at each epsilon, the first so many of the images that are right are broken.

    Args:
        path: the directory.
        sets: prompt sets with their methods.
        broken: how many at which epsilon.
        norm: of the perturbations.
        method: the attack's registered name.
        images: their places.
        checks: verdict of the self-check of each prompt set.
        skip: of the right images so many are passed over before the first broken one.
        seeds: only these fits.
        change: edits each record, given its place among the images.
    """
    kept = {name: value for name, value in sets.items() if seeds is None or value[1]["seed"] in (None, *seeds)}
    lines: list[Record] = []
    for name, (one, facts) in kept.items():
        first = (facts["seed"] or 1) - 1
        right = [place for place in images if not first <= place < first + one.spoiled]
        for epsilon, count in broken.items():
            fallen = set(right[skip : skip + count])
            for place in images:
                label = place % 3
                record = {
                    "sample_id": f"test/{place:03d}.png", "path": "x", "label": label, "prompts": name, "attack": method,
                    "norm": norm, "eps": epsilon, "clean_prediction": label if place in right else (label + 1) % 3,
                    "prediction": label if place in right and place not in fallen else (label + 1) % 3,
                    "broken_by": method if place in fallen else None, "seconds": 0.25 if place in right else 0.0,
                }  # fmt: skip
                lines.append(change(place, record))
    made = [
        {"prompts": name, "check": "it hides", "verdict": said, "detail": "0 of 3"}
        for name, said in (dict.fromkeys(kept, "passed") if checks is None else checks).items()
    ]
    path.mkdir(parents=True)
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompts, model = dict.fromkeys(kept, "ab" * 32), "4ecb57d6" * 8
    info = {
        "schema": 1, "status": "done", "verb": "attack", "command": "part of it", "seed": 7, "seconds": 1.0,
        "settings": {"attack": method, "norm": norm, "eps": list(broken), "steps": 2, "by": []}, "checks": made,
        "model": {"name": "titer:tiny", "fingerprint": model, "size": 80}, "prompts": prompts,
        "identity": {"model": model, "prompts": prompts, "classes": []},
        "samples": {"expected": len(images), "done": len(images), "failed": 0},
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(info))
