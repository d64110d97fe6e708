"""`fit`: from a model and a few images to a directory of learned prompts or heads."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from titer.data.example import Data
from titer.data.load import load_all
from titer.data.questions import question_of, questions_of, vocabulary, with_answers
from titer.data.shots import Selection, no_images, select
from titer.defenses import DEFENSES, QUESTION_DEFENSES, Defense, QuestionDefense, Task
from titer.defenses.adapter import SEVERAL_LABELS, build_defense, check_directory, facts_of, write_adapter
from titer.defenses.defense import needs_images, takes_several_labels
from titer.defenses.fit import collapse
from titer.errors import InputError
from titer.evaluate.machine import default_workers, reuse_buffers, versions
from titer.features.stream import threads
from titer.models import load_model
from titer.models.encoder import Encoder

UNLABELLED = 256
"""Images that a fit without labels takes at most."""


@dataclass(frozen=True)
class Fit:
    """What a fit did.

    Args:
        path: the adapter's directory.
        images: how many it used.
        left_out: images that the model was trained on, and that were therefore not taken.
        loss: mean loss of the last epoch; None where nothing was minimised.
        seconds: features included.
        warnings: a collapse, for instance.
    """

    path: Path
    images: int
    left_out: int
    loss: float | None
    seconds: float
    warnings: tuple[str, ...]


def fit(
    defense: str | Defense | QuestionDefense,
    model: str | Encoder,
    data: str | Path | Data,
    *,
    out: str | Path,
    shots: int | None = 16,
    seed: int = 0,
    split: str = "train",
    allow: Sequence[str] = (),
    cache: str | Path | None = None,
    device: str | None = None,
    command: str = "titer.fit",
    settings: Mapping[str, Any] | None = None,
) -> Fit:
    """Fit a defense and write what it learned; any ``--prompts`` can be such a directory.

    Args:
        defense: a defense, or the name of one.
        model: a model's name, or an encoder.
        data: a data set's name or directory, or a loaded one with all its splits.
        out: the directory to write.
        shots: images of each class; None for all. A fit without labels takes at most 256 images of any class,
            one on questions all of the split.
        seed: which shots, and everything random in the fit.
        split: where the images are taken from.
        allow: ``upstream`` takes images that the model was trained on; ``overlap`` accepts such as are in the test split;
            ``outside-paths`` takes a table whose paths lead out of its directory.
        cache: where noisy features are kept for other fits; in memory only unless given.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        command: what the adapter says it was made by.
        settings: of the defense, where it is given by name.

    Raises:
        InputError: for whatever is wrong with the input.
    """
    began = time.perf_counter()
    reuse_buffers()
    method = build_defense(defense, settings or {}) if isinstance(defense, str) else defense
    methods = {**DEFENSES, **QUESTION_DEFENSES}
    name = next(known for known in methods if methods[known] is type(method))
    check_directory(Path(out))
    if seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed}")
    encoder = model if isinstance(model, Encoder) else load_model(model, device=device)
    source = str(data) if isinstance(data, Path) else data
    if isinstance(method, QuestionDefense):
        chosen = _questions(source, seed, encoder, allow, split)
        shots, labelled = None, True
    else:
        chosen = _images(method, source, shots, seed, encoder, allow, split)
        labelled = method.needs_labels
    task = task_of(encoder, chosen, seed, labelled=labelled, cache=None if cache is None else Path(cache))
    with threads(1):
        fitted = method.fit(task)
    reason = collapse(fitted, len(chosen.data.classes))
    seconds = time.perf_counter() - began
    warnings = (*fitted.warnings, *(() if reason is None else (reason,)))
    write_adapter(
        Path(out),
        fitted.weights,
        {
            **facts_of(name, method, encoder, chosen.data.classes),
            **({} if chosen.data.exclusive else {SEVERAL_LABELS: True}),
            "data": {"name": chosen.data.name, "split": split if task.ids else None, "left_out": chosen.left_out},
            "shots": shots if labelled else None,
            "seed": seed,
            "allow": list(allow),
            "ids": list(task.ids),
            "sha256": list(chosen.digests),
            "groups": sorted({example.group for example in chosen.data.examples if example.group is not None}),
            "losses": [round(loss, 6) for loss in fitted.losses],
            "notes": fitted.notes,
            "warnings": list(warnings),
            "seconds": round(seconds, 3),
            "command": command,
            "versions": versions(),
        },
        fitted.foreign,
    )
    last = fitted.losses[-1] if fitted.losses else None
    return Fit(Path(out), len(task.ids), chosen.left_out, last, seconds, warnings)


def _images(
    method: Defense,
    source: str | Data,
    shots: int | None,
    seed: int,
    encoder: Encoder,
    allow: Sequence[str],
    split: str,
) -> Selection:
    if not needs_images(method):
        return no_images(source, allow)
    source = source if isinstance(source, Data) else load_all(source)
    if not source.exclusive and not takes_several_labels(method):
        able = ", ".join(known for known, kind in DEFENSES.items() if getattr(kind, "several_labels", False))
        raise InputError(f"{source.name} has several labels for an image; expected a head that learns them: {able}")
    return select(
        source,
        count=shots if method.needs_labels else UNLABELLED,
        seed=seed,
        upstream=encoder.upstream,
        allow=allow,
        split=split,
        labelled=method.needs_labels,
    )


def _questions(source: str | Data, seed: int, encoder: Encoder, allow: Sequence[str], split: str) -> Selection:
    """All rows of the split that have a question and its answer; the answers are the classes."""
    chosen = select(source, count=None, seed=seed, upstream=encoder.upstream, allow=allow, split=split, labelled=False)
    kept = [place for place, example in enumerate(chosen.data.examples) if question_of(example) is not None]
    answers = vocabulary(questions_of(chosen.data.examples, chosen.data.name))
    asked = replace(chosen.data, examples=tuple(chosen.data.examples[place] for place in kept))
    return replace(chosen, data=with_answers(asked, answers), digests=tuple(chosen.digests[place] for place in kept))


def task_of(
    encoder: Encoder, chosen: Selection, seed: int, *, labelled: bool = True, cache: Path | None = None
) -> Task:
    """What a defense learns from: the chosen images, read as they are needed.

    Raises:
        PictureError: from its ``image``, for a picture that cannot be read.
    """
    examples = chosen.data.examples

    def image(place: int) -> Tensor:
        return encoder.preprocess(chosen.data.read(examples[place]).pixels)

    return Task(
        encoder=encoder,
        classes=chosen.data.classes,
        ids=[example.id for example in examples],
        labels=_labels(chosen.data) if labelled else None,
        image=image,
        seed=seed,
        cache=cache,
        workers=default_workers(encoder.device),
        questions=[question.text for example in examples if (question := question_of(example)) is not None],
    )


def _labels(data: Data) -> Sequence[int] | Sequence[Sequence[float]]:
    """The class of each image, or of each finding whether it is there, with nan for what is not known."""
    if data.exclusive:
        return [example.label for example in data.examples if example.label is not None]
    return [[math.nan if there is None else float(there) for there in example.findings] for example in data.examples]
