"""What fits minimise: pure functions of logits."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (batch, classes) with labels (batch,), or with probabilities (batch, classes)."""
    return F.cross_entropy(logits, labels)


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean prediction over copies: logits (..., copies, classes) -> (...), in nats.

    Not the mean of the entropies: copies that disagree confidently have a high one (Zhang et al., MEMO, NeurIPS 2022;
    Shu et al., TPT, NeurIPS 2022; PromptSmooth, MICCAI 2024).
    """
    log_mean = logits.log_softmax(dim=-1).logsumexp(dim=-2) - math.log(logits.shape[-2])
    return -(log_mean.exp() * log_mean).sum(dim=-1)
