"""What a comparison still has to do, and about how long it will take: from what is done already, else from short trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from titer.attacks import Random, Threat
from titer.attacks.attack import answers, ascend
from titer.data.example import ClassText, Data
from titer.data.shots import Selection
from titer.data.splits import ALL, of_split, shots, some
from titer.defenses import Defense
from titer.defenses.adapter import load_classifier
from titer.defenses.defense import needs_images
from titer.evaluate.fitting import UNLABELLED, task_of
from titer.evaluate.forecast import forecast
from titer.evaluate.machine import default_workers
from titer.evaluate.plan import plan
from titer.evaluate.study import (
    AttackEntry,
    Cell,
    Entry,
    Opened,
    PromptSet,
    Study,
    all_sets,
    fit_facts,
    fits_left,
    prompt_sets,
)
from titer.features.stream import threads
from titer.models.classifier import zero_shot
from titer.models.encoder import Encoder
from titer.results.store import Record, key_of, read_lines
from titer.results.study import ALL_SHOTS, attack_run, sigma_run

_LEARNED = "train"  # the split that fits take
_FEW, _SHOTS = 8, 2  # images of a trial: all together, or of each class
_ROWS = 16  # images that are attacked together
_SIDE = 8  # pixels of the images that an attack's passes are counted on


@dataclass(frozen=True)
class Share:
    """One kind of work of a comparison.

    Args:
        work: ``fits``, ``attacked`` (image, prompt set and budget) or ``certified`` (image, prompt set and sigma).
        whole: how many the comparison has.
        left: how many are not done.
        seconds: that these may take, with the workers given.
    """

    work: str
    whole: int
    left: int
    seconds: float


@dataclass(frozen=True)
class Outlook:
    """What a comparison still has to do.

    Args:
        shares: of each kind of work.
        tried: methods and attacks that were tried for it, since nothing of them is done.
    """

    shares: tuple[Share, ...]
    tried: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of all that is left."""
        return sum(share.seconds for share in self.shares)


def outlook(study: Study, opened: Opened, out: Path, workers: int | None = None) -> Outlook:
    """Count what is left, and guess its time.

    Fits are guessed from fits of the same method, attacks from their own records. Where there are none, a method is fitted
    for a moment on a few images, an attack's passes are counted on a model that costs nothing, and certificates are forecast
    for the zero-shot answer. An attack that was not begun is counted as if no image broke, and is usually done sooner.

    Args:
        study: the comparison.
        opened: what it works on.
        out: its directory.
        workers: as ``run_study`` takes them.
    """
    judging, look = workers or default_workers(opened.encoder.device), _Look(study, opened, out)
    with threads(1):
        shares = (
            _share("fits", look.fits(), workers or 1),
            _share("attacked", look.attacked(), judging),
            _share("certified", look.certified(), judging),
        )
    return Outlook(shares, tuple(look.tried))


Part = tuple[int, int, Callable[[], float]]
"""How many there are, how many are left, and the seconds that these will take: asked for only where some are."""


def _share(work: str, parts: Iterable[Part], workers: int) -> Share:
    listed = list(parts)
    seconds = sum(takes() for _, left, takes in listed if left)
    return Share(work, sum(part[0] for part in listed), sum(part[1] for part in listed), seconds / workers)


@dataclass(frozen=True)
class _Trial:
    """A short fit: seconds for each image of a whole one, and whether its image tower is another than the model's."""

    seconds: float
    own_tower: bool


