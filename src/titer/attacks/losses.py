"""What attacks raise: pure functions of logits, one value per image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy (batch,) of logits (batch, classes) with the labels (batch,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other logit less the label's; above 0 exactly where the answer is wrong."""
    return others(logits, labels).amax(dim=1) - own(logits, labels)


def divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """KL divergence (batch,) of the answer from the clean one, whose logits are given; needs no label."""
    return F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


def own(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit (batch,)."""
    return logits.gather(1, labels[:, None]).squeeze(1)


def others(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (batch, classes) with the label's at minus infinity."""
    return torch.where(F.one_hot(labels, logits.shape[1]).bool(), float("-inf"), logits)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (batch,): the margin by the distance of the largest logit from the third.

    Unlike the margin and the cross entropy it does not change when all logits are scaled or shifted, so that a model
    with large logits cannot hide behind vanishing gradients (Croce and Hein, ICML 2020, arXiv 2003.01690, equation 6).

    Args:
        logits: (batch, classes), at least three classes.
        labels: (batch,).
    """
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, labels) / (first - third).clamp_min(_TINY)


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Logit of the class aimed at (batch,) less the label's; above 0 the answer is wrong, whatever it is."""
    return own(logits, targets) - own(logits, labels)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The targeted margin (batch,), scaled: the same reference, equation 7; at least four classes."""
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    return targeted_margin(logits, labels, targets) / (first - (third + fourth) / 2).clamp_min(_TINY)


def runners_up(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The classes (batch, count) beside the label, the likeliest first."""
    return others(logits, labels).topk(count, dim=1).indices
