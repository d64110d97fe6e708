"""`ran`: RAN-style (reconstructed) tuning of a head against attacks and against noise of pre-training.

Han et al., Findings of EMNLP 2024, arXiv 2407.02716. Its formulas are not public to us; this is NMTune's head with one
more term, and claims no figure of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from titer.defenses.attacked import attacked_store
from titer.defenses.nmtune import NmTune, answer, feature_distance, spread, transformed
from titer.defenses.objectives import label_loss
from titer.defenses.task import Task, Weights
from titer.errors import InputError
from titer.features.store import Places


@dataclass(frozen=True)
class Ran(NmTune):
    """``nmtune`` and adversarial consistency: attacked images get their label, and Z near F of the clean image.

    Args:
        adv: weight of that term.
        black_box: leave it out, for an encoder that gives no gradient.
    """

    adv: float = 1.0
    black_box: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adv < 0:
            raise InputError(f"adv: expected at least 0, got {self.adv:g}")

    @property
    def sees_attacks(self) -> bool:
        """Whether it learns from attacked images."""
        return not self.black_box and self.adv > 0

    def _extra(self, task: Task, weights: Weights) -> Callable[..., Tensor]:
        if not self.sees_attacks:
            return super()._extra(task, weights)
        store = attacked_store(task, self.eps)

        def consistency(part: Places, first: Tensor, labels: Tensor, chance: np.random.Generator) -> Tensor:  # noqa: ARG001
            attacked = spread(store.rows(part, chance.choice(store.draws, 1))[:, 0])
            clean, learned = task.clean[torch.from_numpy(part)], transformed(weights, attacked)
            fitting = label_loss(answer(weights, learned), labels)
            return self.adv * (fitting + feature_distance(learned, clean, "paper"))

        return consistency
