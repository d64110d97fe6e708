"""Attacks on an image and its captions together: one loop, of which `sep`, `co-attack` and `sga` are settings.

The loop: swap words of each caption; move the image by projected gradient ascent, away from the swapped captions; swap
words of the clean captions again, now guided by the moved image. Which of the three steps sees the other modality is
what the methods differ in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.attacks.attack import Loss, Random, answers
from titer.attacks.losses import divergence
from titer.attacks.pgd import climb
from titer.attacks.threat import Norm, Threat
from titer.attacks.words import SOURCES, Objective, Source, Swapped, WordSwap, build_swap
from titer.errors import InputError, unknown
from titer.models.encoder import Encoder
from titer.registry import Registry, settings_of

Texts = Sequence[Sequence[str]]
"""For each image its captions, one or more."""
Start = Literal["uniform", "positive"]
Keep = Literal["best", "last"]
Halves = Literal["both", "image", "text"]

_BY_TABLE = WordSwap()


@dataclass(frozen=True, eq=False)
class Attacked:
    """What an attack proposes.

    Args:
        images: (batch, 3, size, size) in [0, 1], float32.
        texts: for each image its captions.
    """

    images: Tensor
    texts: tuple[tuple[Swapped, ...], ...]


class PairAttack(Protocol):
    """A frozen dataclass whose fields are the attack's settings."""

    norms: ClassVar[tuple[Norm, ...]]

    @property
    def swap(self) -> WordSwap:
        """How it swaps words."""

    def __call__(self, encoder: Encoder, images: Tensor, texts: Texts, threat: Threat, random: Random) -> Attacked:
        """Images within the threat, and captions with swapped words, that no longer find each other.

        Whoever calls measures distances and similarities again: an attack never reports its own success.

        Args:
            encoder: that judges.
            images: clean images (batch, 3, size, size) in [0, 1], float32.
            texts: the captions of each, which the text tower takes whole.
            threat: norm and budget of the image.
            random: all randomness that the attack may use, a stream for each image.

        Returns:
            A row is a function of that row's image, captions and stream alone.
        """


@dataclass(frozen=True)
class Sep:
    """Image and caption are attacked apart, each away from its own clean features (KL of their softmax).

    Args:
        steps: gradient steps.
        step: length of one, as a share of epsilon.
        start: ``uniform`` in the ball, or ``positive``: its absolute value, as the code of Co-Attack starts.
        keep: the ``best`` iterate of an image by the objective, or the ``last`` (as published code does).
        swap: of words.
        halves: ``both``, or attack only the ``image`` or the ``text``.
    """

    steps: int = 10
    step: float = 0.125
    start: Start = "positive"
    keep: Keep = "best"
    swap: WordSwap = _BY_TABLE
    halves: Halves = "both"

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, encoder: Encoder, images: Tensor, texts: Texts, threat: Threat, random: Random) -> Attacked:
        """Both halves, neither of which sees the other."""
        clean = answers(encoder.encode_image, images)

        def move(_: Sequence[Tensor]) -> Tensor:
            start = started(self.start, images, threat, random)
            return climbed(self, encoder.encode_image, images, start, partial(divergence, clean=clean), threat)

        return _alternate(self, encoder, images, texts, move, _away_from_itself)


@dataclass(frozen=True)
class CoAttack:
    """The image leaves its own clean features and those of the swapped captions (Zhang et al., ACM MM 2022, arXiv 2206.09391).

    The form for two encoders without fusion. Words are swapped away from the clean caption, so that swapping once more
    after the image has moved, as the paper's code does, changes nothing, and is left out.

    Args:
        steps: gradient steps.
        step: length of one, as a share of epsilon.
        start: as for ``sep``.
        keep: as for ``sep``.
        own: weight of the KL divergence from the clean image's softmax.
        cross: weight of the mean KL divergence from the captions' softmax. The code for models with fusion has the two
            weights the other way round.
        swap: of words.
        halves: ``both``, or attack only the ``image`` or the ``text``.
    """

    steps: int = 10
    step: float = 0.125
    start: Start = "positive"
    keep: Keep = "best"
    own: float = 1.0
    cross: float = 3.0
    swap: WordSwap = _BY_TABLE
    halves: Halves = "both"

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        _check(self)
        if min(self.own, self.cross) < 0 or self.own + self.cross == 0:
            raise InputError(f"own, cross: expected weights of at least 0, one above, got {self.own:g}, {self.cross:g}")

    def __call__(self, encoder: Encoder, images: Tensor, texts: Texts, threat: Threat, random: Random) -> Attacked:
        """The captions first, then the image against them."""
        clean = answers(encoder.encode_image, images)

        def move(captions: Sequence[Tensor]) -> Tensor:
            aims = torch.stack([features.softmax(dim=1).mean(dim=0) for features in captions])

            def away(features: Tensor) -> Tensor:
                # up to what no image changes, the cross entropy with the mean softmax is the mean KL divergence
                crossed = -(aims * features.log_softmax(dim=1)).sum(dim=1)
                return self.own * divergence(features, clean) + self.cross * crossed

            return climbed(
                self, encoder.encode_image, images, started(self.start, images, threat, random), away, threat
            )

        return _alternate(self, encoder, images, texts, move, _away_from_itself)


