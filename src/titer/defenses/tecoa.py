"""Tuning the whole image encoder against attacked images.

tecoa    cross-entropy with the class texts (Mao et al., ICLR 2023, arXiv 2212.07016).
pmg-aft  that, and answers close to the frozen model's and to its own clean ones (Wang et al., CVPR 2024, 2401.04350).
fare     no label: attacked features close to the frozen model's clean ones (Schlarmann et al., ICML 2024, 2402.12336).

Rates are ours: the public ones are for epochs of ImageNet and 1,000 warm-up steps, which few images do not have. Encoders
that their authors have tuned on all of it are taken over with ``checkpoint``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from torch import Tensor

from titer.defenses.checkpoints import TakesCheckpoint
from titer.defenses.encoders import Constants, take_encoder
from titer.defenses.fit import OptimiserName
from titer.defenses.objectives import cross_entropy, kl
from titer.defenses.prompted import TowerTuning
from titer.defenses.task import Fitted, Task
from titer.defenses.tuning import InnerLoss, Step
from titer.errors import InputError, unknown


@dataclass(frozen=True, kw_only=True)
class Published(TakesCheckpoint, TowerTuning):
    """Settings of fits whose authors publish tuned encoders.

    Args:
        checkpoint: a file of TeCoA's, PMG-AFT's or RobustVLM's code whose image encoder is taken over; nothing is learned then.
        constants: how that file's encoder expects its pixels: normalised as the ``model`` given says, or as ``imagenet``'s.
    """

    checkpoint: str | None = None
    constants: Constants = "model"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.constants not in get_args(Constants):
            raise unknown("constants", str(self.constants), get_args(Constants))

    def fit(self, task: Task) -> Fitted:
        """Learn the image encoder's weights, or take them over."""
        if self.checkpoint is None:
            return super().fit(task)
        return take_encoder(Path(self.checkpoint), task.encoder, self.constants)


@dataclass(frozen=True, kw_only=True)
class Tecoa(Published):
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

    constants: Constants = "imagenet"  # of the public code
    learning_rate: float = 1e-4
    guidance: float = 1.0
    regularisation: float = 1.0

    def objective(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """Three terms."""
        guided = self.guidance * kl(step.frozen_attacked, step.attacked).sum()
        own = self.regularisation * kl(step.clean, step.attacked).sum()
        return cross_entropy(step.attacked, step.labels) + guided + own, None


@dataclass(frozen=True, kw_only=True)
class Fare(Published):
    """The image encoder, tuned so that attacked features stay where the frozen model puts the clean ones."""

    steps: int = 10
    step: float = 0.25
    inner: InnerLoss = "distance"
    batch: int | None = 32
    learning_rate: float = 1e-4
    optimiser: OptimiserName = "adamw"
    warmup_rate: float | None = None

    @property
    def needs_labels(self) -> bool:
        """Never."""
        return False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner == "cross-entropy":
            raise InputError("inner: fare uses no labels; expected distance or kl")

    def objective(self, step: Step) -> tuple[Tensor, None]:
        """Squared distance of features that are not unit, summed over their entries."""
        return (step.attacked_features - step.known).square().sum(dim=1).mean(), None
