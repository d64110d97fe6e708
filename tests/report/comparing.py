"""Directories of comparisons written by hand, on the votes of ``synthetic``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report.synthetic import write_run
from titer.results.store import Record, Run


@dataclass(frozen=True)
class Method:
    """A method of a comparison: what it is, its fits, and how often its answer is spoiled.

    ``spoiled`` answers are wrong: those of the first so many images, a place further for each seed.
    """

    name: str
    method: str = "coop"
    baseline: bool = False
    guarantee: str = "fixed"
    shots: Sequence[int | None] = (2,)
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

    def _set(self, shots: int | None, seed: int | None, sigma: float) -> str:
        parts = [self.name, f"sigma{sigma:g}" if self.per_sigma else "", str(shots or ""), f"s{seed}" if seed else ""]
        return "-".join(part for part in parts if part)

    def _fit(self, shots: int | None, seed: int | None, sigma: float) -> dict[str, Any]:
        name = self._set(shots, seed, sigma)
        warnings = ["collapsed: the loss stayed at ln 3"] if name in self.collapsed else []
        return {"fit_seconds": 10.0 + (shots or 0) + (seed or 0), "images": 6, "warnings": warnings, "bytes": 1000}


ZERO_SHOT = Method("zero-shot", "zero-shot", baseline=True, shots=(None,), seeds=(None,), spoiled=12)


def write_study(path: Path, *methods: Method, cells: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """A finished comparison; ``cells`` gives options of ``write_run`` for each, ``sigmas`` and ``certifier`` among them."""
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
        "prompts": {},
        "cells": [],
    }
    for cell, options in (cells or {"main": {}}).items():
        runs = []
        for sigma in options.get("sigmas", (0.25,)):
            sets = {name: (one, facts) for one in methods for name, facts in one.sets(sigma).items()}
            told["prompts"] |= {name: facts for name, (_, facts) in sets.items()}
            runs.append(f"runs/{cell}-sigma{sigma:g}")
            _write(path / runs[-1], sets, {**options, "sigmas": (sigma,)})
        told["cells"].append({"name": cell, "runs": runs})
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
