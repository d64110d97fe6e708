"""What attacks raise: pure functions of logits, one value per image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
