"""What all methods have in common that learn tokens, or a whole image encoder, from attacked images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from titer.defenses.checkpoints import TakesCheckpoint, read_tokens, source
from titer.defenses.fit import OptimiserName
from titer.defenses.learners import Coupling, Layout, Learner, Tokens, Tower
from titer.defenses.task import MIXED, Fitted, Task, Weights, check_sigmas
from titer.defenses.tuning import CollapseError, Inner, InnerLoss, Prompting, Schedule, Step, Watch, tune
from titer.errors import InputError
from titer.models.classifier import Classifier, Named, cosine_head, zero_shot
from titer.models.encoder import Encoder
from titer.models.prompts import Position
from titer.models.weights import fingerprint_of

_HALF = 2e-3  # of embeddings that went through half precision
_TOGETHER = 16  # images that a fitted classifier is asked about at a time
_GENTLER = 0.25  # of the consistency's weight, when a fit collapsed and is begun again


@dataclass(frozen=True, kw_only=True)
class Attacked(ABC):
    """Settings of every fit on attacked images. Defaults are those of FAP and its relatives (NeurIPS 2024, arXiv 2403.14774).

    Args:
        template: around a class's text.
        eps: linf budget of the attack in training, in [0, 1] pixel units; 0 for none.
        steps: gradient steps of that attack.
        step: length of one, as a share of eps.
        inner: what it raises: ``cross-entropy``, ``kl`` from the clean answer, ``distance`` from the frozen features, or
            ``embedding``, the KL from these as distributions.
        epochs, batch, learning_rate, optimiser, warmup_rate, weight_decay: of the fit; a batch is images in a step.
    """

    template: str = "{}"
    eps: float = 1 / 255
    steps: int = 2
    step: float = 1.0
    inner: InnerLoss = "cross-entropy"
    epochs: int = 10
    batch: int | None = 4
    learning_rate: float = 0.0035
    optimiser: OptimiserName = "sgd"
    warmup_rate: float | None = 1e-5
    weight_decay: float | None = None

    noise: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        self.attack()
        self.schedule()

    def attack(self) -> Inner:
        """The attack of a training step."""
        return Inner(self.eps, self.steps, self.step, self.inner)

    def schedule(self) -> Schedule:
        """Epochs, batches and rates."""
        return Schedule(**{field.name: getattr(self, field.name) for field in fields(Schedule)})

    @abstractmethod
    def objective(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """What a step minimises: a term that fits the labels, and a consistency term where there is one."""

    def learn(self, task: Task, learner: Learner) -> Fitted:
        """Tune a learner; where its consistency term finds the trivial solution, once more with a smaller weight.

        If that collapses, too, the fit is kept and says so.
        """
        start = {name: weight.clone() for name, weight in learner.weights.items()}
        weight, ramp = getattr(self, "weight", 1.0), getattr(self, "ramp", 0.0)
        watch = Watch(len(task.classes), self.schedule().steps(len(task.ids)))
        run = partial(tune, task, learner, self.objective, self.attack(), self.schedule())
        notes: dict[str, object] = {}
        try:
            history = run(watch, weight, ramp)
        except CollapseError:
            learner.weights, weight, watch = start, _GENTLER * weight, replace(watch, stops=False, done=0, seen=0)
            history = run(watch, weight, ramp)
            notes |= {
                "restarted": f"collapsed at first; begun again with weight {weight:g}",
                "collapsed": watch.collapsed,
            }
        return learned(learner, history, notes)


@dataclass(frozen=True, kw_only=True)
class Smoothed(Attacked, ABC):
    """Settings of fits that see noisy copies as well, for attacks and certificates at once.

    Args:
        sigmas: standard deviations of the noise in training, in [0, 1] pixel units.
        smooth: weight of the noisy term beside the attacked one.
    """

    sigmas: tuple[float, ...] = MIXED
    smooth: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sigmas(self.sigmas)
        if self.smooth < 0:
            raise InputError(f"smooth: expected at least 0, got {self.smooth:g}")

    @property
    def noise(self) -> tuple[float, ...]:  # type: ignore[override]
        """Standard deviations of the noise in training."""
        return self.sigmas


@dataclass(frozen=True, kw_only=True)
class PromptTuning(TakesCheckpoint, Attacked):
    """Settings of every fit that learns tokens.

    Args:
        text: learned tokens in front of the class's text; 0 for none.
        image: learned tokens beside the patches; 0 for none.
        depth: layers of each tower that get tokens of their own; 9, or as many as the shallower tower has, unless given.
        coupling: ``independent``; ``text-to-image``: an image token is a linear map of its layer's text token (MaPLe); or
            ``image-to-text``: so in the first layer, and the other way round in deeper ones (FAP's code).
        shared_map: one linear map for all deeper layers.
        frame: width of a learned frame of pixels, as a share of the input's side.
        words: words in front of the class's text that the text tokens take the place of and start from.
        class_specific: text tokens of its own for each class.
        position: where the class's text stands: behind the tokens (``end``), between (``middle``) or before (``front``).
        prompting: whose text features are attacked in training: ``on-the-fly``, ``constant`` or ``perturbed``.
        ascent: learning rate of the text tokens in the ``perturbed`` attack.
        checkpoint: a file of CoOp's, APT's, MaPLe's, FAP's, IVLP's or AdvVP's code whose tokens (and frame) are taken over;
            nothing is learned then.
    """

    text: int = 2
    image: int = 2
    depth: int | None = None
    coupling: Coupling = "independent"
    shared_map: bool = False
    frame: float = 0.0
    words: str = ""
    class_specific: bool = False
    position: Position = "end"
    prompting: Prompting = "on-the-fly"
    ascent: float = 0.01
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layout()
        if self.prompting == "perturbed" and not self.text:
            raise InputError("prompting: perturbed moves text tokens; expected some, got text=0")

    @property
    def class_bound(self) -> bool:
        """Tokens of single classes belong to them."""
        return self.class_specific

    def layout(self) -> Layout:
        """Where the tokens stand."""
        return Layout(**{field.name: getattr(self, field.name) for field in fields(Layout)})

    def attack(self) -> Inner:
        """The attack of a training step."""
        return replace(super().attack(), prompting=self.prompting, ascent=self.ascent)

    def fit(self, task: Task) -> Fitted:
        """Learn the tokens, or take them over."""
        layout = self.layout()
        if self.checkpoint is not None:
            return _taken(Path(self.checkpoint), layout, task, self.template)
        start = layout.start(task.encoder, task.classes, self.template, task.seed)
        start = {name: tensor.to(task.encoder.device) for name, tensor in start.items()}
        fitted = self.learn(task, Tokens(layout, task.encoder, task.classes, self.template, start))
        return _with_answers(fitted, task, self.classifier(task.encoder, task.classes, fitted.weights, "fitted"))

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The class whose prompted text is nearest to the features of the prompted image tower."""
        layout = self.layout()
        layout.check(weights, encoder, len(classes))
        weights = {key: tensor.to(encoder.device) for key, tensor in weights.items()}
        learner = Tokens(layout, encoder, classes, self.template, weights)
        with torch.no_grad():
            words, shown = learner.class_features(weights), learner.encoder_of(weights)
        return Classifier(
            name=name,
            encoder=shown,
            head=cosine_head(words, encoder.logit_scale),
            classes=tuple(named.label for named in classes),
            fingerprint=fingerprint_of({"class features": words}, "tokens", [named.label for named in classes]),
        )


@dataclass(frozen=True, kw_only=True)
class TowerTuning(Attacked):
    """Settings of every fit that changes the whole image encoder."""

    class_bound: ClassVar[bool] = False

    def learner(self, encoder: Encoder, classes: Sequence[Named], weights: Weights) -> Tower:
        """The encoder as these tensors change it."""
        return Tower(encoder, classes, self.template, weights)

    def fit(self, task: Task) -> Fitted:
        """Learn the image encoder's weights."""
        start = self.learner(task.encoder, task.classes, {}).start(task.seed)
        fitted = self.learn(task, self.learner(task.encoder, task.classes, start))
        return _with_answers(fitted, task, self.classifier(task.encoder, task.classes, fitted.weights, "fitted"))

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The class whose text is nearest to the features of the tuned tower."""
        return zero_shot(self.learner(encoder, classes, weights).encoder_of(weights), classes, self.template, name)


def learned(learner: Learner, history: tuple[float, ...], notes: dict[str, object] | None = None) -> Fitted:
    """What a learner holds after a fit."""
    weights = {name: tensor.detach().cpu() for name, tensor in learner.weights.items()}
    trainable = sum(tensor.numel() for tensor in weights.values())
    return Fitted(weights, history, notes={**(notes or {}), "trainable": trainable})


def _with_answers(fitted: Fitted, task: Task, classifier: Classifier) -> Fitted:
    """With what the fitted classifier says of each training image."""
    images = len(task.ids)
    parts = [range(first, min(first + _TOGETHER, images)) for first in range(0, images, _TOGETHER)]
    with torch.no_grad():
        rows = [classifier(torch.stack([task.kept(place) for place in part])).argmax(dim=1) for part in parts]
    return replace(fitted, predictions=torch.cat(rows).cpu())


def _taken(file: Path, layout: Layout, task: Task, template: str) -> Fitted:
    """Someone else's tokens, if they are of this layout, this encoder and these classes.

    Raises:
        InputError: saying what does not fit.
    """
    found = read_tokens(file)
    try:
        layout.check(found.weights, task.encoder, len(task.classes))
    except KeyError as error:
        raise InputError(
            f"{file} has no {error}; it holds {', '.join(sorted(found.weights))}; expected another depth, coupling or frame"
        ) from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    if found.suffix is not None and layout.text:
        _same_words(file, found.suffix, layout, task, template)
    return Fitted(found.weights, (), notes={"imported": source(found)})


def _same_words(file: Path, suffix: Tensor, layout: Layout, task: Task, template: str) -> None:
    """Refuse tokens that were learned in front of other words: their files keep the embeddings of what follows."""
    made = layout.sentences(task.encoder, task.classes, template)
    if len(suffix) != len(task.classes):
        raise InputError(f"{file} was made for {len(suffix)} classes, the data set has {len(task.classes)}")
    for named, ids, rows in zip(task.classes, made.ids, suffix, strict=True):
        after = torch.tensor(ids[made.tower.start + made.tokens :], device=made.tower.embedding.weight.device)
        own = made.tower.embedding.weight[after].detach().float().cpu()
        if len(own) > len(rows) or not torch.allclose(own, rows[: len(own)].cpu(), atol=_HALF):
            raise InputError(
                f"{file} was made for other class words, or another order of classes: {named.label!r} is not where the data set "
                "has it; expected the same words, template and text tower"
            )
