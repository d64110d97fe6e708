"""MaPLe and IVLP: tokens in the layers of both towers, learned on clean images, and their adversarial twins.

maple     image tokens are linear maps of the text tokens (Khattak et al., CVPR 2023, arXiv 2210.03117).
ivlp      text and image tokens are independent (the baseline of the same paper).
advmaple  maple, and advvlp: ivlp, by cross-entropy on attacked images (baselines of FAP, NeurIPS 2024, arXiv 2403.14774).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from titer.defenses.learners import Coupling
from titer.defenses.objectives import cross_entropy
from titer.defenses.prompted import PromptTuning
from titer.defenses.tuning import Step


@dataclass(frozen=True, kw_only=True)
class Ivlp(PromptTuning):
    """Independent tokens in both towers, learned on clean images."""

    eps: float = 0.0

    def objective(self, step: Step) -> tuple[Tensor, None]:
        """Cross-entropy of the clean images."""
        return cross_entropy(step.clean, step.labels), None


@dataclass(frozen=True, kw_only=True)
class Maple(Ivlp):
    """Image tokens that are maps of the text tokens, learned on clean images."""

    coupling: Coupling = "text-to-image"


@dataclass(frozen=True, kw_only=True)
class AdvVlp(PromptTuning):
    """Independent tokens in both towers, learned on attacked images."""

    def objective(self, step: Step) -> tuple[Tensor, None]:
        """Cross-entropy of the attacked images."""
        return cross_entropy(step.attacked, step.labels), None


@dataclass(frozen=True, kw_only=True)
class AdvMaple(AdvVlp):
    """Image tokens that are maps of the text tokens, learned on attacked images."""

    coupling: Coupling = "text-to-image"