class _Look:
    """What is known of a comparison's methods and attacks; each is tried once at most."""

    def __init__(self, study: Study, opened: Opened, out: Path) -> None:
        self.study, self.opened, self.out = study, opened, out
        self.sets = all_sets(study, study.cells)
        self.left = {job.out.name for job in fits_left(self.sets, opened, out)}
        self.tried: dict[str, None] = {}
        self.trials: dict[str, _Trial] = {}
        self.units: dict[str, float] = {}

    def fits(self) -> Iterator[Part]:
        for prompts in self.sets:
            if prompts.defense is not None:
                yield 1, int(prompts.name in self.left), partial(self._fit_seconds, prompts, prompts.defense)

    def _fit_seconds(self, prompts: PromptSet, defense: Defense) -> float:
        done = [fit_facts(self.out / "prompts" / found.name) for found in self._fitted(prompts.entry)]
        asked = None if prompts.shots == ALL_SHOTS else prompts.shots
        same = [facts["seconds"] for facts in done if facts["shots"] == asked]
        if same:
            return float(np.mean(same))
        each = [facts["seconds"] / max(1, len(facts["ids"])) for facts in done]
        return _images(prompts, defense, self.opened.data) * (
            float(np.mean(each)) if each else self._trial(prompts.entry, defense).seconds
        )

    def _fitted(self, entry: Entry) -> Iterator[PromptSet]:
        return (found for found in self.sets if found.entry is entry and found.name not in self.left)

    def _trial(self, entry: Entry, defense: Defense) -> _Trial:
        if entry.name not in self.trials:
            self.tried[entry.name] = None
            self.trials[entry.name] = _tried(defense, self.opened)
        return self.trials[entry.name]

    def attacked(self) -> Iterator[Part]:
        for cell in self.study.cells:
            for entry in (self.study.attacks[name] for name in cell.attacks):
                whole = len(self.opened.judged[cell.name].examples) * len(all_sets(self.study, [cell])) * len(entry.eps)
                left = whole - _done(self.out / attack_run(cell.name, entry.name))
                yield whole, left, lambda entry=entry, left=left: left * self._unit(entry)  # type: ignore[misc]

    def _unit(self, entry: AttackEntry) -> float:
        """Seconds for one image, prompt set and budget."""
        if entry.name not in self.units:
            runs = [attack_run(cell.name, entry.name) for cell in self.study.cells if entry.name in cell.attacks]
            seconds = [record["seconds"] for run in runs for record in _records(self.out / run)]
            if len(seconds) < _ROWS:
                self.tried[entry.name] = None
            self.units[entry.name] = float(np.mean(seconds)) if len(seconds) >= _ROWS else self._passes(entry)
        return self.units[entry.name]

    def _passes(self, entry: AttackEntry) -> float:
        """The passes of an attack that breaks nothing, at what they cost here."""
        gradients, plain = passes(entry, len(self.opened.data.classes))
        costs = _pass_seconds(self.opened.encoder, self.opened.data.classes)
        return gradients * costs[0] + (plain + 2) * costs[1]  # whoever judges asks twice more

    def certified(self) -> Iterator[Part]:
        for cell in self.study.cells:
            for sigma in cell.sigmas:
                sets = list(prompt_sets(self.study, cell, sigma))
                whole = len(self.opened.judged[cell.name].examples) * len(sets)
                left = whole - _done(self.out / sigma_run(cell.name, sigma))
                yield whole, left, partial(self._certify_seconds, cell, sigma, sets, left / max(1, whole))

    def _certify_seconds(self, cell: Cell, sigma: float, sets: Sequence[PromptSet], share: float) -> float:
        """Sets on the model's own features are voted on together; each of the others costs a pass of its own."""
        judged = self.opened.judged[cell.name]
        own = sum(self._own_tower(prompts, cell) for prompts in sets)
        each = forecast(plan("certify", cell.certifier, self.opened.encoder, judged, sigma=sigma, seed=0), workers=1)
        return each.seconds * share * (own + (own < len(sets)))

    def _own_tower(self, prompts: PromptSet, cell: Cell) -> bool:
        encoder = self.opened.encoder
        if prompts.defense is None:
            return False
        fitted = next((other.name for other in self._fitted(prompts.entry)), None)
        if fitted is None:
            return self._trial(prompts.entry, prompts.defense).own_tower
        path, judged = self.out / "prompts" / fitted, self.opened.judged[cell.name]
        return load_classifier(path, encoder, judged, new_classes=cell.moved).encoder.fingerprint != encoder.fingerprint


