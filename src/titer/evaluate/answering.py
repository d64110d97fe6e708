"""Answers to questions under attack: one record for each (question, prompt set, epsilon).

As everywhere, an attack only proposes. Distances are measured here, and what counts is what the answerer says to the
image and the question that came back.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from titer.attacks import ATTACKS, Attack, Norm, Random, Threat
from titer.attacks.attack import ascend
from titer.attacks.pairs import PAIR_ATTACKS, build_pair_attack, recorded_settings
from titer.attacks.questions import QuestionAttack, attack_questions, check_attack
from titer.attacks.threat import rising
from titer.attacks.words import Swapped, cut
from titer.data import load_data
from titer.data.example import Data, Example
from titer.data.fingerprint import digest
from titer.data.questions import Question, question_of, questions_of, with_answers
from titer.defenses.adapter import load_answerer
from titer.errors import InputError, PictureError, RunError, unknown
from titer.evaluate.attacking import allowed, check_task, distances, without_later
from titer.evaluate.machine import default_workers, reuse_buffers
from titer.evaluate.running import Crew, conclude, running
from titer.evaluate.smoothing import seed_for
from titer.evaluate.subject import Subject, keep_picture, kept
from titer.features.stream import threads
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.models.fusion import Answerer
from titer.progress import progress
from titer.registry import settings_of
from titer.results.answered import SUCCESS, VERB
from titer.results.store import Key, Record, Run, RunWriter, key_of, read_run

_SHOWN = 12  # questions of which attacked pictures are kept


@dataclass(frozen=True, eq=False, kw_only=True)
class AnswerPlan(Subject):
    """A run before its first step: everything that decides its records.

    Args:
        name: the attack's registered name.
        attack: with its settings; of images, or of images and questions.
        threats: one norm, rising budgets.
        answerers: prompt sets by name, all with the data's classes as their answers.
    """

    name: str
    attack: Attack | QuestionAttack
    threats: tuple[Threat, ...]
    answerers: Mapping[str, Answerer]

    @property
    def together(self) -> int:
        """Images attacked together. Fixed, so that no record depends on how the work was spread."""
        return 16 if self.encoder.device.type == "cpu" else 64

    def fingerprints(self) -> dict[str, str]:
        """Of each prompt set."""
        return {name: answerer.fingerprint for name, answerer in self.answerers.items()}

    def chunks(self) -> list[list[Example]]:
        """The rows in parts of one question each, so that an attack may look at any of a part's images."""
        rows: dict[str, list[Example]] = {}
        for example in self.data.examples:
            question = question_of(example)
            rows.setdefault("" if question is None else question.text, []).append(example)
        return [own[at : at + self.together] for own in rows.values() for at in range(0, len(own), self.together)]

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""
        of_words = isinstance(self.attack, QuestionAttack)
        return {
            "attack": self.name,
            **(recorded_settings(self.attack) if isinstance(self.attack, QuestionAttack) else settings_of(self.attack)),
            "words": of_words and self.attack.halves != "image",  # type: ignore[union-attr]
            "norm": self.threats[0].norm,
            "eps": [threat.epsilon for threat in self.threats],
            "by": list(self.by),
        }

    def identity(self) -> dict[str, Any]:
        """All that changes a number."""
        settings = without_later({name: value for name, value in self.settings().items() if name != "by"})
        asked = digest([f"{row.path}\x00{question_of(row)}" for row in self.data.examples])
        return {**self.who(), "questions": asked, "verb": VERB, "settings": settings, "together": self.together}

    def labels(self, prompts: str, threat: Threat) -> dict[str, Any]:
        """The fields that name prompt set, attack and threat."""
        return {"prompts": prompts, "attack": self.name, "norm": threat.norm, "eps": threat.epsilon}

    def key(self, sample: str, prompts: str, threat: Threat) -> Key:
        """The key of the record that this attack will have."""
        return key_of({"sample_id": sample, **self.labels(prompts, threat)})


