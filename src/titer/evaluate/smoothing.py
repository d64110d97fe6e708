"""`certify` and `predict`: from a model and labelled images to one record per (image, prompt set, sigma)."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from titer.certify import CERTIFIERS, Anytime, Gaussian, Predict
from titer.certify.pool import Finished, Job, run_jobs
from titer.certify.settings import check_sigma
from titer.data import load_data
from titer.data.example import Data, Example, Picture
from titer.data.fingerprint import digest
from titer.errors import GuaranteeError, InputError, PictureError, RunError, unknown
from titer.evaluate.machine import default_workers, free_memory, peak_memory, program, versions
from titer.features.stream import Voter, one_channel, one_thread
from titer.models import load_model
from titer.models.classifier import Classifier, zero_shot
from titer.models.encoder import Encoder
from titer.noise import BLOCK, tail_gap
from titer.progress import progress
from titer.registry import settings_of
from titer.results.store import SCHEMA, Key, Record, Run, RunWriter, key_of, read_run, recorded_seed, thumbnail_name

Certifier = Anytime | Gaussian
Method = Certifier | Predict
Verb = Literal["certify", "predict"]

_THUMBNAIL = 128  # largest side of a kept picture, in pixels


@dataclass(frozen=True, eq=False)
class Plan:
    """A run before its first draw: everything that decides its records.

    Args:
        verb: ``certify`` or ``predict``.
        method: the certifier.
        encoder: the dual encoder.
        data: labelled images.
        classifiers: prompt sets by name, all on this encoder.
        sigmas: standard deviations of the noise, in [0, 1] pixel units.
        channels: 3, or 1 for noise drawn once and replicated over the channels.
        joint: share alpha among all certificates of the run, so that they hold together.
        seed: of the noise.
        by: columns of the table that records carry.
    """

    verb: Verb
    method: Method
    encoder: Encoder
    data: Data
    classifiers: Mapping[str, Classifier]
    sigmas: tuple[float, ...]
    channels: int
    joint: bool
    seed: int
    by: tuple[str, ...]

    @property
    def statements(self) -> int:
        """Number of statements the run will make, failures included."""
        return len(self.data.examples) * len(self.classifiers) * len(self.sigmas)

    @property
    def alpha(self) -> float:
        """What each statement may spend."""
        return self.method.alpha / self.statements if self.joint else self.method.alpha

    @property
    def gap(self) -> float:
        """How far any probability may be off because the sampler's tails end."""
        return tail_gap(self.channels * self.encoder.size**2)

    def key(self, example: Example, prompts: str, sigma: float) -> Key:
        """The key of the record that this statement will have."""
        return key_of({"sample_id": example.id, "prompts": prompts, "sigma": sigma})

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""
        return {
            "certifier": _name_of(self.method),
            **settings_of(self.method),
            "sigma": list(self.sigmas),
            "joint": self.joint,
            "noise_channels": self.channels,
            "by": list(self.by),
        }

    def identity(self) -> dict[str, Any]:
        """All that changes a number."""
        return {
            "verb": self.verb,
            "settings": {name: value for name, value in self.settings().items() if name != "by"},
            "seed": self.seed,
            "model": self.encoder.fingerprint,
            "prompts": {name: classifier.fingerprint for name, classifier in self.classifiers.items()},
            "classes": [[text.label, *text.texts] for text in self.data.classes],
            "samples": digest([example.id for example in self.data.examples]),
            "program": program(self.encoder.device, self.encoder.dtype),
            "block": BLOCK,
        }

    def info(self, command: str) -> dict[str, Any]:
        """What run.json says before the first draw."""
        return {
            "schema": SCHEMA,
            "status": "running",
            "verb": self.verb,
            "command": command,
            "settings": self.settings(),
            "seed": self.seed,
            "versions": versions(),
            "device": self.encoder.device.type,
            "dtype": str(self.encoder.dtype).removeprefix("torch."),
            "model": {"name": self.encoder.name, "fingerprint": self.encoder.fingerprint, "size": self.encoder.size},
            "prompts": {name: classifier.fingerprint for name, classifier in self.classifiers.items()},
            "data": {"name": self.data.name, "split": self.data.split, "limit": self.data.limit},
            "classes": [{"label": text.label, "texts": list(text.texts)} for text in self.data.classes],
            "samples": {"expected": len(self.data.examples), "done": 0, "failed": 0},
            "seconds": 0.0,
        }


