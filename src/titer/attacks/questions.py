"""The attacks on an image and its captions, turned on an image and a question: what they raise is the loss of the right answer.

Which of the steps sees the other modality stays what the methods differ in: `sep` attacks image and question apart,
`co-attack` swaps words and moves the image against the swapped question, `sga` then swaps again, guided by the moved
image, and moves it at several scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from titer.attacks.attack import Random
from titer.attacks.losses import cross_entropy, margin
from titer.attacks.pairs import Attacked, CoAttack, PairAttack, Sep, Sga, climbed, started
from titer.attacks.threat import Threat
from titer.attacks.words import Swapped
from titer.errors import InputError
from titer.models.fusion import Answerer

QuestionAttack = Sep | CoAttack | Sga


def check_attack(name: str, attack: PairAttack) -> QuestionAttack:
    """The attack, if it can be turned on questions.

    Raises:
        InputError: for one of a plug-in, and for swaps that change what is asked.
    """
    if not isinstance(attack, QuestionAttack):
        raise InputError(f"attack {name!r} is of captions only; of questions: sep, co-attack, sga")
    if attack.swap.meaning != "preserving":
        raise InputError(
            f"swap.meaning: a question of another meaning has another answer, which nobody knows; expected preserving, got "
            f"{attack.swap.meaning}"
        )
    return attack


def attack_questions(
    attack: QuestionAttack,
    answerer: Answerer,
    images: Tensor,
    questions: Sequence[str],
    labels: Tensor,
    threat: Threat,
    random: Random,
) -> Attacked:
    """Images within the threat, and questions with swapped words, to which the right answer is no longer given.

    Args:
        attack: with its settings.
        answerer: that is attacked.
        images: clean (batch, 3, size, size) in [0, 1], float32.
        questions: one for each, which the text tower takes whole.
        labels: right answers (batch,).
        threat: norm and budget of the images.
        random: a stream for each image.
    """
    clean = tuple(Swapped(question) for question in questions)
    swapped = clean if attack.halves == "image" else _swapped(attack, answerer, images, questions, labels)
    if attack.halves == "text":
        return Attacked(images, tuple((one,) for one in swapped))
    seen = clean if isinstance(attack, Sep) else swapped
    after = _moved(attack, answerer, images, [one.text for one in seen], labels, threat, random)
    if attack.halves == "both" and isinstance(attack, Sga):
        swapped = _swapped(attack, answerer, after, questions, labels)
    return Attacked(after, tuple((one,) for one in swapped))


def _swapped(
    attack: QuestionAttack, answerer: Answerer, images: Tensor, questions: Sequence[str], labels: Tensor
) -> tuple[Swapped, ...]:
    """Each question with its words swapped, guided by its image as it is now."""

    def objective(label: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda logits: cross_entropy(logits, label.expand(len(logits)))

    return tuple(
        attack.swap(answerer.about(images[row]), question, objective(labels[row]))
        for row, question in enumerate(questions)
    )


def _moved(
    attack: QuestionAttack,
    answerer: Answerer,
    images: Tensor,
    questions: Sequence[str],
    labels: Tensor,
    threat: Threat,
    random: Random,
) -> Tensor:
    """The images after projected gradient ascent; the best iterate is the one of largest margin at its own scale."""
    model, start = answerer.asking(questions), started(attack.start, images, threat, random)
    if not isinstance(attack, Sga):
        loss, score = partial(cross_entropy, labels=labels), partial(margin, labels=labels)
        return climbed(attack, model, images, start, loss, threat, score)

    def over_scales(logits: Tensor) -> Tensor:
        return torch.stack([cross_entropy(view, labels) for view in logits.unbind(1)]).mean(dim=0)

    def own_scale(logits: Tensor) -> Tensor:
        return margin(logits[:, 0], labels)

    return climbed(attack, attack.at_scales(model, random), images, start, over_scales, threat, own_scale)
