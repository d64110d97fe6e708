"""What it saves that prompt sets which are decided are not run, when several are certified in one pass.

`python benchmarks/decided_sets.py --data ../shared/data/brain_mri [--images 12] [--sets mixed]`: `titer:tiny`, sigma 0.25,
`anytime` at radius 0.25 with a cap of 10,000, one thread. Eight text-prompt sets, then a mix with sets that change the image
tower or adapt. Every block of draws is made once, for the sets that are undecided, and its processor time taken; each twentieth
is made for all sets too, next to it, so that both are met by the same disturbances. Passes of image encoders are counted, which
is exact.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import titer
from titer.certify.pool import Job, Vote, Votes, run_jobs
from titer.data.load import load_all
from titer.evaluate.fitting import fit
from titer.evaluate.plan import Plan
from titer.evaluate.session import job_of, prepare
from titer.evaluate.smoothing import plan_certify
from titer.features.stream import Voter, one_thread, threads
from titer.noise import Purpose

SIGMA, RADIUS, CAP = 0.25, 0.25, 10_000
EVERY = 20  # blocks, of which one is also made for all sets

TEXTS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    *(("coop", shots, {}) for shots in (1, 2, 4)),
    *(("promptsmooth", shots, {}) for shots in (1, 2, 4)),
    ("promptsmooth", 2, {"class_specific": True}),
)
MIXED: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("promptsmooth", 4, {}),
    ("promptsmooth", 1, {"mode": "zero-shot"}),
    ("promptsmooth", 4, {"mode": "bank"}),
    ("linear-probe", 4, {}),
    ("lora", 2, {"epochs": 2}),
    ("denoise", 2, {"steps": 30}),
)


SETS = {"texts": TEXTS, "mixed": MIXED}


@dataclass(eq=False)
class Meter:
    """Processor seconds of blocks, and passes of encoders, as they are made and as all sets would make them."""

    made: list[float] = field(default_factory=list)
    pairs: list[tuple[float, float]] = field(default_factory=list)
    passes: int = 0
    all_passes: int = 0

    def metered(self, vote: Vote, voter: Voter) -> Vote:
        everyone = range(len(voter.ballots))

        def seconds(purpose: Purpose, block: int, places: Collection[int]) -> tuple[Votes, float]:
            began = time.thread_time()
            votes = vote(purpose, block, places)
            return votes, time.thread_time() - began

        def timed(purpose: Purpose, block: int, undecided: Collection[int]) -> Votes:
            votes, own = seconds(purpose, block, undecided)
            self.made.append(own)
            self.passes += len({voter.ballots[place].encoder for place in undecided})
            self.all_passes += len({ballot.encoder for ballot in voter.ballots})
            if len(self.made) % EVERY == 0:
                self.pairs.append((own, seconds(purpose, block, everyone)[1]))
            return votes

        return timed

    def told(self) -> str:
        everyone = sum(pair[1] for pair in self.pairs) / len(self.pairs)
        own = sum(self.made) / len(self.made)
        return (
            f"{len(self.made)} blocks, {self.passes} of {self.all_passes} encoder passes ({self.passes / self.all_passes:.3f}); "
            f"processor time of a block {1000 * own:.1f} ms against {1000 * everyone:.1f} ms for all sets ({own / everyone:.3f})"
        )


def fitted(data: str, sets: Collection[tuple[str, int, dict[str, Any]]], folder: Path) -> list[str]:
    encoder, examples = titer.load_model("titer:tiny"), load_all(data)
    paths = []
    for place, (method, shots, settings) in enumerate(sets):
        paths.append(str(folder / f"{place}-{method}"))
        fit(method, encoder, examples, out=paths[-1], shots=shots, seed=1, settings=settings, cache=folder / "cache")
    return paths


def jobs_of(chosen: Plan, meter: Meter) -> Iterator[Job]:
    for example in chosen.data.examples:
        image = chosen.encoder.preprocess(chosen.data.read(example).pixels)
        prepared = prepare(chosen, image, example.id, SIGMA)
        job = job_of(chosen, chosen.method, prepared, image, example.id, SIGMA)
        yield replace(job, vote=meter.metered(job.vote, prepared.voter))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--sets", choices=SETS, action="append")
    args = parser.parse_args()
    for title in args.sets or SETS:
        sets = SETS[title]
        meter = Meter()
        with threads(1), tempfile.TemporaryDirectory() as folder:
            prompts = ["zero-shot", *fitted(args.data, sets, Path(folder))]
            chosen = plan_certify(
                "titer:tiny", args.data, sigma=SIGMA, out=Path(folder) / "run", prompts=prompts, limit=args.images,
                radii=(RADIUS,), n=CAP, seed=1, guarantee={"1-promptsmooth": "per-draw"},
            )  # fmt: skip
            draws = [finished.statement.counts.sum() for finished in run_jobs(jobs_of(chosen, meter), 1, 1, one_thread)]
        print(
            f"{title}, {args.images} images: {meter.told()}; {sum(draws)} draws counted for {len(draws)} statements",
            flush=True,
        )


if __name__ == "__main__":
    main()