def _name_of(method: Method) -> str:
    """The method's registered name."""
    return (
        "predict"
        if isinstance(method, Predict)
        else next(name for name in CERTIFIERS if CERTIFIERS[name] is type(method))
    )


def plan(
    verb: Verb,
    method: Method,
    model: str | Encoder,
    data: str | Path | Data,
    *,
    sigma: float | Sequence[float],
    prompts: Sequence[str] | Mapping[str, Classifier] = ("zero-shot",),
    templates: Sequence[str] = (),
    split: str = "test",
    limit: int | None = None,
    seed: int | None = None,
    joint: bool = False,
    guarantee: str | None = None,
    noise_channels: int = 3,
    by: Sequence[str] = (),
    device: str | None = None,
    dtype: str = "float32",
) -> Plan:
    """Load and check everything before the first draw.

    Args:
        verb: ``certify`` or ``predict``.
        method: the certifier.
        model: a model's name, or an encoder.
        data: a data set's name or directory, or a loaded one (then ``split`` and ``limit`` are not used).
        sigma: standard deviations of the noise, in [0, 1] pixel units.
        prompts: ``zero-shot``, or classifiers by name.
        templates: texts with ``{}`` for the class's words; each is one more prompt set, named by the text.
        split: which split of the data set.
        limit: how many images, class-balanced.
        seed: of the noise; a fresh one of the operating system unless given.
        joint: share alpha among all statements of the run, so that all hold together.
        guarantee: what the certificates should say (docs/guarantees.md).
        noise_channels: 1 draws once and replicates, for one-channel pictures.
        by: columns of the table that records carry.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        dtype: ``float32`` or ``bfloat16``.

    Raises:
        InputError: for whatever is wrong with the input.
        GuaranteeError: if a prompt set needs another guarantee than the one named.
    """
    sigmas = (sigma,) if isinstance(sigma, int | float) else tuple(sigma)
    for value in sigmas:
        check_sigma(value)
    if not sigmas or len(set(sigmas)) != len(sigmas):
        raise InputError(f"sigma: expected one or more different values, got {list(sigmas)}")
    if noise_channels not in (1, 3):
        raise InputError(f"noise channels: expected 3, or 1 for one-channel pictures, got {noise_channels}")
    if seed is not None and seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed}")
    examples = data if isinstance(data, Data) else load_data(data, split=split, limit=limit)
    if not examples.classes:
        raise InputError(
            f"{examples.name} has no labels, so there are no classes to tell apart; expected a column 'label'"
        )
    _check_columns(examples, by)
    encoder = model if isinstance(model, Encoder) else load_model(model, device=device, dtype=dtype)
    chosen = Plan(
        verb=verb,
        method=method,
        encoder=encoder,
        data=examples,
        classifiers=_classifiers(encoder, examples, prompts, templates),
        sigmas=tuple(float(value) for value in sigmas),
        channels=noise_channels,
        joint=joint,
        seed=secrets.randbits(63) if seed is None else seed,
        by=tuple(by),
    )
    _check_guarantee(chosen.classifiers, guarantee)
    _check_draws(chosen)
    return chosen


def _classifiers(
    encoder: Encoder, data: Data, prompts: Sequence[str] | Mapping[str, Classifier], templates: Sequence[str]
) -> dict[str, Classifier]:
    if isinstance(prompts, Mapping):
        return dict(prompts)
    for name in prompts:
        if name != "zero-shot":
            raise InputError(
                f"--prompts {name}: expected 'zero-shot'; learned prompts cannot be loaded by this version"
            )
    names = [*prompts, *templates]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"two prompt sets are named {repeated.pop()!r}; give each one once")
    zero = {name: zero_shot(encoder, data.classes, name=name) for name in prompts}
    return zero | {name: zero_shot(encoder, data.classes, name, name=name) for name in templates}


def _check_guarantee(classifiers: Mapping[str, Classifier], guarantee: str | None) -> None:
    allowed = ("fixed", "conditional", "per-draw", "product", "bank")
    if guarantee is not None and guarantee not in allowed:
        raise unknown("guarantee", guarantee, allowed)
    for name, classifier in classifiers.items():
        if classifier.adapts_to_input:
            raise GuaranteeError(
                f"prompt set {name!r} changes with the image it is shown, so a fixed-classifier certificate would claim "
                "more than is proven; it needs the guarantee conditional, per-draw or product"
            )


