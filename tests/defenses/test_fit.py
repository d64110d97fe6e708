"""The loop against numbers worked out by hand, CoOp's schedule, and the signs of collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from titer.defenses.fit import collapse, minimise
from titer.defenses.task import Fitted


def line(parameter: Tensor, slope: float, steps: int = 1) -> Callable[[int], Sequence[Callable[[], Tensor]]]:
    """A loss whose gradient is the slope wherever one stands."""
    return lambda epoch: [lambda: (slope * parameter).sum()] * steps  # noqa: ARG005


def coop_rates(rate: float, epochs: int, warmup: float) -> list[float]:
    """Of CoOp's code: torch's cosine over all epochs, which is first stepped after the second one."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    rates = [warmup]
    for _ in range(epochs - 1):
        rates.append(float(cosine.get_last_lr()[0]))
        optimiser.step()
        cosine.step()
    return rates


def rates_of(patch: pytest.MonkeyPatch, epochs: int, warmup_rate: float | None = None) -> list[float]:
    """The learning rate of each step."""
    rates: list[float] = []
    step = torch.optim.SGD.step

    def recorded(optimiser: torch.optim.SGD) -> None:
        rates.append(optimiser.param_groups[0]["lr"])
        step(optimiser)

    patch.setattr(torch.optim.SGD, "step", recorded)
    parameter = torch.zeros(1, requires_grad=True)
    minimise([parameter], line(parameter, 1.0), epochs, 0.002, "sgd", warmup_rate)
    return rates


def test_the_rate_falls_along_half_a_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = rates_of(monkeypatch, 4)
    assert rates == pytest.approx([0.002, 0.002 * (2 + 2**0.5) / 4, 0.001, 0.002 * (2 - 2**0.5) / 4])


def test_one_epoch_of_warm_up_comes_before_the_cosine_as_in_coops_code(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = coop_rates(0.002, 50, 1e-5)
    rates = rates_of(monkeypatch, 50, 1e-5)
    assert rates[:2] == [1e-5, 0.002]
    assert rates == pytest.approx(expected)


def test_a_step_of_sgd_is_worked_out_by_hand() -> None:
    """Weight decay 5e-4 adds to the gradient; momentum 0.9 keeps nine tenths of the last one."""
    parameter = torch.tensor([2.0], requires_grad=True)
    history = minimise([parameter], line(parameter, 3.0, steps=2), 1, 0.1, "sgd")
    first = 3 + 5e-4 * 2
    after = 2 - 0.1 * first
    second = 0.9 * first + 3 + 5e-4 * after
    assert float(parameter.detach()) == pytest.approx(after - 0.1 * second, rel=1e-6)
    assert list(history) == pytest.approx([(3 * 2 + 3 * after) / 2])


def test_a_first_step_of_adam_has_the_length_of_the_rate() -> None:
    parameter = torch.tensor([2.0, -1.0], requires_grad=True)
    minimise([parameter], lambda _: [lambda: (parameter * torch.tensor([5.0, -0.01])).sum()], 1, 0.1)
    assert parameter.detach().tolist() == pytest.approx([1.9, -0.9], abs=1e-6)


def test_every_loss_is_called_once_and_in_its_turn() -> None:
    parameter, calls = torch.zeros(1, requires_grad=True), []

    def losses(epoch: int) -> list[Callable[[], Tensor]]:
        def step(number: int) -> Tensor:
            calls.append((epoch, number))
            return parameter.sum()

        return [lambda: step(0), lambda: step(1)]

    assert len(minimise([parameter], losses, 2, 0.1)) == 2
    assert calls == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_bowl_is_descended() -> None:
    parameter = torch.tensor([4.0], requires_grad=True)
    history = minimise([parameter], lambda _: [lambda: (parameter - 1).square().sum()], 200, 0.1)
    assert float(parameter.detach()) == pytest.approx(1, abs=0.01)
    assert history[0] == 9
    assert history[-1] < 1e-3


def fitted(losses: tuple[float, ...], predictions: list[int] | None = None, objective: str = "cross-entropy") -> Fitted:
    return Fitted({}, losses, None if predictions is None else torch.tensor(predictions), {"objective": objective})


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (fitted((0.1,), [2, 2, 2]), "predicts class 2 for all of its own training images"),
        (fitted((1.2, 1.39)), "stayed at ln 4"),
        (fitted((1.2, 5.0)), "stayed at ln 4"),
        (fitted((1.2, math.nan)), "not finite"),
        (fitted((1.2, math.inf), [0, 0]), "not finite"),
    ],
)
def test_a_collapse_is_told(one: Fitted, words: str) -> None:
    reason = collapse(one, 4)
    assert reason is not None
    assert reason.startswith("collapsed: ")
    assert words in reason


@pytest.mark.parametrize(
    "one",
    [
        fitted((1.39, 0.3), [0, 1, 2]),
        fitted((1.35,)),  # a little better than guessing
        fitted(()),
        fitted((), [1]),  # one prediction is no sign
        fitted((), [1] * 18 + [0, 2]),
        fitted((1.39, 1.39), [0, 1], "marginal entropy"),  # ln C is where disagreement starts, not guessing
    ],
)
def test_a_fit_that_works_is_not_called_collapsed(one: Fitted) -> None:
    assert collapse(one, 4) is None


def test_nearly_one_class_is_a_collapse_too() -> None:
    """The share at which accuracy says no more than the class's own share of the images."""
    assert collapse(fitted((0.3,), [2] * 97 + [0] * 3), 4) == (
        "collapsed: the fit predicts class 2 for 97 % of its own training images"
    )


def test_the_threshold_is_just_below_the_logarithm_of_the_classes() -> None:
    for classes in (2, 9):
        assert collapse(fitted((0.97 * math.log(classes),)), classes) is None
        assert collapse(fitted((0.99 * math.log(classes),)), classes) is not None
