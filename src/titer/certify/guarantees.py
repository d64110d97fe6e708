"""What a certificate says where the classifier is not simply fixed (docs/guarantees.md)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import numpy as np

from titer.certify.certificate import ABSTAIN, Certificate, Guarantee, Procedure, Statement


class Rule(Protocol):
    """A certifier."""

    def certify(self, sigma: float, alpha: float, gap: float = 0.0) -> Procedure:
        """The procedure for one image."""


def named(procedure: Procedure, guarantee: Guarantee, sigma: float) -> Procedure:
    """The same procedure, whose certificate names a guarantee and the noise of the pixels."""
    statement = yield from procedure
    if isinstance(statement, Certificate):
        return replace(statement, guarantee=guarantee, sigma=sigma)
    return replace(statement, sigma=sigma)


def product(rule: Rule, copies: int, sigma: float, alpha: float, gap: float = 0.0) -> Procedure:
    """Each vote adapts to ``copies`` noisy copies of its own: it is a function of copies + 1 independent draws.

    The smoothed classifier is one of the image repeated copies + 1 times. A change of the image by r is a change of
    that by r * sqrt(copies + 1), so the radius is the usual one divided by that root, as if the noise were smaller.
    """
    return named(rule.certify(sigma / math.sqrt(copies + 1), alpha, (copies + 1) * gap), "product", sigma)


def bank(rule: Rule, members: int, classes: int, sigma: float, alpha: float, gap: float = 0.0) -> Procedure:
    """One of finitely many fixed classifiers is chosen by a vote, and both the choice and the answer are certified.

    It is sent counts (1 + members, ...): the selector's votes for members, then each member's votes for classes. The
    member and its class are candidates of the selection draws; each is bounded at alpha / 2 on the estimation draws, so
    that both bounds hold together with probability at least 1 - alpha. Within the smaller radius the smoothed selector
    picks the same member everywhere, and that member's smoothed answer is the same.
    """
    halves = {"choice": rule.certify(sigma, alpha / 2, gap), "answer": rule.certify(sigma, alpha / 2, gap)}
    requests = {name: next(half) for name, half in halves.items()}
    statements: dict[str, Statement] = {}
    member: int | None = None
    while requests:
        # both ask for the same looks, but one may be decided earlier
        request = min(requests.values(), key=lambda draws: (draws.purpose != "select", draws.total))
        counts = yield request
        member = int(np.argmax(counts[0, :members])) if member is None else member
        sent = {"choice": counts[0, :members], "answer": counts[1 + member, :classes]}
        for name in [name for name, asked in requests.items() if asked == request]:
            try:
                requests[name] = halves[name].send(sent[name].copy())
            except StopIteration as stop:
                del requests[name]
                statements[name] = stop.value
    return _both(statements["choice"], statements["answer"])


def _both(choice: Statement, answer: Statement) -> Statement:
    """The answer, as far as the choice stands."""
    certified = choice.prediction != ABSTAIN and answer.prediction != ABSTAIN
    prediction = answer.prediction if certified else ABSTAIN
    if not isinstance(choice, Certificate) or not isinstance(answer, Certificate):
        return replace(answer, prediction=prediction, alpha=choice.alpha + answer.alpha)
    radius = min(choice.radius, answer.radius) if certified else 0.0
    both = replace(
        answer,
        prediction=prediction,
        radius=radius,
        p_lower=min(choice.p_lower, answer.p_lower) if certified else 0.0,
        alpha=choice.alpha + answer.alpha,
        guarantee="bank",
        choice=choice,
    )
    if answer.decided is None or answer.unsettled is None:
        return both
    kept = tuple(proof for proof in answer.decided if certified and proof.radius <= radius)
    given_up = tuple(proof.radius for proof in answer.decided[len(kept) :])
    return replace(both, decided=kept, unsettled=given_up + answer.unsettled)
