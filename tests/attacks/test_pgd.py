"""Projected gradient ascent: what is kept of its iterates, its starts, its losses and its settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from titer.attacks import ATTACKS, Norm, Random, Threat
from titer.attacks.losses import cross_entropy, margin
from titer.attacks.pgd import Fgsm, Pgd, better, climb
from titer.errors import InputError

SIDE, BATCH = 4, 3
IMAGES = torch.full((BATCH, 3, SIDE, SIDE), 0.5)
LABELS = torch.zeros(BATCH, dtype=torch.long)
NORMAL = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
BUDGETS: dict[Norm, float] = {"linf": 0.05, "l2": 0.3, "l1": 0.4}


def half_space(images: Tensor) -> Tensor:
    """Class 0 on one side of a plane 0.3 away from the images."""
    position = ((images - 0.5) * NORMAL).sum(dim=(1, 2, 3)) / NORMAL.norm()
    return torch.stack([10 * (position + 0.3), -10 * (position + 0.3)], dim=1)


def ring(images: Tensor) -> Tensor:
    """Class 1 is likeliest at a brightness of 0.53 and less likely again beyond."""
    off = images.mean(dim=(1, 2, 3)) - 0.53
    return torch.stack([torch.full_like(off, 0.001), -off.square()], dim=1)


def streams(seed: int = 0, count: int = BATCH) -> Random:
    return Random(seed, "pgd", [str(place) for place in range(count)])


def attacked(norm: Norm = "linf", epsilon: float = 0.05, seed: int = 0, **settings: Any) -> Tensor:
    return Pgd(**settings)(half_space, IMAGES, LABELS, Threat(norm, epsilon), streams(seed))


def reached(images: Tensor) -> Tensor:
    return margin(half_space(images), LABELS)


def test_better_takes_the_higher_score_row_by_row_and_keeps_the_first_of_equals() -> None:
    ones, twos = torch.ones(3, 3, 2, 2), torch.full((3, 3, 2, 2), 2.0)
    images, scores = better(ones, torch.tensor([1.0, 1.0, 1.0]), twos, torch.tensor([0.5, 1.0, 1.5]))
    assert images[:, 0, 0, 0].tolist() == [1.0, 1.0, 2.0]
    assert scores.tolist() == [1.0, 1.0, 1.5]


def test_a_score_that_is_not_a_number_never_wins() -> None:
    images, scores = better(
        torch.zeros(1, 3, 2, 2), torch.tensor([0.0]), torch.ones(1, 3, 2, 2), torch.tensor([float("nan")])
    )
    assert float(images.sum()) == 0
    assert scores.tolist() == [0.0]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_fgsm_moves_by_the_whole_budget_along_the_steepest_direction(norm: Norm) -> None:
    threat = Threat(norm, BUDGETS[norm])
    found = Fgsm()(half_space, IMAGES, LABELS, threat, streams())
    expected = -threat.epsilon * threat.steepest(NORMAL[None])
    assert torch.allclose(found - IMAGES, expected.expand_as(found), atol=1e-6)


def test_fgsm_draws_nothing() -> None:
    random = streams()
    Fgsm()(half_space, IMAGES, LABELS, Threat("linf", 0.1), random)
    assert torch.equal(random.uniform(3), streams().uniform(3))


def along(norm: Norm, **settings: Any) -> Tensor:
    """How far (batch,) an attack goes towards the plane, as a share of what the budget allows."""
    threat = Threat(norm, BUDGETS[norm])
    most = (threat.epsilon * threat.steepest(NORMAL[None]) * NORMAL).sum()
    return -((attacked(norm, threat.epsilon, **settings) - IMAGES) * NORMAL).sum(dim=(1, 2, 3)) / most


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_against_a_half_space_it_walks_straight_to_the_plane(norm: Norm, loss: str) -> None:
    assert bool((along(norm, loss=loss) > 0.99).all())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_kl_leaves_the_clean_answer_to_either_side(norm: Norm) -> None:
    """It also rises where the model only becomes more certain; with restarts the better side is kept."""
    assert bool((along(norm, loss="kl", keep="last").abs() > 0.99).all())
    assert bool((along(norm, loss="kl", restarts=12, steps=25) > 0.9).all())


def test_climb_gives_the_last_iterates_and_the_best_ones() -> None:
    """Steps as long as the budget jump over the ring and back: what is last is not what is best."""

    def score(logits: Tensor) -> Tensor:
        return margin(logits, LABELS)

    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return ring(images)

    last, best = climb(watched, IMAGES, IMAGES, score, score, Threat("linf", 0.1), 4, 0.5)
    scores = torch.stack([score(ring(images)) for images in seen])
    assert len(seen) == 5  # four gradients, and the answer to the last iterate
    assert torch.equal(seen[0], IMAGES)
    assert torch.equal(last[0], seen[-1])
    assert torch.allclose(last[1], scores[-1])
    assert torch.allclose(best[1], scores.amax(dim=0))
    assert torch.allclose(score(ring(best[0])), best[1])
    assert bool((best[1] > last[1]).all())


def test_climb_scores_by_another_measure_than_it_raises() -> None:
    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, LABELS)

    def nearest(logits: Tensor) -> Tensor:
        return -cross_entropy(logits, LABELS)

    last, best = climb(half_space, IMAGES, IMAGES, loss, nearest, Threat("linf", 0.1), 3, 0.5)
    assert torch.equal(best[0], IMAGES)
    assert not torch.equal(last[0], IMAGES)


def test_every_step_has_its_length_and_stays_within_the_threat() -> None:
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return half_space(images)

    threat = Threat("l2", 0.2)
    climb(watched, IMAGES, IMAGES, lambda logits: margin(logits, LABELS), lambda logits: logits[:, 0], threat, 6, 0.25)
    walked = [float(threat.distance(images, IMAGES)[0]) for images in seen]
    assert walked == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.2, 0.2], abs=1e-5)


def test_keep_best_is_at_least_as_good_as_keep_last() -> None:
    threat, settings = Threat("linf", 0.1), {"steps": 5, "step": 1.0}
    best, last = (
        margin(ring(Pgd(keep=keep, **settings)(ring, IMAGES, LABELS, threat, streams())), LABELS)  # type: ignore[arg-type]
        for keep in ("best", "last")
    )
    assert bool((best >= last).all())
    assert bool((best > last).any())


def test_a_clean_start_draws_nothing_and_a_uniform_one_differs_with_the_seed() -> None:
    clean = [attacked(seed=seed, start="clean", steps=1, keep="last") for seed in (0, 1)]
    assert torch.equal(*clean)
    uniform = [attacked(seed=seed, steps=1, keep="last") for seed in (0, 1)]
    assert not torch.equal(*uniform)
    assert torch.equal(uniform[0], attacked(steps=1, keep="last"))


def test_restarts_begin_elsewhere_and_the_best_of_each_image_counts() -> None:
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return half_space(images)

    def best_of(restarts: int) -> Tensor:
        return reached(
            Pgd(steps=1, step=0.01, restarts=restarts)(watched, IMAGES, LABELS, Threat("l2", 0.3), streams())
        )

    few = best_of(1)
    seen.clear()
    many = best_of(8)
    starts = torch.stack(seen[::2])
    assert len(starts) == 8
    assert len(torch.unique(starts.flatten(1), dim=0)) == 8
    assert torch.allclose(many, torch.stack([reached(images) for images in seen]).amax(dim=0), atol=1e-5)
    assert bool((many >= few).all())
    assert bool((many > few).any())


def test_without_an_ascent_something_within_the_threat_comes_back() -> None:
    """A model without slope: the start, which is allowed."""
    threat = Threat("l2", 0.3)
    found = Pgd(steps=2)(lambda images: half_space(images) * 0, IMAGES, LABELS, threat, streams())
    assert bool(threat.allows(found, IMAGES).all())


def test_kl_uses_no_label() -> None:
    one, other = (
        Pgd(loss="kl", steps=5, keep="last")(half_space, IMAGES, labels, Threat("linf", 0.05), streams())
        for labels in (LABELS, 1 - LABELS)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("pgd", {"steps": 0}, "steps: expected at least 1, got 0"),
        ("pgd", {"restarts": 0}, "restarts: expected at least 1, got 0"),
        ("pgd", {"step": 0.0}, "step: expected a share of epsilon above 0, got 0"),
        ("pgd", {"step": -1}, "step: expected a share of epsilon above 0, got -1"),
        ("pgd", {"loss": "margn"}, "unknown loss 'margn'; did you mean 'margin'"),
        ("pgd", {"start": "cleen"}, "unknown start 'cleen'; did you mean 'clean'"),
        ("pgd", {"keep": "first"}, "unknown keep 'first'"),
        ("pgd", {"loss": "kl", "start": "clean"}, "the kl loss has no gradient at the clean image; expected uniform"),
        ("fgsm", {"loss": "kl"}, "the kl loss has no gradient at the clean image; expected cross-entropy or margin"),
        ("fgsm", {"loss": "dl"}, "unknown loss 'dl'"),
    ],
)
def test_wrong_settings_are_one_line(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as told:
        ATTACKS.build(name, **settings)
    assert words in str(told.value)


def network(images: Tensor) -> Tensor:
    """Four classes, far from linear; some images break at once, some late, some never."""
    chance = torch.Generator().manual_seed(3)
    first, last = torch.randn(3 * SIDE * SIDE, 16, generator=chance), torch.randn(16, 4, generator=chance)
    return torch.tanh((images - 0.5).flatten(1) @ first) @ last


@pytest.mark.parametrize("settings", [{}, {"restarts": 3}, {"loss": "margin"}, {"loss": "kl"}, {"start": "clean"}])
def test_images_left_alone_once_wrong_are_wrong_as_often_and_cost_less(settings: dict[str, Any]) -> None:
    count = 64
    images = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    labels = network(images).argmax(dim=1)
    threat, rows = Threat("linf", 0.02), [0, 0]

    def found(place: int, **how: Any) -> Tensor:
        def counted(shown: Tensor) -> Tensor:
            rows[place] += len(shown)
            return network(shown)

        return Pgd(steps=10, **settings, **how)(counted, images, labels, threat, streams(1, count))

    whole, stopped = found(0), found(1, stop=True)
    broken = margin(network(whole), labels) > 0
    assert 0 < int(broken.sum()) < count
    assert torch.equal(margin(network(stopped), labels) > 0, broken)
    assert bool(threat.allows(stopped, images).all())
    # an image that held was climbed in the same way; a short piece more at its end changes no iterate
    assert torch.allclose(stopped[~broken], whole[~broken], atol=1e-6)
    if not settings:
        assert rows[1] < rows[0]


def test_the_last_iterate_of_an_image_that_is_left_alone_is_none() -> None:
    with pytest.raises(InputError, match=r"stop: .* expected keep=best"):
        Pgd(stop=True, keep="last")
