"""Several labels for an image under attack: one record for each (image, prompt set, epsilon), with a score of each finding.

Every image is attacked, since none is right or wrong as a whole: the sum of the binary cross-entropies of what is known of it
is raised, so that findings that are there lose score and others gain it. Distances are measured here.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.attacks import ATTACKS, Model, Norm, Random, Threat
from titer.attacks.pgd import Pgd
from titer.data.example import Data, Example
from titer.data.fingerprint import digest
from titer.errors import InputError, PictureError, RunError
from titer.evaluate.attacking import allowed, distances
from titer.evaluate.ladders import LadderPlan, LadderSession, threats_for
from titer.evaluate.machine import workers_for
from titer.evaluate.running import conclude
from titer.evaluate.smoothing import seed_for
from titer.evaluate.subject import Subject, load_subject
from titer.models.classifier import Classifier
from titer.models.encoder import Encoder
from titer.registry import settings_of
from titer.results.findings import VERB
from titer.results.store import Record, Run, RunWriter, read_run

_ATTACK = "pgd"


@dataclass(frozen=True, eq=False, kw_only=True)
class FindingsPlan(LadderPlan):
    """A run before its first step: everything that decides its records.

    Args:
        attack: with its settings.
    """

    attack: Pgd

    verb: ClassVar[str] = VERB
    chunk: ClassVar[tuple[int, int]] = (16, 16)

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""
        return {"attack": self.name, **settings_of(self.attack), **self.budgets()}

    def identity(self) -> dict[str, Any]:
        """All that changes a number."""
        told = digest([str(example.findings) for example in self.data.examples])
        return {**super().identity(), "findings": told}


def attack_findings(
    model: str | Encoder,
    data: str | Path | Data,
    name: str = _ATTACK,
    *,
    out: str | Path,
    norm: Norm = "linf",
    eps: float | Sequence[float] = 1 / 255,
    settings: dict[str, Any] | None = None,
    seed: int | None = None,
    workers: int | None = None,
    command: str | None = None,
    **subject: Any,
) -> Run:
    """Score every finding of every image, without attack and under it.

    Args:
        model: a model's name, or an encoder.
        data: a data set's name, ``multilabel:DATA``, or a loaded one.
        name: ``pgd``; other attacks look for another class.
        out: the run directory. The same call goes on where an earlier one stopped.
        norm: ``linf``, ``l2`` or ``l1``.
        eps: budgets of the images in [0, 1] pixels.
        settings: of the attack; its loss is the binary cross-entropy, and the best iterate is the one of the largest.
        seed: of its randomness; 0 unless given.
        workers: threads; one per core unless given. Changes no number.
        command: what run.json says the run was started by.
        subject: what else ``load_subject`` takes (``prompts``, ``split``, ``limit``, ...).

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no image could be read, or an attack left its budget.
    """
    if name != _ATTACK:
        raise InputError(
            f"attack {name!r} looks for another class; several labels for an image are attacked by {_ATTACK!r}"
        )
    attack = ATTACKS.build(name, **(settings or {}))
    if not isinstance(attack, Pgd) or attack.loss != "cross-entropy":
        raise InputError(
            "loss: several labels for an image are attacked by their cross-entropy; expected cross-entropy"
        )
    if attack.stop:
        raise InputError("stop: an image with several labels is never wrong as a whole; expected stop=false")
    threats, recorded = threats_for(name, attack.norms, norm, eps), seed_for(out, seed)
    who = load_subject(model, data, seed=recorded or 0, findings=True, **subject)
    own = {field.name: getattr(who, field.name) for field in dataclasses.fields(Subject)}
    chosen = FindingsPlan(**own, name=name, attack=attack, threats=threats)
    crew = workers_for(chosen.encoder.device, workers)
    started = shlex.join(["python", *sys.argv]) if command is None else command
    with RunWriter(Path(out), chosen.identity(), chosen.info_of(VERB, chosen.settings(), started)) as writer:
        _Session(chosen, writer).run(crew)
    return read_run(out)


def finding_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Sum (batch,) of binary cross-entropies of logits (batch, findings); nan in ``truth`` is not known and counts nothing."""
    known = ~truth.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none")
    return torch.where(known, losses, 0.0).sum(dim=1)


