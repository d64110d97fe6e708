"""What every attack stands on: random numbers of an image's own, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from titer.attacks import Norm, Random, Threat
from titer.attacks.attack import answers, ascend
from titer.errors import InputError

SAMPLES = ["a", "b", "c", "d"]
CHANCE = 1e-3  # of a false alarm; the seed is fixed, so each test holds or fails for ever
MANY = 3000


def randomness(samples: list[str] = SAMPLES, seed: int = 0, purpose: str = "test") -> Random:
    return Random(seed, purpose, samples)


def drawn(random: Random) -> list[Tensor]:
    """One of each kind, in the order in which an attack might ask."""
    images = torch.full((len(random), 3, 2, 2), 0.5)
    found = [random.uniform(2, low=-1.0, high=3.0), random.normal(3, 2), random.signs(4)]
    return found + [
        random.within(images, threat) for threat in (Threat("linf", 0.1), Threat("l2", 0.1), Threat("l1", 1.0))
    ]


def test_an_images_numbers_do_not_depend_on_its_neighbours() -> None:
    whole = drawn(randomness())
    for order in (["c"], ["d", "b"], ["new", "a", "c"]):
        for part, everything in zip(drawn(randomness(order)), whole, strict=True):
            for place, sample in enumerate(order):
                if sample in SAMPLES:
                    assert torch.equal(part[place], everything[SAMPLES.index(sample)])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=4, max_size=4), st.integers(1, 3))
def test_the_streams_of_some_rows_go_on_where_they_are(rows: list[bool], count: int) -> None:
    """Rows that are not attacked any more draw nothing, and the others as if all had gone on."""
    random, alone = randomness(), randomness()
    random.normal(count), alone.normal(count)
    if any(rows):
        mask = torch.tensor(rows)
        part = random.of(mask)
        assert len(part) == sum(rows)
        assert torch.equal(part.uniform(5), alone.uniform(5)[mask])
        assert torch.equal(random.of(mask.nonzero().flatten()).uniform(5), alone.uniform(5)[mask])
        alone = randomness()
        alone.normal(count)
        together = alone.of(mask)
        together.uniform(5), together.uniform(5)
    assert torch.equal(random.signs(3), alone.signs(3))


def test_rows_may_be_asked_for_in_any_order() -> None:
    assert torch.equal(randomness().of(torch.tensor([2, 0])).normal(3), randomness().normal(3)[[2, 0]])


def test_seed_purpose_and_sample_each_change_the_numbers() -> None:
    first = randomness(["a"]).normal(8)
    others = [randomness(["b"]), randomness(["a"], seed=1), randomness(["a"], purpose="another")]
    for other in others:
        assert not bool(torch.isclose(other.normal(8), first).any())
    assert torch.equal(randomness(["a"]).normal(8), first)


def test_numbers_are_float32_and_in_their_range() -> None:
    random = randomness([str(place) for place in range(300)])
    uniform, signs = random.uniform(20, low=-0.5, high=2.0), random.signs(20)
    assert uniform.dtype == signs.dtype == random.normal(2).dtype == torch.float32
    assert (float(uniform.min()), float(uniform.max())) == pytest.approx((-0.5, 2.0), abs=2e-3)
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    assert random.uniform().shape == (300,)


def test_kinds_of_numbers_have_their_law() -> None:
    random = randomness([str(place) for place in range(MANY)])
    assert follows(random.uniform(2), stats.uniform)
    assert follows(random.normal(2), stats.norm)
    assert stats.binomtest(int((random.signs(2) > 0).sum()), 2 * MANY).pvalue > CHANCE


def follows(values: Tensor, law: stats.rv_continuous, *shape: float) -> bool:
    return bool(stats.kstest(values.flatten().double().numpy(), law.cdf, args=shape).pvalue > CHANCE)


def changes(norm: Norm, epsilon: float = 0.1, side: int = 2) -> Tensor:
    """Starts (MANY, entries) around images in the middle of the box, which does not bind."""
    images = torch.full((MANY, 3, side, side), 0.5)
    random = randomness([str(place) for place in range(MANY)], seed=5)
    return (random.within(images, Threat(norm, epsilon)) - images).flatten(1).double() / epsilon


def test_starts_are_uniform_in_the_linf_ball() -> None:
    change = changes("linf")
    assert all(follows((column + 1) / 2, stats.uniform) for column in change[:, :3].T)
    assert np.abs(np.corrcoef(change.T.numpy()) - np.eye(12)).max() < 0.1


def test_starts_are_uniform_in_the_l2_ball() -> None:
    """Lengths: the share of the volume inside is uniform. Directions: squares of a unit vector's entries are Beta."""
    change = changes("l2")
    reach = change.norm(dim=1)
    assert follows(reach**12, stats.uniform)
    for column in (change / reach[:, None])[:, :3].T:
        assert follows(column**2, stats.beta, 0.5, 11 / 2)
        assert stats.binomtest(int((column > 0).sum()), MANY).pvalue > CHANCE
    assert change.var(dim=0).numpy() == pytest.approx(np.full(12, 1 / 14), rel=0.15)  # 1 / (entries + 2)
    assert abs(stats.spearmanr(reach.numpy(), change[:, 0].abs() / reach).statistic) < 0.05


