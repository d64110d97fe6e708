"""Random search: its patterns, its schedule, and that it asks no more than it may."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from titer.attacks import Random, Threat
from titer.attacks.square import Square, _bump
from titer.attacks.threat import length
from titer.errors import InputError


def test_the_schedule_halves_the_share_where_the_paper_does() -> None:
    images = torch.zeros(1, 3, 100, 100)
    attack = Square(queries=10_000, share=0.8)
    for query, share in ((1, 0.8), (11, 0.4), (51, 0.2), (201, 0.1), (9000, 0.8 / 512)):
        assert attack._side(query, images) == max(1, round(100 * share**0.5))
    assert Square(queries=1000)._side(2, images) == attack._side(20, images)


def test_a_bump_is_two_opposite_hills_of_length_one() -> None:
    bump = _bump(7)
    assert float(bump.norm()) == pytest.approx(1)
    assert bool((bump[:3] > 0).all())
    assert bool((bump[3:] < 0).all())


def test_linf_candidates_use_the_whole_budget() -> None:
    images = torch.full((2, 3, 8, 8), 0.5)
    seen: list[Tensor] = []

    def watched(shown: Tensor) -> Tensor:
        seen.append(shown)
        return torch.stack([torch.ones(len(shown)), shown.mean(dim=(1, 2, 3)) - 1], dim=1)

    Square(queries=30)(watched, images, torch.zeros(2, dtype=torch.long), Threat("linf", 0.1), randomness(2))
    for shown in seen[:-1]:
        assert torch.allclose((shown - 0.5).abs(), torch.tensor(0.1), atol=1e-6)


def test_a_broken_image_is_asked_no_more() -> None:
    asked = 0

    def counting(shown: Tensor) -> Tensor:
        nonlocal asked
        asked += len(shown)
        bright = shown.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-bright, bright], dim=1)  # half of all changes break an image in the middle

    images = torch.full((4, 3, 8, 8), 0.5)
    found = Square(queries=500)(counting, images, torch.zeros(4, dtype=torch.long), Threat("linf", 0.1), randomness(4))
    assert asked < 4 * 40
    assert bool((found.mean(dim=(1, 2, 3)) > 0.5).all())


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_length_is_moved_and_kept(norm: str) -> None:
    images = torch.full((2, 3, 16, 16), 0.5)
    threat = Threat(norm, {"l2": 0.5, "l1": 5.0}[norm])  # type: ignore[arg-type]

    def bright(shown: Tensor) -> Tensor:
        return torch.stack([torch.ones(len(shown)) * 9, shown[:, 0, :4].mean(dim=(1, 2))], dim=1)

    found = Square(queries=300)(bright, images, torch.zeros(2, dtype=torch.long), threat, randomness(2))
    assert torch.allclose(length(found - images, threat.norm), torch.tensor(threat.epsilon), rtol=1e-3)
    assert bool((found[:, 0, :4].mean(dim=(1, 2)) > 0.5).all())


@pytest.mark.parametrize(("settings", "match"), [({"queries": 0}, "queries"), ({"share": 1.5}, "share")])
def test_wrong_settings_are_refused(settings: dict[str, float], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Square(**settings)  # type: ignore[arg-type]


def randomness(count: int) -> Random:
    return Random(0, "square", [str(place) for place in range(count)])
