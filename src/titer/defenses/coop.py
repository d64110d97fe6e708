"""CoOp: learned context tokens in front of the class words (Zhou et al., IJCV 2022, arXiv 2109.01134).

The encoders stay frozen; cross-entropy on a few labelled images reaches the context through the text tower alone, so
training needs image features only, and these come from a feature store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from titer.defenses.checkpoints import TakesCheckpoint, read_checkpoint, source
from titer.defenses.fit import OptimiserName, minimise, parts
from titer.defenses.objectives import cross_entropy
from titer.defenses.task import Fitted, Task, Weights
from titer.errors import InputError, unknown
from titer.features.store import FeatureStore, Places
from titer.features.views import CropAndFlip
from titer.models.classifier import Classifier, Named, cosine_head
from titer.models.encoder import Encoder
from titer.models.prompts import Prompts, Sentences, count_tokens, sentences
from titer.models.weights import fingerprint_of
from titer.noise import BLOCK

Setting = Literal["own", "paper"]
Objective = Callable[[Places, Places, Tensor], Tensor]
"""(places of images, places of their copies in the store, logits (images, copies, classes)) -> loss"""


@dataclass(frozen=True)
class Recipe:
    """How a context is learned.

    Args:
        context: learned tokens.
        class_specific: a context of its own for every class; it is bound to their names.
        words: words that the context takes the place of and starts from; else it starts at random.
        template: around the class's text.
        scale: logit scale of the loss; the model's own where None. The answer does not depend on it.
        epochs: passes over the images.
        learning_rate, optimiser, warmup_rate: see ``minimise``.
        batch: images in a step; all where None, or where there are fewer. What is left after the last whole batch of an
            epoch waits for the next one, as in CoOp's code.
        copies: noisy copies of each image in an epoch.
        store: noisy copies of each image that are kept to draw from.
        crops: random crops and flips of the image for each copy.
    """

    context: int
    class_specific: bool
    words: str
    template: str
    scale: float | None
    epochs: int
    learning_rate: float
    optimiser: OptimiserName
    warmup_rate: float | None
    batch: int | None
    copies: int
    store: int
    crops: bool


RECIPES: dict[Setting, Recipe] = {
    # reference: CoOp's vit_b32_ep50; a new view of each image in each of its 50 epochs
    "paper": Recipe(
        context=5, class_specific=False, words="", template="{}.", scale=None, epochs=50, learning_rate=0.002,
        optimiser="sgd", warmup_rate=1e-5, batch=32, copies=1, store=50, crops=True,
    ),
    # chosen on the val splits (docs/methods/promptsmooth.md): several copies of all images in each step cost nothing
    # once features are stored, and a sharper loss than the model's own scale uses the shots that are already right less
    "own": Recipe(
        context=16, class_specific=False, words="", template="{}", scale=40.0, epochs=400, learning_rate=0.01,
        optimiser="adam", warmup_rate=None, batch=None, copies=8, store=200, crops=False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Coop(TakesCheckpoint):
    """Context tokens learned on clean images.

    Args:
        setting: ``own``, or ``paper`` for the published recipe.
        context: learned tokens; the setting's unless given.
        words: words that the context takes the place of and starts from.
        class_specific: a context for every class; the setting's unless given.
        epochs, learning_rate: the setting's unless given.
        checkpoint: a file of CoOp's code (``model.pth.tar-50``) whose context is taken over; nothing is learned then.
    """

    setting: Setting = "own"
    context: int | None = None
    words: str | None = None
    class_specific: bool | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    checkpoint: str | None = None

    noise: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        self.recipe()

    @property
    def class_bound(self) -> bool:
        """A class-specific context belongs to its classes."""
        return self.recipe().class_specific

    def recipe(self) -> Recipe:
        """The setting with what was given in its place. Clean copies are all alike, so one is enough without crops."""
        recipe = recipe_of(self)
        return recipe if recipe.crops else dataclasses.replace(recipe, copies=1, store=BLOCK)

    def fit(self, task: Task) -> Fitted:
        """Learn the context, or take it over."""
        if self.checkpoint is not None:
            return take_context(task, self.recipe(), self.checkpoint)
        return learn_context(task, self.recipe(), sigmas=(0.0,))

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The classifier that these weights make."""
        return context_classifier(encoder, classes, self.recipe(), weights["context"], name)


def recipe_of(method: object) -> Recipe:
    """A method's setting, with those of its fields in place that are given and that a recipe has.

    Raises:
        InputError: for values that cannot work.
    """
    setting = getattr(method, "setting")  # noqa: B009 - any method with a setting
    if setting not in RECIPES:
        raise unknown("setting", str(setting), RECIPES)
    names = {field.name for field in dataclasses.fields(Recipe)}
    given = {name: value for name, value in vars(method).items() if name in names and value is not None}
    recipe = dataclasses.replace(RECIPES[setting], **given)
    for name in ("context", "epochs", "copies"):
        if getattr(recipe, name) < 1:
            raise InputError(f"{name}: expected at least 1, got {getattr(recipe, name)}")
    if getattr(method, "checkpoint", None) is not None and setting != "paper":
        raise InputError(f"checkpoint: expected setting paper, whose sentences are those of such files, got {setting}")
    if recipe.learning_rate <= 0:
        raise InputError(f"learning rate: expected above 0, got {recipe.learning_rate:g}")
    return recipe