@dataclass(frozen=True)
class Sga:
    """Words, image, words again, each against the other modality (Lu et al., ICCV 2023, arXiv 2307.14061).

    What is lowered is the cosine of image and captions, all captions of an image together, at several scales. Each scale
    but the image's own adds Gaussian noise, resizes (bicubic), clips and resizes back.

    Args:
        steps: gradient steps.
        step: length of one, as a share of epsilon.
        start: as for ``sep``.
        keep: the ``best`` iterate of an image by its cosine at its own scale, or the ``last`` (as published code does).
        scales: beside the image's own.
        noise: standard deviation before resizing, in [0, 1] pixels.
        swap: of words.
        halves: ``both``, or attack only the ``image`` or the ``text``.
    """

    steps: int = 10
    step: float = 0.25
    start: Start = "uniform"
    keep: Keep = "best"
    scales: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5)
    noise: float = 0.05
    swap: WordSwap = _BY_TABLE
    halves: Halves = "both"

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        _check(self)
        if not all(scale > 0 for scale in self.scales):
            raise InputError(f"scales: expected sizes above 0, got {list(self.scales)}")
        if self.noise < 0:
            raise InputError(f"noise: expected at least 0, got {self.noise:g}")

    def __call__(self, encoder: Encoder, images: Tensor, texts: Texts, threat: Threat, random: Random) -> Attacked:
        """Words, image, words again."""

        def move(captions: Sequence[Tensor]) -> Tensor:
            return self.moved(encoder, images, captions, threat, random)

        return _alternate(self, encoder, images, texts, move, _away_from_image)

    def moved(
        self,
        encoder: Encoder,
        images: Tensor,
        captions: Sequence[Tensor],
        threat: Threat,
        random: Random,
        *,
        towards: bool = False,
    ) -> Tensor:
        """The images alone, moved away from their captions, or towards other ones.

        Args:
            encoder: that judges.
            images: clean images (batch, 3, size, size).
            captions: for each image unit features (captions, dim).
            threat, random: as for the attack.
            towards: raise the cosine in the place of lowering it.
        """
        sign = 1.0 if towards else -1.0
        guide = torch.stack([features.mean(dim=0) for features in captions])[:, None]

        def loss(features: Tensor) -> Tensor:
            return sign * (features * guide).sum(dim=(1, 2))

        def score(features: Tensor) -> Tensor:
            return sign * (features[:, :1] * guide).sum(dim=(1, 2))

        start = started(self.start, images, threat, random)
        return climbed(self, self.at_scales(encoder.encode_image, random), images, start, loss, threat, score)

    def at_scales(self, model: Callable[[Tensor], Tensor], random: Random) -> Callable[[Tensor], Tensor]:
        """Images -> what a model gives them, features or logits (batch, 1 + scales, dim), the image's own scale first."""

        def features(images: Tensor) -> Tensor:
            views = [images, *(self._scaled(images, scale, random) for scale in self.scales)]
            found = model(torch.cat(views))
            return found.view(len(views), len(images), -1).transpose(0, 1)

        return features

    def _scaled(self, images: Tensor, scale: float, random: Random) -> Tensor:
        size = images.shape[-1]
        noisy = images + self.noise * random.normal(*images.shape[1:]).to(images.device)
        small = _resized(noisy, max(1, round(scale * size))).clamp(0, 1)
        return _resized(small, size).clamp(0, 1)


PAIR_ATTACKS: Registry[PairAttack] = Registry(
    "pair attack", "titer.pair_attacks", {"co-attack": CoAttack, "sep": Sep, "sga": Sga}
)


def build_pair_attack(name: str, **settings: Any) -> PairAttack:
    """A pair attack from settings as they are typed; ``swap`` may be a table of its own (``build_swap``).

    Raises:
        InputError: for unknown names and settings.
    """
    swap = settings.pop("swap", {})
    if not isinstance(swap, WordSwap):
        if not isinstance(swap, dict):
            raise InputError(f"swap: expected settings such as swap.meaning=changing, got {swap!r}")
        swap = build_swap(**swap)
    return PAIR_ATTACKS.build(name, **settings, swap=swap)


