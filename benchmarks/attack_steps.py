"""What a step of PGD costs: text features made once against at every step, and against foolbox.

`python benchmarks/attack_steps.py [--rounds 7] [--steps 10] [--classes 10 100 1000] [--model titer:tiny|vit-b32]`. One
thread, one process, rounds interleaved; medians with their range. `vit-b32` is a CLIP of that size with random weights, its
texts cut to 16 tokens, where much published code pads them to 77: the price of recomputing them is a lower bound.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import foolbox
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

import titer
from titer.attacks import Random, Threat
from titer.attacks.pgd import Pgd
from titer.data.example import ClassText
from titer.models import Classifier, Encoder

BATCH, EPSILON = 16, 4 / 255
TOKENS = 16


def vit_b32() -> Encoder:
    """A randomly initialised CLIP ViT-B/32; each text is a fixed row of random tokens."""
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(vision_config={"patch_size": 32, "image_size": 224})).eval()

    def encode_text(texts: list[str]) -> Tensor:
        tokens = torch.randint(1, 49_000, (len(texts), TOKENS), generator=torch.Generator().manual_seed(1))
        found: Tensor = model.get_text_features(input_ids=tokens).pooler_output
        return found

    def encode_image(images: Tensor) -> Tensor:
        found: Tensor = model.get_image_features(pixel_values=images).pooler_output
        return found

    return titer.wrap(encode_image, encode_text, 224, (0.5,) * 3, (0.25,) * 3, name="ViT-B/32")


def classifier(encoder: Encoder, classes: int) -> Classifier:
    texts = [ClassText(f"class {place}", (f"a medical image of finding number {place}",)) for place in range(classes)]
    return titer.zero_shot(encoder, texts)


def recomputing(encoder: Encoder, classes: int) -> Callable[[Tensor], Tensor]:
    """As much published code does it: the text tower runs at every step."""
    texts = [f"a medical image of finding number {place}" for place in range(classes)]
    return lambda images: encoder.logit_scale * encoder.encode_image(images) @ encoder.encode_text(texts).T


def ours(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, steps: int = 10) -> None:
    attack = Pgd(steps=steps, step=0.25, keep="last")
    attack(model, images, labels, Threat("linf", EPSILON), Random(0, "benchmark", [str(row) for row in range(BATCH)]))


def theirs(model: Classifier, images: Tensor, labels: Tensor, steps: int = 10) -> None:
    module = _Module(model)
    shown = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    foolbox.attacks.LinfPGD(steps=steps, rel_stepsize=0.25)(shown, images, labels, epsilons=EPSILON)


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
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--model", choices=("titer:tiny", "vit-b32"), default="titer:tiny")
    asked = parser.parse_args()
    rounds, steps = asked.rounds, asked.steps
    torch.set_num_threads(1)
    encoder = vit_b32() if asked.model == "vit-b32" else titer.load_model(asked.model)
    data = titer.load_data("titer:phantoms", limit=BATCH)
    images = torch.stack([encoder.preprocess(data.read(example).pixels) for example in data.examples])
    for classes in asked.classes:
        fixed, repeated = classifier(encoder, classes), recomputing(encoder, classes)
        labels = fixed(images).argmax(dim=1)
        compare(
            f"{classes} classes, text features at every step / once",
            lambda: ours(fixed, images, labels, steps),  # noqa: B023
            lambda: ours(repeated, images, labels, steps),  # noqa: B023
            max(1, rounds if classes < 1000 else rounds // 2),
        )
        compare(
            f"{classes} classes, foolbox / titer",
            lambda: ours(fixed, images, labels, steps),  # noqa: B023
            lambda: theirs(fixed, images, labels, steps),  # noqa: B023
            rounds,
        )


if __name__ == "__main__":
    main()
