"""Signs that an attack was weak or that a model hides its gradients, looked for after every run.

The list is that of Carlini et al. (2019, arXiv 1902.06705) and of Athalye, Carlini and Wagner (ICML 2018, arXiv
1802.00420), on a few images. A check that fails proves nothing about the model; it says that the number is not to be
trusted. Which attack breaks more is asked image by image: whatever another one breaks of what PGD left would be missing from
the number, so that only these images are shown to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from titer.attacks import ATTACKS, Attack, Model, Norm, Random, Threat
from titer.attacks.attack import answers, ascend
from titer.attacks.losses import cross_entropy, margin
from titer.attacks.pgd import Pgd, Scored, better, climb
from titer.attacks.words import WordSwap, fits, rewritten
from titer.models.fusion import About, Answerer, Asking

Verdict = Literal["passed", "failed", "skipped"]

_STEPS = (5, 20, 50)
_STEP = 0.1  # length of one, in epsilons
_SHORT = 20  # steps where only the count of what holds is asked
_STARTS = 4
_FACTORS = (0.5, 1.0, 2.0, 4.0)
_QUERIES = 500
_NOISES = 10
_SLACK = 0.05  # share of the images by which a comparison of few may be off
_ROUGH = 0.5  # most of the broken images that 8-bit rounding may mend where the budget is a grey level or more


@dataclass(frozen=True)
class Check:
    """One self-check and how it ended.

    Args:
        check: what should hold.
        verdict: whether it does.
        detail: the figures.
    """

    check: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True, eq=False)
class SelfChecks:
    """Everything that is looked at for one prompt set.

    Args:
        model: images -> logits.
        source: another model from which attacks are transferred, or None.
        images: a few images (batch, 3, size, size) that the model answers rightly.
        labels: their classes (batch,).
        threat: norm and budget; best where about half of the images hold.
        held: which images (batch,) hold against the attack that the run is of.
        seed: of the checks' randomness.
        samples: ids of the images.
    """

    model: Model
    source: Model | None
    images: Tensor
    labels: Tensor
    threat: Threat
    held: Tensor
    seed: int
    samples: Sequence[str]

    def run(self) -> list[Check]:
        """All checks, each with its figures."""
        return [
            self.gradients(),
            self.steps(),
            self.restarts(),
            self.budgets(),
            self.unbounded(),
            self.transfer(),
            self.without_gradients(),
            self.noise(),
            self.half_precision(),
            self.rounding(),
            self.this_attack(),  # last: it uses what the others broke
        ]

    def of_questions(self) -> list[Check]:
        """Those that mean something where each image has a question of its own.

        That nothing holds without a limit does not: an answer may be given without a look at the picture. Random search leaves
        images alone on its way, which a model with a question in each row cannot bear.
        """
        return [
            self.gradients(),
            self.steps(),
            self.restarts(),
            self.budgets(),
            self.transfer(),
            self.noise(),
            self.half_precision(),
            self.rounding(),
            self.this_attack(),
        ]

    def gradients(self) -> Check:
        """Zero gradients leave an attack that follows them where it is."""
        gradient, _, _ = ascend(self.model, self.images, lambda logits: margin(logits, self.labels))
        flat = gradient.flatten(1)
        lost = ~torch.isfinite(flat).all(1) | (flat == 0).all(1)
        zero = float((flat == 0).float().mean())
        detail = f"zero or not finite for {int(lost.sum())} of {len(flat)} images; {zero:.1%} of all entries are zero"
        return Check("gradients are finite and not zero", _verdict(not bool(lost.any()) and zero <= 0.5), detail)

    def steps(self) -> Check:
        """More steps find more."""
        right = [self._count(self._by_steps[steps]) for steps in _STEPS]
        return self._falling("strength grows with steps", f"after {_listed(_STEPS)} steps", right)

    def restarts(self) -> Check:
        """More starts find more."""
        right = [self._count(self._by_steps[_SHORT]), self._count(self._holding(self.threat, "restarts", _STARTS))]
        return self._falling("strength grows with restarts", f"after 1, {_STARTS} starts", right)

    def budgets(self) -> Check:
        """A larger budget can do all that a smaller one can."""
        right = {1.0: self._by_steps[_SHORT]}
        for factor in set(_FACTORS) - {1.0}:
            right[factor] = self._holding(replace(self.threat, epsilon=factor * self.threat.epsilon), "budgets")
        counts = [self._count(right[factor]) for factor in _FACTORS]
        return self._falling("strength grows with epsilon", f"at {_listed(_FACTORS)} times epsilon", counts)

    def unbounded(self) -> Check:
        """Where every image is allowed, every answer can be had."""
        entries = self.images[0].numel()
        widest = {"linf": 1.0, "l2": math.sqrt(entries), "l1": float(entries)}[self.threat.norm]
        right = self._count(self._holding(Threat(self.threat.norm, widest), "unbounded", steps=_STEPS[-1]))
        detail = f"{right} of {len(self.images)} right at {self.threat.norm} {widest:g}"
        return Check("without a limit nothing holds", _verdict(right == 0), detail)

    def transfer(self) -> Check:
        """An attack on this model breaks more of it than one on another."""
        text = "an attack on the model itself beats one transferred"
        if self.source is None:
            return Check(text, "skipped", "no other model to transfer from; give --prompts zero-shot and another set")
        return self._beats(text, Pgd(_SHORT, _STEP), "transfer", partial(_asked, self.source), "the transferred one")

    def without_gradients(self) -> Check:
        """Random search does not beat gradients."""
        search, name = ATTACKS.build("square", queries=_QUERIES), f"square with {_QUERIES} queries"
        return self._beats("random search does not beat gradients", search, "square", partial(_asked, self.model), name)

    def noise(self) -> Check:
        """Random noise of the same size is weaker."""
        name = f"{_NOISES} draws of noise"
        return self._beats(
            "noise of the same size is weaker", _Noise(_NOISES), "noise", partial(_asked, self.model), name
        )

    def half_precision(self) -> Check:
        """The attack's own arithmetic is float32; gradients of a model in half precision are coarser."""
        device = self.images.device.type

        def half(rows: Tensor) -> Model:
            model, dtype = _asked(self.model, rows), torch.float16 if device == "cuda" else torch.bfloat16

            def in_half(images: Tensor) -> Tensor:
                with torch.autocast(device, dtype=dtype):
                    return model(images)

            return in_half

        kind = "float16" if device == "cuda" else "bfloat16"
        return self._beats("float32 gradients beat half precision", Pgd(_SHORT, _STEP), "half", half, f"PGD in {kind}")

    def rounding(self) -> Check:
        """An attacked image that is stored with 8 bits is still one, unless the budget is below a grey level."""
        text = "the attack survives 8-bit rounding"
        attacked = self._images[_STEPS[-1]]
        broken = ~self._correct(attacked)
        rounded = (attacked * 255).round() / 255
        mended = self._count(broken & self._correct(rounded))
        far = float((rounded - self.images).abs().max())
        detail = (
            f"{mended} of {self._count(broken)} broken images are right again; linf after rounding {far * 255:.2f}/255"
        )
        if self.threat.norm != "linf" or self.threat.epsilon < 1 / 255 or not bool(broken.any()):
            return Check(text, "skipped", f"{detail}; judged for linf from 1/255 on")
        return Check(text, _verdict(mended <= _ROUGH * self._count(broken)), detail)

    def this_attack(self) -> Check:
        """The run's own attack is as strong as those of the checks."""
        own, theirs = self._count(self.held), self._count(self._by_steps[_STEPS[-1]])
        detail = f"of {len(self.images)} images right: {own}; against pgd, {_STEPS[-1]} steps: {theirs}"
        return Check("this attack is as strong as the checks' own", _verdict(own <= theirs + self._slack), detail)

    @cached_property
    def _images(self) -> dict[int, Tensor]:
        """The best images of one ascent, looked at on its way: what PGD with so many steps gives."""
        current = self._random("steps").within(self.images, self.threat)
        best, highest = current, current.new_full((len(current),), float("-inf"))
        found: dict[int, Tensor] = {}
        for steps in _STEPS:
            (current, _), part = self._climbed(current, slice(None), self.threat, steps - max(found, default=0))
            best, highest = better(best, highest, *part)
            found[steps] = best
        return found

    @cached_property
    def _by_steps(self) -> dict[int, Tensor]:
        return {steps: self._correct(images) for steps, images in self._images.items()}

    def _random(self, purpose: str) -> Random:
        return Random(self.seed, f"check\x00{purpose}", self.samples)

    def _climbed(self, start: Tensor, rows: Tensor | slice, threat: Threat, steps: int) -> tuple[Scored, Scored]:
        """Some rows' last and best images of an ascent of the cross entropy."""
        loss, score = (partial(rise, labels=self.labels[rows]) for rise in (cross_entropy, margin))
        return climb(_asked(self.model, rows), self.images[rows], start, loss, score, threat, steps, _STEP)

    def _holding(self, threat: Threat, purpose: str, starts: int = 1, steps: int = _SHORT) -> Tensor:
        """Which images (batch,) hold against PGD; one that is broken is left alone, since how far it is broken is not asked."""
        attacked, random = self.images.clone(), self._random(purpose)
        rows = torch.arange(len(attacked), device=attacked.device)
        for _ in range(starts):
            current = random.of(rows).within(self.images[rows], threat) if len(rows) else self.images[rows]
            for part in (_STEPS[0], steps - _STEPS[0]):
                if not len(rows):
                    break
                (current, _), (attacked[rows], height) = self._climbed(current, rows, threat, part)
                holds = height <= 0
                rows, current = rows[holds], current[holds]
        return self._correct(attacked)

    def _correct(self, images: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        return answers(_asked(self.model, rows), images).argmax(dim=1) == self.labels[rows]

    def _falling(self, text: str, where: str, right: Sequence[int]) -> Check:
        falls = all(later <= earlier + self._slack for earlier, later in itertools.pairwise(right))
        return Check(text, _verdict(falls), f"of {len(self.images)} images right {where}: {_listed(right)}")

    def _beats(self, text: str, attack: Attack, purpose: str, against: Callable[[Tensor], Model], name: str) -> Check:
        """Whether another attack breaks, but for the slack, neither what the run's left nor more than the longest PGD.

        It is shown what that PGD left first, and the other images only where that says something.
        """
        holds = self._by_steps[_STEPS[-1]]
        broken = self._broken_by(attack, purpose, against, holds)
        detail = f"of the {self._count(holds)} images of {len(holds)} that hold against pgd, {_STEPS[-1]} steps, {name} breaks"
        if self._count(broken) <= self._slack:
            return Check(text, "passed", f"{detail} {self._count(broken)}")
        missed = self._count(broken & self.held)
        in_all = self._count(broken | self._broken_by(attack, purpose, against, ~holds))
        holds_up = missed <= self._slack and in_all <= self._count(~holds) + self._slack
        told = (
            f"{detail} {self._count(broken)}, of all {in_all}; this attack left {missed} of those {self._count(broken)}"
        )
        return Check(text, _verdict(holds_up), told)

    def _broken_by(self, attack: Attack, purpose: str, against: Callable[[Tensor], Model], asked: Tensor) -> Tensor:
        """Which images (batch,) of those asked are wrong under an attack."""
        rows, broken = asked.nonzero().flatten(), torch.zeros_like(asked)
        if len(rows):
            random = self._random(purpose).of(rows)
            found = attack(against(rows), self.images[rows], self.labels[rows], self.threat, random)
            broken[rows] = ~self._correct(found, rows)
        return broken

    @property
    def _slack(self) -> int:
        return max(1, round(_SLACK * len(self.images)))

    @staticmethod
    def _count(right: Tensor) -> int:
        return int(right.sum())


def _asked(model: Model, rows: Tensor | slice) -> Model:
    """The model for some rows of a batch alone: it matters where each row has a question of its own."""
    return model.part(rows) if isinstance(model, Asking) else model


@dataclass(frozen=True)
class _Noise:
    """The draw of noise of length epsilon, of several, at which the margin is highest."""

    draws: int

    needs_gradient: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best, highest = images, images.new_full((len(images),), float("-inf"))
        for _ in range(self.draws):
            direction = random.normal(*images.shape[1:]).to(images.device)
            shown = threat.project(images + threat.epsilon * threat.steepest(direction), images)
            best, highest = better(best, highest, shown, margin(answers(model, shown), labels))
        return best


def every_swap(
    swap: WordSwap, answerer: Answerer, images: Tensor, questions: Sequence[str], labels: Tensor, held: Tensor
) -> Check:
    """No single swap breaks a question that the guided ones left; where they may be several, one is still among them.

    Args:
        swap: whose candidates are tried, each alone.
        answerer: that answers.
        images: clean (batch, 3, size, size).
        questions: one for each.
        labels: right answers (batch,).
        held: which (batch,) hold against the attack that the run is of.
    """
    broken = torch.tensor(
        [_some_swap_breaks(swap, answerer.about(image), text, int(label))
         for image, text, label in zip(images, questions, labels, strict=True)],
        device=held.device,
    )  # fmt: skip
    missed = int((broken & held).sum())
    detail = f"of {len(held)} questions {int(broken.sum())} break under some swap of one word; the attack left {missed} of them"
    text = "no single swap breaks what the attack left"
    return Check(text, _verdict(missed <= max(1, round(_SLACK * len(held)))), detail)


def _some_swap_breaks(swap: WordSwap, reader: About, text: str, label: int) -> bool:
    tried = [
        changed
        for place, words in swap.options(text).items()
        for word in words
        if fits(reader, changed := rewritten(text, {place: word}))
    ]
    return bool(tried) and bool((reader.encode_text(tried).argmax(dim=1) != label).any())


def _verdict(holds: bool) -> Verdict:
    return "passed" if holds else "failed"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
