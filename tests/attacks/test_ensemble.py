"""AutoAttack: its members for any number of classes, and the worst case per image."""

import pytest
import torch
from torch import Tensor

from titer.attacks import Norm, Random, Threat
from titer.attacks.apgd import ApgdCe, ApgdT
from titer.attacks.ensemble import AutoAttack
from titer.attacks.fab import FabT
from titer.attacks.square import Square
from titer.errors import InputError


def test_the_standard_members() -> None:
    assert AutoAttack().members(12, "l2") == [
        ("apgd-ce", ApgdCe(100, 1)),
        ("apgd-t", ApgdT(100, 1, 9, "dlr")),
        ("fab-t", FabT(100, 1, 9)),
        ("square", Square(5000)),
    ]
    assert AutoAttack().members(12, "l1")[:2] == [("apgd-ce", ApgdCe(100, 5)), ("apgd-t", ApgdT(100, 1, 5, "dlr"))]


@pytest.mark.parametrize("classes", range(2, 12))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_any_number_of_classes_with_survivors_and_without(classes: int, norm: Norm) -> None:
    normals = torch.randn(classes, 3, 4, 4, generator=torch.Generator().manual_seed(classes))

    def model(shown: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", shown - 0.5, normals)

    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(dim=1)
    attack = AutoAttack(steps=10, queries=5)
    right = []
    for epsilon in (1e-4, 0.05, 1.0):
        random = Random(0, "ensemble", [str(place) for place in range(6)])
        found = attack(model, images, labels, Threat(norm, epsilon), random)
        right.append(int((model(found).argmax(dim=1) == labels).sum()))
    assert right[0] >= 5
    assert right == sorted(right, reverse=True)
    if norm == "linf":
        assert right[2] == 0
    members = dict(attack.members(classes, norm))
    assert members["apgd-t"] == ApgdT(10, 1, min(9, classes - 1), "dlr" if classes >= 4 else "margin")


def partly_hidden(shown: Tensor) -> Tensor:
    """Dark images are answered by a linear function; for bright ones it is rounded, and its gradient is zero."""
    dark = (shown - 0.3).flatten(1).sum(1)
    bright = ((shown - 0.8).flatten(1).sum(1) * 50).round() / 50
    first = 0.11 + torch.where(shown[:, 0, 0, 0] > 0.55, bright.detach(), dark)
    return torch.stack([first, torch.zeros_like(first)], dim=1)


def test_what_gradients_break_stays_and_queries_find_what_is_hidden_from_them() -> None:
    images = torch.stack([torch.full((3, 2, 2), 0.3), torch.full((3, 2, 2), 0.8)])
    labels, random = torch.zeros(2, dtype=torch.long), Random(0, "ensemble", ["dark", "bright"])
    ensemble = AutoAttack(steps=1, queries=200).ladder(2, "linf")
    stages = list(ensemble.stages(partly_hidden, images, labels, Threat("linf", 0.05), random))
    assert [name for name, _ in stages] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    wrong = [(partly_hidden(found).argmax(dim=1) != 0).tolist() for _, found in stages]
    assert wrong[0][0]
    assert wrong[-1] == [True, True]
    assert torch.equal(stages[-1][1][0], stages[0][1][0])


def test_up_a_ladder_it_finds_what_it_finds_at_each_budget_alone() -> None:
    """A quadratic classifier, on which Auto-PGD is kept weak so that the search for the nearest wrong image has a part."""
    normals = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(2))

    def model(shown: Tensor) -> Tensor:
        rise = torch.einsum("bchw,kchw->bk", shown - 0.5, normals)
        return rise + 0.3 * rise.square()

    images = 0.5 + 0.05 * torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    labels = model(images).argmax(dim=1)
    attack, samples = AutoAttack(steps=4, queries=5), [str(place) for place in range(12)]
    ladder = attack.ladder(4, "linf")
    for epsilon in (0.005, 0.01, 0.02, 0.04):
        alone, going_up = (
            own(model, images, labels, Threat("linf", epsilon), Random(0, "ensemble", samples))
            for own in (attack, ladder)
        )
        assert torch.allclose(alone, going_up, atol=1e-6)


def test_settings_below_one_are_refused() -> None:
    for wrong in ({"steps": 0}, {"targets": 0}, {"queries": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            AutoAttack(**wrong)
