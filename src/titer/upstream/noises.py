"""What may have been done to the pairs that a model was trained on: attacks on image and caption, and their controls.

A control changes as much without an attacker: noise of the same size, a word at random, the caption of another picture.
Without them nobody can say whether harm comes from the attack or from any change of that size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor

from titer.attacks.attack import Random
from titer.attacks.pairs import (
    PAIR_ATTACKS,
    Attacked,
    PairAttack,
    Sga,
    Texts,
    build_pair_attack,
    recorded_settings,
)
from titer.attacks.threat import Norm, Threat
from titer.attacks.words import Change, Place, Swapped, WordSwap, build_swap, fits, rewritten
from titer.errors import InputError, unknown
from titer.models.encoder import Encoder
from titer.registry import Registry, settings_of

_ANY_WORD = WordSwap(meaning="any")


class Noise(Protocol):
    """A frozen dataclass whose fields are the noise's settings."""

    norms: ClassVar[tuple[Norm, ...]]

    def __call__(
        self, encoder: Encoder, images: Tensor, texts: Texts, others: Sequence[str], threat: Threat, random: Random
    ) -> Attacked:
        """Noised images within the threat, and noised captions.

        Args:
            encoder: the surrogate, which the noise is made for.
            images: clean images (batch, channels, size, size) in [0, 1], float32.
            texts: the captions of each, which the text tower takes whole.
            others: for each image a caption that is not true of it: one of another class where there are classes.
            threat: norm and budget of the image.
            random: all randomness that it may use, a stream for each image.

        Returns:
            A row is a function of that row's image, captions, other caption and stream alone.
        """


@dataclass(frozen=True)
class Adversarial:
    """An attack on pairs, so that image and caption no longer find each other under the surrogate.

    Args:
        name: the attack's registered name.
        attack: with its settings.
    """

    name: str
    attack: PairAttack

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __call__(
        self, encoder: Encoder, images: Tensor, texts: Texts, others: Sequence[str], threat: Threat, random: Random
    ) -> Attacked:
        """As the attack does."""
        del others
        return self.attack(encoder, images, texts, threat, random)


@dataclass(frozen=True)
class Targeted:
    """Poison: the image moves towards a caption that is not true of it, and keeps its own. The loop is that of ``sga``.

    Args:
        steps: gradient steps.
        step: length of one, as a share of epsilon.
        scales: beside the image's own.
        noise: standard deviation before resizing, in [0, 1] pixels.
    """

    steps: int = 10
    step: float = 0.25
    scales: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5)
    noise: float = 0.05

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        self._loop()

    def __call__(
        self, encoder: Encoder, images: Tensor, texts: Texts, others: Sequence[str], threat: Threat, random: Random
    ) -> Attacked:
        """Images only."""
        aims = [encoder.encode_text([other]) for other in others]
        return Attacked(self._loop().moved(encoder, images, aims, threat, random, towards=True), _unchanged(texts))

    def _loop(self) -> Sga:
        return Sga(steps=self.steps, step=self.step, scales=self.scales, noise=self.noise, halves="image")


@dataclass(frozen=True)
class RandomNoise:
    """A control: a random change of full length, every pixel by epsilon up or down for linf."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")

    def __call__(
        self, encoder: Encoder, images: Tensor, texts: Texts, others: Sequence[str], threat: Threat, random: Random
    ) -> Attacked:
        """Images only."""
        del encoder, others
        shape = images.shape[1:]
        drawn = random.signs(*shape) if threat.norm == "linf" else F.normalize(random.normal(*shape).flatten(1))
        change = threat.epsilon * drawn.view(-1, *shape).to(images.device)
        return Attacked(threat.project(images + change, images), _unchanged(texts))


@dataclass(frozen=True)
class RandomWord:
    """A control: one word of the caption gives way to one of its candidates, both drawn without looking at the model.

    Args:
        swap: where words and candidates come from; a table of its own, such as ``swap.meaning=changing``.
    """

    swap: WordSwap = _ANY_WORD

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __call__(
        self, encoder: Encoder, images: Tensor, texts: Texts, others: Sequence[str], threat: Threat, random: Random
    ) -> Attacked:
        """Captions only."""
        del others, threat
        most = max(len(captions) for captions in texts)
        draws = random.uniform(most, 2).tolist()
        swapped = tuple(
            tuple(self._swapped(encoder, text, *draw) for text, draw in zip(captions, draws[row], strict=False))
            for row, captions in enumerate(texts)
        )
        return Attacked(images, swapped)

    def _swapped(self, encoder: Encoder, text: str, where: float, which: float) -> Swapped:
        found: list[tuple[Place, list[str]]] = []
        for place, words in self.swap.options(text).items():
            taken = [word for word in words if fits(encoder, rewritten(text, {place: word}))]
            found += [(place, taken)] if taken else []
        if not found:
            return Swapped(text)
        place, words = found[int(where * len(found))]
        word = words[int(which * len(words))]
        meaning = self.swap.source.lexicon.meaning(place.text, word)
        return Swapped(rewritten(text, {place: word}), (Change(place.start, place.text, word, meaning),))


@dataclass(frozen=True)
class WrongCaption:
    """A control: the caption of another picture, of another class where there are classes."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __call__(
        self, encoder: Encoder, images: Tensor, texts: Texts, others: Sequence[str], threat: Threat, random: Random
    ) -> Attacked:
        """Captions only."""
        del encoder, threat, random
        swapped = tuple(
            tuple(Swapped(other, (Change(0, text, other, "changing"),)) for text in captions)
            for captions, other in zip(texts, others, strict=True)
        )
        return Attacked(images, swapped)


NOISES: Registry[Noise] = Registry(
    "noise",
    "titer.noises",
    {"random-noise": RandomNoise, "random-word": RandomWord, "targeted": Targeted, "wrong-caption": WrongCaption},
)


def noise_names() -> list[str]:
    """All that ``craft`` takes: attacks on pairs, and the rest."""
    return sorted([*PAIR_ATTACKS, *NOISES])


def build_noise(name: str, **settings: Any) -> Noise:
    """A noise from settings as they are typed; words that change the meaning are allowed unless said otherwise.

    Raises:
        InputError: for unknown names and settings.
    """
    if name in PAIR_ATTACKS or name == "random-word":
        swap = settings.get("swap", {})
        if isinstance(swap, dict):
            settings = {**settings, "swap": build_swap(**{"meaning": "any", **swap})}
    if name in PAIR_ATTACKS:
        return Adversarial(name, build_pair_attack(name, **settings))
    if name not in NOISES:
        raise unknown("noise", name, noise_names())
    return NOISES.build(name, **settings)


def noise_settings(noise: Noise) -> dict[str, Any]:
    """All settings, defaults included, and what identifies the words' source."""
    if isinstance(noise, Adversarial):
        return recorded_settings(noise.attack)
    return recorded_settings(noise) if isinstance(noise, RandomWord) else settings_of(noise)


def check_norm(name: str, noise: Noise, norm: Norm) -> None:
    """Raises InputError where the noise knows nothing of the norm."""
    if norm not in noise.norms:
        raise InputError(f"noise {name!r}: expected a norm of {', '.join(noise.norms)}, got {norm!r}")


def _unchanged(texts: Texts) -> tuple[tuple[Swapped, ...], ...]:
    return tuple(tuple(Swapped(text) for text in captions) for captions in texts)
