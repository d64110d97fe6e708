"""Pairs a second of `titer pretrain` against a bare PyTorch loop over the same model and batch, in one process, in turns.

    python benchmarks/pretrain_throughput.py [--batch 64] [--rounds 15]

The bare loop has its pictures and token ids in memory, and computes loss, gradient and Adam step with transformers' own
loss. Ours reads pictures from the disk, draws crops, tokenises, and keeps equal captions apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from titer.data.load import load_all
from titer.features.stream import threads
from titer.models.load import open_model
from titer.results.store import RunWriter
from titer.upstream.pairs import captioned_images
from titer.upstream.pretrain import _Training
from titer.upstream.pretraining import build_pretraining, optimiser_of


def main() -> None:
    """Print seconds a step of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data/blood_smears_captions")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    method = build_pretraining(batch=args.batch, part=args.batch)
    encoder, network, _ = open_model("titer:tiny")
    data = load_all(args.data)
    with tempfile.TemporaryDirectory() as folder, threads(1):
        info = {"seconds": 0.0}
        with RunWriter(Path(folder) / "run", {"verb": "benchmark"}, info) as writer:
            ours = _Training(method, encoder, network, data, writer, 0)
            rows = ours._rows(captioned_images(data, "train"), "pictures.u8")
            parameters = [parameter.requires_grad_() for parameter in network.parameters()]
            optimiser = optimiser_of(method, network)
            places = np.random.default_rng(0).permutation(len(rows))[: args.batch].tolist()
            tokens = encoder.text_tower.padded([encoder.text_tower.ids(rows.captions[place]) for place in places])  # type: ignore[attr-defined]
            shown = encoder.preprocess.normalise(rows.images(places))

            def bare() -> None:
                optimiser.zero_grad(set_to_none=True)
                network(**tokens, pixel_values=shown, return_loss=True).loss.backward()
                optimiser.step()

            spent: dict[str, list[float]] = {"bare": [], "titer pretrain": []}
            for turn in range(args.rounds + 2):
                for name, step in (
                    ("bare", bare),
                    ("titer pretrain", lambda turn=turn: ours._step(rows, places, optimiser, parameters, turn, 1000)),
                ):
                    began = time.perf_counter()
                    step()
                    if turn >= 2:
                        spent[name].append(time.perf_counter() - began)
    torch.set_num_threads(1)
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    ratios = sorted(bare / mine for bare, mine in zip(spent["bare"], spent["titer pretrain"], strict=True))
    low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
    for name, seconds in medians.items():
        print(f"{name}\t{1000 * seconds:.0f} ms a step\t{args.batch / seconds:.0f} pairs a second")
    print(f"rate of ours over the bare loop's: {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
