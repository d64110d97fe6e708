"""`fusion`: answers to questions, by a co-attention of image and question tokens on a frozen encoder, and a head.

RAN-style (reconstructed), in two stages: the co-attention and a linear head learn the answers; then the co-attention is
frozen, and a head that rectifies noise of pre-training is learned on its features. In one stage its distance from frozen
features would chase features that it moves itself. With ``site = "before"`` the head's MLP stands before the co-attention,
one for the tokens of each modality (``rectified.py``): these are frozen, and all is learned in one stage.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titer.defenses.fit import minimise, parts
from titer.defenses.nmtune import Mlp, NmTune
from titer.defenses.ran import Ran
from titer.defenses.rectified import plain_loss, rectified_loss
from titer.defenses.task import Fitted, Task, Weights
from titer.errors import InputError, unknown
from titer.features.store import FeatureStore
from titer.features.views import CropAndFlip
from titer.models.classifier import Head, Named
from titer.models.encoder import Encoder
from titer.models.fusion import Answerer, CoAttention, check_sizes, fused, new_fusion
from titer.models.weights import fingerprint_of

HeadName = Literal["linear", "mlp", "nmtune", "ran"]
Site = Literal["behind", "before"]

_HEADS: Mapping[str, type[Mlp]] = {"mlp": Mlp, "nmtune": NmTune, "ran": Ran}


@dataclass(frozen=True)
class Fusion:
    """A co-attention of image and question tokens, and a head over the answers of the fit.

    Args:
        head: ``linear``, learned with the co-attention; or ``mlp``, ``nmtune`` or ``ran``, learned behind it once it is frozen.
        width: of the co-attention's tokens and of the fused feature.
        layers: in which both modalities look at themselves and at each other.
        heads: of each attention.
        epochs, learning_rate, batch: of the first stage; AdamW with a cosine schedule.
        head_epochs: of the second.
        smallest: least share of the area that a crop of the second stage keeps. A crop may cut off what is asked for.
        eps: linf budget of the attacked images that ``ran`` learns from, in [0, 1] pixel units.
        site: where the MLP of ``mlp``, ``nmtune`` and ``ran`` and their terms are: ``behind`` the co-attention, on the fused
            feature; or ``before`` it, one for the image's tokens and one for the question's, learned with it in one stage.
        views: crops of each picture, and attacked copies of it, that an MLP is learned on.
    """

    head: HeadName = "linear"
    width: int = 512
    layers: int = 2
    heads: int = 8
    epochs: int = 30
    learning_rate: float = 3e-4
    batch: int = 64
    head_epochs: int = 30
    smallest: float = 0.8
    eps: float = 1 / 255
    site: Site = "behind"
    views: int = 8

    def __post_init__(self) -> None:
        if self.head not in get_args(HeadName):
            raise unknown("head", str(self.head), get_args(HeadName))
        if self.site not in get_args(Site):
            raise unknown("site", str(self.site), get_args(Site))
        if self.head == "linear" and self.site == "before":
            raise InputError(
                "site: a linear head has no MLP to stand before the fusion; expected head=mlp, nmtune or ran"
            )
        if self.views < 2:
            raise InputError(f"views: expected at least 2, got {self.views}")
        check_sizes(self.width, self.layers, self.heads)
        for name in ("epochs", "learning_rate", "batch"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: expected above 0, got {getattr(self, name):g}")
        _ = self._second  # which checks the rest

    @property
    def _is_linear(self) -> bool:
        """Whether the head on the fused feature is one linear map."""
        return self.head == "linear" or self.site == "before"

    @property
    def _second(self) -> Mlp:
        kind = _HEADS.get(self.head, Mlp)
        return kind(eps=self.eps, smallest=self.smallest, epochs=self.head_epochs)

    def fit(self, task: Task) -> Fitted:
        """Both stages, on tokens made beforehand."""
        if len(task.questions) != len(task.ids):
            raise InputError("fusion learns from images with questions; expected a data set that has them")
        fusion, first, history = self._answers_learned(task)
        asked = _Fused(
            **{**_fields(task), "encoder": replace(task.encoder, dim=self.width), "copies": self.views}, fusion=fusion
        )
        predictions: Tensor | None
        if self._is_linear:
            logits = F.linear(asked.features, first["weight"], first["bias"])
            head, predictions = first, logits.argmax(dim=1)
        else:
            second = self._second.fit(asked)
            head, predictions, history = second.weights, second.predictions, (*history, *second.losses)
        weights = {
            **{f"fusion.{name}": tensor for name, tensor in fusion.state_dict().items()},
            **{f"head.{name}": tensor for name, tensor in head.items()},
        }
        return Fitted(weights, history, predictions, notes=_priors(task))

    def answerer(
        self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str, notes: Mapping[str, Any]
    ) -> Answerer:
        """What these weights answer, and what the fit's questions were mostly answered by."""
        fusion = self._new(encoder, 0)
        fusion.load_state_dict({key: weights[f"fusion.{key}"] for key in fusion.state_dict()})
        answers = tuple(named.label for named in classes)
        return Answerer(
            name=name,
            encoder=encoder,
            fusion=fusion.to(encoder.device).eval().requires_grad_(False),
            head=self._head(encoder, classes, weights),
            answers=answers,
            fingerprint=fingerprint_of(weights, "fusion", self.head, answers),
            prior=dict(notes["prior"]),
            commonest=int(notes["commonest"]),
        )

    def _head(self, encoder: Encoder, classes: Sequence[Named], weights: Weights) -> Head:
        own = {
            key.removeprefix("head."): tensor.to(encoder.device)
            for key, tensor in weights.items()
            if key.startswith("head.")
        }
        if not self._is_linear:
            return self._second.classifier(replace(encoder, dim=self.width), classes, own, self.head).head
        if own["weight"].shape != (len(classes), self.width) or own["bias"].shape != (len(classes),):
            raise InputError(f"head.weight: expected ({len(classes)}, {self.width}), got {tuple(own['weight'].shape)}")
        return partial(F.linear, weight=own["weight"], bias=own["bias"])

    def _new(self, encoder: Encoder, seed: int) -> CoAttention:
        rectified = self.site == "before"
        return new_fusion(encoder, self.width, self.layers, self.heads, seed, rectified=rectified)

    def _answers_learned(self, task: Task) -> tuple[CoAttention, Weights, tuple[float, ...]]:
        """Co-attention (frozen when it is done), linear head, and losses."""
        device = task.encoder.device
        fusion = self._new(task.encoder, task.seed).to(device)
        head = {"weight": torch.zeros(len(task.classes), self.width), "bias": torch.zeros(len(task.classes))}
        there = {name: tensor.to(device).requires_grad_() for name, tensor in head.items()}
        chance = np.random.default_rng([task.seed, 11])
        loss = (
            plain_loss(task, fusion, there)
            if self.site == "behind"
            else rectified_loss(task, fusion, there, self._second, self.views, chance)
        )

        def losses(_: int) -> list[Callable[[], Tensor]]:
            return [partial(loss, part) for part in parts(chance.permutation(len(task.ids)), self.batch)]

        learned = [*fusion.parameters(), *there.values()]
        history = minimise(learned, losses, self.epochs, self.learning_rate, "adamw")
        return fusion.requires_grad_(False), {name: tensor.detach().cpu() for name, tensor in there.items()}, history


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fused(Task):
    """A task whose features are fused with each image's question, so that heads learn on them as on any others.

    Args:
        fusion: frozen.
    """

    fusion: CoAttention

    def encoder_of(self, places: Sequence[int]) -> Encoder:
        """The encoder whose features the questions at these places have a part in."""
        return fused(self.encoder, self.fusion, [self.questions[place] for place in places])

    def store(self, sigmas: Sequence[float], draws: int, views: CropAndFlip | None = None) -> FeatureStore:  # noqa: ARG002
        """Unit fused features of crops without noise; fewer than of images alone, since every question has its own."""
        rows = []
        with torch.no_grad():
            for place, sample in enumerate(self.ids):
                image = self.kept(place)
                crops = [
                    image if views is None else views(image, sample, self.seed, view) for view in range(self.copies)
                ]
                rows.append(self.encoder_of([place]).encode_image(torch.stack(crops)).cpu().half().numpy())
        return FeatureStore(tuple(rows), np.zeros((len(rows), self.copies), np.float32))


def _fields(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in task.__dataclass_fields__}


def _priors(task: Task) -> dict[str, object]:
    """The commonest answer to each question of the fit, and the commonest of all; of two as common, the first."""
    answers: dict[str, Counter[int]] = defaultdict(Counter)
    for text, label in zip(task.questions, task.targets.tolist(), strict=True):
        answers[text][label] += 1
    total = sum(answers.values(), Counter[int]())
    return {"prior": {text: _commonest(found) for text, found in answers.items()}, "commonest": _commonest(total)}


def _commonest(counts: Counter[int]) -> int:
    return min(counts, key=lambda label: (-counts[label], label))
