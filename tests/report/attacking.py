"""Directories of attack and challenge runs written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from report.synthetic import CLASSES
from titer.results.store import Record, Run, read_run, thumbnail_name

GREY = 1 / 255
IMAGES = 12
TINY = "4ecb57d6" * 8
"""Fingerprint of the model of ``synthetic``."""
FIRST = "ab" * 32
"""Fingerprint of its prompt sets."""


def write_attack(
    path: Path,
    broken: Mapping[float, int],
    *,
    attack: str = "pgd",
    norm: str = "linf",
    checks: str | None = "passed",
    images: Sequence[int] = range(IMAGES),
    model: tuple[str, str] = ("titer:tiny", TINY),
    prompts: Mapping[str, str] | None = None,
    classes: Sequence[str] = CLASSES,
    ran: Sequence[Mapping[str, Any]] = (),
) -> Run:
    """Images, the last of which is wrong from the start; at each epsilon the first so many are broken.

    Args:
        path: the directory.
        broken: how many at which epsilon.
        attack: its name.
        norm: of the threat.
        checks: verdict of the self-check; None for none.
        images: their numbers.
        model: name and fingerprint.
        prompts: name and fingerprint of each prompt set.
        classes: their labels.
        ran: members of an ensemble.
    """
    prompts = {"zero-shot": FIRST} if prompts is None else prompts
    records = [
        _record(place, images, name, attack, norm, epsilon, count)
        for epsilon, count in broken.items()
        for place in range(len(images))
        for name in prompts
    ]
    made = [{"prompts": name, "check": "it hides", "verdict": checks, "detail": "0 of 3"} for name in prompts]
    settings = {"attack": attack, "norm": norm, "eps": list(broken), "steps": 50}
    return _write(
        path,
        records,
        verb="attack",
        settings={**settings, "ran": list(ran)} if ran else settings,
        model=model,
        prompts=prompts,
        classes=classes,
        checks=[] if checks is None else made,
    )


def write_challenge(
    path: Path,
    broken: int,
    *,
    model: tuple[str, str] = ("titer:tiny", TINY),
    prompts: Mapping[str, str] | None = None,
) -> Run:
    """Twelve certificates attacked at 0.9 of their radius; the first so many are broken."""
    prompts = {"zero-shot": FIRST} if prompts is None else prompts
    records: list[Record] = [
        {
            "sample_id": f"test/{place:03d}.png", "path": "x", "label": place % 3, "prompts": name, "guarantee": "fixed",
            "sigma": 0.25, "attack": "smoothadv", "norm": "l2", "eps": 0.18,
            "alpha": 0.001, "alpha_p": 1e-4, "factor": 0.9, "inside": True,
            "broken": place < broken, "radius": 0.2, "clean_prediction": place % 3, "prediction": place % 3,
        }
        for place in range(IMAGES)
        for name in prompts
    ]  # fmt: skip
    return _write(
        path,
        records,
        verb="challenge",
        settings={"attack": "smoothadv"},
        model=model,
        prompts=prompts,
        classes=CLASSES,
        checks=[],
    )


def write_pictures(run: Run, sample: str, prompts: str, epsilon: float) -> None:
    """The three pictures that a strip shows of one attacked image."""
    for directory, name in (
        ("", sample),
        ("attacked", f"{sample}|{prompts}|{epsilon:g}"),
        ("change", f"{sample}|{prompts}|{epsilon:g}"),
    ):
        (run.path / "images" / directory).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(run.path / "images" / directory / thumbnail_name(name))


def _record(
    place: int, images: Sequence[int], prompts: str, attack: str, norm: str, epsilon: float, broken: int
) -> Record:
    label, wrong = images[place] % 3, place == len(images) - 1
    return {
        "sample_id": f"test/{images[place]:03d}.png", "path": "x", "label": label, "prompts": prompts, "attack": attack,
        "norm": norm, "eps": epsilon, "clean_prediction": (label + 1) % 3 if wrong else label,
        "prediction": (label + 1) % 3 if wrong or place < broken else label,
        "broken_by": attack if place < broken else None,
    }  # fmt: skip


def _write(
    path: Path,
    records: Sequence[Record],
    *,
    verb: str,
    settings: Mapping[str, Any],
    model: tuple[str, str],
    prompts: Mapping[str, str],
    classes: Sequence[str],
    checks: Sequence[Mapping[str, Any]],
) -> Run:
    path.mkdir(parents=True)
    (path / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    images = len({record["sample_id"] for record in records})
    info = {
        "schema": 1, "status": "done", "verb": verb, "command": f"titer {verb}", "seed": 0, "seconds": 1.0,
        "settings": settings, "versions": {}, "model": {"name": model[0], "fingerprint": model[1], "size": 80},
        "prompts": dict(prompts), "checks": list(checks), "data": {"name": "lesions", "split": "test", "limit": None},
        "identity": {"model": model[1], "prompts": dict(prompts), "classes": [[name, name] for name in classes]},
        "classes": [{"label": name, "texts": [name]} for name in classes],
        "samples": {"expected": images, "done": images, "failed": 0},
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(info))
    return read_run(path)
