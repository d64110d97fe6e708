"""From a classifier and the guarantee asked for to votes, and to the procedure that counts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor

from titer.certify.certificate import Guarantee, Procedure
from titer.certify.guarantees import Rule, bank, named, product
from titer.errors import GuaranteeError, unknown
from titer.features.stream import Ballot, fixed_ballot
from titer.models.classifier import Bank, Classifier


def guarantees(classifiers: Mapping[str, Classifier], asked: str | Mapping[str, str] | None) -> dict[str, Guarantee]:
    """Which statement each prompt set's certificates will make.

    A fixed classifier's is ``fixed``, a bank's ``bank``; one that adapts to the image needs to be told.

    Args:
        classifiers: prompt sets by name.
        asked: a guarantee for all of them, or one by name.

    Raises:
        GuaranteeError: for a guarantee that a prompt set cannot have, or that an adapting one is not told.
    """
    wanted = asked if isinstance(asked, Mapping) else dict.fromkeys(classifiers, asked)
    for name in set(wanted.values()) - {None}:
        if name not in get_args(Guarantee):
            raise unknown("guarantee", str(name), get_args(Guarantee))
    found = {name: _guarantee(name, classifier, wanted.get(name)) for name, classifier in classifiers.items()}
    if isinstance(asked, str) and asked not in found.values():
        kinds = ", ".join(f"{name} is {guarantee}" for name, guarantee in found.items())
        raise GuaranteeError(f"guarantee {asked!r}: no prompt set of this run can have it ({kinds})")
    return found


def _guarantee(name: str, classifier: Classifier, asked: str | None) -> Guarantee:
    if classifier.adaptation is None:
        return "bank" if isinstance(classifier, Bank) else "fixed"
    if asked in classifier.adaptation.guarantees:
        return cast(Guarantee, asked)
    raise GuaranteeError(
        f"prompt set {name!r} changes with the image it is shown, so a certificate of the guarantee "
        f"{asked or 'fixed'!r} would claim more than is proven; expected --guarantee "
        f"{', '.join(classifier.adaptation.guarantees)}"
    )


@dataclass(frozen=True, eq=False)
class Voting:
    """One prompt set in a run.

    Args:
        classifier: the prompt set.
        guarantee: which statement its certificates make.
        seed: the run's seed.
        channels: 3, or 1 for noise drawn once and replicated.
    """

    classifier: Classifier
    guarantee: Guarantee
    seed: int
    channels: int

    def ballot(self, image: Tensor, sample: str, sigma: float) -> Ballot:
        """How it votes on draws around one image (3, size, size); the conditional guarantee adapts to the image here."""
        classifier, adaptation = self.classifier, self.classifier.adaptation
        if isinstance(classifier, Bank):
            return fixed_ballot(classifier.encoder, classifier.selector, *classifier.members, head=classifier.head)
        if adaptation is None:
            return fixed_ballot(classifier.encoder, classifier.head)
        if self.guarantee == "conditional":
            return fixed_ballot(
                classifier.encoder,
                adaptation.to_image(classifier.encoder, image, sample, sigma, self.seed, self.channels),
            )

        def votes(features: Tensor, copies: Tensor) -> Tensor:
            own = features[:, None] if self.guarantee == "per-draw" else copies
            return torch.stack([adaptation.to_copies(own, features).argmax(dim=1)])

        def without_noise(features: Tensor) -> Tensor:
            return adaptation.to_copies(features[:, None], features)

        copies = adaptation.copies if self.guarantee == "product" else 0
        return Ballot(classifier.encoder, votes, without_noise, copies=copies)

    def procedure(self, rule: Rule, sigma: float, alpha: float, gap: float) -> Procedure:
        """The certifier at work for one image."""
        if isinstance(self.classifier, Bank):
            return bank(rule, len(self.classifier.members), len(self.classifier.classes), sigma, alpha, gap)
        if self.guarantee == "product" and self.classifier.adaptation is not None:
            return product(rule, self.classifier.adaptation.copies, sigma, alpha, gap)
        return named(rule.certify(sigma, alpha, gap), self.guarantee, sigma)
