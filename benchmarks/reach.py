"""How near a text context comes to the class vectors that a residual head learns on the same noisy features.

`python benchmarks/reach.py --data ../shared/data/brain_mri`: on `titer:tiny`, 16 shots. A context for each class is fitted to
the largest cosine with the residual head's class vectors; what is left is out of the text tower's reach.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import titer
from titer.data.shots import select
from titer.defenses import Residual
from titer.defenses.fit import minimise
from titer.evaluate.fitting import task_of
from titer.features.stream import threads
from titer.models import Encoder
from titer.models.prompts import sentences

EPOCHS, RATE = 500, 0.05
TRIED = ((4, 0.02), (16, 0.02), (16, 0.5), (48, 0.5))  # tokens, standard deviation of their start


def reached(encoder: Encoder, texts: tuple[str, ...], wanted: Tensor, tokens: int, spread: float) -> Tensor:
    """Cosine with the wanted vector of each class."""
    places = sentences(encoder, texts, tokens)
    start = torch.randn(len(texts), tokens, places.tower.width, generator=torch.Generator().manual_seed(0))
    context = (spread * start).requires_grad_()

    def cosines() -> Tensor:
        return (places.features(context) * wanted).sum(dim=1)

    def losses(epoch: int) -> list[Callable[[], Tensor]]:
        del epoch
        return [lambda: -cosines().mean()]

    minimise([context], losses, EPOCHS, RATE)
    return cosines().detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data
    encoder = titer.load_model("titer:tiny")
    with threads(1):
        task = task_of(encoder, select(str(folder), count=16, seed=1, upstream=encoder.upstream), 1)
        words = encoder.encode_text(task.texts)
        wanted = F.normalize(words + Residual().fit(task).weights["residual"], dim=-1)
        print("words |", " ".join(f"{one:.2f}" for one in (words * wanted).sum(dim=1)))
        for tokens, spread in TRIED:
            found = reached(encoder, task.texts, wanted, tokens, spread)
            print(f"{tokens} tokens from {spread:g} |", " ".join(f"{one:.2f}" for one in found), flush=True)


if __name__ == "__main__":
    main()