class Swapping(Protocol):
    """A frozen dataclass that swaps words."""

    @property
    def swap(self) -> WordSwap:
        """How."""


def recorded_settings(attack: Swapping) -> dict[str, Any]:
    """All settings, defaults included, with the name of the words' source and what identifies its content."""
    source = attack.swap.source
    settings = settings_of(attack)
    told = {**settings["swap"]["source"], "fingerprint": source.fingerprint()}
    return {**settings, "swap": {**settings["swap"], "source": {"name": _source_name(source), **told}}}


def _source_name(source: Source) -> str:
    return next((name for name in SOURCES if SOURCES[name] is type(source)), type(source).__name__)


_Guide = Callable[[Tensor, Tensor], Objective]
"""Features of a clean caption (1, dim) and of the image (1, dim) -> what a swap raises."""


def _away_from_itself(caption: Tensor, image: Tensor) -> Objective:
    del image

    def objective(features: Tensor) -> Tensor:
        return divergence(features, caption.expand_as(features))

    return objective


def _away_from_image(caption: Tensor, image: Tensor) -> Objective:
    del caption

    def objective(features: Tensor) -> Tensor:
        return -(features * image).sum(dim=1)

    return objective


def _alternate(
    attack: Sep | CoAttack | Sga,
    encoder: Encoder,
    images: Tensor,
    texts: Texts,
    move: Callable[[Sequence[Tensor]], Tensor],
    guide: _Guide,
) -> Attacked:
    """Words, image, words again.

    Args:
        attack: its swap and its halves.
        encoder: of both.
        images: clean images (batch, 3, size, size).
        texts: captions of each.
        move: for each image the features (captions, dim) of its captions now -> attacked images.
        guide: what a swap raises.
    """
    untouched = tuple(tuple(Swapped(text) for text in captions) for captions in texts)
    if attack.halves == "image":
        return Attacked(move(_features(encoder, untouched)), untouched)
    swapped = _swapped(attack.swap, encoder, images, texts, guide)
    if attack.halves == "text":
        return Attacked(images, swapped)
    moved = move(_features(encoder, swapped))
    if guide is _away_from_itself:  # the image does not enter
        return Attacked(moved, swapped)
    return Attacked(moved, _swapped(attack.swap, encoder, moved, texts, guide))


def _swapped(
    swap: WordSwap, encoder: Encoder, images: Tensor, texts: Texts, guide: _Guide
) -> tuple[tuple[Swapped, ...], ...]:
    """Each clean caption with its words swapped, guided by its image as it is now."""
    shown = answers(encoder.encode_image, images)
    return tuple(
        tuple(swap(encoder, text, guide(encoder.encode_text([text]), shown[row : row + 1])) for text in captions)
        for row, captions in enumerate(texts)
    )


def _features(encoder: Encoder, texts: Sequence[Sequence[Swapped]]) -> list[Tensor]:
    return [encoder.encode_text([swapped.text for swapped in captions]) for captions in texts]


def climbed(
    attack: Sep | CoAttack | Sga,
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    loss: Loss,
    threat: Threat,
    score: Loss | None = None,
) -> Tensor:
    """Projected gradient ascent of a loss of features, with an attack's steps; the iterates (batch, 3, size, size) that it keeps.

    Args:
        attack: its settings.
        model: images -> features, or logits.
        images: clean ones, around which the threat is.
        start: where it begins, as ``started`` gives it.
        loss: what is raised.
        threat: norm and budget.
        score: what makes an iterate better; the loss unless given.
    """
    last, best = climb(model, images, start, loss, score or loss, threat, attack.steps, attack.step)
    return (best if attack.keep == "best" else last)[0]


def started(start: Start, images: Tensor, threat: Threat, random: Random) -> Tensor:
    """Where an attack begins: images (batch, 3, size, size) within the threat."""
    begun = random.within(images, threat)
    return begun if start == "uniform" else threat.project(images + (begun - images).abs(), images)


def _resized(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)


def _check(attack: Sep | CoAttack | Sga) -> None:
    if attack.steps < 1:
        raise InputError(f"steps: expected at least 1, got {attack.steps}")
    if not attack.step > 0:
        raise InputError(f"step: expected a share of epsilon above 0, got {attack.step:g}")
    for name, kind in (("start", Start), ("keep", Keep), ("halves", Halves)):
        if getattr(attack, name) not in get_args(kind):
            raise unknown(name, getattr(attack, name), get_args(kind))
