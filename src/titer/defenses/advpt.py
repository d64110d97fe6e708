"""AdvPT: text tokens learned on a bank of attacked image features (Zhang et al., ECCV 2024, arXiv 2311.11261).

The attack uses no label and no text: it raises the divergence of an image's features from its clean ones, read as
distributions over their entries. So it never sees the classifier that it should teach to resist, and robustness against
an attack that does see it cannot be expected: ``titer attack`` says what is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from titer.attacks.attack import Random
from titer.defenses.apt import AdvTp
from titer.defenses.learners import Learner
from titer.defenses.objectives import cross_entropy
from titer.defenses.prompted import learned
from titer.defenses.task import Fitted, Task
from titer.defenses.tuning import InnerLoss, Step, descend
from titer.errors import InputError
from titer.features.store import Places
from titer.models.classifier import class_features

_BLOCK = 16  # images attacked at a time


@dataclass(frozen=True, kw_only=True)
class AdvPt(AdvTp):
    """Text tokens learned on stored features of attacked images."""

    text: int = 32
    eps: float = 8 / 255
    steps: int = 10
    step: float = 1.25 / 10
    inner: InnerLoss = "embedding"
    epochs: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image or self.frame:
            raise InputError("advpt: stored features need a frozen image tower; expected image=0 and no frame")

    def learn(self, task: Task, learner: Learner) -> Fitted:
        """Attack all images once, then fit the tokens to their features."""
        features, labels = self.bank(task, learner), task.targets.to(task.encoder.device)

        def loss(_: int, part: Places) -> Tensor:
            places, words = torch.from_numpy(part), learner.class_features(learner.weights)
            return cross_entropy(task.encoder.logit_scale * features[places] @ words.T, labels[places])

        return learned(learner, descend(task, learner, self.schedule(), loss))

    def bank(self, task: Task, learner: Learner) -> Tensor:
        """Unit features (images, dim) of all images, attacked."""
        device, words, rows = task.encoder.device, class_features(task.encoder, task.classes), []
        inner = replace(self.attack(), prompting="constant")
        for first in range(0, len(task.ids), _BLOCK):
            part = slice(first, first + _BLOCK)
            images = torch.stack([task.kept(place) for place in range(len(task.ids))[part]]).to(device)
            labels, known = task.targets[part].to(device), task.features[part].to(device)
            random = Random(task.seed, "fit bank", task.ids[part])
            step = Step(learner, task.encoder, words, images, labels, known, inner, random)
            with torch.no_grad():
                rows.append(task.encoder.encode_image(step.attacked_images))
        return torch.cat(rows)
