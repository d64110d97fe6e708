"""What a certificate says of a classifier that adapts: the conditional radius is violated, the sound ones are not.

The counter-example: two classes on a line, the prompt is the sign of the mean of 100 noisy copies, and the classifier
answers the prompt whatever it is shown. All votes agree everywhere, so the conditional radius is the largest there is;
and the deployed pipeline changes its answer at the origin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pytest
import torch
from scipy.special import ndtri
from torch import Tensor, nn

import titer
from titer.certify import Anytime, Certificate, Gaussian
from titer.certify.certificate import Guarantee
from titer.certify.guarantees import Rule
from titer.certify.pool import Job, run_jobs
from titer.errors import GuaranteeError
from titer.evaluate.voting import Voting, guarantees
from titer.features.stream import Voter
from titer.models import Encoder
from titer.models.classifier import Bank, Classifier, Head, bank_head, reordered

SIGMA = 0.5
SIZE = 1  # three channels of one pixel; the position on the line is their sum / sqrt(3)


class Line(nn.Module):
    """Unit features (cos, sin) of the angle that belongs to a position on the line."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        angle = torch.atan(self.unit * images.sum(dim=(1, 2, 3)) / math.sqrt(3))
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def encoder() -> Encoder:
    def words(texts: Sequence[str]) -> Tensor:
        return torch.eye(2)[: len(texts)] if len(texts) < 3 else torch.ones(len(texts), 2)

    return titer.wrap(Line(), words, SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), name="line")


def at(position: float) -> Tensor:
    return torch.full((3, SIZE, SIZE), position / math.sqrt(3))


def answer(sign: Tensor) -> Tensor:
    """Logits (batch, 2) for class 1 where the sign is positive, for class 0 elsewhere."""
    return torch.stack([-sign, sign], dim=1)


def always(label: int) -> Head:
    return lambda features: answer(torch.full((len(features),), 2.0 * label - 1))


@dataclass(frozen=True)
class MeanSign:
    """The prompt is the sign of the mean of noisy copies; the classifier answers the prompt."""

    copies: int = 100
    guarantees: ClassVar[tuple[str, ...]] = ("conditional", "per-draw", "product")

    def to_image(
        self, encoder: Encoder, image: Tensor, sample: str, sigma: float, seed: int, channels: int = 3
    ) -> Head:
        from titer.features.stream import noisy_features

        own = noisy_features(encoder, image, sample, sigma, seed, "adapt", self.copies, channels)
        return always(int(own[:, 1].mean() > 0))

    def to_copies(self, copies: Tensor, features: Tensor) -> Tensor:  # noqa: ARG002
        return answer(copies[..., 1].mean(dim=1).sign())


def pipeline(copies: int = 100) -> Classifier:
    return Classifier(
        "line", encoder(), lambda features: answer(features[:, 1]), ("left", "right"), "x", MeanSign(copies)
    )


def signed_bank() -> Bank:
    """The members answer always left and always right; the selector is the sign of one draw."""
    members = (always(0), always(1))

    def selector(features: Tensor) -> Tensor:
        return answer(features[:, 1])

    return Bank(
        "bank", encoder(), bank_head(selector, members), ("left", "right"), "x", selector=selector, members=members
    )


def certified(
    classifier: Classifier, guarantee: Guarantee, position: float, rule: Rule | None = None, seed: int = 0
) -> Certificate:
    voting = Voting(classifier, guarantee, seed, 3)
    image, sample = at(position), f"at {position}"
    ballot = voting.ballot(image, sample, SIGMA)
    voter = Voter([ballot], seed)
    job = Job(
        sample, SIGMA, partial(voter, image, sample, SIGMA),
        [voting.procedure(rule or Gaussian(n=2000), SIGMA, 0.001, 0.0)], max(2, ballot.rows), [ballot.rows],
    )  # fmt: skip
    (finished,) = run_jobs([job], workers=1, in_flight=1)
    assert isinstance(finished.statement, Certificate)
    return finished.statement


def test_the_conditional_radius_is_violated_by_the_deployed_pipeline() -> None:
    here, there = (certified(pipeline(), "conditional", position) for position in (0.2, -0.2))
    assert here.guarantee == "conditional"
    assert here.prediction == 1
    assert here.radius == pytest.approx(SIGMA * ndtri(0.001 ** (1 / 2000)))  # the largest there is
    assert here.radius > 0.4  # and yet 0.4 away ...
    assert there.prediction == 0  # ... the pipeline says the opposite


@pytest.mark.parametrize("rule", [Gaussian(n=2000), Anytime(n=2000, tolerance=0.05)])
@pytest.mark.parametrize(
    ("classifier", "guarantee"), [(pipeline(1), "per-draw"), (pipeline(3), "product"), (signed_bank(), "bank")]
)
def test_sound_guarantees_do_not_reach_beyond_the_boundary(
    classifier: Classifier, guarantee: Guarantee, rule: Gaussian | Anytime
) -> None:
    """Every pipeline here changes its answer at the origin, so no radius may exceed the distance to it."""
    found = [
        certified(classifier, guarantee, position, rule, seed=seed) for position in (0.2, 0.6) for seed in range(5)
    ]
    assert all(one.guarantee == guarantee and one.sigma == SIGMA for one in found)
    for one, distance in zip(found, [0.2] * 5 + [0.6] * 5, strict=True):
        assert one.prediction in (-1, 1)
        assert 0 <= one.radius <= distance
    assert max(one.radius for one in found[5:]) > 0.15  # they do prove something


