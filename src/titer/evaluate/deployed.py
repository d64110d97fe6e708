"""The deployed pipeline at any image: what it answers, and what an attack may see of it.

Where a prompt set adapts to the image it is shown, it does so again on the attacked one.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor

from titer.attacks import Model
from titer.attacks.adaptive import Deployed, Smoothed
from titer.attacks.attack import ascend
from titer.certify import Predict
from titer.certify.certificate import Answer
from titer.certify.pool import Job, run_jobs
from titer.errors import InputError
from titer.evaluate.voting import Voting
from titer.features.stream import Voter, one_thread
from titer.models.classifier import Adaptation, Bank


def predicted(voting: Voting, image: Tensor, sample: str, sigma: float, rule: Predict) -> Answer:
    """What PREDICT answers at an image, for the guarantee's own pipeline.

    Args:
        voting: the prompt set, with the seed of the draws.
        image: (3, size, size) in [0, 1], or (1, size, size) for three equal channels.
        sample: names the draws; another one has fresh ones.
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        rule: draws and error probability; a bank spends half of it on the choice and half on the answer.
    """
    image = image.expand(3, -1, -1)
    ballot = voting.ballot(image, sample, sigma)
    job = Job(
        sample=sample,
        sigma=sigma,
        vote=partial(Voter([ballot], voting.seed, voting.channels), image, sample, sigma),
        procedures=[voting.procedure(rule, sigma, rule.alpha, 0.0)],
        classes=len(voting.classifier.classes),
        rows=[ballot.rows],
    )
    (finished,) = run_jobs([job], workers=1, in_flight=1, initializer=one_thread)
    return cast(Answer, finished.statement)


def copies_of(voting: Voting) -> int:
    """Noisy copies that each vote has of its own, beside the draw that it classifies."""
    adaptation = voting.classifier.adaptation
    return adaptation.copies if adaptation is not None and voting.guarantee == "product" else 0


def aims(voting: Voting, sample: str, sigma: float) -> list[Deployed]:
    """What an attack may differentiate: first the pipeline itself, then what stands in where that hides its gradient.

    For a prompt set that adapts that is the one before it did, for a bank the mixture of its members by the selector's
    probabilities in place of the member that it selects (backward pass differentiable approximation). Each takes images of
    three channels, or of one that is shown as three equal ones, so that a distance is in grey levels.

    Args:
        voting: the prompt set.
        sample: names the attack's own randomness of adaptation, which is never that of the answer.
        sigma: standard deviation of the noise.
    """
    return [partial(_shown, aim) for aim in _aims(voting, sample, sigma)]


def _shown(aim: Deployed, images: Tensor) -> Model:
    model = aim(images.expand(-1, 3, -1, -1))
    return lambda copies: model(copies.expand(-1, 3, -1, -1))


def _aims(voting: Voting, sample: str, sigma: float) -> list[Deployed]:
    classifier, adaptation = voting.classifier, voting.classifier.adaptation

    def unadapted(images: Tensor) -> Model:  # noqa: ARG001
        return classifier

    if isinstance(classifier, Bank):
        return [unadapted, partial(_mixing, classifier)]
    if adaptation is None:
        return [unadapted]

    def to_image(images: Tensor) -> Model:
        shown, own = images[0].detach().cpu(), f"attack\x00{sample}"
        head = adaptation.to_image(classifier.encoder, shown, own, sigma, voting.seed, voting.channels)
        return lambda copies: head(classifier.encoder.encode_image(copies))

    def to_copies(images: Tensor) -> Model:  # noqa: ARG001
        return partial(_each_vote, voting, adaptation)

    return [to_image if voting.guarantee == "conditional" else to_copies, unadapted]


def _mixing(bank: Bank, images: Tensor) -> Model:  # noqa: ARG001
    return partial(_mixture, bank)


def _mixture(bank: Bank, images: Tensor) -> Tensor:
    """Log probabilities (batch, classes) of images, every member heard with the selector's probability for it."""
    features = bank.encoder.encode_image(images)
    chosen = bank.selector(features).log_softmax(dim=-1)
    said = torch.stack([member(features).log_softmax(dim=-1) for member in bank.members], dim=1)
    return (chosen[..., None] + said).logsumexp(dim=1)


def _each_vote(voting: Voting, adaptation: Adaptation, images: Tensor) -> Tensor:
    """Logits (votes, classes) of noisy images (votes * (1 + copies), 3, size, size): each vote's query, then its copies."""
    features = voting.classifier.encoder.encode_image(images)
    together = features.view(-1, 1 + copies_of(voting), features.shape[-1])
    own = together[:, 1:] if voting.guarantee == "product" else together
    return adaptation.to_copies(own, together[:, 0])


def gives_gradient(deployed: Deployed, voting: Voting, image: Tensor) -> bool:
    """Whether logits at an image (1, channels, size, size) depend on it in a way that can be differentiated."""
    nothing = torch.zeros(1 + copies_of(voting), *image.shape[1:])
    try:
        ascend(Smoothed(deployed(image), nothing), image, lambda logits: logits.amax(dim=1))
    except InputError:
        return False
    return True
