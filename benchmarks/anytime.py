"""How many draws the anytime certifier saves against a fixed number, and what it loses.

`python benchmarks/anytime.py --data ../shared/data --out FILE.jsonl [--limit 100]` goes on where it stopped; with
`--summary` it only prints. Per image, one pass of noise serves four questions: one radius at cap 100,000 for r in
{0.1, 0.25, 0.5}, the curve {0, 0.1, 0.25, 0.5} at cap 10,000, and a longer one that goes on to 0.75 (3 sigma), which few
images reach and many must be counted to the cap for; each counts the draws that it would have used alone, selection draws
included. The fixed rule (Clopper-Pearson at 100,000) is computed where the outcome could differ: for
images left open, and for those refuted while their 99.9 % interval still holds p0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr
from torch import Tensor

import titer
from titer.certify import Anytime, Certificate, Gaussian
from titer.certify.pool import Job, Votes, run_jobs
from titer.data import Data
from titer.evaluate.machine import cores
from titer.features.stream import Voter, fixed_ballot, one_thread
from titer.noise import Purpose
from titer.statistics.intervals import lower_bound, upper_bound

SETS = ("mednist", "brain_mri", "lung_histology", "blood_cells")
SIGMA, ALPHA, CAP, CURVE_CAP, SEED = 0.25, 0.001, 100_000, 10_000, 1
RADII = (0.1, 0.25, 0.5)
CURVES = {"curve": (0.0, *RADII), "long curve": (0.0, *RADII, 0.75)}
METHODS = {
    **{f"r={radius:g}": Anytime(n=CAP, radii=(radius,)) for radius in RADII},
    **{name: Anytime(n=CURVE_CAP, radii=radii) for name, radii in CURVES.items()},
}


def record(data: Data, label: int | None, name: str, place: int, certificate: Certificate) -> dict[str, Any]:
    question = list(METHODS)[place]
    return {
        "set": data.name, "sample_id": name, "question": question, "label": label, "prediction": certificate.prediction,
        "candidate": int(np.argmax(certificate.counts0)), "radius": certificate.radius, "draws": certificate.draws,
        "hits": int(certificate.counts[int(np.argmax(certificate.counts0))]), "open": list(certificate.unsettled or ()),
        "refuted": [proof.radius for proof in certificate.refuted or ()],
    }  # fmt: skip


def jobs_of(data: Data, identifiers: Sequence[str], methods: Sequence[Anytime | Gaussian]) -> Iterator[Job]:
    """One job an image; all questions are asked of the same draws."""
    encoder = titer.load_model("titer:tiny")
    voter = Voter([fixed_ballot(encoder, titer.zero_shot(encoder, data.classes).head)], SEED)
    for example in data.examples:
        if example.id in identifiers:
            image = encoder.preprocess(data.read(example).pixels)
            procedures = [method.certify(SIGMA, ALPHA) for method in methods]
            yield Job(
                example.id,
                SIGMA,
                partial(repeated, voter, image, example.id, len(methods)),
                procedures,
                len(data.classes),
            )


def repeated(voter: Voter, image: Tensor, sample: str, times: int, purpose: Purpose, block: int, _: object) -> Votes:
    return np.repeat(voter(image, sample, SIGMA, purpose, block, [0]), times, axis=0)


def run(data: Data, done: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Lines for every image of a set that has none yet."""
    labels = {example.id: example.label for example in data.examples}
    todo = [example.id for example in data.examples if (data.name, example.id) not in done]
    for finished in run_jobs(jobs_of(data, todo, list(METHODS.values())), cores(), 2 * cores() + 2, one_thread):
        assert isinstance(finished.statement, Certificate)
        yield record(data, labels[finished.job.sample], finished.job.sample, finished.place, finished.statement)