def _check_columns(data: Data, by: Sequence[str]) -> None:
    for column in by:
        if column not in data.columns:
            raise unknown("column", column, data.columns)


def _check_draws(chosen: Plan) -> None:
    """Refuse counts that can never answer, before anything is drawn."""
    method, fewest = chosen.method, chosen.method.fewest_draws(chosen.alpha)
    if method.n < fewest:
        raise InputError(
            f"n = {method.n} can never give an answer at alpha {chosen.alpha:g}: even if all votes agree, "
            f"at least {fewest} draws are needed"
        )


def unreachable(chosen: Plan) -> dict[float, list[float]]:
    """Per sigma, the radii asked for that ``n`` draws cannot prove; they will be left open."""
    method = chosen.method
    if not isinstance(method, Anytime) or method.tolerance is not None:
        return {}
    largest = {sigma: method.largest_radius(sigma, chosen.alpha) for sigma in chosen.sigmas}
    beyond = {sigma: [radius for radius in method.radii if radius > largest[sigma]] for sigma in chosen.sigmas}
    return {sigma: radii for sigma, radii in beyond.items() if radii}


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
    images: bool = True,
    command: str | None = None,
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
        images: keep thumbnails for the report.
        command: what run.json says the run was started by.
        options: settings of the certifier, and what ``plan`` takes (``prompts``, ``split``, ``limit``, ``joint``, ...).

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no image could be certified.
    """
    chosen = plan_certify(model, data, sigma=sigma, out=out, certifier=certifier, seed=seed, **options)
    return execute(chosen, out, workers=workers, batch_size=batch_size, images=images, command=command)


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
    images: bool = True,
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
    shared = set(inspect.signature(plan).parameters)
    for name in options:
        if name not in own | shared:
            raise unknown("option", name, own | shared)
    settings = {name: value for name, value in options.items() if name in own}
    return settings, {name: value for name, value in options.items() if name not in own}


def seed_for(out: str | Path, seed: int | None) -> int | None:
    """The seed asked for, else the one recorded in the run directory, else none."""
    return recorded_seed(Path(out)) if seed is None else seed


def execute(
    chosen: Plan,
    out: str | Path,
    *,
    workers: int | None = None,
    batch_size: int | None = None,
    images: bool = True,
    command: str | None = None,
) -> Run:
    """Carry a plan out, or go on with it.

    Raises:
        InputError: if the directory belongs to other settings or another process writes there.
        RunError: if no sample succeeded, or the disk is full.
    """
    for name, value in (("workers", workers), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
    started = " ".join(shlex.quote(word) for word in ("python", *sys.argv)) if command is None else command
    with RunWriter(Path(out), chosen.identity(), chosen.info(started)) as writer:
        session = _Session(chosen, writer, images)
        if session.complete:
            session.close("done")
        else:
            session.run(workers or affordable_workers(chosen), batch_size)
    return read_run(out)


def affordable_workers(chosen: Plan) -> int:
    """Workers, one per core but fewer where the blocks they hold would not fit into half the free memory."""
    wanted = default_workers(chosen.encoder.device)
    if chosen.encoder.device.type != "cpu":
        return wanted
    return max(1, min(wanted, int(free_memory() / 2 / max(1, probe(chosen).memory))))


@dataclass(frozen=True)
class Probe:
    """One block of draws through the encoder on one worker: seconds and bytes of memory that it took."""

    seconds: float
    memory: int

    def draws_per_second(self, workers: int) -> float:
        """Rate of so many workers, each on a core of its own."""
        return workers * BLOCK / self.seconds


def probe(chosen: Plan, blocks: int = 1) -> Probe:
    """Measure what a block of draws costs on one worker."""
    voter = Voter(chosen.encoder, tuple(chosen.classifiers.values()), seed=0, channels=chosen.channels)
    image = torch.zeros(3, chosen.encoder.size, chosen.encoder.size)
    before = peak_memory()
    with _threads(1):
        voter(image, "probe", chosen.sigmas[0], "show", 0)
        began = time.perf_counter()
        for block in range(blocks):
            voter(image, "probe", chosen.sigmas[0], "show", block)
    return Probe((time.perf_counter() - began) / blocks, max(peak_memory() - before, BLOCK * image.nbytes * 4))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Session:
    """One process's work on a run: jobs out, records in."""

    def __init__(self, chosen: Plan, writer: RunWriter, images: bool) -> None:
        self.plan = chosen
        self.writer = writer
        self.images = images
        self.failed: dict[str, str] = {}
        self.seen: dict[str, Record] = {}

    @property
    def complete(self) -> bool:
        return bool(self.writer.done) and not self.remaining()

    def remaining(self) -> int:
        """Statements still to be made."""
        keys = (self.plan.key(*parts) for parts in self._parts())
        return sum(key not in self.writer.done for key in keys)

    def _parts(self) -> Iterator[tuple[Example, str, float]]:
        for example in self.plan.data.examples:
            for sigma in self.plan.sigmas:
                for prompts in self.plan.classifiers:
                    yield example, prompts, sigma

    def run(self, workers: int, batch_size: int | None) -> None:
        in_flight = max(1, batch_size // BLOCK) if batch_size else 2 * workers + 2
        began = time.perf_counter() - float(self.writer.info["seconds"])
        status = "failed"
        try:
            self.writer.save(status="running")
            with _threads(1), progress(self.plan.verb, self.remaining()) as advance:
                self.advance = advance
                for finished in run_jobs(self._jobs(), workers, in_flight, one_thread):
                    self._record(finished)
            status = "done" if self.writer.done or not self.plan.data.examples else "failed"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            with contextlib.suppress(RunError):  # a full disk is told by the line that could not be written
                self.close(status, time.perf_counter() - began)
        if status == "failed":
            raise RunError(f"no sample succeeded; the first error: {next(iter(self.failed.values()))}")

    def close(self, status: str, seconds: float | None = None) -> None:
        """Say in run.json how the run stands."""
        done = len({key[0] for key in self.writer.done})
        counts = {"expected": len(self.plan.data.examples), "done": done, "failed": len(self.failed)}
        spent = self.writer.info["seconds"] if seconds is None else seconds
        self.writer.save(status=status, samples=counts, seconds=round(spent, 3))

    def _jobs(self) -> Iterator[Job]:
        """Jobs for all that is not done. Pictures are read as their turn comes; one that fails is recorded."""
        voter = Voter(self.plan.encoder, tuple(self.plan.classifiers.values()), self.plan.seed, self.plan.channels)
        for example in self.plan.data.examples:
            sigmas = [sigma for sigma in self.plan.sigmas if self._unfinished(example, sigma)]
            if not sigmas:
                continue
            try:
                image = self._open(example)
            except PictureError as error:
                self.failed[example.id] = str(error)
                self.writer.append({"sample_id": example.id, "path": example.path, "error": str(error)})
                for _ in range(len(sigmas) * len(self.plan.classifiers)):
                    self.advance()
                continue
            for sigma in sigmas:
                yield Job(
                    sample=example.id,
                    sigma=sigma,
                    vote=partial(voter, image, example.id, sigma),
                    procedures=[
                        self.plan.method.certify(sigma, self.plan.alpha, self.plan.gap) for _ in voter.classifiers
                    ],
                    classes=len(self.plan.data.classes),
                )

    def _unfinished(self, example: Example, sigma: float) -> bool:
        return any(self.plan.key(example, prompts, sigma) not in self.writer.done for prompts in self.plan.classifiers)

    def _open(self, example: Example) -> Tensor:
        picture = self.plan.data.read(example)
        image = self.plan.encoder.preprocess(picture.pixels)
        if self.plan.channels == 1:
            one_channel(image)
        if self.images:
            _keep_thumbnail(image, self.writer.path / "images" / thumbnail_name(example.id))
        self.seen[example.id] = self._common(example, picture)
        return image

    def _common(self, example: Example, picture: Picture) -> Record:
        fields: Record = {"sample_id": example.id, "path": example.path, "label": example.label}
        if example.group is not None:
            fields["group"] = example.group
        if self.plan.by:
            fields["attributes"] = {column: example.attributes.get(column) for column in self.plan.by}
        return {**fields, "sha256": picture.sha256}

    def _record(self, finished: Finished) -> None:
        prompts = list(self.plan.classifiers)[finished.place]
        record = {
            **self.seen[finished.job.sample],
            "prompts": prompts,
            **finished.statement.fields(),
            "channels": self.plan.channels,
            "seconds": round(finished.seconds, 4),
        }
        self.advance()
        if key_of(record) not in self.writer.done:
            self.writer.append(record)


def _keep_thumbnail(image: Tensor, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    picture.save(path)
