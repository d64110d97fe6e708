"""A run before its first draw: everything is loaded and checked here, and nothing drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from titer.certify import CERTIFIERS, Anytime, Gaussian, Predict
from titer.certify.settings import check_sigma
from titer.data.example import Data, Example, Picture
from titer.errors import InputError
from titer.evaluate.subject import Subject, load_subject
from titer.evaluate.voting import Voting, guarantees
from titer.models.encoder import Encoder
from titer.noise import BLOCK, tail_gap
from titer.registry import settings_of
from titer.results.store import Key, Record, key_of

Certifier = Anytime | Gaussian
Method = Certifier | Predict
Verb = Literal["certify", "predict"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan(Subject):
    """A run before its first draw: everything that decides its records.

    Args:
        verb: ``certify`` or ``predict``.
        method: the certifier.
        votings: prompt sets by name, with the guarantee that each one's certificates have.
        sigmas: standard deviations of the noise, in [0, 1] pixel units.
        channels: 3, or 1 for noise drawn once and replicated over the channels.
        joint: share alpha among all certificates of the run, so that they hold together.
    """

    verb: Verb
    method: Method
    votings: Mapping[str, Voting]
    sigmas: tuple[float, ...]
    channels: int
    joint: bool

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

    def warnings(self, prompts: str, sigma: float) -> list[str]:
        """What a record of this prompt set at this noise should say about it."""
        classifier = self.votings[prompts].classifier
        said = list(classifier.warnings)
        if classifier.sigmas is not None and not classifier.sigmas[0] <= sigma <= classifier.sigmas[1]:
            low, high = classifier.sigmas
            said.append(f"fitted for sigma {low:g} to {high:g}, certified at {sigma:g}")
        return said

    def fields(self, example: Example, picture: Picture) -> Record:
        """What every record of an image starts with; beside radii also what tells them at the picture's own size."""
        known = super().fields(example, picture)
        return known | self._origin(picture) if self.verb == "certify" else known

    def _origin(self, picture: Picture) -> Record:
        height, width, bands = picture.pixels.shape
        bands = 1 if (picture.pixels == picture.pixels[..., :1]).all() else bands  # grey, though stored as colour
        # what was altered in between is not linear, so the file's own pixels are out of reach
        stretch = None if self.data.altered else self.encoder.preprocess.stretch(height, width, bands, self.channels)
        return {"size": [height, width, bands], **({} if stretch is None else {"stretch": stretch})}

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
            **self.who(),
            "verb": self.verb,
            "settings": {name: value for name, value in self.settings().items() if name != "by"},
            "guarantees": {name: voting.guarantee for name, voting in self.votings.items()},
            "block": BLOCK,
        }

    def info(self, command: str) -> dict[str, Any]:
        """What run.json says before the first draw."""
        return self.info_of(self.verb, self.settings(), command)


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
    joint: bool = False,
    guarantee: str | Mapping[str, str] | None = None,
    noise_channels: int = 3,
    **subject: Any,
) -> Plan:
    """Load and check everything before the first draw.

    Args:
        verb: ``certify`` or ``predict``.
        method: the certifier.
        model: a model's name, or an encoder.
        data: a data set's name or directory, or a loaded one.
        sigma: standard deviations of the noise, in [0, 1] pixel units.
        joint: share alpha among all statements of the run, so that all hold together.
        guarantee: what the certificates of prompt sets that adapt to the image should say (docs/guarantees.md); for all
            of them, or by name.
        noise_channels: 1 draws once and replicates, for one-channel pictures.
        subject: what else ``load_subject`` takes (``prompts``, ``split``, ``limit``, ``seed``, ...).

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
    judged = load_subject(model, data, **subject)
    chosen = Plan(
        **vars(judged),
        verb=verb,
        method=method,
        votings={
            name: Voting(judged.classifiers[name], says, judged.seed, noise_channels)
            for name, says in guarantees(judged.classifiers, guarantee).items()
        },
        sigmas=tuple(float(value) for value in sigmas),
        channels=noise_channels,
        joint=joint,
    )
    check_draws(method, chosen.alpha)
    return chosen


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
