"""Losses against numbers worked out by hand, and properties that hold for all logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from titer.defenses.objectives import cross_entropy, marginal_entropy

LOGITS = st.tuples(st.integers(1, 6), st.integers(2, 5)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-40, 40))
)


def entropy(*probabilities: float) -> float:
    return -sum(p * math.log(p) for p in probabilities)


def test_it_is_the_entropy_of_the_mean_and_not_the_mean_of_entropies() -> None:
    """Copies that say 0.9 and 0.3 of the first class: H(0.6) is 0.673, the mean of H(0.9) and H(0.3) is 0.468."""
    logits = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).log()
    assert float(marginal_entropy(logits)) == pytest.approx(entropy(0.6, 0.4), abs=1e-6)
    assert float(marginal_entropy(logits)) == pytest.approx(0.673012, abs=1e-6)
    assert (entropy(0.9, 0.1) + entropy(0.3, 0.7)) / 2 == pytest.approx(0.467974, abs=1e-6)


def test_confident_copies_that_disagree_have_the_most() -> None:
    assert float(marginal_entropy(torch.tensor([[50.0, -50.0], [-50.0, 50.0]]))) == pytest.approx(math.log(2))
    assert float(marginal_entropy(torch.tensor([[50.0, -50.0], [50.0, -50.0]]))) == pytest.approx(0, abs=1e-6)


def test_a_batch_of_images_has_an_entropy_each() -> None:
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    found = marginal_entropy(logits)
    assert found.shape == (3,)
    for row, image in enumerate(logits):
        assert float(found[row]) == pytest.approx(entropy(*image.softmax(dim=-1).mean(dim=0).tolist()), abs=1e-5)


def test_far_apart_logits_neither_overflow_nor_lose_their_gradient() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    found = marginal_entropy(logits)
    found.backward()  # type: ignore[no-untyped-call]
    assert float(found.detach()) == pytest.approx(math.log(2))
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(LOGITS)
def test_it_lies_between_zero_and_the_logarithm_of_the_classes(values: np.ndarray) -> None:
    found = float(marginal_entropy(torch.from_numpy(values)))
    assert -1e-9 <= found <= math.log(values.shape[1]) + 1e-9


@settings(deadline=None, max_examples=60)
@given(LOGITS, st.randoms(use_true_random=False))
def test_neither_the_order_of_copies_nor_that_of_classes_matters(values: np.ndarray, chance: object) -> None:
    logits = torch.from_numpy(values)
    copies, classes = (list(range(length)) for length in values.shape)
    chance.shuffle(copies)  # type: ignore[attr-defined]
    chance.shuffle(classes)  # type: ignore[attr-defined]
    turned = marginal_entropy(logits[copies][:, classes])
    assert float(turned) == pytest.approx(float(marginal_entropy(logits)), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(LOGITS)
def test_a_constant_added_to_a_copys_logits_changes_nothing(values: np.ndarray) -> None:
    logits = torch.from_numpy(values)
    moved = logits + torch.arange(len(logits))[:, None]
    assert float(marginal_entropy(moved)) == pytest.approx(float(marginal_entropy(logits)), abs=1e-8)


@settings(deadline=None, max_examples=40)
@given(LOGITS)
def test_it_is_at_least_the_mean_of_the_entropies(values: np.ndarray) -> None:
    """Entropy is concave; the difference is what the copies disagree about."""
    logits = torch.from_numpy(values)
    single = marginal_entropy(logits[:, None])
    assert float(marginal_entropy(logits)) >= float(single.mean()) - 1e-9


@settings(deadline=None, max_examples=40)
@given(LOGITS)
def test_its_gradient_is_that_of_finite_differences(values: np.ndarray) -> None:
    logits = torch.from_numpy(values).requires_grad_()
    (gradient,) = torch.autograd.grad(marginal_entropy(logits), logits)
    way = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (marginal_entropy(logits + side * 1e-5 * way) for side in (1, -1))
    assert float(ahead - behind) / 2e-5 == pytest.approx(float((gradient * way).sum()), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(LOGITS)
def test_its_gradient_sums_to_zero_over_the_classes(values: np.ndarray) -> None:
    logits = torch.from_numpy(values).requires_grad_()
    (gradient,) = torch.autograd.grad(marginal_entropy(logits), logits)
    assert torch.allclose(gradient.sum(dim=-1), torch.zeros(len(values), dtype=torch.float64), atol=1e-12)


def test_cross_entropy_is_minus_the_mean_log_probability_of_the_label() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).log()
    assert float(cross_entropy(logits, torch.tensor([0, 0]))) == pytest.approx(-(math.log(0.9) + math.log(0.3)) / 2)
    soft: Tensor = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    expected = -(math.log(0.9) + (math.log(0.3) + math.log(0.7)) / 2) / 2
    assert float(cross_entropy(logits, soft)) == pytest.approx(expected)