def settle(data: Data, lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The fixed rule itself for the lines of a set where it could change certified accuracy."""
    asked = [line for line in lines if line["set"] == data.name and line["question"] not in CURVES]
    uncertain = [line for line in asked if line["candidate"] == line["label"] and not fixed_outcome(line)[1]]
    for finished in run_jobs(
        jobs_of(data, [line["sample_id"] for line in uncertain], [Gaussian(n=CAP)]), cores(), 20, one_thread
    ):
        assert isinstance(finished.statement, Certificate)
        for line in uncertain:
            if line["sample_id"] == finished.job.sample:
                yield {**line, "fixed_radius": finished.statement.radius}


def fixed_outcome(line: dict[str, Any]) -> tuple[bool, bool]:
    """(certified by the fixed rule, certain): uncertain where more draws could still change it."""
    radius = float(line["question"].removeprefix("r="))
    if "fixed_radius" in line:
        return line["fixed_radius"] >= radius, True
    if line["radius"] > 0:
        return True, True
    p0 = float(ndtr(radius / SIGMA))
    if line["draws"] == CAP:
        return lower_bound(line["hits"], CAP, ALPHA) >= p0, True
    return False, upper_bound(line["hits"], line["draws"], 0.0005) < p0


def summarise(lines: list[dict[str, Any]]) -> None:
    ratios = []
    print("set | question | images | mean draws | median | fixed / anytime | certified | by the fixed rule | uncertain")
    for name in SETS:
        for question in METHODS:
            own = [line for line in lines if line["set"] == name and line["question"] == question]
            if own:
                draws = np.array([line["draws"] + 100 for line in own])
                ratio = (METHODS[question].n + 100) / draws.mean()
                start = f"{name} | {question} | {len(own)} | {draws.mean():.0f} | {np.median(draws):.0f}"
                print(f"{start} | {_curve_cells(own, ratio) if question in CURVES else _decide_cells(own, ratio)}")
                ratios += [] if question in CURVES else [ratio]
    together = len(ratios) / sum(1 / ratio for ratio in ratios)
    print(
        f"ratios of {len(ratios)} cells: mean {np.mean(ratios):.1f}, geometric mean {np.exp(np.mean(np.log(ratios))):.1f}"
    )
    print(f"all draws of these cells together: {together:.1f} times fewer")


def _curve_cells(own: list[dict[str, Any]], ratio: float) -> str:
    """Share of the draws, largest difference of certified accuracy over the grid, images where it is uncertain."""
    right = [line for line in own if line["candidate"] == line["label"]]
    radii = CURVES[own[0]["question"]]
    gaps = [
        sum(_curve_fixed(line, radius)[0] - _on_curve(line, radius) for line in right) / len(own) for radius in radii
    ]
    uncertain = sum(not all(_curve_fixed(line, radius)[1] for radius in radii) for line in right)
    return f"{1 / ratio:.3f} of the draws | largest gap {max(gaps, key=abs):.3f} | - | {uncertain}"


def _on_curve(line: dict[str, Any], radius: float) -> bool:
    return bool(line["prediction"] >= 0 and line["radius"] >= radius)


def _curve_fixed(line: dict[str, Any], radius: float) -> tuple[bool, bool]:
    """(certified by the fixed rule at the curve's cap, certain)."""
    p0 = float(ndtr(radius / SIGMA))
    if _on_curve(line, radius):
        return True, True
    if line["draws"] == CURVE_CAP:
        return lower_bound(line["hits"], CURVE_CAP, ALPHA) >= p0, True
    return False, upper_bound(line["hits"], line["draws"], 0.0005) < p0


def _decide_cells(own: list[dict[str, Any]], ratio: float) -> str:
    right = [line for line in own if line["candidate"] == line["label"]]
    fixed = [fixed_outcome(line) for line in right]
    certified = sum(line["radius"] > 0 for line in right) / len(own)
    by_fixed = sum(outcome for outcome, _ in fixed) / len(own)
    return f"{ratio:.1f} | {certified:.3f} | {by_fixed:.3f} | {sum(not certain for _, certain in fixed)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    if not args.summary:
        counted: dict[tuple[str, str], int] = {}
        for line in lines:
            counted[line["set"], line["sample_id"]] = counted.get((line["set"], line["sample_id"]), 0) + 1
        done = {key for key, count in counted.items() if count == len(METHODS)}
        lines = [line for line in lines if (line["set"], line["sample_id"]) in done]
        args.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with args.out.open("a") as stream:
            for share in (*range(20, args.limit, 20), args.limit):  # nested subsets, so an early stop is balanced too
                for name in SETS:
                    data = titer.load_data(args.data / name, limit=share)
                    for line in run(data, done):
                        stream.write(json.dumps(line) + "\n")
                        stream.flush()
                        lines.append(line)
                    done |= {(data.name, example.id) for example in data.examples}
                print(f"{share} images a set done", flush=True)
            for name in SETS:
                data = titer.load_data(args.data / name, limit=args.limit)
                for line in settle(data, lines):
                    stream.write(json.dumps(line) + "\n")
                    lines.append(line)
    lines = list({(line["set"], line["sample_id"], line["question"]): line for line in lines}.values())
    summarise(lines)


if __name__ == "__main__":
    main()