def test_starts_are_uniform_in_the_l1_ball() -> None:
    """Shares of the length in a simplex are Beta(1, entries - 1), with a sign each."""
    change = changes("l1")
    reach = change.abs().sum(dim=1)
    assert follows(reach**12, stats.uniform)
    for column in (change / reach[:, None])[:, :3].T:
        assert follows(column.abs(), stats.beta, 1, 11)
        assert stats.binomtest(int((column > 0).sum()), MANY).pvalue > CHANCE
    second = 2 / (13 * 14)  # the second moment of a coordinate of the uniform l1 ball
    assert change.square().mean(dim=0).numpy() == pytest.approx(np.full(12, second), rel=0.25)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_starts_are_within_the_threat_at_the_edge_of_the_box(norm: Norm) -> None:
    images = torch.cat([torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)])
    threat = Threat(norm, 0.3)
    found = randomness().within(images, threat)
    assert bool(threat.allows(found, images).all())
    assert bool((found != images).flatten(1).any(dim=1).all())


def quadratic(images: Tensor) -> Tensor:
    return torch.stack([images.square().sum(dim=(1, 2, 3)), images.sum(dim=(1, 2, 3))], dim=1)


def first(logits: Tensor) -> Tensor:
    return logits[:, 0]


def test_ascend_gives_gradient_loss_and_logits_of_each_row() -> None:
    images = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    gradient, loss, logits = ascend(quadratic, images, first)
    assert torch.allclose(gradient, 2 * images)
    assert torch.equal(loss, logits[:, 0])
    assert torch.equal(logits, quadratic(images))
    assert not any(found.requires_grad for found in (gradient, loss, logits))
    assert not images.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_and_answers_are_float32_whatever_the_model_has(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def model(images: Tensor) -> Tensor:
        return quadratic(images.to(dtype))

    def loss(logits: Tensor) -> Tensor:
        seen.append(logits.dtype)
        return logits[:, 0]

    images = torch.full((1, 3, 2, 2), 0.5)
    gradient, _, _ = ascend(model, images.to(dtype), loss)
    assert gradient.dtype == torch.float32
    assert seen == [torch.float32]
    assert answers(model, images).dtype == torch.float32


def test_ascend_makes_a_graph_of_its_own() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    with torch.no_grad():
        assert torch.allclose(ascend(quadratic, images, first)[0], torch.tensor(1.0))
    assert torch.allclose(ascend(quadratic, images.requires_grad_(), first)[0], torch.tensor(1.0))
    assert images.grad is None


def test_answers_have_no_graph() -> None:
    scale = torch.ones(1, requires_grad=True)
    assert not answers(lambda images: scale * quadratic(images), torch.ones(1, 3, 2, 2)).requires_grad


def test_a_model_without_gradients_is_refused() -> None:
    """Also one with weights that could be trained, behind a step through which no gradient comes."""
    weight = torch.ones(1, requires_grad=True)
    images = torch.full((1, 3, 2, 2), 0.5)
    for model in (lambda images: quadratic(images.detach()), lambda images: weight * quadratic(images.detach())):
        with pytest.raises(InputError, match="no gradient with respect to its images; an attack without gradients"):
            ascend(model, images, first)
