"""FAP: few-shot adversarial prompt learning (Zhou et al., NeurIPS 2024, arXiv 2403.14774), as its released code computes it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from titer.defenses import objectives
from titer.defenses.learners import Coupling
from titer.defenses.objectives import cross_entropy
from titer.defenses.prompted import PromptTuning
from titer.defenses.tuning import InnerLoss, Step
from titer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Consistent(PromptTuning):
    """Settings of fits with a consistency term.

    Args:
        weight: of the consistency term.
        ramp: share of all steps in which that weight grows from 0.
    """

    weight: float = 1.5
    ramp: float = 0.0
    coupling: Coupling = "image-to-text"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight < 0:
            raise InputError(f"weight: expected at least 0, got {self.weight:g}")
        if not 0 <= self.ramp <= 1:
            raise InputError(f"ramp: expected a share of the steps from 0 to 1, got {self.ramp:g}")


@dataclass(frozen=True, kw_only=True)
class Fap(Consistent):
    """Clean cross-entropy, and attacked answers that agree with clean ones while image features part."""

    inner: InnerLoss = "kl"

    def objective(self, step: Step) -> tuple[Tensor, Tensor]:
        """Both terms."""
        term = objectives.fap(step.clean, step.attacked, step.clean_features, step.attacked_features)
        return cross_entropy(step.clean, step.labels), term
