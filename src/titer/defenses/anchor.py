"""Anchor, the project's own: attacked and noisy features stay where the clean ones were.

Low-rank changes of the image encoder: FARE's aim (Schlarmann et al., ICML 2024, arXiv 2402.12336) at LoRA's size, extended to
Gaussian noise, so that one fit serves attacks and certificates. It uses no label and no class words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from titer.defenses.fit import OptimiserName
from titer.defenses.learners import LowRank
from titer.defenses.objectives import cross_entropy
from titer.defenses.prompted import Smoothed, TowerTuning
from titer.defenses.task import Weights
from titer.defenses.tuning import InnerLoss, Step
from titer.errors import InputError
from titer.models.classifier import Named
from titer.models.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class Anchor(Smoothed, TowerTuning):
    """Low-rank changes of the image encoder: attacked and noisy features stay where the frozen model puts the clean ones.

    Args:
        rank: of the change of each linear layer.
        light: largest change of contrast and gamma of the images that are learned from, as a logarithm; brightness moves by
            up to half of it. Features stay where the frozen model puts the changed image. 0 for none.
        supervised: weight of the cross-entropy of attacked and noisy images beside the distances; 0 uses no label.
    """

    rank: int = 8
    light: float = 0.4
    supervised: float = 0.0
    eps: float = 4 / 255
    steps: int = 3
    step: float = 2 / 3
    inner: InnerLoss = "distance"
    epochs: int = 20
    batch: int | None = 32
    learning_rate: float = 0.01
    optimiser: OptimiserName = "adam"
    warmup_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise InputError(f"rank: expected at least 1, got {self.rank}")
        for name in ("supervised", "light"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected at least 0, got {getattr(self, name):g}")
        if self.inner == "cross-entropy" and not self.needs_labels:
            raise InputError(
                "inner: cross-entropy uses labels; expected distance, kl or embedding, or supervised above 0"
            )

    @property
    def needs_labels(self) -> bool:
        """Only where it is supervised."""
        return self.supervised > 0

    def learner(self, encoder: Encoder, classes: Sequence[Named], weights: Weights) -> LowRank:
        """The encoder with changed layers."""
        return LowRank(encoder, classes, self.template, weights, self.rank)

    def objective(self, step: Step) -> tuple[Tensor, None]:
        """Drift of attacked features, and of noisy ones; where it is supervised, the cross-entropy of both."""
        step = step.relit(self.light) if self.light else step
        return self._term(step, step.attacked_features) + self.smooth * self._term(
            step, step.noisy_features(self.sigmas)
        ), None

    def _term(self, step: Step, features: Tensor) -> Tensor:
        drifted = drift(features, step.known)
        if not self.supervised:
            return drifted
        return drifted + self.supervised * cross_entropy(step.logits(features, step.class_features), step.labels)


def drift(features: Tensor, known: Tensor) -> Tensor:
    """Squared distance of features (batch, dim) from known ones, as a share of the mean square of these.

    So weights mean the same on every encoder.
    """
    return (features - known).square().sum(dim=1).mean() / known.square().sum(dim=1).mean()
