"""The attack on features: what it moves, and its settings."""

import pytest
import torch
from torch import Tensor

from titer.attacks import Random, Threat
from titer.attacks.embedding import Embedding, squared_distance
from titer.errors import InputError

IMAGES = torch.full((2, 3, 4, 4), 0.5)
LABELS = torch.zeros(2, dtype=torch.long)


def one_channel(images: Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.stack([images[:, 0].sum((1, 2)), torch.ones(len(images))], dim=1), dim=1)


def test_squared_distance_by_hand() -> None:
    assert squared_distance(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])).tolist() == [5.0]


def test_it_moves_only_what_the_features_see() -> None:
    attack = Embedding(steps=20)
    found = attack(one_channel, IMAGES, LABELS, Threat("linf", 0.1), Random(0, "test", ["a", "b"]))
    change = found - IMAGES
    assert torch.allclose(change[:, 0].abs(), torch.tensor(0.1), atol=1e-6)
    # downward moves the angle more than upward does: the features are (sum, 1), made unit
    assert bool((change[:, 0] < 0).all()) or bool((change[:, 0] > 0).all())


def test_more_restarts_never_find_less() -> None:
    def away(restarts: int) -> Tensor:
        attack = Embedding(steps=3, restarts=restarts)
        found = attack(one_channel, IMAGES, LABELS, Threat("l2", 0.3), Random(0, "test", ["a", "b"]))
        return squared_distance(one_channel(found), one_channel(IMAGES))

    assert bool((away(4) >= away(1)).all())


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("restarts", 0), ("step", 0.0)])
def test_wrong_settings_are_one_line(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name}: expected"):
        Embedding(**{name: value})  # type: ignore[arg-type]
