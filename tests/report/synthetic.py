"""Run directories written by hand, with votes drawn from known chances."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import ndtri

from titer.results.store import Record, Run, read_run, thumbnail_name
from titer.statistics.intervals import lower_bound

CLASSES = ("benign", "malignant", "no finding")
N = 1000
ALPHA = 0.001
GRID = (0.0, 0.1, 0.25, 0.5)

Change = Callable[[int, Record], Record]


def write_run(
    path: Path,
    *,
    verb: str = "certify",
    certifier: str = "gaussian",
    images: int = 60,
    prompts: Sequence[str] = ("zero-shot",),
    sigmas: Sequence[float] = (0.25,),
    radii: Sequence[float] = GRID,
    tolerance: float | None = None,
    change: Change = lambda _, record: record,
    failures: int = 0,
    thumbnails: bool = False,
    **info: Any,
) -> Run:
    """A finished run; ``change`` edits each record, given its place among the images."""
    path.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines: list[Record] = []
    for place in range(images):
        for sigma in sigmas:
            for name in prompts:
                record = _certified(generator, place, name, sigma, radii if certifier == "anytime" else None)
                lines.append(change(place, _predicted(record) if verb == "predict" else record))
        if thumbnails:
            _thumbnail(path, lines[-1]["sample_id"], place)
    lines += [
        {"sample_id": f"bad/{k}.png", "path": f"bad/{k}.png", "error": "the file is cut"} for k in range(failures)
    ]
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings: dict[str, Any] = {"certifier": certifier, "n0": 100, "n": N, "alpha": ALPHA, "sigma": list(sigmas)}
    if certifier == "anytime":
        settings |= {"radii": list(radii), "tolerance": tolerance}
    (path / "run.json").write_text(
        json.dumps(
            {
                "schema": 1,
                "status": "done",
                "verb": verb,
                "command": f"titer {verb} --model titer:tiny --data lesions",
                "settings": settings,
                "seed": 7,
                "versions": {"titer": "0.1.0", "torch": "2.13.0"},
                "device": "cpu",
                "dtype": "float32",
                "model": {"name": "titer:tiny", "fingerprint": "4ecb57d6" * 8, "size": 80},
                "prompts": dict.fromkeys(prompts, "ab" * 32),
                "data": {"name": "lesions", "split": "test", "limit": None},
                "classes": [{"label": name, "texts": [f"a picture of {name}"]} for name in CLASSES],
                "samples": {"expected": images + failures, "done": images, "failed": failures},
                "seconds": 12.5,
                **info,
            }
        )
    )
    return read_run(path)


def _certified(
    generator: np.random.Generator, place: int, prompts: str, sigma: float, grid: Sequence[float] | None
) -> Record:
    label = place % len(CLASSES)
    chance = generator.beta(4, 1)
    rest = (1 - chance) / (len(CLASSES) - 1)
    counts = generator.multinomial(N, [chance if k == label else rest for k in range(len(CLASSES))])
    top = int(counts.argmax())
    low = lower_bound(int(counts[top]), N, ALPHA)
    reach = sigma * float(ndtri(low)) if low > 0.5 else -1.0
    decided = [at for at in grid if at <= reach] if grid else []
    radius = decided[-1] if decided else 0.0 if grid else max(reach, 0.0)
    sure = bool(decided) if grid else reach >= 0
    extra: Record = {}
    if grid:
        hits = {"hits": int(counts[top]), "draws": N}
        extra["decided"] = [{"radius": at, **hits} for at in decided]
        extra["refuted"] = [{"radius": at, **hits} for at in grid if at > reach]
        extra["open"] = []
    return {
        "sample_id": f"test/{place:03d}.png",
        "path": f"test/{place:03d}.png",
        "label": label,
        "prompts": prompts,
        "prediction": top if sure else -1,
        "radius": radius,
        "counts": counts.tolist(),
        "counts0": [100 * (k == top) for k in range(len(CLASSES))],
        "draws": N,
        "draws0": 100,
        "p_lower": low,
        "sigma": sigma,
        "alpha": ALPHA,
        "guarantee": "fixed",
        "channels": 3,
        "seconds": 0.5,
        **extra,
    }


def _predicted(record: Record) -> Record:
    kept = ("sample_id", "path", "label", "prompts", "prediction", "counts", "draws", "sigma", "alpha", "seconds")
    return {**{name: record[name] for name in kept}, "p_value": 1e-6}


def _thumbnail(path: Path, sample: str, place: int) -> None:
    (path / "images").mkdir(exist_ok=True)
    rows, columns = np.mgrid[:48, :48]
    pixels = 120 + 60 * np.sin(rows / (3 + place % 5)) + 40 * np.cos(columns / 6)
    Image.fromarray(pixels.astype(np.uint8)).save(path / "images" / thumbnail_name(sample))
