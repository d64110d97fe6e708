"""Symmetric contrastive training (InfoNCE): the loss, and its gradient in parts that fit memory.

Equal captions are positives of each other, never negatives: medical captions repeat. Features of a large batch are made
twice, first without a graph, then part by part with the gradient that the loss sends to them (Gao et al., GradCache,
2021, arXiv 2101.06983), so a batch of any size needs the memory of a part, and its gradient is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.errors import InputError

_LEFT_OUT = -1e4  # not minus infinity, whose product with a target of 0 is no number
Batch = TypeVar("Batch", Tensor, Sequence[str])


def same_captions(captions: Sequence[str]) -> Tensor:
    """Which captions (batch, batch) are equal, but for case and white space."""
    numbers: dict[str, int] = {}
    found = torch.tensor([numbers.setdefault(" ".join(each.lower().split()), len(numbers)) for each in captions])
    return found[:, None] == found[None]


def unclear_captions(labels: Sequence[str | None], same: Tensor) -> Tensor:
    """Which captions (batch, batch) may be true of each other's image: of one class, and not equal.

    Args:
        labels: of the batch; None knows nothing of others.
        same: which captions are equal.
    """
    numbers: dict[str, int] = {}
    place = [-1 if label is None else numbers.setdefault(label, len(numbers)) for label in labels]
    found = torch.tensor(place)
    return ((found[:, None] == found[None]) & (found >= 0)[:, None]).to(same.device) & ~same


def contrastive_loss(
    images: Tensor, texts: Tensor, scale: Tensor, same: Tensor, unclear: Tensor | None = None
) -> Tensor:
    """Mean of both directions of InfoNCE; without repeated captions it is CLIP's loss.

    Args:
        images, texts: unit features (batch, dim), row by row of a pair.
        scale: multiplies the cosine.
        same: which pairs (batch, batch) have equal captions; a target is spread evenly over them.
        unclear: which pairs (batch, batch), a symmetric relation, count neither as positives nor as negatives.
    """
    logits = scale * images @ texts.T
    if unclear is not None:
        logits = logits.masked_fill(unclear, _LEFT_OUT)
    target = same.to(logits)
    target = target / target.sum(dim=1, keepdim=True)  # symmetric relation, so a column's share is the row's
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def backward_in_parts(
    encode_images: Callable[[Tensor], Tensor],
    encode_texts: Callable[[Sequence[str]], Tensor],
    images: Tensor,
    captions: Sequence[str],
    scale: Tensor,
    part: int,
    labels: Sequence[str | None] | None = None,
) -> float:
    """Add the gradient of the whole batch's loss to the parameters behind the encoders and the scale.

    Args:
        encode_images: images (rows, ...) -> unit features (rows, dim); twice the same for the same rows (no dropout).
        encode_texts: captions -> unit features.
        images: (batch, ...).
        captions: of the batch.
        scale: multiplies the cosine.
        part: pairs whose graph is held at a time.
        labels: of the batch; captions of one class are not negatives of each other. Without them only equal ones are not.

    Returns:
        The loss.

    Raises:
        InputError: for a part below 1, or a batch that has no two different captions, which teaches nothing.
    """
    if part < 1:
        raise InputError(f"part: expected at least 1 pair, got {part}")
    same = same_captions(captions).to(images.device)
    if same.all():
        raise InputError(f"a batch of {len(captions)} pairs holds one caption; expected at least two different ones")
    unclear = None if labels is None else unclear_captions(labels, same)
    if part >= len(captions):
        whole = contrastive_loss(encode_images(images), encode_texts(captions), scale, same, unclear)
        whole.backward()  # type: ignore[no-untyped-call]
        return float(whole.detach())
    with torch.no_grad():
        found = [_encoded(encode_images, images, part), _encoded(encode_texts, captions, part)]
    leaves = [features.detach().requires_grad_() for features in found]
    loss = contrastive_loss(leaves[0], leaves[1], scale, same, unclear)
    gradients = _gradients(loss, leaves, scale)
    _send_back(encode_images, images, gradients[0], part)
    _send_back(encode_texts, captions, gradients[1], part)
    return float(loss.detach())


def _gradients(loss: Tensor, leaves: Sequence[Tensor], scale: Tensor) -> tuple[Tensor, ...]:
    """Of the features; the scale's goes on to its parameter."""
    wanted = [*leaves, scale] if scale.requires_grad else [*leaves]
    found = torch.autograd.grad(loss, wanted)
    if scale.requires_grad:
        scale.backward(found[2])  # type: ignore[no-untyped-call]
    return found


def _encoded(encode: Callable[[Batch], Tensor], rows: Batch, part: int) -> Tensor:
    return torch.cat([encode(rows[first : first + part]) for first in range(0, len(rows), part)])


def _send_back(encode: Callable[[Batch], Tensor], rows: Batch, gradient: Tensor, part: int) -> None:
    for first in range(0, len(rows), part):
        chosen = slice(first, first + part)
        encode(rows[chosen]).backward(gradient[chosen])  # type: ignore[no-untyped-call]