def test_a_product_radius_is_the_usual_one_divided_by_the_root_of_the_draws_it_uses() -> None:
    """With every vote right, radius = sigma * Phi^-1(p) / sqrt(copies + 1)."""
    found = certified(pipeline(3), "product", 50.0, Gaussian(n=1000))
    assert found.radius == pytest.approx(SIGMA * ndtri(0.001 ** (1 / 1000)) / 2)
    assert found.counts.tolist() == [0, 1000]


def test_a_product_vote_has_copies_of_its_own() -> None:
    """Votes of a block are independent: with shared copies they would all be alike near the boundary."""
    voting = Voting(pipeline(3), "product", 1, 3)
    ballot = voting.ballot(at(0.05), "x", SIGMA)
    voter = Voter([ballot], 1)
    selection, estimation = (voter(at(0.05), "x", SIGMA, purpose, 0, [0])[0] for purpose in ("select", "estimate"))
    assert 0 < selection.sum() < len(selection)
    assert selection.tolist() != estimation.tolist()


@pytest.mark.parametrize("guarantee", ["per-draw", "product"])
def test_the_answer_without_noise_is_the_adapted_one(guarantee: Guarantee) -> None:
    """The pipeline's own, not that of the head before adaptation, which here says the opposite."""
    contrary = replace(pipeline(3), head=lambda features: answer(-features[:, 1]))
    ballot = Voting(contrary, guarantee, 1, 3).ballot(at(0.2), "x", SIGMA)
    assert Voter([ballot], 1).clean(at(0.2)) == [1]


def test_a_bank_certificate_is_the_smaller_of_choice_and_answer() -> None:
    found = certified(signed_bank(), "bank", 0.6)
    assert found.choice is not None
    assert found.radius == found.choice.radius < SIGMA * ndtri(0.0005 ** (1 / 2000))
    assert found.alpha == pytest.approx(0.001)
    assert found.choice.alpha == pytest.approx(0.0005)
    assert found.fields()["choice"]["counts"] == found.choice.counts.tolist()
    assert found.choice.counts.sum() == 2000


def test_a_bank_abstains_where_its_choice_is_open() -> None:
    found = certified(signed_bank(), "bank", 0.0, Anytime(n=500))
    assert (found.prediction, found.radius, found.decided) == (-1, 0.0, ())


def test_a_bank_keeps_no_decided_radius_beyond_the_choice() -> None:
    found = certified(signed_bank(), "bank", 0.4, Anytime(n=2000))
    assert found.decided is not None
    assert found.unsettled is not None
    assert found.radius == max(proof.radius for proof in found.decided)
    assert set(found.unsettled) >= {0.5, 0.75, 1.0}


def test_a_draw_is_given_to_the_member_that_it_selects() -> None:
    bank = signed_bank()
    positions = torch.tensor([-1.0, 2.0, 0.3])
    images = torch.stack([at(float(position)) for position in positions])
    assert bank(images).argmax(dim=1).tolist() == [0, 1, 1]


def test_every_prompt_set_keeps_the_guarantee_that_fits_it() -> None:
    fixed = replace(pipeline(), adaptation=None)
    both = {"fixed": fixed, "bank": signed_bank(), "adapting": pipeline()}
    assert guarantees(both, "product") == {"fixed": "fixed", "bank": "bank", "adapting": "product"}
    assert guarantees({"fixed": fixed}, None) == {"fixed": "fixed"}


@pytest.mark.parametrize(
    ("asked", "words"), [(None, "conditional, per-draw, product"), ("fixed", "claim more"), ("bank", "claim more")]
)
def test_an_adapting_set_must_be_told_its_guarantee(asked: str | None, words: str) -> None:
    with pytest.raises(GuaranteeError, match=words):
        guarantees({"adapting": pipeline()}, asked)


def test_a_guarantee_that_no_set_can_have_is_refused() -> None:
    with pytest.raises(GuaranteeError, match="no prompt set"):
        guarantees({"bank": signed_bank()}, "product")


@pytest.mark.parametrize("guarantee", ["conditional", "per-draw", "product"])
def test_another_order_of_classes_changes_names_only(guarantee: Guarantee) -> None:
    turned = reordered(pipeline(3), [1, 0])
    assert turned.classes == ("right", "left")
    first, second = (certified(one, guarantee, 0.3) for one in (pipeline(3), turned))
    assert second.counts.tolist() == first.counts.tolist()[::-1]
    assert second.radius == first.radius


def test_another_order_of_classes_reaches_the_members_of_a_bank() -> None:
    first, second = (certified(one, "bank", 0.6) for one in (signed_bank(), reordered(signed_bank(), [1, 0])))
    assert (first.prediction, second.prediction) == (1, 0)
    assert first.radius == second.radius
