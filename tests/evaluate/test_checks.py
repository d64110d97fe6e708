"""Self-checks: a healthy model passes, and each way of hiding gradients or being weak is seen by the check made for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from titer.attacks import Model, Norm, Random, Threat
from titer.attacks.pgd import Pgd
from titer.attacks.words import SynonymTable, WordSwap
from titer.evaluate.checks import Check, SelfChecks, every_swap

SIDE, CLASSES, BATCH = 6, 3, 16


def linear(images: Tensor) -> Tensor:
    weights = torch.randn(CLASSES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return torch.einsum("bchw,kchw->bk", images - 0.5, weights)


def similar(images: Tensor) -> Tensor:
    weights = torch.randn(CLASSES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return torch.einsum("bchw,kchw->bk", images - 0.5, weights + 0.5 * torch.ones(1, 3, SIDE, SIDE))


class Backwards(torch.autograd.Function):
    """What it gives is right; what it says of its gradient is not."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004
        return -gradients[0]


def reversed_gradient(images: Tensor) -> Tensor:
    flipped: Tensor = Backwards.apply(linear(images))  # type: ignore[no-untyped-call]
    return flipped


def stepped(images: Tensor) -> Tensor:
    """The input in coarse steps: its gradient is zero almost everywhere."""
    return linear((images * 16).round() / 16)


def constant(images: Tensor) -> Tensor:
    """Always the first class, whatever the image."""
    return linear(images) * 0 + torch.tensor([1.0, 0.0, 0.0])


