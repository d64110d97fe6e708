"""What attacks raise: against SciPy, and where the sign of the margin turns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import entropy
from torch import Tensor

from titer.attacks.losses import cross_entropy, divergence, margin, others, own

LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.5, 2.0, 1.5]])
LABELS = torch.tensor([0, 2])

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**32 - 1)
classes = st.integers(2, 9)
scales = st.sampled_from([0.1, 3.0, 100.0])


def logits(seed: int, count: int, scale: float, rows: int = 5) -> Tensor:
    return scale * torch.randn(rows, count, generator=torch.Generator().manual_seed(seed))


def labels(seed: int, count: int, rows: int = 5) -> Tensor:
    return torch.randint(count, (rows,), generator=torch.Generator().manual_seed(seed + 1))


def test_by_hand() -> None:
    assert own(LOGITS, LABELS).tolist() == [3.0, 1.5]
    assert others(LOGITS, LABELS).tolist() == [[float("-inf"), 1.0, 0.0], [0.5, 2.0, float("-inf")]]
    assert margin(LOGITS, LABELS).tolist() == [-2.0, 0.5]
    sums = [np.exp(3.0) + np.exp(1.0) + 1, np.exp(0.5) + np.exp(2.0) + np.exp(1.5)]
    expected = [np.log(sums[0]) - 3.0, np.log(sums[1]) - 1.5]
    assert cross_entropy(LOGITS, LABELS).tolist() == pytest.approx(expected, rel=1e-6)


@quick
@given(seeds, classes, scales)
def test_cross_entropy_is_that_of_scipy(seed: int, count: int, scale: float) -> None:
    shown, truth = logits(seed, count, scale), labels(seed, count)
    expected = -log_softmax(shown.double().numpy(), axis=1)[range(5), truth]
    assert cross_entropy(shown, truth).numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@quick
@given(seeds, classes, scales)
def test_the_margin_is_above_0_exactly_where_the_answer_is_wrong(seed: int, count: int, scale: float) -> None:
    shown, truth = logits(seed, count, scale), labels(seed, count)
    assert ((margin(shown, truth) > 0) == (shown.argmax(dim=1) != truth)).all()
    assert torch.allclose(margin(shown + 7.0, truth), margin(shown, truth), atol=1e-4 * (1 + scale))


@quick
@given(seeds, classes, st.sampled_from([0.1, 3.0]))
def test_divergence_is_that_of_scipy(seed: int, count: int, scale: float) -> None:
    """Of the answer from the clean one: KL(clean, answer)."""
    shown, clean = logits(seed, count, scale), logits(seed + 1, count, scale)
    answer, before = (np.exp(log_softmax(each.double().numpy(), axis=1)) for each in (shown, clean))
    expected = entropy(before, answer, axis=1)
    assert divergence(shown, clean).numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_no_divergence_from_itself_nor_any_slope_there() -> None:
    shown = LOGITS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence(shown, LOGITS).sum(), shown)
    assert divergence(LOGITS, LOGITS).tolist() == [0.0, 0.0]
    assert float(slope.abs().max()) < 1e-6


@pytest.mark.parametrize("loss", [cross_entropy, margin, divergence])
def test_gradients_stay_finite_where_the_softmax_is_saturated(loss: object) -> None:
    sure = torch.tensor([[800.0, 0.0, -800.0]]).requires_grad_()
    given_ = torch.tensor([[0.0, 800.0, 0.0]]) if loss is divergence else torch.tensor([1])
    value = loss(sure, given_)  # type: ignore[operator]
    (slope,) = torch.autograd.grad(value.sum(), sure)
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope).all()
    assert float(slope[0, 1]) < 0 if loss is not margin else float(slope[0, 1]) == -1


@quick
@given(seeds, classes)
def test_a_rows_loss_is_a_function_of_that_row_alone(seed: int, count: int) -> None:
    shown, clean, truth = logits(seed, count, 3.0), logits(seed + 1, count, 3.0), labels(seed, count)
    rows = torch.tensor([3, 0])
    for loss, given_ in ((cross_entropy, truth), (margin, truth), (divergence, clean)):
        assert torch.allclose(loss(shown, given_)[rows], loss(shown[rows], given_[rows]))