def attack_answers(
    model: str | Encoder,
    data: str | Path | Data,
    name: str = "pgd",
    *,
    prompts: Sequence[str],
    out: str | Path,
    norm: Norm = "linf",
    eps: float | Sequence[float] = 1 / 255,
    settings: dict[str, Any] | None = None,
    seed: int | None = None,
    workers: int | None = None,
    images: bool | None = None,
    command: str | None = None,
    **subject: Any,
) -> Run:
    """Attack every question that is answered rightly: its image, its words, or both.

    Args:
        model: a model's name, or an encoder.
        data: a data set's name or directory, or a loaded one, with questions.
        name: an attack of images (``pgd``, ...), or ``sep``, ``co-attack``, ``sga``, which also swap words of the question.
        prompts: directories that ``titer fit fusion`` wrote, all with the same answers.
        out: the run directory. The same call goes on where an earlier one stopped.
        norm: ``linf``, ``l2`` or ``l1``.
        eps: budgets of the images in [0, 1] pixels.
        settings: of the attack.
        seed: of its randomness; 0 unless given.
        workers: threads; one per core unless given. Changes no number.
        images: keep thumbnails of the first images; unless given, not those of DICOM files.
        command: what run.json says the run was started by.
        subject: what else ``plan_answers`` takes (``split``, ``limit``, ...).

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no question could be asked, or an attack left its budget.
    """
    recorded = seed_for(out, seed)
    chosen = plan_answers(
        model, data, name, prompts=prompts, norm=norm, eps=eps, settings=settings, seed=recorded or 0, **subject
    )
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}")
    started = shlex.join(["python", *sys.argv]) if command is None else command
    info = {**chosen.info_of(VERB, chosen.settings(), started), "success": dict(SUCCESS)}
    with RunWriter(Path(out), chosen.identity(), info) as writer:
        _Session(chosen, writer, images).run(workers or default_workers(chosen.encoder.device))
    return read_run(out)


def plan_answers(
    model: str | Encoder,
    data: str | Path | Data,
    name: str,
    *,
    prompts: Sequence[str],
    norm: Norm = "linf",
    eps: float | Sequence[float] = 1 / 255,
    settings: dict[str, Any] | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    by: Sequence[str] = (),
    allow: Sequence[str] = (),
    device: str | None = None,
    dtype: str = "float32",
) -> AnswerPlan:
    """The plan of an ``attack_answers`` with these arguments: everything loaded and checked, nothing attacked.

    Args:
        split, limit: of the data set; ``limit`` counts questions.
        by: columns of the table that records carry.
        allow: ``overlap`` accepts pictures and groups that a prompt set was fitted on.
        device, dtype: of the model.
    """
    reuse_buffers()
    if seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed}")
    attack = _built(name, settings or {})
    threats = rising(norm, eps)
    if norm not in attack.norms:
        raise InputError(f"attack {name!r}: expected a norm of {', '.join(attack.norms)}, got {norm!r}")
    rows = data if isinstance(data, Data) else load_data(data, split=split, limit=limit)
    for column in by:
        if column not in rows.columns:
            raise unknown("column", column, rows.columns)
    questions = questions_of(rows.examples, rows.name)
    encoder = model if isinstance(model, Encoder) else load_model(model, device=device, dtype=dtype)
    answerers = _answerers(encoder, rows, prompts, allow)
    labelled = with_answers(rows, next(iter(answerers.values())).answers)
    if all(example.label is None for example in labelled.examples):
        raise InputError(
            f"none of the answers to the {len(questions)} questions of {rows.name} is one that {', '.join(answerers)} was "
            "fitted on; expected questions of the same kind"
        )
    if not isinstance(attack, QuestionAttack):
        check_task(name, attack, labelled)
        for prompts_name, answerer in answerers.items():
            _check_gradient(name, attack, prompts_name, answerer)
    return AnswerPlan(
        encoder=encoder, data=labelled, classifiers={}, seed=seed, by=tuple(by),
        name=name, attack=attack, threats=threats, answerers=answerers,
    )  # fmt: skip


