"""Layers that begin as a seed says, and global randomness that does not notice."""

from __future__ import annotations

import torch
from torch import nn

from titer.models.weights import seeded


def made(seed: int) -> torch.Tensor:
    with seeded(seed):
        return nn.Linear(5, 4).weight.detach().clone()


def test_a_seed_decides_and_nothing_outside_moves() -> None:
    before = torch.random.get_rng_state()
    assert torch.equal(made(3), made(3))
    assert not torch.equal(made(3), made(4))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_is_the_stream_of_a_generator_with_that_seed() -> None:
    with seeded(7):
        drawn = torch.rand(6)
    assert torch.equal(drawn, torch.rand(6, generator=torch.Generator().manual_seed(7)))
