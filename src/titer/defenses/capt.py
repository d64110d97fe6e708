"""CAPT-R, a reconstruction of CAPT (Yang et al., 2024, arXiv 2405.11154), and CAPT-Smooth, the project's own.

Public of CAPT are its abstract and three formulas at second hand: cross-entropy, and a consistency of attacked answers
with the tuned model's clean ones and with the frozen model's, balanced by an adaptive weight. Everything else here is a
named choice: how the weight adapts, the divergence's direction, the layout and the training attack. No figure of the
paper is known to us.

capt-smooth adds that noisy copies agree with the clean image, so that one prompt set can be attacked and certified.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import torch
from scipy.stats import binomtest
from torch import Tensor

from titer.defenses import objectives
from titer.defenses.fap import Consistent
from titer.defenses.learners import Learner
from titer.defenses.objectives import AlphaRule, CrossEntropyOn, Direction, cross_entropy, kl
from titer.defenses.prompted import Smoothed
from titer.defenses.task import Fitted, Task
from titer.defenses.tuning import Step
from titer.errors import InputError, unknown
from titer.models.classifier import class_features

_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Capt(Consistent):
    """Attacked answers agree with the tuned model's clean ones and with the frozen model's.

    Args:
        teacher: how much the frozen model counts for an image: ``const``, ``teacher-conf``, ``teacher-correct``,
            ``entropy`` or ``gap``.
        share: of the frozen model where that is constant.
        direction: KL ``from-target`` to the attacked answer, or ``from-attacked`` to the target.
        supervision: cross-entropy on ``clean`` images, attacked ones (``adv``), or ``both``.
        detach: whether the clean answer is a fixed target.
    """

    steps: int = 3
    step: float = 2 / 3
    teacher: AlphaRule = "teacher-conf"
    share: float = 0.5
    direction: Direction = "from-target"
    supervision: CrossEntropyOn = "clean"
    detach: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("teacher", AlphaRule), ("direction", Direction), ("supervision", CrossEntropyOn)):
            if getattr(self, name) not in get_args(kind):
                raise unknown(name, str(getattr(self, name)), get_args(kind))
        if not 0 <= self.share <= 1:
            raise InputError(f"share: expected 0 to 1, got {self.share:g}")

    def learn(self, task: Task, learner: Learner) -> Fitted:
        """With a word where the frozen model guesses: then its share of the consistency is noise."""
        fitted = super().learn(task, learner)
        said = task.clean @ class_features(task.encoder, task.classes).cpu().T
        right = int((said.argmax(dim=1) == task.targets).sum())
        fitted.notes["teacher"] = right / len(task.ids)
        doubt = _chance_level(right, len(task.ids), len(task.classes))
        constant = self.teacher == "const" and self.share > 0
        hint = "; expected teacher=teacher-correct or teacher-conf, which follow each image" if constant else ""
        return fitted if doubt is None else replace(fitted, warnings=(*fitted.warnings, doubt + hint))

    def objective(self, step: Step) -> tuple[Tensor, Tensor]:
        """Both terms."""
        if self.weight == 0 and self.supervision == "clean":
            return cross_entropy(step.clean, step.labels), torch.zeros(())
        trust = objectives.alpha(self.teacher, self.share, step.clean, step.attacked, step.frozen, step.labels)
        term = objectives.capt(step.clean, step.attacked, step.frozen, trust, self.direction, detach=self.detach)
        shown = {"clean": [step.clean], "adv": [step.attacked], "both": [step.clean, step.attacked]}[self.supervision]
        return torch.stack([cross_entropy(logits, step.labels) for logits in shown]).mean(), term


def _chance_level(right: int, images: int, classes: int) -> str | None:
    """A warning where the frozen model is not better than guessing, by an exact binomial test at 0.05."""
    if binomtest(right, images, 1 / classes, alternative="greater").pvalue <= _LEVEL:
        return None
    return (
        f"the frozen model is right on {right} of {images} training images, no more than guessing among {classes} classes: "
        "agreeing with it teaches noise"
    )


@dataclass(frozen=True, kw_only=True)
class CaptSmooth(Smoothed, Capt):
    """CAPT-R whose answers also agree under Gaussian noise, for attacks and certificates at once."""

    def objective(self, step: Step) -> tuple[Tensor, Tensor]:
        """CAPT-R's terms, cross-entropy of a noisy copy, and its divergence from the clean answer."""
        fitting, term = super().objective(step)
        noisy = step.logits(step.noisy_features(self.sigmas), step.class_features)
        return fitting + self.smooth * cross_entropy(noisy, step.labels), term + self.smooth * kl(
            step.clean, noisy
        ).mean()
