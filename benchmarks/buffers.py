"""Images per second of `titer:tiny` on all cores, with the C library's defaults and with buffers kept (`reuse_buffers`).

`python benchmarks/buffers.py [--rounds 5]`: each figure is a process of its own, since the setting cannot be taken back; rounds
alternate between the two.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

import titer
from titer.evaluate.machine import cores, reuse_buffers
from titer.features.stream import one_thread
from titer.noise import BLOCK

BLOCKS = 60


def rate() -> float:
    encoder = titer.load_model("titer:tiny")
    images = torch.rand(BLOCK, 3, encoder.size, encoder.size)

    def work(blocks: int) -> None:
        with torch.inference_mode():
            for _ in range(blocks):
                encoder.encode_image(images)

    with ThreadPoolExecutor(cores(), initializer=one_thread) as pool:
        list(pool.map(work, [10] * cores()))
        began = time.perf_counter()
        list(pool.map(work, [BLOCKS] * cores()))
        return cores() * BLOCKS * BLOCK / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=["default", "kept"])
    args = parser.parse_args()
    if args.one:
        if args.one == "kept":
            reuse_buffers()
        print(rate())
        return
    found: dict[str, list[float]] = {"default": [], "kept": []}
    for _ in range(args.rounds):
        for name, rates in found.items():
            told = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True)
            rates.append(float(told.stdout))
    ratios = [kept / default for kept, default in zip(found["kept"], found["default"], strict=True)]
    for name, rates in found.items():
        print(f"{name}: median {statistics.median(rates):.0f} images/s ({min(rates):.0f} to {max(rates):.0f})")
    print(f"ratio: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
