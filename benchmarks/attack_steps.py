"""What a step of PGD costs: text features made once against at every step, and against foolbox.

`python benchmarks/attack_steps.py [--rounds 7]`. One thread, one process, rounds interleaved; medians with their range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import foolbox
import torch
from torch import Tensor

import titer
from titer.attacks import Random, Threat
from titer.attacks.pgd import Pgd
from titer.data.example import ClassText
from titer.models import Classifier, Encoder

BATCH, STEPS, EPSILON = 16, 10, 4 / 255


def classifier(encoder: Encoder, classes: int) -> Classifier:
    texts = [ClassText(f"class {place}", (f"a medical image of finding number {place}",)) for place in range(classes)]
    return titer.zero_shot(encoder, texts)


def recomputing(encoder: Encoder, classes: int) -> Callable[[Tensor], Tensor]:
    """As much published code does it: the text tower runs at every step."""
    texts = [f"a medical image of finding number {place}" for place in range(classes)]
    return lambda images: encoder.logit_scale * encoder.encode_image(images) @ encoder.encode_text(texts).T


def ours(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> None:
    attack = Pgd(steps=STEPS, step=0.25, keep="last")
    attack(model, images, labels, Threat("linf", EPSILON), Random(0, "benchmark", [str(row) for row in range(BATCH)]))


def theirs(model: Classifier, images: Tensor, labels: Tensor) -> None:
    module = _Module(model)
    shown = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    foolbox.attacks.LinfPGD(steps=STEPS, rel_stepsize=0.25)(shown, images, labels, epsilons=EPSILON)


class _Module(torch.nn.Module):
    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(name: str, first: Callable[[], None], second: Callable[[], None], rounds: int) -> None:
    first()
    second()
    ratios = [seconds(second) / seconds(first) for _ in range(rounds)]
    print(f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    encoder = titer.load_model("titer:tiny")
    data = titer.load_data("titer:phantoms", limit=BATCH)
    images = torch.stack([encoder.preprocess(data.read(example).pixels) for example in data.examples])
    for classes in (10, 100, 1000):
        fixed, repeated = classifier(encoder, classes), recomputing(encoder, classes)
        labels = fixed(images).argmax(dim=1)
        compare(
            f"{classes} classes, text features at every step / once",
            lambda: ours(fixed, images, labels),  # noqa: B023
            lambda: ours(repeated, images, labels),  # noqa: B023
            max(1, rounds if classes < 1000 else rounds // 2),
        )
        compare(
            f"{classes} classes, foolbox / titer",
            lambda: ours(fixed, images, labels),  # noqa: B023
            lambda: theirs(fixed, images, labels),  # noqa: B023
            rounds,
        )


if __name__ == "__main__":
    main()