def _records(run: Path) -> list[Record]:
    """Of a run, each once; none where it was not begun."""
    return list(
        {key_of(record): record for record in read_lines(run / "samples.jsonl") if "error" not in record}.values()
    )


def _done(run: Path) -> int:
    return len(_records(run))


def _images(prompts: PromptSet, defense: Defense, data: Data) -> int:
    """That a fit will look at, but for those that its model was trained on."""
    if not needs_images(defense):
        return 1
    there = sum(example.split in (_LEARNED, ALL) for example in data.examples)
    if not defense.needs_labels:
        return min(UNLABELLED, there)
    return there if isinstance(prompts.shots, str) else min(there, (prompts.shots or there) * len(data.classes))


def _tried(defense: Defense, opened: Opened) -> _Trial:
    """A method fitted on a few images for one epoch and for two; what a whole fit takes for each of its images."""
    examples = of_split(opened.data.examples, _LEARNED) if needs_images(defense) else ()
    chosen = shots(examples, _SHOTS, 0) if defense.needs_labels else some(examples, _FEW, 0)
    selection = Selection(replace(opened.data, examples=chosen), (), 0)
    task = task_of(opened.encoder, selection, 0, labelled=defense.needs_labels)
    epochs = getattr(defense, "epochs", None) or 1
    once, twice = (_shortened(defense, count) for count in (1, 2))
    once.fit(task)  # what is made once for all fits is made here
    began = time.perf_counter()
    fitted = once.fit(task)
    between = time.perf_counter()
    if epochs > 1:
        twice.fit(task)
    first, second = between - began, time.perf_counter() - between
    seconds = first + (epochs - 1) * max(0.0, second - first)
    classifier = defense.classifier(opened.encoder, opened.data.classes, fitted.weights, "trial")
    return _Trial(seconds / max(1, len(task.ids)), classifier.encoder.fingerprint != opened.encoder.fingerprint)


def _shortened(defense: Defense, epochs: int) -> Defense:
    """With so many epochs, where a method's settings say how many it has."""
    return replace(defense, epochs=epochs) if getattr(defense, "epochs", None) else defense  # type: ignore[type-var]


def _pass_seconds(encoder: Encoder, classes: Sequence[ClassText]) -> tuple[float, float]:
    """Seconds for a row with its gradient, and without."""
    model = zero_shot(encoder, classes)
    rows = torch.full((_ROWS, 3, encoder.size, encoder.size), 0.5, device=encoder.device)

    def with_gradient() -> None:
        ascend(model, rows, lambda logits: logits.amax(dim=1))

    return _timed(with_gradient) / _ROWS, _timed(partial(answers, model, rows)) / _ROWS


def _timed(work: Callable[[], object]) -> float:
    """Seconds of doing it a second time."""
    work()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def passes(entry: AttackEntry, classes: int) -> tuple[float, float]:
    """Passes of an attack for each image and budget, with a gradient and without, on a model that is never wrong.

    Args:
        entry: the attack.
        classes: number of classes, which decides how many an ensemble aims at.
    """
    counted = [0, 0]
    scores = -torch.arange(float(classes))
    scores[0] = 10.0

    def tireless(images: Tensor) -> Tensor:
        counted[0 if images.requires_grad else 1] += len(images)
        return scores + 1e-3 * images.flatten(1).mean(dim=1, keepdim=True) * (1 + torch.arange(classes))

    images = torch.full((2, 3, _SIDE, _SIDE), 0.5)
    threat = Threat(entry.norm, entry.eps[0])
    entry.attack(tireless, images, torch.zeros(2, dtype=torch.long), threat, Random(0, "passes", ("0", "1")))
    return counted[0] / 2, counted[1] / 2