def raise_loss(attack: Pgd, model: Model, images: Tensor, truth: Tensor, threat: Threat, random: Random) -> Tensor:
    """Images (batch, 3, size, size) within the threat, of all restarts those whose findings are scored worst.

    Args:
        attack: settings of projected gradient ascent.
        model: images -> logits (batch, findings).
        images: clean, in [0, 1].
        truth: (batch, findings), 1 and 0, nan where it is not known.
        threat: norm and budget.
        random: where the first step begins.
    """
    loss = partial(finding_loss, truth=truth)
    return attack.ascent(model, images, loss, loss, threat, random)


class _Session(LadderSession):
    """Chunks of images out, records in."""

    def __init__(self, chosen: FindingsPlan, writer: RunWriter) -> None:
        super().__init__(writer, False, [example.id for example in chosen.data.examples])
        self.plan = chosen

    def run(self, workers: int) -> None:
        examples, together = self.plan.data.examples, self.plan.together
        left = [
            (chunk, prompts, threat)
            for chunk in (examples[first : first + together] for first in range(0, len(examples), together))
            for prompts in self.plan.classifiers
            for threat in self.plan.threats
            if self._missing(chunk, prompts, threat)
        ]
        if not left:
            conclude(self.writer, "done", self.expected, {})
            return
        with self.work(sum(self._missing(*part) for part in left)):
            self.crew.spread(workers, [partial(self._attack, *part) for part in left])

    def _missing(self, chunk: Sequence[Example], prompts: str, threat: Threat) -> int:
        return self.missing(self.plan.key(example.id, threat, prompts) for example in chunk)

    def _attack(self, chunk: Sequence[Example], prompts: str, threat: Threat) -> None:
        """One chunk at one budget. All of it is attacked even if some is done: a batch's size may change the last bit."""
        opened = list(self._opened(chunk))
        if not opened:
            return
        began, classifier = time.perf_counter(), self.plan.classifiers[prompts]
        device = classifier.encoder.device
        clean = torch.stack([image for _, image, _ in opened]).to(device)
        truth = torch.tensor(
            [
                [float("nan") if there is None else float(there) for there in example.findings]
                for example, _, _ in opened
            ],
            device=device,
        )
        purpose = f"{_ATTACK}\x00{threat.norm}\x00{threat.epsilon:g}"
        random = Random(self.plan.seed, purpose, [example.id for example, _, _ in opened])
        watched = self.crew.stoppable(classifier)
        shown = allowed(_ATTACK, raise_loss(self.plan.attack, watched, clean, truth, threat, random), clean, threat)
        before, after = (_scores(classifier, images) for images in (clean, shown))
        share = (time.perf_counter() - began) / len(opened)
        for row, (example, _, fields) in enumerate(opened):
            record = {
                **fields,
                **self.plan.labels(threat, prompts),
                "findings": list(example.findings),
                "clean_scores": before[row],
                "scores": after[row],
                **distances(shown[row], clean[row]),
                **({"warnings": list(classifier.warnings)} if classifier.warnings else {}),
                "seconds": round(share, 4),
            }
            self.add(record)

    def _opened(self, chunk: Sequence[Example]) -> Iterator[tuple[Example, Tensor, Record]]:
        for example in chunk:
            try:
                yield example, *self.plan.open(example)
            except PictureError as error:
                self.fail(example, str(error))


def _scores(classifier: Classifier, images: Tensor) -> list[list[float]]:
    """Of each finding, in [0, 1].

    Raises:
        RunError: if a logit is not finite.
    """
    with torch.no_grad():
        logits = classifier(images)
    if not bool(torch.isfinite(logits).all()):
        raise RunError(f"{classifier.name} gave nan or infinity for an image; nothing can be said of its robustness")
    found: list[list[float]] = logits.double().sigmoid().cpu().tolist()
    return found