def take_context(task: Task, recipe: Recipe, file: str) -> Fitted:
    """The context of a checkpoint of CoOp's code or of its descendants, in the place of a learned one.

    Raises:
        InputError: if it is none, or its shape is not that of the recipe, the classes and the text tower.
    """
    places, found = class_sentences(task.encoder, task.classes, recipe), read_checkpoint(Path(str(file)))
    found.check(places.tokens, places.tower.width, len(task.classes) if recipe.class_specific else None)
    notes: dict[str, object] = {"imported": source(found), "template": recipe.template}
    return Fitted({"context": found.context}, (), notes=notes)


def learn_context(task: Task, recipe: Recipe, sigmas: Sequence[float]) -> Fitted:
    """Cross-entropy of noisy copies of labelled images; one context for all noise levels.

    Args:
        task: labelled images.
        recipe: how.
        sigmas: standard deviations of the noise, in [0, 1] pixel units; 0 is no noise.
    """
    store = task.store(sigmas, recipe.store, CropAndFlip() if recipe.crops else None)
    return descend_context(task, recipe, store, agreement_with(task.targets), "cross-entropy")


def agreement_with(labels: Tensor) -> Objective:
    """Cross-entropy of all copies of an image with its label (images,)."""

    def objective(images: Places, copies: Places, logits: Tensor) -> Tensor:
        wanted = labels[torch.from_numpy(images)].repeat_interleave(len(copies))
        return cross_entropy(logits.flatten(0, 1), wanted)

    return objective


def descend_context(
    task: Task,
    recipe: Recipe,
    store: FeatureStore,
    objective: Objective,
    name: str,
    start: Tensor | None = None,
) -> Fitted:
    """Learn a context from stored features.

    Args:
        task: the images of the store.
        recipe: how.
        store: features of noisy copies.
        objective: of a step.
        name: of the objective.
        start: where the context starts; as the recipe says unless given.
    """
    places = class_sentences(task.encoder, task.classes, recipe)
    context = (
        start_of(places, recipe, len(task.classes), task.seed) if start is None else start.clone()
    ).requires_grad_()
    scale = recipe.scale or task.encoder.logit_scale
    chance = np.random.default_rng([task.seed, 1])

    def losses(epoch: int) -> list[Callable[[], Tensor]]:
        copies = copies_of(epoch, recipe.copies, store.draws, chance)
        batches = parts(chance.permutation(len(task.ids)), recipe.batch)
        return [lambda part=part: objective(part, copies, logits_of(part, copies)) for part in batches]  # type: ignore[misc]

    def logits_of(part: Places, copies: Places) -> Tensor:
        return scale * store.rows(part, copies) @ places.features(context).cpu().T

    history = minimise([context], losses, recipe.epochs, recipe.learning_rate, recipe.optimiser, recipe.warmup_rate)
    with torch.no_grad():
        predictions = logits_of(np.arange(len(task.ids)), np.arange(min(store.draws, BLOCK))).argmax(dim=-1).flatten()
    notes: dict[str, object] = {"objective": name, "template": recipe.template}
    return Fitted({"context": context.detach()}, history, predictions, notes)


def copies_of(epoch: int, count: int, draws: int, chance: np.random.Generator) -> Places:
    """Which stored copies an epoch uses: each once while they last, then at random."""
    first = epoch * count
    if first + count <= draws:
        return np.arange(first, first + count)
    return np.sort(chance.choice(draws, count, replace=False))


def start_of(places: Sentences, recipe: Recipe, classes: int, seed: int) -> Tensor:
    """The context before the first step: the words' embeddings, or normal with standard deviation 0.02."""
    if recipe.words:
        start = places.embeddings()
    else:
        generator = torch.Generator().manual_seed(seed)
        start = 0.02 * torch.randn(places.tokens, places.tower.width, generator=generator)
    return start.expand(classes, -1, -1).clone() if recipe.class_specific else start


def class_sentences(encoder: Encoder, classes: Sequence[Named], recipe: Recipe) -> Sentences:
    """The classes' texts with places for the context; words are tuned token by token, as many as are asked for."""
    texts = [recipe.template.replace("{}", named.texts[0]) for named in classes]
    return sentences(encoder, texts, _tokens(encoder, recipe), recipe.words)


def _tokens(encoder: Encoder, recipe: Recipe) -> int:
    return min(recipe.context, count_tokens(encoder, recipe.words)) if recipe.words else recipe.context


def context_classifier(
    encoder: Encoder, classes: Sequence[Named], recipe: Recipe, context: Tensor, name: str
) -> Classifier:
    """The class whose prompted text is nearest. Texts are encoded once, here.

    Raises:
        InputError: for a context of another shape than the recipe's.
    """
    prompts = Prompts(context, recipe.words, recipe.template)
    features = prompts.class_features(encoder, [named.texts[0] for named in classes], _tokens(encoder, recipe))
    return Classifier(
        name=name,
        encoder=encoder,
        head=cosine_head(features, encoder.logit_scale),
        classes=tuple(named.label for named in classes),
        fingerprint=fingerprint_of({"class features": features}, "context", [named.label for named in classes]),
    )
