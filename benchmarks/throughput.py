"""Images per second of the certifier against the bare encoder's own best rate, and the price of five templates.

`python benchmarks/throughput.py [--rounds 5]`: one process, rounds interleaved, medians. The bare encoder gets images
without noise in the batch size and number of threads that suit it best; both are searched first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import titer
from titer.certify import Gaussian
from titer.certify.pool import Job, run_jobs
from titer.data import ClassText
from titer.evaluate.machine import cores
from titer.features.stream import Voter, fixed_ballot, one_thread
from titer.models import Encoder

SECONDS = 6.0


def vit_b32() -> Encoder:
    """A randomly initialised ViT-B/32 at 224 pixels; the text side is random too, and costs nothing here."""
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=224,
            patch_size=32,
            projection_dim=512,
        )
    ).eval()
    words = torch.randn(1000, 512)
    return titer.wrap(
        lambda images: model(pixel_values=images).image_embeds,
        lambda texts: words[: len(texts)],
        224,
        (0.5,) * 3,
        (0.25,) * 3,
        name="ViT-B/32",
    )


def rate_of(work: Callable[[], int]) -> float:
    """Images per second of a piece of work that says how many it did."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        done += work()
    return done / (time.perf_counter() - began)


def bare(encoder: Encoder, batch: int, threads: int, streams: int) -> Callable[[], int]:
    """``streams`` batches at a time, each on ``threads`` threads."""
    images = torch.rand(batch, 3, encoder.size, encoder.size)

    def one(_: int) -> None:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            encoder.encode_image(images)

    def work() -> int:
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(one, range(4 * streams)))
        return 4 * streams * batch

    return work


def certifying(encoder: Encoder, templates: int, block_images: int) -> Callable[[], int]:
    """The Gaussian certifier on a few images, with so many prompt sets."""
    classes = [ClassText(f"class {place}", (f"words {place}",)) for place in range(9)]
    sets = [titer.zero_shot(encoder, classes, f"{{}} {number}", name=str(number)) for number in range(templates)]
    voter, image = (
        Voter([fixed_ballot(encoder, one.head) for one in sets], seed=0),
        torch.rand(3, encoder.size, encoder.size),
    )
    method = Gaussian(n0=100, n=400)

    def work() -> int:
        jobs = [
            Job(
                str(sample),
                0.25,
                partial(voter, image, str(sample), 0.25),
                [method.certify(0.25, 0.001) for _ in sets],
                9,
            )
            for sample in range(block_images)
        ]
        torch.set_num_threads(1)
        return 500 * sum(finished.place == 0 for finished in run_jobs(jobs, cores(), 2 * cores() + 2, one_thread))

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for encoder, batches, block_images in (
        (titer.load_model("titer:tiny"), (32, 50, 64, 128, 256, 512), 8),
        (vit_b32(), (8, 16, 50), 1),
    ):
        ways = [(batch, cores(), 1) for batch in batches] + [(batch, 1, cores()) for batch in batches]
        best = max(ways, key=lambda way: rate_of(bare(encoder, *way)))
        contenders = {
            "bare": bare(encoder, *best),
            "one": certifying(encoder, 1, block_images),
            "five": certifying(encoder, 5, block_images),
        }
        found: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, work in contenders.items():
                found[name].append(rate_of(work))
        ratios = [one / alone for one, alone in zip(found["one"], found["bare"], strict=True)]
        costs = [one / five for one, five in zip(found["one"], found["five"], strict=True)]
        middle = {name: statistics.median(rates) for name, rates in found.items()}
        print(
            f"{encoder.name}: bare best {middle['bare']:.0f} images/s (batch {best[0]}, {best[2]} x {best[1]} threads)"
        )
        print(
            f"  certifying {middle['one']:.0f} images/s; ratio {_spread(ratios)}; five templates cost {_spread(costs)}",
            flush=True,
        )


def _spread(values: list[float]) -> str:
    return f"median {statistics.median(values):.3f} (from {min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