def checks(model: Model = linear, norm: Norm = "linf", **changes: Any) -> SelfChecks:
    images = (0.5 + 0.05 * torch.randn(200, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    labels = linear(images).argmax(dim=1)
    if model is constant:
        images, labels = images[labels == 0], labels[labels == 0]
    logits = linear(images).sort(dim=1).values
    images = images[(logits[:, -1] - logits[:, -2]).argsort()]  # nearest to the boundary first
    images = images[:: max(1, len(images) // BATCH)][:BATCH]
    labels = linear(images).argmax(dim=1)
    epsilon = {"linf": 0.004, "l2": 0.05, "l1": 0.4}[norm]
    made = SelfChecks(
        model=model,
        source=similar,
        images=images,
        labels=labels,
        threat=Threat(norm, epsilon),
        held=torch.zeros(len(images), dtype=torch.bool),
        seed=0,
        samples=[str(place) for place in range(len(images))],
    )
    return replace(made, **changes)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_healthy_model_passes(norm: Norm) -> None:
    found = checks(norm=norm).run()
    assert [check.check for check in found if check.verdict == "failed"] == []
    assert len(found) == 11
    skipped = {check.check for check in found if check.verdict == "skipped"}
    assert skipped == (set() if norm == "linf" else {"the attack survives 8-bit rounding"})


@pytest.mark.parametrize(
    ("model", "look"),
    [
        (stepped, SelfChecks.gradients),
        (reversed_gradient, SelfChecks.without_gradients),
        (reversed_gradient, SelfChecks.noise),
        (reversed_gradient, SelfChecks.transfer),
        (constant, SelfChecks.unbounded),
        (constant, SelfChecks.gradients),
    ],
)
def test_hidden_gradients_are_seen(model: Model, look: Callable[[SelfChecks], Any]) -> None:
    assert look(checks(model)).verdict == "failed"


def test_a_model_that_answers_at_random_is_seen() -> None:
    """Images that were right come and go, so more starts or steps do not find more."""
    generator = torch.Generator().manual_seed(0)

    def moody(images: Tensor) -> Tensor:
        return linear(images) + 20 * torch.randn(len(images), CLASSES, generator=generator)

    found = [look(checks(moody)).verdict for look in (SelfChecks.steps, SelfChecks.restarts, SelfChecks.budgets)]
    assert "failed" in found


def test_a_weak_attack_is_seen() -> None:
    everything_holds = torch.ones(BATCH, dtype=torch.bool)
    found = checks(held=everything_holds).this_attack()
    assert found.verdict == "failed"
    assert f"of {BATCH} images right: {BATCH}" in found.detail


def test_questions_are_checked_without_random_search_and_without_an_unlimited_budget() -> None:
    of_all, of_questions = checks().run(), checks().of_questions()
    left_out = {check.check for check in of_all} - {check.check for check in of_questions}
    assert left_out == {"without a limit nothing holds", "random search does not beat gradients"}
    assert {check.check for check in of_questions} <= {check.check for check in of_all}


def test_a_swap_that_the_attack_missed_is_seen(tmp_path: Path) -> None:
    (tmp_path / "words.toml").write_text('preserving = [["lung", "pulmo"], ["cell", "cellule"]]\n')
    swap = WordSwap(SynonymTable(str(tmp_path / "words.toml")))
    questions, labels = ["which lung", "which cell", "which side"], torch.tensor([0, 0, 0])
    reader = Reader()

    def looked(*held: bool) -> Check:
        return every_swap(swap, reader, torch.zeros(3, 3, 1, 1), questions, labels, torch.tensor(held))  # type: ignore[arg-type]

    found = looked(True, True, True)  # one may be missed of so few
    assert (found.verdict, found.detail) == (
        "passed", "of 3 questions 1 break under some swap of one word; the attack left 1 of them"
    )  # fmt: skip
    assert looked(False, True, True).detail.endswith("the attack left 0 of them")
    reader.fooled = ("pulmo", "cellule")
    assert looked(True, True, True).verdict == "failed"


class Reader:
    """Gives another answer to whatever has one of some words."""

    fooled: tuple[str, ...] = ("pulmo",)
    text_tower = None

    def about(self, image: Tensor) -> Reader:
        assert image.shape == (3, 1, 1)
        return self

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[0.0, 1.0] if any(word in text for word in self.fooled) else [1.0, 0.0] for text in texts])


def test_without_another_model_nothing_is_transferred() -> None:
    assert checks(source=None).transfer().verdict == "skipped"


def test_rounding_is_judged_from_a_grey_level_on() -> None:
    assert checks(threat=Threat("linf", 0.5 / 255)).rounding().verdict == "skipped"
    assert checks(threat=Threat("linf", 1.5 / 255)).rounding().verdict == "passed"


def test_one_ascent_on_its_way_gives_what_ascents_of_so_many_steps_give() -> None:
    made = checks()
    for steps, found in made._images.items():
        random = Random(0, "check\x00steps", made.samples)
        alone = Pgd(steps=steps)(linear, made.images, made.labels, made.threat, random)
        assert torch.equal(found, alone)


@pytest.mark.parametrize("starts", [1, 4])
def test_leaving_broken_images_alone_changes_no_count(starts: int) -> None:
    made = checks()
    for factor in (0.5, 1.0, 2.0):
        threat = Threat("linf", factor * made.threat.epsilon)
        attack = Pgd(steps=20, restarts=starts)
        whole = attack(linear, made.images, made.labels, threat, Random(0, "check\x00any", made.samples))
        assert torch.equal(made._holding(threat, "any", starts), linear(whole).argmax(dim=1) == made.labels)


def test_the_checks_together_ask_for_few_answers() -> None:
    """Of images, gradients counted as two answers more: the ascents alone, each in full, would ask for 15,400."""
    asked = 0

    def counted(images: Tensor) -> Tensor:
        nonlocal asked
        asked += len(images) * (3 if torch.is_grad_enabled() else 1)
        return linear(images)

    found = checks(counted).run()
    assert not [check for check in found if check.verdict == "failed"]
    assert asked < 12_000


def test_what_another_attack_breaks_of_what_is_left_is_counted() -> None:
    found = checks(reversed_gradient).noise()
    assert found.detail.startswith(
        f"of the {BATCH} images of {BATCH} that hold against pgd, 50 steps, 10 draws of noise breaks"
    )


class InTurns:
    """Breaks all that it is shown first, and nothing after that."""

    needs_gradient: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    def __init__(self) -> None:
        self.shown: list[int] = []

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:  # noqa: ARG002
        self.shown.append(len(images))
        return 1 - images if len(self.shown) == 1 else images


@pytest.mark.parametrize(("held", "verdict"), [(False, "passed"), (True, "failed")])
def test_what_one_ascent_left_is_no_sign_where_the_runs_own_attack_broke_it(held: bool, verdict: str) -> None:
    made = checks(threat=Threat("linf", 0.004))
    left = int(made._by_steps[50].sum())
    assert 2 <= left <= BATCH // 2
    rival = InTurns()
    found = replace(made, held=torch.full((BATCH,), held))._beats(
        "a rival", rival, "a purpose", lambda _: linear, "the rival"
    )
    assert (found.verdict, rival.shown) == (verdict, [left, BATCH - left])
    assert found.detail.endswith(f"breaks {left}, of all {left}; this attack left {left * held} of those {left}")


def test_the_figures_are_those_of_the_images() -> None:
    found = checks().steps()
    numbers = [int(word) for word in found.detail.split(": ")[1].split(", ")]
    assert found.detail.startswith(f"of {BATCH} images right after 5, 20, 50 steps: ")
    assert numbers[0] >= numbers[-1]
    assert 0 < numbers[-1] < BATCH
