"""`attack`: from a model, labelled images and an attack to one record per (image, prompt set, epsilon).

An attack only proposes images. What it says of itself is not used: distances are measured here, and the answers are
those of the classifier to the images that came back.
"""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from titer.attacks import ATTACKS, Attack, Model, Norm, Random, Threat
from titer.attacks.attack import ascend
from titer.attacks.threat import length, rising
from titer.data.example import Data, Example
from titer.errors import InputError, PictureError, RunError
from titer.evaluate.checks import Check, SelfChecks
from titer.evaluate.machine import default_workers
from titer.evaluate.running import NEVER, Crew, Deadline, TimeIsUpError, conclude, running
from titer.evaluate.smoothing import seed_for
from titer.evaluate.subject import Subject, keep_picture, kept, load_subject
from titer.features.stream import threads
from titer.models.classifier import Classifier
from titer.models.encoder import Encoder
from titer.progress import progress
from titer.registry import settings_of
from titer.results.store import Key, Record, Run, RunWriter, key_of, read_run

_SHOWN = 12  # images of which attacked pictures are kept
_AMPLIFIED = 10  # how much larger a perturbation is drawn


@dataclass(frozen=True, eq=False, kw_only=True)
class AttackPlan(Subject):
    """A run of an attack before its first step: everything that decides its records.

    Args:
        name: the attack's registered name.
        attack: with its settings.
        threats: one norm, rising budgets.
    """

    name: str
    attack: Attack
    threats: tuple[Threat, ...]

    @property
    def together(self) -> int:
        """Images attacked together. Fixed, so that no record depends on how the work was spread."""
        return 16 if self.encoder.device.type == "cpu" else 128

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included; of an ensemble also what its members are for so many classes."""
        members = getattr(self.attack, "members", None)
        ran = [] if members is None else members(len(self.data.classes), self.threats[0].norm)
        return {
            "attack": self.name,
            **settings_of(self.attack),
            "norm": self.threats[0].norm,
            "eps": [threat.epsilon for threat in self.threats],
            "by": list(self.by),
            **({"ran": [{"name": name, "settings": settings_of(member)} for name, member in ran]} if ran else {}),
        }

    def identity(self) -> dict[str, Any]:
        """All that changes a number."""
        settings = without_later({name: value for name, value in self.settings().items() if name != "by"})
        return {**self.who(), "verb": "attack", "settings": settings, "together": self.together}

    def key(self, sample: str, prompts: str, threat: Threat) -> Key:
        """The key of the record that this attack will have."""
        return key_of({"sample_id": sample, "prompts": prompts, **self.labels(threat)})

    def labels(self, threat: Threat) -> dict[str, Any]:
        """The fields that name attack and threat."""
        return {"attack": self.name, "norm": threat.norm, "eps": threat.epsilon}


def attack(
    model: str | Encoder,
    data: str | Path | Data,
    name: str = "pgd",
    *,
    out: str | Path,
    norm: Norm = "linf",
    eps: float | Sequence[float] = 1 / 255,
    settings: dict[str, Any] | None = None,
    seed: int | None = None,
    workers: int | None = None,
    images: bool | None = None,
    checks: bool = True,
    command: str | None = None,
    deadline: Deadline = NEVER,
    **subject: Any,
) -> Run:
    """Attack every image of a data set that a model answers rightly.

    Robust accuracy under an attack bounds the true one from above: another attack may be stronger. The self-checks at
    the end look for signs that this one was weak.

    Args:
        model: a model's name, or an encoder.
        data: a data set's name or directory, or a loaded one.
        name: the attack's registered name.
        out: the run directory. The same call goes on where an earlier one stopped.
        norm: ``linf``, ``l2`` or ``l1``.
        eps: budgets in [0, 1] pixels; an image broken at one counts as broken at every larger one.
        settings: of the attack.
        seed: of its randomness; 0 unless given.
        workers: threads; one per core unless given. Changes no number.
        images: keep thumbnails for the report; unless given, all but those of DICOM files.
        checks: run the self-checks.
        command: what run.json says the run was started by.
        deadline: after which no chunk of images is begun.
        subject: what else ``load_subject`` takes (``prompts``, ``split``, ``limit``, ...).

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no image could be attacked, or an attack left its budget.
        TimeIsUpError: if the deadline passed before all was done.
    """
    recorded = seed_for(out, seed)
    chosen = plan_attack(model, data, name, norm=norm, eps=eps, settings=settings, seed=recorded or 0, **subject)
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}")
    return execute(chosen, out, workers=workers, images=images, checks=checks, command=command, deadline=deadline)


def plan_attack(
    model: str | Encoder,
    data: str | Path | Data,
    name: str,
    *,
    norm: Norm = "linf",
    eps: float | Sequence[float] = 1 / 255,
    settings: dict[str, Any] | None = None,
    **subject: Any,
) -> AttackPlan:
    """The plan of an ``attack`` with these arguments: everything loaded and checked, nothing attacked."""
    method = ATTACKS.build(name, **(settings or {}))
    threats = rising(norm, eps)
    if norm not in method.norms:
        raise InputError(f"attack {name!r}: expected a norm of {', '.join(method.norms)}, got {norm!r}")
    chosen = AttackPlan(**vars(load_subject(model, data, **subject)), name=name, attack=method, threats=threats)
    check_task(name, method, chosen.data)
    for prompts, classifier in chosen.classifiers.items():
        _check_classifier(chosen, prompts, classifier)
    return chosen


def check_task(name: str, method: Attack, data: Data) -> None:
    """Whether there is something for an attack to do on these data.

    Raises:
        InputError: for too few classes, or none of the images labelled.
    """
    if len(data.classes) < 2:
        raise InputError(f"{data.name} has one class; an attack needs another one that the answer could become")
    if all(example.label is None for example in data.examples):
        raise InputError(f"{data.name} has no labels in this split; an attack needs the class to be left")
    least = getattr(method, "least_classes", 2)
    if len(data.classes) < least:
        raise InputError(f"attack {name!r} needs at least {least} classes, {data.name} has {len(data.classes)}")


def _check_classifier(chosen: AttackPlan, prompts: str, classifier: Classifier) -> None:
    if classifier.adapts_to_input:
        raise InputError(
            f"prompt set {prompts!r} adapts to each image it is shown; before it does it is a classifier that nobody deploys. "
            "Expected a fixed prompt set, or certify it with --guarantee and attack its certificates: titer challenge"
        )
    if not chosen.attack.needs_gradient:
        return
    size = chosen.encoder.size
    try:
        ascend(classifier, torch.full((1, 3, size, size), 0.5), lambda logits: logits.amax(dim=1))
    except InputError as error:
        able = [name for name in ATTACKS if not ATTACKS[name].needs_gradient]
        raise InputError(
            f"prompt set {prompts!r} gives no gradient with respect to its images, and attack {chosen.name!r} needs one; "
            f"attacks without gradients: {', '.join(able)}"
        ) from error


def execute(
    chosen: AttackPlan,
    out: str | Path,
    *,
    workers: int | None = None,
    images: bool | None = None,
    checks: bool = True,
    command: str | None = None,
    deadline: Deadline = NEVER,
) -> Run:
    """Carry a plan out, or go on with it.

    Raises:
        InputError: if the directory belongs to other settings or another process writes there.
        RunError: if no image could be attacked, or the disk is full.
        TimeIsUpError: if the deadline passed before all was done.
    """
    started = shlex.join(["python", *sys.argv]) if command is None else command
    with RunWriter(Path(out), chosen.identity(), chosen.info_of("attack", chosen.settings(), started)) as writer:
        session = _Session(chosen, writer, images, deadline)
        session.run(workers or default_workers(chosen.encoder.device), checks)
    return read_run(out)


class _Session:
    """One process's work on a run: chunks of images out, records in."""

    def __init__(self, chosen: AttackPlan, writer: RunWriter, images: bool | None, deadline: Deadline) -> None:
        self.plan = chosen
        self.writer = writer
        self.images = images
        self.deadline = deadline
        self.late = False
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()
        self.crew = Crew()
        self.first = {example.id for example in chosen.data.examples[:_SHOWN]}

    def run(self, workers: int, checks: bool) -> None:
        todo = self.plan.data.examples
        chunks = [todo[start : start + self.plan.together] for start in range(0, len(todo), self.plan.together)]
        left = [
            (chunk, prompts) for chunk in chunks for prompts in self.plan.classifiers if self._missing(chunk, prompts)
        ]
        wanted = [prompts for prompts in self.plan.classifiers if checks and not self._checked(prompts)]
        if not left and not wanted:
            conclude(self.writer, "done", len(todo), {})
            return
        steps = sum(self._missing(chunk, prompts) for chunk, prompts in left) + len(wanted)
        with (
            running(self.writer, len(todo), self.failed),
            threads(1),
            progress("attack", steps) as self.advance,
        ):
            self.crew.spread(workers, [partial(self._ladder, *part) for part in left])
            self.crew.spread(workers, [partial(self._check, prompts) for prompts in wanted])
            if self.late:
                raise TimeIsUpError

    def _too_late(self) -> bool:
        """Whether nothing more is begun; then something is left undone."""
        self.late = self.late or self.deadline.passed
        return self.late

    def _missing(self, chunk: Sequence[Example], prompts: str) -> int:
        keys = (self.plan.key(example.id, prompts, threat) for example in chunk for threat in self.plan.threats)
        return sum(key not in self.writer.done for key in keys)

    def _ladder(self, chunk: Sequence[Example], prompts: str) -> None:
        """One chunk of images under one prompt set, budgets upward."""
        if self._too_late():
            return
        opened = list(self._opened(chunk))
        if not opened:
            return
        images = torch.stack([image for image, _ in opened]).to(self.plan.encoder.device)
        labels = torch.tensor([fields["label"] for _, fields in opened], device=images.device)
        model = self._model(prompts)
        clean = _answers(model, images, self.plan.encoder.name)
        broken: dict[str, Record] = {}
        for threat in self.plan.threats:
            keys = [self.plan.key(fields["sample_id"], prompts, threat) for _, fields in opened]
            if not all(key in self.writer.done for key in keys):
                if self._too_late():
                    return
                records = self._attacked(model, prompts, threat, opened, images, labels, clean, broken)
                with self.lock:
                    for record in records:
                        if key_of(record) not in self.writer.done:
                            self.writer.append(record)
                            self.advance()
            for key in keys:
                record = self.writer.done[key]
                if record["prediction"] != record["label"]:
                    broken.setdefault(record["sample_id"], record)

    def _opened(self, chunk: Sequence[Example]) -> Iterator[tuple[Tensor, Record]]:
        for example in chunk:
            try:
                if example.label is None:
                    raise PictureError("no label: an attack needs the class to be left")
                image, fields = self.plan.open(example)
            except PictureError as error:
                self._fail(example, str(error))
                continue
            if kept(self.images, fields):
                with self.lock:
                    keep_picture(image, self.writer.path / "images", example.id)
            yield image, fields

    def _fail(self, example: Example, error: str) -> None:
        with self.lock:
            if example.id not in self.failed:
                self.failed[example.id] = error
                self.writer.append({"sample_id": example.id, "path": example.path, "error": error})
            for _ in self.plan.threats:
                self.advance()

    def _model(self, prompts: str) -> Model:
        """Whose answers count."""
        return self.crew.stoppable(self.plan.classifiers[prompts])

    def _target(self, prompts: str) -> Model:
        """What the attack sees: the same, or the features below it."""
        if getattr(self.plan.attack, "of_features", False):
            return self.crew.stoppable(self.plan.classifiers[prompts].encoder.encode_image)
        return self._model(prompts)

    def _attacked(
        self,
        model: Model,
        prompts: str,
        threat: Threat,
        opened: Sequence[tuple[Tensor, Record]],
        images: Tensor,
        labels: Tensor,
        clean: Tensor,
        broken: dict[str, Record],
    ) -> list[Record]:
        """Records of one chunk at one budget; images already wrong or broken are not attacked."""
        began = time.perf_counter()
        samples = [fields["sample_id"] for _, fields in opened]
        active = (clean == labels) & torch.tensor([sample not in broken for sample in samples], device=labels.device)
        random = Random(self.plan.seed, f"{self.plan.name}\x00{threat.norm}\x00{threat.epsilon:g}", samples)
        shown, answers = images.clone(), clean.clone()
        by: list[str | None] = [None] * len(samples)
        if bool(active.any()):
            stages = _stages(
                self.plan, self._target(prompts), images[active], labels[active], threat, random.of(active)
            )
            for stage, candidates in stages:
                shown[active] = allowed(stage, candidates, images[active], threat)
                answers = _answers(model, shown, self.plan.encoder.name)
                by = [
                    earlier or (stage if new else None)
                    for earlier, new in zip(by, (active & (answers != labels)).tolist(), strict=True)
                ]
        rounded = (shown * 255).round() / 255
        coarse = _answers(model, rounded, self.plan.encoder.name)
        share = (time.perf_counter() - began) / max(1, int(active.sum()))
        records = []
        said = self.plan.classifiers[prompts].warnings
        same = {"prompts": prompts, **self.plan.labels(threat), **({"warnings": list(said)} if said else {})}
        for row, (image, fields) in enumerate(opened):
            head = {**fields, **same, "clean_prediction": int(clean[row])}
            if fields["sample_id"] in broken and bool(clean[row] == labels[row]):
                earlier = broken[fields["sample_id"]]
                taken = {name: earlier[name] for name in _MEASURED}
                at = earlier.get("broken_at", earlier["eps"])
                records.append({**head, **taken, "broken_at": at, "seconds": 0.0})
                continue
            records.append(
                {
                    **head,
                    "prediction": int(answers[row]),
                    **distances(shown[row], images[row]),
                    "rounded_prediction": int(coarse[row]),
                    "rounded_linf": distances(rounded[row], images[row])["linf"],
                    "broken_by": by[row],
                    "seconds": round(share if bool(active[row]) else 0.0, 4),
                }
            )
            if fields["sample_id"] in self.first and kept(self.images, fields) and bool(active[row]):
                self._keep(image, shown[row], f"{fields['sample_id']}|{prompts}|{threat.epsilon:g}")
        return records

    def _keep(self, image: Tensor, attacked: Tensor, name: str) -> None:
        change = (0.5 + _AMPLIFIED * (attacked.cpu() - image)).clamp(0, 1)
        with self.lock:
            keep_picture(attacked, self.writer.path / "images" / "attacked", name)
            keep_picture(change, self.writer.path / "images" / "change", name)

    def _checked(self, prompts: str) -> bool:
        return any(check["prompts"] == prompts for check in self.writer.info.get("checks", ()))

    def _check(self, prompts: str) -> None:
        """The self-checks of one prompt set, on the first images that it answers rightly."""
        if self._too_late():
            return
        found = self._self_checks(prompts)
        with self.lock:
            earlier = list(self.writer.info.get("checks", ()))
            self.writer.save(checks=[*earlier, *({"prompts": prompts, **vars(check)} for check in found)])
            self.advance()

    def _self_checks(self, prompts: str) -> list[Check]:
        own = [record for record in self.writer.done.values() if record["prompts"] == prompts]
        right = {record["sample_id"] for record in own if record["clean_prediction"] == record["label"]}
        chosen = [example for example in self.plan.data.examples if example.id in right][: self.plan.together]
        if not chosen:
            return [Check("there are images to check", "skipped", "no image is answered rightly without attack")]
        threat = _telling(self.plan.threats, own, right)
        device = self.plan.encoder.device
        held = [self.writer.done[self.plan.key(example.id, prompts, threat)] for example in chosen]
        others = [self._model(name) for name in self.plan.classifiers if name != prompts]
        return SelfChecks(
            model=self._model(prompts),
            source=others[0] if others else None,
            images=torch.stack([self.plan.open(example)[0] for example in chosen]).to(device),
            labels=torch.tensor([example.label for example in chosen], device=device),
            threat=threat,
            held=torch.tensor([record["prediction"] == record["label"] for record in held], device=device),
            seed=self.plan.seed,
            samples=[example.id for example in chosen],
        ).run()


