"""`certify` and `predict`: from a model and labelled images to one record per (image, prompt set, sigma)."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from titer.certify import CERTIFIERS, Predict
from titer.data.example import Data
from titer.errors import unknown
from titer.evaluate.plan import Certifier, Plan, plan
from titer.evaluate.running import NEVER, Deadline
from titer.evaluate.session import execute
from titer.evaluate.subject import load_subject
from titer.models.encoder import Encoder
from titer.results.store import Run, recorded_seed


def certify(
    model: str | Encoder,
    data: str | Path | Data,
    *,
    sigma: float | Sequence[float],
    out: str | Path,
    certifier: str | Certifier = "anytime",
    seed: int | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    images: bool | None = None,
    command: str | None = None,
    deadline: Deadline = NEVER,
    **options: Any,
) -> Run:
    """Certify every image of a data set by randomized smoothing.

    With probability at least 1 - alpha per image over the draws, no certified L2 radius (in [0, 1] pixels at the model's
    input size) is larger than the true one of the smoothed classifier.

    Args:
        model: a model's name, or an encoder.
        data: a data set's name or directory, or a loaded one.
        sigma: standard deviations of the noise, in [0, 1] pixel units.
        out: the run directory. The same call goes on where an earlier one stopped.
        certifier: a certifier, or the name of one, whose settings (``n0``, ``n``, ``alpha``, ``radii``, ...) are options.
        seed: of the noise; a fresh one of the operating system unless given, the recorded one on resume.
        workers: threads; one per core unless given. Changes no number.
        batch_size: most draws in flight; found by itself unless given. Changes no number.
        images: keep thumbnails for the report; unless given, all but those of DICOM files.
        command: what run.json says the run was started by.
        deadline: after which no image is begun.
        options: settings of the certifier, and what ``plan`` takes (``prompts``, ``split``, ``limit``, ``joint``, ...).

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no image could be certified.
        TimeIsUpError: if the deadline passed before all was done.
    """
    chosen = plan_certify(model, data, sigma=sigma, out=out, certifier=certifier, seed=seed, **options)
    return execute(
        chosen, out, workers=workers, batch_size=batch_size, images=images, command=command, deadline=deadline
    )


def plan_certify(
    model: str | Encoder,
    data: str | Path | Data,
    *,
    sigma: float | Sequence[float],
    out: str | Path,
    certifier: str | Certifier = "anytime",
    seed: int | None = None,
    **options: Any,
) -> Plan:
    """The plan of a ``certify`` with these arguments: everything loaded and checked, nothing drawn."""
    settings, shared = split_options(certifier, options)
    method = CERTIFIERS.build(certifier, **settings) if isinstance(certifier, str) else certifier
    return plan("certify", method, model, data, sigma=sigma, seed=seed_for(out, seed), **shared)


def predict(
    model: str | Encoder,
    data: str | Path | Data,
    *,
    sigma: float | Sequence[float],
    out: str | Path,
    seed: int | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    images: bool | None = None,
    command: str | None = None,
    **options: Any,
) -> Run:
    """What the smoothed classifier answers for every image, or -1: what a deployed system would call.

    With probability at least 1 - alpha per image the answer is -1 or the smoothed classifier's own.

    Args:
        model, data, sigma, out, seed, workers, batch_size, images, command: as for ``certify``.
        options: ``n``, ``alpha``, and what ``plan`` takes.

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no image could be predicted.
    """
    settings = {name: options.pop(name) for name in ("n", "alpha") if name in options}
    chosen = plan("predict", Predict(**settings), model, data, sigma=sigma, seed=seed_for(out, seed), **options)
    return execute(chosen, out, workers=workers, batch_size=batch_size, images=images, command=command)


def split_options(certifier: str | Certifier, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the certifier, and those of the plan.

    Raises:
        InputError: for an option that neither has; the nearest one is offered.
    """
    method = CERTIFIERS[certifier] if isinstance(certifier, str) else type(certifier)
    own = {field.name for field in dataclasses.fields(method)}
    shared = {name for taker in (plan, load_subject) for name in inspect.signature(taker).parameters} - {"subject"}
    for name in options:
        if name not in own | shared:
            raise unknown("option", name, own | shared)
    settings = {name: value for name, value in options.items() if name in own}
    return settings, {name: value for name, value in options.items() if name not in own}


def seed_for(out: str | Path, seed: int | None) -> int | None:
    """The seed asked for, else the one recorded in the run directory, else none."""
    return recorded_seed(Path(out)) if seed is None else seed
