"""Auto-PGD: settings, losses it is given by the number of classes, and what it does on problems with a known answer."""

import pytest
import torch
from torch import Tensor

from titer.attacks import ATTACKS, Norm, Random, Threat, pgd
from titer.attacks.apgd import ApgdCe, ApgdT, climb, until_broken
from titer.attacks.losses import dlr, margin, runners_up, targeted_dlr, targeted_margin
from titer.errors import InputError

LOGITS = torch.tensor([[3.0, 1.0, 0.0, -2.0], [0.5, 2.0, 1.5, 1.0]])
LABELS = torch.tensor([0, 1])


def streams(count: int) -> Random:
    return Random(0, "apgd", [str(place) for place in range(count)])


def test_difference_of_logits_ratio_by_hand() -> None:
    assert dlr(LOGITS, LABELS).tolist() == pytest.approx([(1 - 3) / (3 - 0), (1.5 - 2) / (2 - 1)])
    targets = torch.tensor([3, 0])
    assert targeted_margin(LOGITS, LABELS, targets).tolist() == [-5.0, -1.5]
    expected = [-5 / (3 - (0 - 2) / 2), -1.5 / (2 - (1 + 0.5) / 2)]
    assert targeted_dlr(LOGITS, LABELS, targets).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["dlr", "targeted"])
def test_the_ratio_does_not_see_scale_or_shift(loss: str) -> None:
    def value(logits: Tensor) -> list[float]:
        found = dlr(logits, LABELS) if loss == "dlr" else targeted_dlr(logits, LABELS, torch.tensor([2, 3]))
        return found.tolist()

    assert value(1000 * LOGITS - 7) == pytest.approx(value(LOGITS), rel=1e-4)


def test_runners_up_are_all_but_the_label_even_where_the_answer_is_wrong() -> None:
    assert runners_up(LOGITS, torch.tensor([1, 0]), 3).tolist() == [[0, 2, 3], [1, 2, 3]]


def test_classes_decide_targets_and_loss() -> None:
    def of(classes: int) -> tuple[int, str]:
        ((_, own),) = ApgdT().members(classes, "linf")
        return own.targets, own.loss

    assert [of(classes) for classes in (2, 3, 4, 10, 40)] == [
        (1, "margin"),
        (2, "margin"),
        (3, "dlr"),
        (9, "dlr"),
        (9, "dlr"),
    ]
    with pytest.raises(InputError, match="needs four classes"):
        ApgdT(loss="dlr").members(3, "linf")


@pytest.mark.parametrize("settings", [{"steps": 0}, {"restarts": 0}])
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "apgd-t"])
def test_settings_below_one_are_refused(name: str, settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected at least 1"):
        ATTACKS.build(name, **settings)
    with pytest.raises(InputError, match="unknown loss"):
        ATTACKS.build("apgd-t", loss="ce")


def test_what_is_broken_is_left_alone() -> None:
    images, seen = torch.zeros(3, 3, 2, 2), []

    def attempt(left: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(left.tolist())
        shown = torch.full((int(left.sum()), 3, 2, 2), float(len(seen)))
        return shown, torch.tensor([1.0, -0.5] if len(seen) == 1 else [2.0] * int(left.sum()))

    def model(shown: Tensor) -> Tensor:
        return torch.stack([-shown.sum((1, 2, 3)), torch.tensor([1.0, -1.0, -1.0])], dim=1)

    found = until_broken(model, images, torch.tensor([0, 0, 0]), [attempt, attempt, attempt])
    assert seen == [[False, True, True], [False, False, True]]
    assert found[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0]


def valley(images: Tensor) -> Tensor:
    """A quadratic whose best point is inside of the budget: steps of a fixed length jump over it for ever."""
    return -1000 * (images - 0.5307).square().flatten(1).sum(1)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 1.0)])
def test_the_step_is_halved_until_it_pays(norm: Norm, epsilon: float) -> None:
    images = torch.full((2, 3, 4, 4), 0.5)

    def model(shown: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(shown)), valley(shown)], dim=1)

    labels, threat = torch.zeros(2, dtype=torch.long), Threat(norm, epsilon)

    def loss(logits: Tensor) -> Tensor:
        return margin(logits, labels)

    highest = climb(model, images, labels, loss, threat, 100, streams(2))[1]
    fixed = pgd.climb(model, images, images, loss, loss, threat, 100, 2.0)[1][1]
    assert bool((highest > fixed).all())
    assert float(highest.min()) > -1e-3


def test_l1_finds_the_few_entries_that_matter() -> None:
    """Five entries carry nearly all of the slope; a dense step would spend its length on the others."""
    slope = torch.full((1, 3, 8, 8), 0.01)
    slope[0, 0, 0, :5] = 1.0
    images, labels = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, dtype=torch.long)

    def model(shown: Tensor) -> Tensor:
        gain = ((shown - images) * slope).flatten(1).sum(1)
        return torch.stack([torch.full_like(gain, 1.9), gain], dim=1)

    found = ApgdCe(steps=100)(model, images, labels, Threat("l1", 2.0), streams(1))
    assert float(((found - images) * slope).sum()) > 1.9  # of 2.0 at most
