"""Tuning the whole image encoder against attacked images.

tecoa    cross-entropy with the class texts (Mao et al., ICLR 2023, arXiv 2212.07016).
pmg-aft  that, and answers close to the frozen model's and to its own clean ones (Wang et al., CVPR 2024, 2401.04350).
fare     no label: attacked features close to the frozen model's clean ones (Schlarmann et al., ICML 2024, 2402.12336).

Rates are ours: the public ones are for epochs of ImageNet and 1,000 warm-up steps, which few images do not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from titer.defenses.fit import OptimiserName
from titer.defenses.objectives import cross_entropy, kl
from titer.defenses.prompted import TowerTuning
from titer.defenses.tuning import InnerLoss, Step
from titer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Tecoa(TowerTuning):
    """The image encoder, tuned by cross-entropy of attacked images."""

    batch: int | None = 32
    learning_rate: float = 3e-4
    optimiser: OptimiserName = "adamw"
    epochs: int = 20
    warmup_rate: float | None = None
    weight_decay: float | None = 0.0

    def objective(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy of the attacked images."""
        return cross_entropy(step.attacked, step.labels), None


@dataclass(frozen=True, kw_only=True)
class PmgAft(Tecoa):
    """TeCoA, guided by the frozen model's answer to the attacked image and the tuned model's to the clean one.

    Args:
        guidance: weight of the frozen model's answer; divergences are summed over a batch, as in the public code.
        regularisation: weight of the own clean answer.
    """

    learning_rate: float = 1e-4
    guidance: float = 1.0
    regularisation: float = 1.0

    def objective(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """Three terms."""
        guided = self.guidance * kl(step.frozen_attacked, step.attacked).sum()
        own = self.regularisation * kl(step.clean, step.attacked).sum()
        return cross_entropy(step.attacked, step.labels) + guided + own, None


@dataclass(frozen=True, kw_only=True)
class Fare(TowerTuning):
    """The image encoder, tuned so that attacked features stay where the frozen model puts the clean ones."""

    steps: int = 10
    step: float = 0.25
    inner: InnerLoss = "distance"
    batch: int | None = 32
    learning_rate: float = 1e-4
    optimiser: OptimiserName = "adamw"
    warmup_rate: float | None = None

    needs_labels: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner == "cross-entropy":
            raise InputError("inner: fare uses no labels; expected distance or kl")

    def objective(self, step: Step) -> tuple[Tensor, None]:
        """Squared distance of features that are not unit, summed over their entries."""
        return (step.attacked_features - step.known).square().sum(dim=1).mean(), None
