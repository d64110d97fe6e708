"""What fits minimise: pure functions of logits."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.attacks.losses import divergence

_TINY = 1e-12
Direction = Literal["from-target", "from-attacked"]
AlphaRule = Literal["const", "teacher-conf", "teacher-correct", "entropy", "gap"]
CrossEntropyOn = Literal["clean", "adv", "both"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (batch, classes) with labels (batch,), or with probabilities (batch, classes)."""
    return F.cross_entropy(logits, labels)


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """What a head minimises: cross-entropy with labels (batch,), or with findings (batch, classes) the mean binary one.

    Args:
        logits: (batch, classes); of findings, a sigmoid makes a score of each.
        targets: class indices; or 1 and 0, and nan where it is not known, which counts for nothing.
    """
    if targets.ndim == 1:
        return cross_entropy(logits, targets)
    known = ~targets.isnan()
    return F.binary_cross_entropy_with_logits(logits[known], targets[known])


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean prediction over copies: logits (..., copies, classes) -> (...), in nats.

    Not the mean of the entropies: copies that disagree confidently have a high one (Zhang et al., MEMO, NeurIPS 2022;
    Shu et al., TPT, NeurIPS 2022; PromptSmooth, MICCAI 2024).
    """
    log_mean = logits.log_softmax(dim=-1).logsumexp(dim=-2) - math.log(logits.shape[-2])
    return -(log_mean.exp() * log_mean).sum(dim=-1)


def kl(target: Tensor, logits: Tensor) -> Tensor:
    """KL(target || answer) (batch,) of two sets of logits (batch, classes); gradients reach both."""
    return divergence(logits, target)


def consistency(target: Tensor, attacked: Tensor, direction: Direction = "from-target") -> Tensor:
    """How far the attacked answer is from its target: KL(target || attacked) (batch,), or the other way round."""
    return kl(target, attacked) if direction == "from-target" else kl(attacked, target)


def fap(clean: Tensor, attacked: Tensor, clean_features: Tensor, attacked_features: Tensor) -> Tensor:
    """FAP's consistency term (NeurIPS 2024, arXiv 2403.14774): (cos + 1) KL(clean || attacked), mean over the batch.

    Nothing is detached, as in the released code: image features are pushed apart while answers are pulled together.
    """
    cosine = F.cosine_similarity(clean_features, attacked_features, dim=1)
    return ((cosine + 1) * kl(clean, attacked)).mean()


def alpha(rule: AlphaRule, value: float, clean: Tensor, attacked: Tensor, frozen: Tensor, labels: Tensor) -> Tensor:
    """Weight (batch,) of the frozen teacher in CAPT's consistency; a number as far as gradients are concerned.

    The paper's own rule is not public; these are named choices of the reconstruction.

    Args:
        rule: ``const``; ``teacher-conf``: the teacher's share of the probability that both give the label;
            ``teacher-correct``: 1 where the teacher is right, else 0; ``entropy``: the tuned model's share of the
            entropy; ``gap``: larger where the tuned clean answer has drifted from the teacher's.
        value: of ``const``.
        clean, attacked, frozen: logits (batch, classes) of the tuned model for clean and attacked images, and of the
            frozen model for clean ones.
        labels: (batch,).
    """
    clean, attacked, frozen = clean.detach(), attacked.detach(), frozen.detach()
    if rule == "const":
        return torch.full_like(clean[:, 0], value)
    if rule == "teacher-correct":
        return (frozen.argmax(dim=1) == labels).to(clean.dtype)
    if rule == "teacher-conf":
        teacher, tuned = (logits.softmax(dim=1).gather(1, labels[:, None])[:, 0] for logits in (frozen, clean))
    elif rule == "entropy":
        teacher, tuned = marginal_entropy(clean[:, None]), marginal_entropy(frozen[:, None])
    else:
        teacher, tuned = kl(frozen, clean), kl(clean, attacked)
    return teacher / (teacher + tuned).clamp_min(_TINY)


def capt(
    clean: Tensor,
    attacked: Tensor,
    frozen: Tensor,
    teacher: Tensor,
    direction: Direction = "from-target",
    *,
    detach: bool = False,
) -> Tensor:
    """CAPT's consistency (arXiv 2405.11154): attacked answers agree with the clean ones and with the frozen model's.

    Args:
        clean, attacked, frozen: as above; the frozen model's logits carry no gradient.
        teacher: weight (batch,) of the frozen model's answer.
        direction: of both divergences.
        detach: whether the clean answer is a fixed target.
    """
    own = consistency(clean.detach() if detach else clean, attacked, direction)
    return ((1 - teacher) * own + teacher * consistency(frozen, attacked, direction)).mean()