def _telling(threats: Sequence[Threat], records: Sequence[Record], right: Collection[str]) -> Threat:
    """The budget at which about half of the images hold: where all or none do, strengths cannot be told apart."""

    def unlike_half(threat: Threat) -> float:
        at = [record for record in records if record["eps"] == threat.epsilon and record["sample_id"] in right]
        return abs(float(np.mean([record["prediction"] == record["label"] for record in at])) - 0.5)

    return min(threats, key=unlike_half)


def without_later(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without settings that attacks got later, where they are off: what was begun before goes on."""
    return {name: value for name, value in settings.items() if (name, value) != ("stop", False)}


_MEASURED = ("prediction", "linf", "l2", "l1", "rounded_prediction", "rounded_linf", "broken_by")


def _stages(
    chosen: AttackPlan, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random
) -> Iterator[tuple[str, Tensor]]:
    """The attack's images; of an ensemble those so far after each member, with its name."""
    stages = getattr(chosen.attack, "stages", None)
    if stages is None:
        yield chosen.name, chosen.attack(model, images, labels, threat, random)
    else:
        yield from stages(model, images, labels, threat, random)


def allowed(stage: str, attacked: Tensor, clean: Tensor, threat: Threat) -> Tensor:
    """The attacked images, if the threat allows every one of them.

    Raises:
        RunError: if not; the numbers would be those of another threat.
    """
    if attacked.shape != clean.shape or not bool(threat.allows(attacked, clean).all()):
        worst = float(length((attacked - clean).double(), threat.norm).max()) if attacked.shape == clean.shape else None
        raise RunError(
            f"attack {stage!r} left its budget: {threat.norm} {threat.epsilon:g} inside [0, 1] was allowed, "
            f"the largest distance is {worst}"
        )
    return attacked.detach()


def _answers(model: Model, images: Tensor, name: str) -> Tensor:
    """The class (batch,) of each image.

    Raises:
        RunError: if a logit is not finite.
    """
    with torch.no_grad():
        logits = model(images)
    if not bool(torch.isfinite(logits).all()):
        raise RunError(f"{name} gave nan or infinity for an image; nothing can be said of its robustness")
    return logits.argmax(dim=1)


def distances(attacked: Tensor, clean: Tensor) -> dict[str, float]:
    """Length of the change of one image in each norm, in float64."""
    change = (attacked.double() - clean.double())[None]
    norms: tuple[Norm, ...] = ("linf", "l2", "l1")
    return {norm: round(float(length(change, norm)[0]), 9) for norm in norms}
