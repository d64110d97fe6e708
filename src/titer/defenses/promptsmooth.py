"""PromptSmooth: a context that survives Gaussian noise (Hussein et al., MICCAI 2024, arXiv 2408.16769).

few-shot   CoOp on noisy copies of labelled images, all noise levels mixed: fixed, a sound certificate.
zero-shot  starts from words; one entropy step for each test image, made when it is certified: conditional.
combined   the zero-shot step, started from the few-shot context: conditional.
offline    no labels, but learned before any test image is seen, on held-out noisy images: fixed.
bank       a few contexts learned offline, one of which is chosen for an image by a certified vote: bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from titer.defenses.adaptation import EntropyStep, main_directions
from titer.defenses.coop import (
    Objective,
    Recipe,
    Setting,
    agreement_with,
    class_sentences,
    context_classifier,
    descend_context,
    learn_context,
    recipe_of,
    start_of,
    take_context,
)
from titer.defenses.objectives import marginal_entropy
from titer.defenses.task import MIXED, Fitted, Task, Weights, check_sigmas
from titer.errors import InputError, unknown
from titer.features.store import Places
from titer.features.views import CropAndFlip
from titer.models.classifier import Bank, Classifier, Named, bank_head, cosine_head
from titer.models.encoder import Encoder
from titer.models.weights import fingerprint_of
from titer.noise import BLOCK

Mode = Literal["few-shot", "zero-shot", "combined", "offline", "bank"]

_SIGMAS: dict[Setting, tuple[float, ...]] = {"paper": (0.25, 0.5, 0.75, 1.0), "own": MIXED}
_START = "a medical image of"
_MARGINAL = 10  # copies in an entropy
_BATCH = 64  # images in a step without labels
_PROBED = 64  # noisy copies whose gradients give the directions of per-draw steps
_PROBED_IMAGES = 16  # at most, of which these are copies


@dataclass(frozen=True)
class PromptSmooth:
    """Context tokens learned on noisy images, one context for all noise levels.

    Args:
        mode: few-shot, zero-shot, combined, offline or bank.
        setting: ``own``, or ``paper`` for the published recipe.
        sigmas: noise of the training copies, in [0, 1] pixel units; the setting's unless given.
        context: learned tokens; the setting's unless given (zero-shot: as many as the words have).
        words: words that the context takes the place of and starts from.
        class_specific: a context for every class; the setting's unless given.
        epochs, learning_rate: the setting's unless given.
        adapt_copies: zero-shot, combined: noisy copies of the image shown that a step uses.
        adapt_steps: zero-shot, combined: AdamW steps.
        adapt_rate: zero-shot, combined: their learning rate.
        members: bank: number of contexts.
        checkpoint: few-shot, combined: a file of CoOp's code (``model.pth.tar-50``) whose context is taken over; nothing
            is learned then.
    """

    mode: Mode = "few-shot"
    setting: Setting = "own"
    sigmas: tuple[float, ...] | None = None
    context: int | None = None
    words: str | None = None
    class_specific: bool | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    adapt_copies: int = 100
    adapt_steps: int = 1
    adapt_rate: float = 5e-3
    members: int = 4
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise unknown("mode", str(self.mode), get_args(Mode))
        if self.checkpoint is not None and self.mode not in ("few-shot", "combined"):
            raise InputError(f"checkpoint: expected with mode few-shot or combined, got {self.mode}")
        self.recipe()
        check_sigmas(self.noise)
        for name in ("adapt_copies", "adapt_steps", "members"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.adapt_rate <= 0:
            raise InputError(f"adapt_rate: expected above 0, got {self.adapt_rate:g}")

    @property
    def needs_labels(self) -> bool:
        """Whether the fit uses the labels of its images."""
        return self.mode not in ("zero-shot", "offline") and self.checkpoint is None

    @property
    def needs_images(self) -> bool:
        """Whether the fit looks at images at all."""
        return self.mode == "combined" or self.checkpoint is None

    @property
    def class_bound(self) -> bool:
        """A class-specific context belongs to its classes."""
        return self.mode != "zero-shot" and self.recipe().class_specific

    @property
    def noise(self) -> tuple[float, ...]:
        """Standard deviations of the noise in training."""
        return _SIGMAS[self.setting] if self.sigmas is None else self.sigmas

    def recipe(self) -> Recipe:
        """How a context is learned."""
        return recipe_of(self)

    def fit(self, task: Task) -> Fitted:
        """Learn what the mode learns."""
        return {
            "few-shot": lambda: self._fit_few_shot(task),
            "zero-shot": lambda: self._fit_start(task),
            "combined": lambda: self._fit_combined(task),
            "offline": lambda: self._fit_offline(task),
            "bank": lambda: self._fit_bank(task),
        }[self.mode]()

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The classifier that these weights make."""
        if self.mode == "bank":
            return self._bank(encoder, classes, weights, name)
        recipe = self._start_recipe() if self.mode == "zero-shot" else self.recipe()
        fixed = context_classifier(encoder, classes, recipe, weights["context"], name)
        if self.mode not in ("zero-shot", "combined"):
            return fixed
        step = EntropyStep(
            places=class_sentences(encoder, classes, recipe),
            context=weights["context"],
            directions=weights["directions"],
            scale=encoder.logit_scale,
            copies=self.adapt_copies,
            steps=self.adapt_steps,
            rate=self.adapt_rate,
        )
        return Classifier(
            name, encoder, fixed.head, fixed.classes, fingerprint_of(weights, fixed.fingerprint, vars(self)), step
        )

    def _fit_start(self, task: Task) -> Fitted:
        """The words' embeddings, and directions for per-draw steps from unlabelled noisy copies."""
        recipe = self._start_recipe()
        context = start_of(class_sentences(task.encoder, task.classes, recipe), recipe, len(task.classes), task.seed)
        weights = {"context": context, **self._directions(task, recipe, context)}
        return Fitted(weights, (), notes={"template": recipe.template})

    def _start_recipe(self) -> Recipe:
        """Zero-shot: the context is the embedding of words, shared by all classes."""
        recipe = self.recipe()
        everything = 10**6 if self.context is None else self.context
        return replace(recipe, words=self.words or _START, context=everything, class_specific=False)

    def _fit_few_shot(self, task: Task) -> Fitted:
        if self.checkpoint is not None:
            return take_context(task, self.recipe(), self.checkpoint)
        return learn_context(task, self.recipe(), self.noise)

    def _fit_combined(self, task: Task) -> Fitted:
        fitted = self._fit_few_shot(task)
        directions = self._directions(task, self.recipe(), fitted.weights["context"])
        return Fitted(fitted.weights | directions, fitted.losses, fitted.predictions, fitted.notes)

    def _directions(self, task: Task, recipe: Recipe, context: Tensor) -> Weights:
        chance = np.random.default_rng([task.seed, 2])
        some = np.sort(chance.permutation(len(task.ids))[:_PROBED_IMAGES])
        ids = [task.ids[place] for place in some]
        few = replace(task, ids=ids, labels=None, image=lambda place: task.image(int(some[place])))
        rows = few.store(self.noise, BLOCK).everything().flatten(0, 1)
        features = rows[chance.permutation(len(rows))[:_PROBED]]
        sentences = class_sentences(task.encoder, task.classes, recipe)
        features, scale = features.to(task.encoder.device), task.encoder.logit_scale
        return {"directions": main_directions(sentences, context, features, scale)}

    def _fit_offline(self, task: Task) -> Fitted:
        """Without labels. Paper: marginal entropy of an image's copies. Own: noisy copies should say what the frozen
        model says of the clean image.
        """
        recipe = self.recipe()
        if self.setting == "paper":
            recipe = replace(recipe, copies=_MARGINAL)  # the entropy of one copy's prediction is not a marginal one
        else:
            recipe = replace(recipe, batch=_BATCH, epochs=max(1, recipe.epochs // 4))  # as many steps, of fewer images
        store = task.store(self.noise, recipe.store, CropAndFlip() if recipe.crops else None)
        if self.setting == "paper":
            return descend_context(task, recipe, store, _mean_entropy, "marginal entropy")
        with torch.no_grad():
            said = (task.clean @ task.encoder.encode_text(task.texts).cpu().T).argmax(dim=-1)

        name = "agreement with the clean prediction"
        return descend_context(task, recipe, store, agreement_with(said), name)

    def _fit_bank(self, task: Task) -> Fitted:
        """The few-shot context, specialised to each of a few regions of noisy feature space."""
        recipe, labels = self.recipe(), task.targets
        store = task.store(self.noise, recipe.store, CropAndFlip() if recipe.crops else None)
        if self.members > (most := len(task.ids) * store.draws):
            raise InputError(f"members: expected at most {most}, the number of noisy copies, got {self.members}")
        start = learn_context(task, recipe, self.noise)
        rows = store.everything()
        chance = np.random.RandomState(np.random.PCG64([task.seed, 3]))
        regions = KMeans(self.members, n_init=4, random_state=chance).fit(rows.flatten(0, 1).numpy())
        centres = F.normalize(torch.from_numpy(regions.cluster_centers_).float(), dim=-1)
        region = (rows @ centres.T).argmax(dim=-1)
        contexts = [
            descend_context(
                task, recipe, store, _within(region == member, labels), "cross-entropy", start.weights["context"]
            ).weights["context"]
            for member in range(self.members)
        ]
        weights = {"contexts": torch.stack(contexts), "centres": centres}
        return Fitted(weights, start.losses, start.predictions, start.notes)

    def _bank(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Bank:
        singles = [context_classifier(encoder, classes, self.recipe(), one, name) for one in weights["contexts"]]
        selector = cosine_head(weights["centres"].to(encoder.device), 1.0)
        members = tuple(single.head for single in singles)
        return Bank(
            name=name,
            encoder=encoder,
            head=bank_head(selector, members),
            classes=singles[0].classes,
            fingerprint=fingerprint_of(weights, "bank", [single.fingerprint for single in singles]),
            selector=selector,
            members=members,
        )


def _mean_entropy(images: Places, copies: Places, logits: Tensor) -> Tensor:  # noqa: ARG001
    return marginal_entropy(logits).mean()


def _within(inside: Tensor, labels: Tensor) -> Objective:
    """Cross-entropy with labels (images,) of the copies that are inside (images, copies of the store) a region."""

    def objective(images: Places, copies: Places, logits: Tensor) -> Tensor:
        places = torch.from_numpy(images)
        counted = inside[places][:, torch.from_numpy(copies)]
        losses = -logits.log_softmax(dim=-1).gather(2, labels[places][:, None, None].expand(-1, len(copies), 1))[..., 0]
        return (losses * counted).sum() / counted.sum().clamp_min(1)

    return objective
