"""Retrieval under attack: from a model and captioned images to one record per (image, epsilon).

As for classification, an attack only proposes. Distances are measured here, and what counts are the features that the
encoder gives for what came back. A record holds them, so that it depends on nothing but its own image and captions:
which image finds which caption is computed from the records (``titer.results.retrieval``).
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
from torch import Tensor

from titer.attacks import Norm, Random, Threat
from titer.attacks.pairs import PairAttack, build_pair_attack, recorded_settings
from titer.attacks.words import Swapped, cut, tokens
from titer.data import load_data
from titer.data.example import Data, Example
from titer.data.fingerprint import digest
from titer.errors import InputError, PictureError, RunError, unknown
from titer.evaluate.attacking import allowed, distances
from titer.evaluate.ladders import LadderPlan, LadderSession, threats_for
from titer.evaluate.machine import reuse_buffers, workers_for
from titer.evaluate.running import conclude
from titer.evaluate.smoothing import seed_for
from titer.evaluate.subject import keep_picture
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.results.retrieval import SUCCESS, packed
from titer.results.store import Record, Run, RunWriter, read_run


@dataclass(frozen=True)
class Captioned:
    """An image and its captions.

    Args:
        example: the image's first row.
        captions: (id of the row, caption) of each row of this image that has one.
    """

    example: Example
    captions: tuple[tuple[str, str], ...]


def images_of(examples: Sequence[Example]) -> list[Captioned]:
    """The images in order of their first row: rows of one path are one image with several captions."""
    rows: dict[str, list[Example]] = {}
    for example in examples:
        rows.setdefault(example.path, []).append(example)
    return [
        Captioned(own[0], tuple((row.id, row.caption) for row in own if row.caption is not None))
        for own in rows.values()
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class RetrievalPlan(LadderPlan):
    """A run of an attack of images and captions before its first step.

    Args:
        attack: with its settings.
    """

    attack: PairAttack

    verb: ClassVar[str] = "retrieval"
    chunk: ClassVar[tuple[int, int]] = (8, 32)

    def captioned(self) -> list[Captioned]:
        """The images in order of their first row, those without any caption included."""
        return images_of(self.data.examples)

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""
        return {"attack": self.name, **recorded_settings(self.attack), **self.budgets()}

    def identity(self) -> dict[str, Any]:
        """All that changes a number."""
        captions = digest([f"{row.path}\x00{row.caption or ''}" for row in self.data.examples])
        return {**super().identity(), "captions": captions}


def attack_pairs(
    model: str | Encoder,
    data: str | Path | Data,
    name: str = "sga",
    *,
    out: str | Path,
    norm: Norm = "linf",
    eps: float | Sequence[float] = 2 / 255,
    settings: dict[str, Any] | None = None,
    seed: int | None = None,
    workers: int | None = None,
    images: bool | None = None,
    command: str | None = None,
    **subject: Any,
) -> Run:
    """Attack every image and its captions, so that they no longer find each other.

    Args:
        model: a model's name, or an encoder.
        data: a data set's name or directory, or a loaded one, with captions. Labels are not used.
        name: the attack's registered name: ``sep``, ``co-attack``, ``sga``.
        out: the run directory. The same call goes on where an earlier one stopped.
        norm: ``linf``, ``l2`` or ``l1``.
        eps: budgets of the images in [0, 1] pixels.
        settings: of the attack; ``swap`` is a table of its own.
        seed: of its randomness; 0 unless given.
        workers: threads; one per core unless given. Changes no number.
        images: keep thumbnails of the first images; unless given, not those of DICOM files.
        command: what run.json says the run was started by.
        subject: what else ``plan_retrieval`` takes (``split``, ``limit``, ...).

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no image could be attacked, or an attack left its budget.
    """
    recorded = seed_for(out, seed)
    chosen = plan_retrieval(model, data, name, norm=norm, eps=eps, settings=settings, seed=recorded or 0, **subject)
    return execute(chosen, out, workers=workers, images=images, command=command)


def plan_retrieval(
    model: str | Encoder,
    data: str | Path | Data,
    name: str,
    *,
    norm: Norm = "linf",
    eps: float | Sequence[float] = 2 / 255,
    settings: dict[str, Any] | None = None,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    by: Sequence[str] = (),
    allow: Sequence[str] = (),
    device: str | None = None,
    dtype: str = "float32",
) -> RetrievalPlan:
    """The plan of an ``attack_pairs`` with these arguments: everything loaded and checked, nothing attacked.

    Args:
        split, limit: of the data set; ``limit`` counts the table's rows.
        by: columns of the table that records carry.
        allow: ``outside-paths`` takes a table whose paths lead out of its directory.
        device, dtype: of the model.
    """
    reuse_buffers()
    if seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed}")
    attack = build_pair_attack(name, **(settings or {}))
    attack.swap.source.fingerprint()  # a model or table that cannot be read is told before the encoder is loaded
    threats = threats_for(name, attack.norms, norm, eps)
    examples = data if isinstance(data, Data) else load_data(data, split=split, limit=limit, allow=allow)
    for column in by:
        if column not in examples.columns:
            raise unknown("column", column, examples.columns)
    _check_captions(examples)
    encoder = model if isinstance(model, Encoder) else load_model(model, device=device, dtype=dtype)
    return RetrievalPlan(
        encoder=encoder,
        data=examples,
        classifiers={},
        seed=seed,
        by=tuple(by),
        allow=tuple(allow),
        name=name,
        attack=attack,
        threats=threats,
    )


def _check_captions(data: Data) -> None:
    paths = {example.path for example in data.examples if example.caption is not None}
    if not paths:
        raise InputError(f"{data.name} has no captions in this split; retrieval needs a table with a column 'caption'")
    if len(paths) < 2:
        raise InputError(
            f"{data.name} has one captioned image in this split; retrieval needs two or more to tell apart"
        )


def execute(
    chosen: RetrievalPlan,
    out: str | Path,
    *,
    workers: int | None = None,
    images: bool | None = None,
    command: str | None = None,
) -> Run:
    """Carry a plan out, or go on with it.

    Raises:
        InputError: if the directory belongs to other settings or another process writes there.
        RunError: if no image could be attacked, an attack left its budget, or the disk is full.
    """
    crew = workers_for(chosen.encoder.device, workers)
    started = shlex.join(["python", *sys.argv]) if command is None else command
    info = chosen.info_of("retrieval", chosen.settings(), started)
    info["samples"]["expected"] = len(chosen.captioned())
    with RunWriter(Path(out), chosen.identity(), {**info, "success": dict(SUCCESS)}) as writer:
        _Session(chosen, writer, images).run(crew)
    return read_run(out)


@dataclass(frozen=True, eq=False)
class _Opened:
    """An image ready to be attacked: its pixels, what its record starts with, its captions as the text tower takes them."""

    image: Tensor
    fields: Record
    captions: list[Record]

    @property
    def texts(self) -> list[str]:
        return [caption["text"] for caption in self.captions]


class _Session(LadderSession):
    """Chunks of images out, records in."""

    def __init__(self, chosen: RetrievalPlan, writer: RunWriter, images: bool | None) -> None:
        self.plan = chosen
        self.pairs = chosen.captioned()
        super().__init__(writer, images, [pair.example.id for pair in self.pairs])
        self.encoder = dataclasses.replace(chosen.encoder, image_tower=self.crew.stoppable(chosen.encoder.image_tower))

    def run(self, workers: int) -> None:
        chunks = [self.pairs[at : at + self.plan.together] for at in range(0, len(self.pairs), self.plan.together)]
        left = [(chunk, threat) for chunk in chunks for threat in self.plan.threats if self._missing(chunk, threat)]
        if not left:
            conclude(self.writer, "done", len(self.pairs), {})
            return
        steps = sum(self._missing(chunk, threat) for chunk, threat in left)
        with self.work(steps):
            self.crew.spread(workers, [partial(self._attack, *part) for part in left])

    def _missing(self, chunk: Sequence[Captioned], threat: Threat) -> int:
        return self.missing(self.plan.key(pair.example.id, threat) for pair in chunk)

    def _attack(self, chunk: Sequence[Captioned], threat: Threat) -> None:
        """One chunk at one budget. All of it is attacked even if some is done: a batch's size may change the last bit."""
        opened = list(self._opened(chunk))
        if not opened:
            return
        began = time.perf_counter()
        clean = torch.stack([one.image for one in opened]).to(self.encoder.device)
        purpose = f"{self.plan.name}\x00{threat.norm}\x00{threat.epsilon:g}"
        random = Random(self.plan.seed, purpose, [one.fields["sample_id"] for one in opened])
        found = self.plan.attack(self.encoder, clean, [one.texts for one in opened], threat, random)
        images = allowed(self.plan.name, found.images, clean, threat)
        rounded = (images * 255).round() / 255
        sides = [self._features(side) for side in (clean, images, rounded)]
        share = (time.perf_counter() - began) / len(opened)
        for row, one in enumerate(opened):
            record = self._record(one, threat, found.texts[row], [side[row] for side in sides])
            record |= {
                **distances(images[row], clean[row]),
                "rounded_linf": distances(rounded[row], clean[row])["linf"],
                "seconds": round(share, 4),
            }
            self._keep(one, images[row], threat)
            self.add(record)

    def _record(self, one: _Opened, threat: Threat, swapped: Sequence[Swapped], sides: Sequence[Tensor]) -> Record:
        """What is known of an image and its captions, but for distances; sides are clean, attacked and rounded features."""
        attacked = [text.text for text in swapped]
        features = self._finite(self.encoder.encode_text([*one.texts, *attacked])).cpu()
        clean, after = features[: len(attacked)], features[len(attacked) :]
        shown, moved, coarse = (side.cpu() for side in sides)
        captions = [
            {
                **caption,
                "attacked": text.text,
                "changes": [dataclasses.asdict(change) for change in text.changes],
                "cosine": _cosine(clean[place], shown),
                "attacked_cosine": _cosine(after[place], moved),
                "rounded_cosine": _cosine(after[place], coarse),
                "features": packed(clean[place].numpy()),
                "attacked_features": packed(after[place].numpy()),
            }
            for place, (caption, text) in enumerate(zip(one.captions, swapped, strict=True))
        ]
        head = {**one.fields, **self.plan.labels(threat), "captions": captions}
        return {**head, "features": packed(shown.numpy()), "attacked_features": packed(moved.numpy())}

    def _features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self._finite(self.encoder.encode_image(images))

    def _finite(self, features: Tensor) -> Tensor:
        if not bool(torch.isfinite(features).all()):
            raise RunError(f"{self.encoder.name} gave nan or infinity; nothing can be said of what it finds")
        return features

    def _opened(self, chunk: Sequence[Captioned]) -> Iterator[_Opened]:
        for pair in chunk:
            try:
                if not pair.captions:
                    raise PictureError("no caption: retrieval needs one")
                captions = [_as_taken(self.encoder, sample, text) for sample, text in pair.captions]
                image, fields = self.plan.open(pair.example)
            except PictureError as error:
                self.fail(pair.example, str(error))
                continue
            yield _Opened(image, fields, captions)

    def _keep(self, one: _Opened, attacked: Tensor, threat: Threat) -> None:
        sample = one.fields["sample_id"]
        if not self.shows(one.fields):
            return
        with self.lock:
            keep_picture(one.image, self.writer.path / "images", sample)
            keep_picture(attacked, self.writer.path / "images" / "attacked", f"{sample}||{threat.epsilon:g}")


def _as_taken(encoder: Encoder, sample: str, text: str) -> Record:
    """A caption as the text tower takes it, and a note where that is not all of it."""
    taken = cut(encoder, text)
    note = {} if taken == text else {"cut": {"tokens": tokens(encoder, text), "taken": tokens(encoder, taken)}}
    return {"id": sample, "text": taken, **note}


def _cosine(text: Tensor, image: Tensor) -> float:
    return round(float(text @ image), 6)
