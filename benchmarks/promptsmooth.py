"""What the structure saves: features stored against the encoder in the loop, eight prompt sets in one pass, zero-shot adaptation.

`python benchmarks/promptsmooth.py --data ../shared/data/brain_mri [--rounds 5] [--shots 16]`, all on `titer:tiny`, in one
process, on one thread. The fit with the encoder in the loop sees fresh noise in every epoch; it is run once, since it is slow.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import titer
from titer.certify import Gaussian
from titer.certify.pool import Job, run_jobs
from titer.data import Data
from titer.data.load import load_all
from titer.data.shots import select
from titer.defenses import PromptSmooth, Task
from titer.defenses.adapter import load_classifier
from titer.defenses.coop import agreement_with, descend_context
from titer.evaluate.fitting import fit, task_of
from titer.evaluate.voting import Voting
from titer.features.store import FeatureStore, Places
from titer.features.stream import Voter, fixed_ballot, one_thread, threads
from titer.models import Encoder

SIGMA = 0.25


@dataclass(frozen=True, eq=False)
class Live(FeatureStore):
    """The encoder in the loop: every row that is asked for is a fresh noisy copy of its image."""

    encoder: Encoder
    shown: Sequence[Tensor]
    chance: np.random.Generator

    def rows(self, images: Places, draws: Places) -> Tensor:
        found = []
        for image in images:
            noise = self.chance.standard_normal((len(draws), *self.shown[image].shape), np.float32)
            noisy = (
                self.shown[image]
                + torch.from_numpy(noise) * torch.from_numpy(self.sigmas[image][draws])[:, None, None, None]
            )
            with torch.no_grad():
                found.append(self.encoder.encode_image(noisy))
        return torch.stack(found)


def stored_against_live(task: Task) -> None:
    method = PromptSmooth()
    recipe = method.recipe()

    def timed(store_of: Callable[[], FeatureStore]) -> tuple[float, float, float]:
        began = time.perf_counter()
        store = store_of()
        built = time.perf_counter()
        losses = descend_context(task, recipe, store, agreement_with(task.targets), "cross-entropy").losses
        return built - began, time.perf_counter() - built, float(np.mean(losses[-20:]))

    copies = recipe.epochs * recipe.copies
    live = Live(
        images=(),
        sigmas=np.tile(np.asarray(method.noise, np.float32), (len(task.ids), copies // len(method.noise))),
        encoder=task.encoder,
        shown=[task.image(place) for place in range(len(task.ids))],
        chance=np.random.default_rng(0),
    )
    build, stored, loss = timed(lambda: task.store(method.noise, recipe.store))
    _, in_loop, live_loss = timed(lambda: live)
    print(f"{len(task.ids)} images, {recipe.epochs} epochs of {recipe.copies} copies")
    print(f"store: built in {build:.1f} s, fit in {stored:.1f} s, mean loss of the last 20 epochs {loss:.3f}")
    print(f"encoder in the loop: {in_loop:.1f} s, mean loss of the last 20 epochs {live_loss:.3f}")
    print(
        f"faster with the store at hand: {in_loop / stored:.1f} times; its making counted: {in_loop / (build + stored):.1f}"
    )


def eight_against_one(encoder: Encoder, heads: Sequence[Any], image: Tensor, rounds: int) -> None:
    method = Gaussian(n0=100, n=2900)

    def seconds(count: int) -> float:
        voter = Voter([fixed_ballot(encoder, head) for head in heads[:count]], seed=0)
        job = Job(
            "x", SIGMA, partial(voter, image, "x", SIGMA),
            [method.certify(SIGMA, 0.001) for _ in range(count)], 9,
        )  # fmt: skip
        began = time.process_time()  # of all threads: other processes disturb it less than the clock
        list(run_jobs([job], 1, 1, one_thread))
        return time.process_time() - began

    ratios = [seconds(8) / seconds(1) for _ in range(rounds)]
    print(
        f"eight prompt sets against one: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


def adaptation(data: Data, encoder: Encoder, path: Path, rounds: int) -> None:
    classifier = load_classifier(path, encoder, data)
    shares = []
    for example in data.examples[:rounds]:
        image = encoder.preprocess(data.read(example).pixels)
        began = time.perf_counter()
        ballot = Voting(classifier, "conditional", 0, 3).ballot(image, example.id, SIGMA)
        adapted = time.perf_counter()
        voter = Voter([ballot], 0)
        for block in range(40):
            voter(image, example.id, SIGMA, "estimate", block, [0])
        certifying = (time.perf_counter() - adapted) * 10_100 / (40 * 50)
        shares.append((adapted - began) / certifying)
    listed = f"{100 * statistics.median(shares):.2f} % ({100 * min(shares):.2f} to {100 * max(shares):.2f})"
    print(
        f"zero-shot adaptation, share of an image's certification at n = 10,000 (rate of 2,000 draws): median {listed}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shots", type=int, default=16)
    args = parser.parse_args()
    encoder = titer.load_model("titer:tiny")
    test = titer.load_data(args.data, limit=20)
    with threads(1), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zero-shot"
        fit(PromptSmooth(mode="zero-shot"), encoder, load_all(args.data), out=path)
        adaptation(test, encoder, path, args.rounds)
        chosen = select(str(args.data), count=args.shots, seed=1, upstream=encoder.upstream)
        task = task_of(encoder, chosen, 1)
        small = Path(folder) / "few-shot"
        fit(PromptSmooth(epochs=5), encoder, load_all(args.data), out=small, shots=1)
        head = load_classifier(small, encoder, test).head
        eight_against_one(encoder, [head] * 8, encoder.preprocess(test.read(test.examples[0]).pixels), args.rounds)
        stored_against_live(task)


if __name__ == "__main__":
    main()
