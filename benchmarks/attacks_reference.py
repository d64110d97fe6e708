"""The attacks against torchattacks on the same network, images and budgets: robust accuracy, mean of several seeds.

`make check-attacks`: torchattacks asks for torchvision, which it needs for nothing that is used here and which does not go
with the CPU build of torch; so it gets an environment of its own, without its dependencies. Twelve classes, since its
AutoAttack needs more than nine as soon as an image survives.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

from titer.attacks import ATTACKS, Attack, Norm, Random, Threat
from titer.attacks.threat import length

IMAGES, SIDE, CLASSES = 200, 16, 12
POINT = 0.01 + 1e-6
BUDGETS: dict[Norm, float] = {"linf": 0.004, "l2": 0.1}
THEIRS: dict[Norm, str] = {"linf": "Linf", "l2": "L2"}


def network() -> nn.Module:
    """A small smooth convolutional network with fixed random weights: gradients are informative, not masked.

    Its borders are joined, so that all pixels count alike: torchattacks' Square never reaches the last row and column, which
    on so small an image would save it an eighth of its queries where these pixels hardly count.
    """
    generator = torch.Generator().manual_seed(0)
    joined: dict[str, Any] = {"padding": 1, "padding_mode": "circular"}
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, **joined),
        nn.GELU(),
        nn.Conv2d(16, 16, 3, stride=2, **joined),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(1024, CLASSES),
    )
    with torch.no_grad():
        for weights in layers.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator) / max(1, weights[0].numel()) ** 0.5)
        layers[-1].bias -= layers(pictures()).mean(dim=0)  # else nearly all answers are one class
    return layers.eval().requires_grad_(False)


def pictures() -> Tensor:
    return torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def pairs(model: nn.Module, norm: Norm, seed: int) -> dict[str, tuple[Attack, Any]]:
    """Each attack of the package and its counterpart, with the same settings."""
    eps, name = BUDGETS[norm], THEIRS[norm]
    common = {"norm": name, "eps": eps, "seed": seed}
    apgd = {**common, "n_restarts": 1, "steps": 50}
    pgd = {
        "linf": lambda: torchattacks.PGD(model, eps=eps, alpha=0.1 * eps, steps=50),
        "l2": lambda: torchattacks.PGDL2(model, eps=eps, alpha=0.1 * eps, steps=50),
    }[norm]
    return {
        "pgd": (ATTACKS.build("pgd", steps=50, keep="last"), pgd()),
        "apgd-ce": (ATTACKS.build("apgd-ce", steps=50), torchattacks.APGD(model, loss="ce", **apgd)),
        "apgd-dlr": (ATTACKS.build("apgd-dlr", steps=50), torchattacks.APGD(model, loss="dlr", **apgd)),
        "apgd-t": (ATTACKS.build("apgd-t", steps=50), torchattacks.APGDT(model, n_classes=CLASSES, **apgd)),
        "fab-t": (
            ATTACKS.build("fab-t", steps=50),
            torchattacks.FAB(model, steps=50, n_restarts=1, multi_targeted=True, n_classes=CLASSES, **common),
        ),
        "square": (
            ATTACKS.build("square", queries=1000),
            torchattacks.Square(model, n_queries=1000, n_restarts=1, **common),
        ),
        "autoattack": (
            ATTACKS.build("autoattack"),
            torchattacks.AutoAttack(model, n_classes=CLASSES, **common),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    model, images = network(), pictures()
    labels = model(images).argmax(dim=1)
    worse = []
    print("attack | norm | titer | torchattacks | seconds, titer | seconds, torchattacks")
    for norm, eps in BUDGETS.items():

        def holds(found: Tensor, norm: Norm = norm, eps: float = eps) -> float:
            """Robust accuracy; what left the budget or the box counts as not attacked."""
            within = (length(found - images, norm) <= eps * (1 + 1e-4)) & (found - 0.5).abs().flatten(1).le(0.5).all(1)
            return float(
                (model(torch.where(within.view(-1, 1, 1, 1), found, images)).argmax(dim=1) == labels).float().mean()
            )

        def timed(attack: Callable[[], Tensor]) -> tuple[float, float]:
            began = time.perf_counter()
            found = attack()
            return holds(found), time.perf_counter() - began

        for name in pairs(model, norm, 0):
            own, theirs = [], []
            for seed in range(seeds):
                torch.manual_seed(seed)  # torchattacks draws from the global generator
                mine, other = pairs(model, norm, seed)[name]
                random = Random(seed, "reference", [str(place) for place in range(IMAGES)])
                own.append(timed(lambda: mine(model, images, labels, Threat(norm, eps), random)))  # noqa: B023
                theirs.append(timed(lambda: other(images, labels)))  # noqa: B023
            accuracy, reference = (statistics.fmean(value for value, _ in found) for found in (own, theirs))
            spent = [statistics.median(seconds for _, seconds in found) for found in (own, theirs)]
            print(f"{name} | {norm} | {accuracy:.3f} | {reference:.3f} | {spent[0]:.1f} | {spent[1]:.1f}", flush=True)
            if accuracy > reference + POINT:
                worse.append(f"{name} ({norm})")
    if worse:
        sys.exit(f"more than a point weaker than torchattacks: {', '.join(worse)}")


if __name__ == "__main__":
    main()
