"""Random search with squares (Andriushchenko et al., ECCV 2020, arXiv 1912.00049; for l1 Croce and Hein, ICML 2021).

Queries only, no gradients: what it breaks and gradients do not is a sign of hidden gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from titer.attacks.attack import Model, Random, answers
from titer.attacks.losses import margin
from titer.attacks.pgd import better
from titer.attacks.threat import Norm, Threat, length
from titer.errors import InputError

_HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: the squares' share of the image
_STRIPES = 5  # tiles on each side of the first l2 and l1 candidate
_TINY = 1e-12
_INSIDE = 1 - 1e-6  # of epsilon, so that rounding leaves the projection nothing to do


@dataclass(frozen=True)
class Square:
    """Changes of one square at a time, kept where the margin rises; an image is left alone once it is broken.

    Args:
        queries: most answers asked of the model for one image.
        share: of the image that the first squares cover; halved on the paper's schedule, stretched to ``queries``.
    """

    queries: int = 5000
    share: float = 0.8

    needs_gradient: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise InputError(f"queries: expected at least 1, got {self.queries}")
        if not 0 < self.share <= 1:
            raise InputError(f"share: expected a share of the image in (0, 1], got {self.share:g}")

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """The images of highest margin that were tried, the clean ones included."""
        start, propose = (_stripes, _square) if threat.norm == "linf" else (_tiles, _moved)
        best = threat.project(images + start(images, threat, random), images)
        highest = margin(answers(model, best), labels)
        for query in range(1, self.queries):
            left = (highest <= 0).nonzero().flatten()
            if not len(left):
                break
            side = self._side(query, images)
            change = propose(best[left] - images[left], side, threat, random.of(left))
            tried = threat.project(images[left] + change, images[left])
            found = margin(answers(model, tried), labels[left])
            best[left], highest[left] = better(best[left], highest[left], tried, found)
        return better(images, margin(answers(model, images), labels), best, highest)[0]

    def _side(self, query: int, images: Tensor) -> int:
        """Side of the square of a query, in pixels."""
        place = query / self.queries * 10_000
        share = self.share / 2 ** sum(place > at for at in _HALVED_AT)
        return max(1, round(math.sqrt(share * images.shape[-2] * images.shape[-1])))


def _stripes(images: Tensor, threat: Threat, random: Random) -> Tensor:
    """Vertical stripes of plus and minus epsilon."""
    return threat.epsilon * random.signs(images.shape[1], 1, images.shape[3]).to(images.device)


def _square(change: Tensor, side: int, threat: Threat, random: Random) -> Tensor:
    """The change of linf with one square, at a random place, set to plus or minus epsilon, a sign for each channel."""
    channels, height, width = change.shape[1:]
    side = min(side, height, width)
    drawn = random.uniform(2 + channels).to(change.device)
    signs = torch.where(drawn[:, 2:, None, None] < 0.5, -1.0, 1.0)
    inside = _window(drawn[:, 0], height, side)[:, None, :, None] & _window(drawn[:, 1], width, side)[:, None, None, :]
    return torch.where(inside, threat.epsilon * signs, change)


def _window(drawn: Tensor, extent: int, side: int) -> Tensor:
    """(batch, extent) of bool: a window of this side that begins at a random place, from numbers (batch,) in [0, 1)."""
    first = _begin(drawn, extent, side)[:, None]
    places = torch.arange(extent, device=drawn.device)
    return (places >= first) & (places < first + side)


def _begin(drawn: Tensor, extent: int, side: int) -> Tensor:
    return (drawn * (extent - side + 1)).long().clamp_max(extent - side)


def _tiles(images: Tensor, threat: Threat, random: Random) -> Tensor:
    """Bumps of random sign on a grid, of length epsilon together."""
    channels, height, width = images.shape[1:]
    side = max(1, height // _STRIPES)
    rows, columns = height // side, width // side
    signs = random.signs(channels, rows, columns).to(images.device)
    change = torch.zeros_like(images)
    pattern = torch.kron(signs, _bump(side).to(images.device))
    change[:, :, : rows * side, : columns * side] = pattern
    return threat.epsilon * change / length(change, threat.norm).clamp_min(_TINY).view(-1, 1, 1, 1)


def _moved(change: Tensor, side: int, threat: Threat, random: Random) -> Tensor:
    """The change of l2 or l1 with the length of one window spent in another one, where a bump is added to what is there."""
    channels, height, width = change.shape[1:]
    side = min(max(3, side + 1 - side % 2), height, width)
    drawn = random.uniform(5 + channels).to(change.device)
    rows, columns = (_begin(drawn[:, place : place + 2], extent, side).T for place, extent in ((0, height), (2, width)))
    signs = torch.where(drawn[:, 5:] < 0.5, -1.0, 1.0)
    upright = drawn[:, 4] < 0.5
    bump, order = _bump(side).to(change.device), 2 if threat.norm == "l2" else 1
    batch, along = (
        torch.arange(len(change), device=change.device).view(-1, 1, 1),
        torch.arange(side, device=change.device),
    )
    target, source = (
        (batch, slice(None), at.view(-1, 1, 1) + along[:, None], across.view(-1, 1, 1) + along)
        for at, across in zip(rows, columns, strict=True)
    )
    both = torch.zeros_like(change, dtype=torch.bool)
    both[target] = both[source] = True
    left = (threat.epsilon**order - length(change, threat.norm) ** order).clamp_min(0)
    spent = (change * both).abs().pow(order).sum((-2, -1)) + left[:, None] / channels
    shape = torch.where(upright.view(-1, 1, 1), bump, bump.T)[..., None] * signs[:, None, None]
    moved = change.clone()
    added = _unit(change[target], order) + shape
    moved[source] = 0
    moved[target] = _unit(added, order) * spent.pow(1 / order)[:, None, None]
    return _INSIDE * threat.epsilon * moved / length(moved, threat.norm).clamp_min(_TINY).view(-1, 1, 1, 1)


def _unit(change: Tensor, order: int) -> Tensor:
    """Each window (batch, side, side, channels) at length 1 in every channel."""
    lengths: Tensor = torch.linalg.vector_norm(change, order, dim=(1, 2), keepdim=True)
    return change / lengths.clamp_min(_TINY)


@lru_cache(maxsize=64)
def _bump(side: int) -> Tensor:
    """(side, side): two opposite hills, one above the other, of l2 length 1."""
    upper = _hill(side // 2, side)
    both = torch.cat([upper, -_hill(side - side // 2, side)])
    return _one(both)


def _hill(height: int, width: int) -> Tensor:
    """Nested rectangles around the middle, each lower than the one it holds; l2 length 1."""
    hill = torch.zeros(height, width)
    middle = height // 2, width // 2
    for ring in range(max(middle) + 1):
        top, left = max(middle[0] - ring, 0), max(middle[1] - ring, 0)
        hill[top : middle[0] + ring + 1, left : middle[1] + ring + 1] += 1 / (ring + 1) ** 2
    return _one(hill)


def _one(pattern: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(pattern)
    return pattern / size.clamp_min(_TINY)
