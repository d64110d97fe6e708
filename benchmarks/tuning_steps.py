"""What a training step of adversarial prompt tuning costs: ours, and the same step as public code writes it.

`python benchmarks/tuning_steps.py [--rounds 5] [--methods fap capt]`. A randomly initialised CLIP ViT-B/32, 100 classes,
batches of the public code (APT 32, FAP's family 4). As public code writes it: texts padded to 77 tokens, the text tower run
and differentiated at every step of the attack, all learned tensors in its graph. One thread, one process, rounds
interleaved; medians with range, and both losses. Peak memory is what a step adds to a process of its own (`--memory`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

import titer
from titer.attacks import Random
from titer.data.example import ClassText
from titer.defenses import DEFENSES
from titer.defenses.learners import Tokens
from titer.defenses.tuning import Step
from titer.models import Encoder, load_model
from titer.models.classifier import class_features

CLASSES = [ClassText(f"class {place}", (f"a medical image of finding number {place}",)) for place in range(100)]
TINY = Path(titer.__file__).parent / "models" / "tiny"
BATCHES = {"apt": 32, "advmaple": 4, "fap": 4, "capt": 4}


def vit_b32(directory: Path) -> Encoder:
    """A CLIP of that size with random weights and the embedded model's words."""
    torch.manual_seed(0)
    config = CLIPConfig(
        vision_config={"patch_size": 32, "image_size": 224},
        text_config={"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1},
    )
    for file in TINY.glob("*token*"):
        shutil.copy(file, directory)
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    told = json.loads((TINY / "preprocessor_config.json").read_text())
    told |= {
        name: {"height": 224, "width": 224} if "height" in told[name] else {"shortest_edge": 224}
        for name in ("size", "crop_size")
        if name in told
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(told))
    model = CLIPModel(config)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, directory / "model.safetensors")
    return load_model(directory)


def step_of(method: Any, encoder: Encoder, batch: int) -> Step:
    layout, chance = method.layout(), torch.Generator().manual_seed(2)
    weights = layout.start(encoder, CLASSES, "{}", 1)
    images = torch.rand(batch, 3, 224, 224, generator=chance)
    with torch.no_grad():
        known = encoder.image_features(images)
    return Step(
        learner=Tokens(
            layout, encoder, CLASSES, "{}", {name: value.requires_grad_() for name, value in weights.items()}
        ),
        encoder=encoder,
        words=class_features(encoder, CLASSES),
        images=images,
        labels=torch.arange(batch),
        known=known,
        inner=method.attack(),
        random=Random(0, "fit 0", [str(place) for place in range(batch)]),
    )


def ours(method: Any, step: Step) -> Tensor:
    fitting, term = method.objective(step)
    return fitting if term is None else fitting + method.weight * term


def public(method: Any, step: Step) -> Tensor:
    """The same step with nothing reused: features of all prompts and all learned tensors in each step of the attack."""
    learner, inner, encoder = step.learner, step.inner, step.encoder
    tower: Any = encoder.text_tower
    tower._fixed = True  # pads to 77 tokens
    start = Random(0, "fit 0", [str(place) for place in range(len(step.images))])
    change = start.uniform(*step.images.shape[1:], low=-inner.eps, high=inner.eps)
    current = (step.images + change).clamp(0, 1)
    current = torch.minimum(torch.maximum(current, step.images - inner.eps), step.images + inner.eps)

    def logits(images: Tensor) -> Tensor:
        features = F.normalize(learner.image_features(learner.weights, images), dim=-1)
        return encoder.logit_scale * features @ learner.class_features(learner.weights).T

    for _ in range(inner.steps):
        shown = current.detach().requires_grad_()
        if inner.loss == "kl":
            clean, attacked = logits(step.images), logits(shown)
            raised = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="sum")
        else:
            raised = F.cross_entropy(logits(shown), step.labels, reduction="sum")
        raised.backward()  # type: ignore[no-untyped-call]
        moved = current + inner.step * inner.eps * shown.grad.sign()  # type: ignore[union-attr]
        current = torch.minimum(torch.maximum(moved, step.images - inner.eps), step.images + inner.eps).clamp(0, 1)
    for weight in learner.weights.values():
        weight.grad = None
    fresh = Step(learner, encoder, step.words, step.images, step.labels, step.known, inner, step.random)
    vars(fresh)["attacked_images"] = current.detach()
    total = ours(method, fresh)
    tower._fixed = False
    return total


def once(kind: str, name: str, encoder: Encoder) -> tuple[float, float]:
    """Seconds and loss of a step, forward and backward."""
    method = DEFENSES.build(name)
    step = step_of(method, encoder, BATCHES[name])
    began = time.perf_counter()
    loss = {"ours": ours, "public": public}[kind](method, step)
    loss.backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - began, float(loss.detach())


def grown(work: Callable[[], object]) -> float:
    """MiB by which a process grows at most while something is done; Linux forgets the peak before when it is told to."""

    def resident(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return (resident("VmHWM") - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", nargs=2, metavar=("KIND", "METHOD"))
    parser.add_argument("--methods", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        encoder = vit_b32(Path(directory))
        if options.memory:
            print(grown(lambda: once(*options.memory, encoder)))
            return
        print("method\tbatch\tours\tpublic\tratio\tloss\tdifference\tMiB ours\tMiB public")
        for name in options.methods:
            print("\t".join(row(name, encoder, options.rounds)), flush=True)


def row(name: str, encoder: Encoder, rounds: int) -> list[str]:
    tried = [[once(kind, name, encoder) for kind in ("ours", "public")] for _ in range(rounds)]
    ratios = sorted(second[0] / first[0] for first, second in tried)
    times = [statistics.median(pair[place][0] for pair in tried) for place in (0, 1)]
    first, second = tried[0][0][1], tried[0][1][1]
    memory = [
        subprocess.run([sys.executable, __file__, "--memory", kind, name], check=True, capture_output=True, text=True)
        for kind in ("ours", "public")
    ]
    return [
        name, str(BATCHES[name]), *(f"{value:.2f} s" for value in times),
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})", f"{first:.5f}", f"{abs(first - second):.1e}",
        *(f"{float(run.stdout):.0f}" for run in memory),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
