"""Crops and flips: pure functions of image, id, seed and view."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from titer.features.views import CropAndFlip

VIEWS = CropAndFlip()


def picture(height: int = 12, width: int = 20) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def ramp(size: int = 64) -> Tensor:
    """Brightness is the place along the width, so a crop's ends say where it was taken."""
    return torch.linspace(0, 1, size).expand(3, size, size).contiguous()


def test_a_view_depends_on_its_arguments_alone() -> None:
    before = torch.random.get_rng_state()
    first = VIEWS(picture(), "x", 3, 7)
    assert torch.equal(VIEWS(picture(), "x", 3, 7), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    others = [VIEWS(picture(), *key) for key in [("y", 3, 7), ("x", 4, 7), ("x", 3, 8)]]
    assert all(not torch.equal(other, first) for other in others)


def test_a_view_keeps_shape_and_range() -> None:
    for view in range(20):
        shown = VIEWS(picture(), "x", 0, view)
        assert shown.shape == (3, 12, 20)
        assert float(shown.min()) >= 0
        assert float(shown.max()) <= 1


def test_nothing_to_choose_gives_the_image_or_its_mirror() -> None:
    whole = CropAndFlip(smallest=1, stretch=1)
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = [whole(image, "x", 0, view) for view in range(40)]
    mirrored = [torch.allclose(shown, image.flip(2), atol=1e-6) for shown in found]
    straight = [torch.allclose(shown, image, atol=1e-6) for shown in found]
    assert all(one != other for one, other in zip(mirrored, straight, strict=True))
    assert 10 <= sum(mirrored) <= 30  # half of the time: within 3 standard deviations


@pytest.mark.parametrize("smallest", [0.08, 0.5])
def test_crops_keep_at_least_the_share_asked_for(smallest: float) -> None:
    """With sides 1 : 1 the share of the width kept is the root of the share of the area."""
    views = CropAndFlip(smallest=smallest, stretch=1)
    shown = torch.stack([views(ramp(), "x", 0, view)[0, 0] for view in range(300)])
    kept = (shown[:, -1] - shown[:, 0]).abs()
    assert float(kept.min()) > smallest**0.5 - 2 / 64
    assert float(kept.min()) < smallest**0.5 + 0.05
    assert float(kept.max()) > 0.95


def test_all_of_the_image_is_shown_now_and_then() -> None:
    shown = torch.stack([VIEWS(ramp(), "x", 0, view)[0, 0] for view in range(300)])
    assert float(shown.min()) < 0.02
    assert float(shown.max()) > 0.98
