"""AdvPT: text tokens learned on a bank of attacked image features (Zhang et al., ECCV 2024, arXiv 2311.11261).

The attack uses no label and no text: it raises the divergence of an image's features from its clean ones, read as
distributions over their entries. So it never sees the classifier that it should teach to resist, and robustness against
an attack that does see it cannot be expected: ``titer attack`` says what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titer.attacks.attack import Random
from titer.defenses.fit import minimise, parts
from titer.defenses.learners import Learner
from titer.defenses.objectives import cross_entropy
from titer.defenses.prompted import PromptTuning
from titer.defenses.task import Fitted, Task
from titer.defenses.tuning import InnerLoss, Step, known_features
from titer.errors import InputError
from titer.models.classifier import class_features

_BLOCK = 16  # images attacked at a time


@dataclass(frozen=True, kw_only=True)
class AdvPt(PromptTuning):
    """Text tokens learned on stored features of attacked images."""

    text: int = 32
    image: int = 0
    depth: int | None = 1
    eps: float = 8 / 255
    steps: int = 10
    step: float = 1.25 / 10
    inner: InnerLoss = "embedding"
    epochs: int = 100
    batch: int | None = 32
    learning_rate: float = 0.002

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image or self.frame:
            raise InputError("advpt: stored features need a frozen image tower; expected image=0 and no frame")

    def learn(self, task: Task, learner: Learner) -> Fitted:
        """Attack all images once, then fit the tokens to their features."""
        features, labels = self.bank(task, learner), task.targets.to(task.encoder.device)
        chance, weights = np.random.default_rng([task.seed, 5]), learner.weights
        for tensor in weights.values():
            tensor.requires_grad_()

        def loss(part: Tensor) -> Tensor:
            words = learner.class_features(weights)
            return cross_entropy(task.encoder.logit_scale * features[part] @ words.T, labels[part])

        def losses(_: int) -> list[Callable[[], Tensor]]:
            batches = map(torch.from_numpy, parts(chance.permutation(len(task.ids)), self.batch))
            return [lambda part=part: loss(part) for part in batches]  # type: ignore[misc]

        history = minimise(
            list(weights.values()),
            losses,
            self.epochs,
            self.learning_rate,
            self.optimiser,
            self.warmup_rate,
            self.weight_decay,
        )
        learned = {name: tensor.detach().cpu() for name, tensor in weights.items()}
        notes: dict[str, object] = {"trainable": sum(tensor.numel() for tensor in learned.values())}
        return Fitted(learned, history, None, notes)

    def bank(self, task: Task, learner: Learner) -> Tensor:
        """Unit features (images, dim) of all images, attacked."""
        words, known, rows = class_features(task.encoder, task.classes), known_features(task), []
        inner = replace(self.attack(), prompting="constant")
        for first in range(0, len(task.ids), _BLOCK):
            places = range(first, min(first + _BLOCK, len(task.ids)))
            images = torch.stack([task.image(place) for place in places]).to(task.encoder.device)
            random, part = (
                Random(task.seed, "fit bank", [task.ids[place] for place in places]),
                slice(first, first + _BLOCK),
            )
            step = Step(
                learner, task.encoder, words, images, task.targets[part].to(images.device), known[part], inner, random
            )
            with torch.no_grad():
                rows.append(F.normalize(task.encoder.image_features(step.attacked_images), dim=-1))
        return torch.cat(rows)
