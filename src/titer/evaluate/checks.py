"""Signs that an attack was weak or that a model hides its gradients, looked for after every run.

The list is that of Carlini et al. (2019, arXiv 1902.06705) and of Athalye, Carlini and Wagner (ICML 2018, arXiv
1802.00420), on a few images. A check that fails proves nothing about the model; it says that the number is not to be
trusted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from titer.attacks import ATTACKS, Attack, Model, Random, Threat
from titer.attacks.attack import answers, ascend
from titer.attacks.losses import margin
from titer.attacks.pgd import Pgd
from titer.attacks.words import WordSwap, fits, rewritten
from titer.models.fusion import About, Answerer

Verdict = Literal["passed", "failed", "skipped"]

_STEPS = (5, 20, 50)
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

        That nothing holds without a limit does not: an answer may be given without a look at the picture. Random search asks
        of some images alone, which a model with a question in each row cannot be asked.
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
        once, more = self._by_steps[20], self._right(Pgd(steps=20, restarts=4), self.threat, "restarts")
        return self._falling(
            "strength grows with restarts", "after 1, 4 starts", [self._count(once), self._count(more)]
        )

    def budgets(self) -> Check:
        """A larger budget can do all that a smaller one can."""
        threats = [replace(self.threat, epsilon=factor * self.threat.epsilon) for factor in _FACTORS]
        right = [self._count(self._right(Pgd(steps=20), threat, "budgets")) for threat in threats]
        return self._falling("strength grows with epsilon", f"at {_listed(_FACTORS)} times epsilon", right)

    def unbounded(self) -> Check:
        """Where every image is allowed, every answer can be had."""
        entries = self.images[0].numel()
        widest = {"linf": 1.0, "l2": math.sqrt(entries), "l1": float(entries)}[self.threat.norm]
        right = self._count(self._right(Pgd(), Threat(self.threat.norm, widest), "unbounded"))
        detail = f"{right} of {len(self.images)} right at {self.threat.norm} {widest:g}"
        return Check("without a limit nothing holds", _verdict(right == 0), detail)

    def transfer(self) -> Check:
        """An attack on this model breaks more of it than one on another."""
        text = "an attack on the model itself beats one transferred"
        if self.source is None:
            return Check(text, "skipped", "no other model to transfer from; give --prompts zero-shot and another set")
        own, foreign = self._by_steps[20], self._right(Pgd(steps=20), self.threat, "transfer", self.source)
        return self._stronger(text, own, foreign, "the transferred one")

    def without_gradients(self) -> Check:
        """Random search does not beat gradients."""
        search = ATTACKS.build("square", queries=_QUERIES)
        return self._stronger(
            "random search does not beat gradients",
            self._by_steps[50],
            self._right(search, self.threat, "square"),
            f"square with {_QUERIES} queries",
        )

    def noise(self) -> Check:
        """Random noise of the same size is weaker."""
        right = torch.ones_like(self.labels, dtype=torch.bool)
        random = self._random("noise")
        for _ in range(_NOISES):
            direction = random.normal(*self.images.shape[1:]).to(self.images.device)
            moved = self.images + self.threat.epsilon * self.threat.steepest(direction)
            shown = self.threat.project(moved, self.images)
            right &= self._correct(shown)
        return self._stronger(
            "noise of the same size is weaker", self._by_steps[20], right, f"{_NOISES} draws of noise"
        )

    def half_precision(self) -> Check:
        """The attack's own arithmetic is float32; gradients of a model in half precision are coarser."""
        device = self.images.device.type

        def half(images: Tensor) -> Tensor:
            with torch.autocast(device, dtype=torch.float16 if device == "cuda" else torch.bfloat16):
                return self.model(images)

        kind = "float16" if device == "cuda" else "bfloat16"
        right = self._right(Pgd(steps=20), self.threat, "half", half)
        return self._stronger("float32 gradients beat half precision", self._by_steps[20], right, kind)

    def rounding(self) -> Check:
        """An attacked image that is stored with 8 bits is still one, unless the budget is below a grey level."""
        text = "the attack survives 8-bit rounding"
        attacked = self._images[50]
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
        return self._stronger(
            "this attack is as strong as the checks' own", self.held, self._by_steps[50], "pgd, 50 steps"
        )

    @cached_property
    def _images(self) -> dict[int, Tensor]:
        return {steps: self._attacked(Pgd(steps=steps), self.threat, "steps", self.model) for steps in _STEPS}

    @cached_property
    def _by_steps(self) -> dict[int, Tensor]:
        return {steps: self._correct(images) for steps, images in self._images.items()}

    def _random(self, purpose: str) -> Random:
        return Random(self.seed, f"check\x00{purpose}", self.samples)

    def _attacked(self, attack: Attack, threat: Threat, purpose: str, against: Model) -> Tensor:
        return attack(against, self.images, self.labels, threat, self._random(purpose))

    def _right(self, attack: Attack, threat: Threat, purpose: str, against: Model | None = None) -> Tensor:
        """Which images the model still answers rightly, after an attack on it or on another model."""
        return self._correct(self._attacked(attack, threat, purpose, against or self.model))

    def _correct(self, images: Tensor) -> Tensor:
        return answers(self.model, images).argmax(dim=1) == self.labels

    def _falling(self, text: str, where: str, right: Sequence[int]) -> Check:
        falls = all(later <= earlier + self._slack for earlier, later in itertools.pairwise(right))
        return Check(text, _verdict(falls), f"of {len(self.images)} images right {where}: {_listed(right)}")

    def _stronger(self, text: str, own: Tensor, other: Tensor, name: str) -> Check:
        left, theirs = self._count(own), self._count(other)
        detail = f"of {len(self.images)} images right: {left}; against {name}: {theirs}"
        return Check(text, _verdict(left <= theirs + self._slack), detail)

    @property
    def _slack(self) -> int:
        return max(1, round(_SLACK * len(self.images)))

    @staticmethod
    def _count(right: Tensor) -> int:
        return int(right.sum())


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