def _built(name: str, settings: dict[str, Any]) -> Attack | QuestionAttack:
    if name not in PAIR_ATTACKS:
        if getattr(ATTACKS[name], "of_features", False):
            raise InputError(f"attack {name!r} is of image features alone, and a question has a part in an answer")
        return ATTACKS.build(name, **settings)
    found = check_attack(name, build_pair_attack(name, **settings))
    found.swap.source.fingerprint()  # a table that cannot be read is told before the encoder is loaded
    return found


def _answerers(encoder: Encoder, data: Data, prompts: Sequence[str], allow: Sequence[str]) -> dict[str, Answerer]:
    found: dict[str, Answerer] = {}
    for path in map(Path, prompts):
        answerer = load_answerer(path, encoder, data, allow=allow)
        if answerer.name in found:
            raise InputError(f"two prompt sets are named {answerer.name!r}; give each one once")
        first = next(iter(found.values()), answerer)
        if first.answers != answerer.answers:
            raise InputError(
                f"{first.name} knows {len(first.answers)} answers and {answerer.name} {len(answerer.answers)}, not the same; "
                "expected prompt sets that were fitted on the same questions, or a run for each"
            )
        found[answerer.name] = answerer
    return found


def _check_gradient(name: str, attack: Attack, prompts: str, answerer: Answerer) -> None:
    if not attack.needs_gradient:
        return
    size = answerer.encoder.size
    try:
        ascend(answerer.asking(["?"]), torch.full((1, 3, size, size), 0.5), lambda logits: logits.amax(dim=1))
    except InputError as error:
        raise InputError(f"prompt set {prompts!r}, attack {name!r}: {error}") from error


@dataclass(frozen=True, eq=False)
class _Opened:
    """A question ready to be attacked: its image, what its record starts with, and its words as the text tower takes them."""

    image: Tensor
    fields: Record
    question: Question
    text: str


