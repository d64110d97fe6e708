"""Who is judged and on what: a model, its prompt sets and the images, loaded and checked; what every run says of them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from titer.data import load_data
from titer.data.example import Data, Example, Picture
from titer.data.fingerprint import digest
from titer.data.load import check_allowances
from titer.data.questions import question_of
from titer.defenses.adapter import load_classifier
from titer.errors import InputError, unknown
from titer.evaluate.machine import program, reuse_buffers, versions
from titer.models import load_model
from titer.models.classifier import Classifier, zero_shot
from titer.models.encoder import Encoder
from titer.results.store import SCHEMA, Record, thumbnail_name

_THUMBNAIL = 128  # largest side of a kept picture, in pixels


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its prompt sets, and the images that it is judged on.

    Args:
        encoder: the dual encoder.
        data: labelled images.
        classifiers: prompt sets by name.
        seed: of all that is drawn.
        by: columns of the table that records carry.
        allow: refusals that were lifted.
    """

    encoder: Encoder
    data: Data
    classifiers: Mapping[str, Classifier]
    seed: int
    by: tuple[str, ...]
    allow: tuple[str, ...] = ()

    def fingerprints(self) -> dict[str, str]:
        """Of each prompt set: its own, and its encoder's where it is another one than the model's."""
        found = {}
        for name, classifier in self.classifiers.items():
            own = classifier.encoder.fingerprint
            found[name] = classifier.fingerprint + (f"+{own}" if own != self.encoder.fingerprint else "")
        return found

    def who(self) -> dict[str, Any]:
        """The part of a run's identity that names model, prompt sets, classes, images, seed and program."""
        return {
            "seed": self.seed,
            "model": self.encoder.fingerprint,
            "prompts": self.fingerprints(),
            "classes": [[text.label, *text.texts] for text in self.data.classes],
            "samples": digest([example.id for example in self.data.examples]),
            **({"altered": list(self.data.altered)} if self.data.altered else {}),
            "program": program(self.encoder.device, self.encoder.dtype),
        }

    def info_of(self, verb: str, settings: Mapping[str, Any], command: str) -> dict[str, Any]:
        """What run.json says before the first sample."""
        return {
            "schema": SCHEMA,
            "status": "running",
            "verb": verb,
            "command": command,
            "settings": {**settings, **({"allow": list(self.allow)} if self.allow else {})},
            "seed": self.seed,
            "versions": versions(),
            "device": self.encoder.device.type,
            "dtype": str(self.encoder.dtype).removeprefix("torch."),
            "model": {"name": self.encoder.name, "fingerprint": self.encoder.fingerprint, "size": self.encoder.size},
            "prompts": self.fingerprints(),
            "data": {"name": self.data.name, "split": self.data.split, "limit": self.data.limit},
            "classes": [{"label": text.label, "texts": list(text.texts)} for text in self.data.classes],
            "samples": {"expected": len(self.data.examples), "done": 0, "failed": 0},
            "seconds": 0.0,
        }

    def open(self, example: Example) -> tuple[Tensor, Record]:
        """An image (3, size, size) in [0, 1], and the fields that every record of it starts with.

        Raises:
            PictureError: if it cannot be read.
        """
        picture = self.data.read(example)
        return self.encoder.preprocess(picture.pixels), self.fields(example, picture)

    def fields(self, example: Example, picture: Picture) -> Record:
        """What every record of an image starts with."""
        fields: Record = {"sample_id": example.id, "path": example.path, "label": example.label}
        if example.group is not None:
            fields["group"] = example.group
        if self.by:
            fields["attributes"] = {column: example.attributes.get(column) for column in self.by}
        fields["sha256"] = picture.sha256
        if picture.decoded is not None:
            fields["decoded"] = picture.decoded
        return fields


