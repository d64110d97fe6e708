"""A run before its first draw: everything is loaded and checked here, and nothing drawn."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from titer.certify import CERTIFIERS, Anytime, Gaussian, Predict
from titer.certify.settings import check_sigma
from titer.data import load_data
from titer.data.example import Data, Example
from titer.data.fingerprint import digest
from titer.defenses.adapter import load_classifier
from titer.errors import InputError, unknown
from titer.evaluate.machine import program, reuse_buffers, versions
from titer.evaluate.voting import Voting, guarantees
from titer.models import load_model
from titer.models.classifier import Classifier, zero_shot
from titer.models.encoder import Encoder
from titer.noise import BLOCK, tail_gap
from titer.registry import settings_of
from titer.results.store import SCHEMA, Key, key_of

Certifier = Anytime | Gaussian
Method = Certifier | Predict
Verb = Literal["certify", "predict"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A run before its first draw: everything that decides its records.

    Args:
        verb: ``certify`` or ``predict``.
        method: the certifier.
        encoder: the dual encoder.
        data: labelled images.
        votings: prompt sets by name, with the guarantee that each one's certificates have.
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
    votings: Mapping[str, Voting]
    sigmas: tuple[float, ...]
    channels: int
    joint: bool
    seed: int
    by: tuple[str, ...]

    @property
    def statements(self) -> int:
        """Number of statements the run will make, failures included."""
        return len(self.data.examples) * len(self.votings) * len(self.sigmas)

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

    def fingerprints(self) -> dict[str, str]:
        """Of each prompt set: its own, and its encoder's where it is another one than the model's."""
        found = {}
        for name, voting in self.votings.items():
            classifier = voting.classifier
            own = classifier.encoder.fingerprint
            found[name] = classifier.fingerprint + (f"+{own}" if own != self.encoder.fingerprint else "")
        return found

    def warnings(self, prompts: str, sigma: float) -> list[str]:
        """What a record of this prompt set at this noise should say about it."""
        classifier = self.votings[prompts].classifier
        said = list(classifier.warnings)
        if classifier.sigmas is not None and not classifier.sigmas[0] <= sigma <= classifier.sigmas[1]:
            low, high = classifier.sigmas
            said.append(f"fitted for sigma {low:g} to {high:g}, certified at {sigma:g}")
        return said

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""
        return {
            "certifier": certifier_name(self.method),
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
            "prompts": self.fingerprints(),
            "guarantees": {name: voting.guarantee for name, voting in self.votings.items()},
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
            "prompts": self.fingerprints(),
            "data": {"name": self.data.name, "split": self.data.split, "limit": self.data.limit},
            "classes": [{"label": text.label, "texts": list(text.texts)} for text in self.data.classes],
            "samples": {"expected": len(self.data.examples), "done": 0, "failed": 0},
            "seconds": 0.0,
        }


def certifier_name(method: Method) -> str:
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
    guarantee: str | Mapping[str, str] | None = None,
    noise_channels: int = 3,
    by: Sequence[str] = (),
    new_classes: bool = False,
    allow: Sequence[str] = (),
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
        prompts: ``zero-shot`` and directories written by ``fit``, or classifiers by name.
        templates: texts with ``{}`` for the class's words; each is one more prompt set, named by the text.
        split: which split of the data set.
        limit: how many images, class-balanced.
        seed: of the noise; a fresh one of the operating system unless given.
        joint: share alpha among all statements of the run, so that all hold together.
        guarantee: what the certificates of prompt sets that adapt to the image should say (docs/guarantees.md); for all
            of them, or by name.
        noise_channels: 1 draws once and replicates, for one-channel pictures.
        by: columns of the table that records carry.
        new_classes: let learned prompts that are not bound to their classes move to other ones.
        allow: ``overlap`` accepts images that a prompt set was fitted on.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        dtype: ``float32`` or ``bfloat16``.

    Raises:
        InputError: for whatever is wrong with the input.
        GuaranteeError: if a prompt set needs another guarantee than the one named.
    """
    reuse_buffers()
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
    number = secrets.randbits(63) if seed is None else seed
    classifiers = _classifiers(encoder, examples, prompts, templates, new_classes, allow)
    votings = {
        name: Voting(classifiers[name], says, number, noise_channels)
        for name, says in guarantees(classifiers, guarantee).items()
    }
    chosen = Plan(
        verb=verb,
        method=method,
        encoder=encoder,
        data=examples,
        votings=votings,
        sigmas=tuple(float(value) for value in sigmas),
        channels=noise_channels,
        joint=joint,
        seed=number,
        by=tuple(by),
    )
    check_draws(method, chosen.alpha)
    return chosen


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


def _check_columns(data: Data, by: Sequence[str]) -> None:
    for column in by:
        if column not in data.columns:
            raise unknown("column", column, data.columns)


def check_draws(method: Method, alpha: float) -> None:
    """Refuse counts that can never answer, before anything is drawn.

    Args:
        method: the certifier.
        alpha: what each statement may spend.

    Raises:
        InputError: saying how many draws are needed.
    """
    fewest = method.fewest_draws(alpha)
    if method.n < fewest:
        raise InputError(
            f"n = {method.n} can never give an answer at alpha {alpha:g}: even if all votes agree, "
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