class _Session:
    """One process's work on a run: chunks of questions out, records in."""

    def __init__(self, chosen: AnswerPlan, writer: RunWriter, images: bool | None) -> None:
        self.plan = chosen
        self.writer = writer
        self.images = images
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()
        self.crew = Crew()
        self.first = {example.id for example in chosen.data.examples[:_SHOWN]}

    def run(self, workers: int) -> None:
        left = [
            (chunk, prompts, threat)
            for chunk in self.plan.chunks()
            for prompts in self.plan.answerers
            for threat in self.plan.threats
            if self._missing(chunk, prompts, threat)
        ]
        total = len(self.plan.data.examples)
        if not left:
            conclude(self.writer, "done", total, {})
            return
        steps = sum(self._missing(*part) for part in left)
        with running(self.writer, total, self.failed), threads(1), progress("attack", steps) as self.advance:
            self.crew.spread(workers, [partial(self._attack, *part) for part in left])

    def _missing(self, chunk: Sequence[Example], prompts: str, threat: Threat) -> int:
        return sum(self.plan.key(example.id, prompts, threat) not in self.writer.done for example in chunk)

    def _attack(self, chunk: Sequence[Example], prompts: str, threat: Threat) -> None:
        """One chunk at one budget. All of it is attacked even if some is done: a batch's size may change the last bit."""
        opened = list(self._opened(chunk))
        if not opened:
            return
        began = time.perf_counter()
        answerer = self._watched(prompts)
        device = answerer.encoder.device
        clean = torch.stack([one.image for one in opened]).to(device)
        texts = [one.text for one in opened]
        labels = torch.tensor(
            [-1 if one.fields["label"] is None else one.fields["label"] for one in opened], device=device
        )
        before = _answers(answerer, clean, texts)
        shown, asked = self._moved(answerer, threat, opened, clean, labels, before == labels)
        after = _answers(answerer, shown, [one.text for one in asked])
        rounded = (shown * 255).round() / 255
        coarse = _answers(answerer, rounded, [one.text for one in asked])
        share = (time.perf_counter() - began) / len(opened)
        for row, one in enumerate(opened):
            record = {
                **one.fields,
                **self.plan.labels(prompts, threat),
                **_asked(one, asked[row], words=bool(self.plan.settings()["words"])),
                "prior": answerer.prior.get(one.question.text, answerer.commonest),
                "clean_prediction": int(before[row]),
                "prediction": int(after[row]),
                **distances(shown[row], clean[row]),
                "rounded_prediction": int(coarse[row]),
                "rounded_linf": distances(rounded[row], clean[row])["linf"],
                **({"warnings": list(answerer.warnings)} if answerer.warnings else {}),
                "seconds": round(share, 4),
            }
            self._keep(one, shown[row], prompts, threat)
            with self.lock:
                if key_of(record) not in self.writer.done:
                    self.writer.append(record)
                    self.advance()

    def _moved(
        self,
        answerer: Answerer,
        threat: Threat,
        opened: Sequence[_Opened],
        clean: Tensor,
        labels: Tensor,
        right: Tensor,
    ) -> tuple[Tensor, list[Swapped]]:
        """Images and questions after the attack; those that are answered wrongly already stay as they are."""
        shown, asked = clean.clone(), [Swapped(one.text) for one in opened]
        places = right.nonzero().flatten().tolist()
        if not places:
            return shown, asked
        plan, texts = self.plan, [opened[place].text for place in places]
        purpose = f"{plan.name}\x00{threat.norm}\x00{threat.epsilon:g}"
        random = Random(plan.seed, purpose, [opened[place].fields["sample_id"] for place in places])
        if isinstance(plan.attack, QuestionAttack):
            found = attack_questions(plan.attack, answerer, clean[right], texts, labels[right], threat, random)
            moved, swapped = found.images, [own[0] for own in found.texts]
            for place, one in zip(places, swapped, strict=True):
                asked[place] = one
        else:
            moved = plan.attack(answerer.asking(texts[:1]), clean[right], labels[right], threat, random)
        shown[right] = allowed(plan.name, moved, clean[right], threat)
        return shown, asked

    def _watched(self, prompts: str) -> Answerer:
        """The answerer, whose head ends the work of a worker after the crew was told to stop."""
        answerer = self.plan.answerers[prompts]
        return dataclasses.replace(answerer, head=self.crew.stoppable(answerer.head))

    def _opened(self, chunk: Sequence[Example]) -> Iterator[_Opened]:
        for example in chunk:
            try:
                question = question_of(example)
                if question is None:
                    raise PictureError("no question, or no answer to it")
                image, fields = self.plan.open(example)
                yield _Opened(image, fields, question, cut(self.plan.encoder, question.text))
            except PictureError as error:
                self._fail(example, str(error))

    def _fail(self, example: Example, error: str) -> None:
        with self.lock:
            if example.id not in self.failed:
                self.failed[example.id] = error
                self.writer.append({"sample_id": example.id, "path": example.path, "error": error})
            self.advance()

    def _keep(self, one: _Opened, attacked: Tensor, prompts: str, threat: Threat) -> None:
        sample = one.fields["sample_id"]
        if sample not in self.first or not kept(self.images, one.fields):
            return
        with self.lock:
            keep_picture(one.image, self.writer.path / "images", sample)
            keep_picture(attacked, self.writer.path / "images" / "attacked", f"{sample}|{prompts}|{threat.epsilon:g}")


def _asked(one: _Opened, swapped: Swapped, *, words: bool) -> Record:
    """What a record says of the question; what became of it only where the attack may swap words."""
    said: Record = {"question": one.text, "answer": one.question.answer, "kind": one.question.kind}
    if one.text != one.question.text:
        said["cut"] = True
    if words:
        said |= {"attacked": swapped.text, "changes": [dataclasses.asdict(change) for change in swapped.changes]}
    return said


def _answers(answerer: Answerer, images: Tensor, questions: Sequence[str]) -> Tensor:
    """The answer (batch,) to each.

    Raises:
        RunError: if a logit is not finite.
    """
    with torch.no_grad():
        logits = answerer.asking(questions)(images)
    if not bool(torch.isfinite(logits).all()):
        raise RunError(f"{answerer.name} gave nan or infinity for a question; nothing can be said of its robustness")
    return logits.argmax(dim=1)