def load_subject(
    model: str | Encoder,
    data: str | Path | Data,
    *,
    prompts: Sequence[str] | Mapping[str, Classifier] = ("zero-shot",),
    templates: Sequence[str] = (),
    split: str = "test",
    limit: int | None = None,
    seed: int | None = None,
    by: Sequence[str] = (),
    new_classes: bool = False,
    allow: Sequence[str] = (),
    device: str | None = None,
    dtype: str = "float32",
    findings: bool = False,
) -> Subject:
    """Load and check model, prompt sets and images.

    Args:
        model: a model's name, or an encoder.
        data: a data set's name or directory, or a loaded one (then ``split`` and ``limit`` are not used).
        prompts: ``zero-shot`` and directories written by ``fit``, or classifiers by name.
        templates: texts with ``{}`` for the class's words; each is one more prompt set, named by the text.
        split: which split of the data set.
        limit: how many images, class-balanced.
        seed: of all that is drawn; a fresh one of the operating system unless given.
        by: columns of the table that records carry.
        new_classes: let learned prompts that are not bound to their classes move to other ones.
        allow: ``overlap`` accepts images that a prompt set was fitted on, ``outside-paths`` a table that leads out of its
            directory.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        dtype: ``float32`` or ``bfloat16``.
        findings: whether images may have several labels; such data are judged by scores and never by the likeliest class.

    Raises:
        InputError: for whatever is wrong with the input.
    """
    reuse_buffers()
    check_allowances(allow)
    if seed is not None and seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed}")
    examples = data if isinstance(data, Data) else load_data(data, split=split, limit=limit, allow=allow)
    if not examples.classes:
        asked = any(question_of(example) is not None for example in examples.examples)
        raise InputError(
            f"{examples.name} has no labels, so there are no classes to tell apart; expected a column 'label'"
            + (", or --prompts of a `titer fit fusion` for its questions" if asked else "")
        )
    if examples.exclusive is findings:
        raise InputError(
            f"{examples.name} has {'one class' if findings else 'several labels'} for an image; expected "
            + (
                "multilabel:DATA"
                if findings
                else "titer attack pgd with --prompts of a `titer fit` on it, which judges scores"
            )
        )
    for column in by:
        if column not in examples.columns:
            raise unknown("column", column, examples.columns)
    encoder = model if isinstance(model, Encoder) else load_model(model, device=device, dtype=dtype)
    return Subject(
        encoder=encoder,
        data=examples,
        classifiers=_classifiers(encoder, examples, prompts, templates, new_classes, allow),
        seed=secrets.randbits(63) if seed is None else seed,
        by=tuple(by),
        allow=tuple(allow),
    )


def _classifiers(
    encoder: Encoder,
    data: Data,
    prompts: Sequence[str] | Mapping[str, Classifier],
    templates: Sequence[str],
    new_classes: bool,
    allow: Sequence[str],
) -> dict[str, Classifier]:
    if isinstance(prompts, Mapping):
        return dict(prompts)
    named = [(name if name == "zero-shot" else Path(name).resolve().name, name) for name in prompts]
    names = [*(short for short, _ in named), *templates]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"two prompt sets are named {repeated.pop()!r}; give each one once")
    found = {
        short: zero_shot(encoder, data.classes, name=short)
        if name == "zero-shot"
        else load_classifier(Path(name), encoder, data, new_classes=new_classes, allow=allow)
        for short, name in named
    }
    return found | {name: zero_shot(encoder, data.classes, name, name=name) for name in templates}


def kept(images: bool | None, fields: Record) -> bool:
    """Whether thumbnails of an image are kept: as asked; unasked, all but those of DICOM files, which may show whose they are."""
    return "decoded" not in fields if images is None else images


def keep_picture(image: Tensor, directory: Path, name: str) -> None:
    """Keep a small picture of an image (3, height, width) in [0, 1] below a run's ``images/``.

    Args:
        image: what it shows.
        directory: made if missing.
        name: what it is of, such as a sample's id; the file's name gives nothing of it away.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pixels = (image.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    picture.save(directory / thumbnail_name(name))
