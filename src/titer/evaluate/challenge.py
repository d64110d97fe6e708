"""`challenge`: attacks certificates at shares of the radius that they claim, and lets the deployed pipeline answer.

The judge is PREDICT (Cohen, Rosenfeld and Kolter, ICML 2019) at the attacked image, on fresh draws. A certificate is
broken where it returns another class than the certified one; an abstention is no break.
"""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from titer.attacks import ATTACKS, Attack, Random, Threat
from titer.attacks.adaptive import SmoothAdv, Smoothed
from titer.certify import Predict
from titer.data.example import Data, Example
from titer.data.fingerprint import digest
from titer.errors import InputError, PictureError, RunError, unknown
from titer.evaluate.attacking import allowed, distances
from titer.evaluate.deployed import aims, copies_of, gives_gradient, predicted
from titer.evaluate.ladders import without_later
from titer.evaluate.machine import workers_for
from titer.evaluate.plan import check_draws
from titer.evaluate.running import Crew, conclude, running
from titer.evaluate.smoothing import seed_for
from titer.evaluate.subject import Subject, load_subject
from titer.evaluate.voting import Voting, guarantees
from titer.features.stream import threads
from titer.models.encoder import Encoder
from titer.progress import progress
from titer.registry import settings_of
from titer.results.store import Key, Record, Run, RunWriter, differences, key_of, read_run

INSIDE = (0.5, 0.9, 1.0)
OUTSIDE = (1.25, 1.5, 2.0, 3.0, 4.0)
_DRAWS = 16  # noisy copies through which an attack sees the smoothed classifier, unless it makes its own
_WITHIN = 1 - 1e-4  # of a budget: rounding in float32 must not carry an image over it


@dataclass(frozen=True, eq=False, kw_only=True)
class ChallengePlan(Subject):
    """A run of challenges before the first one: everything that decides its records.

    Args:
        run: the run whose certificates are challenged.
        certificates: its records that are, by sample, prompt set and sigma.
        votings: prompt sets by name, with the guarantee that each one's certificates have.
        name: the attack's registered name.
        attack: with its settings.
        inside: budgets as shares of the claimed radius, at most 1; all are tried.
        outside: shares above 1, rising; tried until the first break.
        judge: PREDICT.
    """

    run: Run
    certificates: tuple[Record, ...]
    votings: dict[str, Voting]
    name: str
    attack: Attack
    inside: tuple[float, ...]
    outside: tuple[float, ...]
    judge: Predict

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""
        return {
            "run": str(self.run.path),
            "attack": self.name,
            "draws": _DRAWS,
            **{name: value for name, value in settings_of(self.attack).items() if name != "sigma"},
            "norm": "l2",
            "inside": list(self.inside),
            "outside": list(self.outside),
            "n": self.judge.n,
            "alpha_p": self.judge.alpha,
            "by": list(self.by),
        }

    def identity(self) -> dict[str, Any]:
        """All that changes a number."""
        told = ("sample_id", "prompts", "sigma", "prediction", "radius", "guarantee")
        claims = [str(record[name]) for record in self.certificates for name in told]
        own = {name: value for name, value in self.settings().items() if name not in ("by", "run")}
        settings = without_later(own)
        return {**self.who(), "verb": "challenge", "settings": settings, "certificates": digest(claims)}

    def threat(self, certificate: Record, factor: float) -> Threat:
        """A budget of this share of the radius that a certificate claims."""
        return Threat("l2", factor * certificate["radius"])

    def labels(self, certificate: Record, factor: float) -> dict[str, Any]:
        """The fields that name a challenge."""
        head = {name: certificate[name] for name in ("prompts", "sigma")}
        return {**head, "attack": self.name, "norm": "l2", "eps": self.threat(certificate, factor).epsilon}

    def key(self, certificate: Record, factor: float) -> Key:
        """The key of the record that this challenge will have."""
        return key_of({"sample_id": certificate["sample_id"], **self.labels(certificate, factor)})


def challenge(
    run: str | Path | Run,
    model: str | Encoder,
    data: str | Path | Data,
    *,
    out: str | Path,
    attack: str = "smoothadv",
    settings: dict[str, Any] | None = None,
    inside: Sequence[float] = INSIDE,
    outside: Sequence[float] = OUTSIDE,
    n: int = 1000,
    alpha_p: float = 1e-4,
    seed: int | None = None,
    workers: int | None = None,
    command: str | None = None,
    **subject: Any,
) -> Run:
    """Attack every certificate of a run at shares of its radius. Abstentions and radii of 0 claim nothing and are left out.

    Args:
        run: a run of certify.
        model: the model that it certified: a name, or an encoder.
        data: the data set that it certified: a name or directory, or a loaded one.
        out: the run directory. The same call goes on where an earlier one stopped.
        attack: an attack with an l2 norm. ``smoothadv`` follows what adapts; others see the smoothed classifier on noise
            that is fixed for each image.
        settings: of the attack; sigma is the certificate's.
        inside: shares of the radius, above 0 and at most 1.
        outside: shares above 1, tried upward until a certificate is broken.
        n: draws of PREDICT at the attacked image.
        alpha_p: its error probability.
        seed: of the attack and of PREDICT's draws; a fresh one unless given, the recorded one on resume.
        workers: threads; one per core unless given. Changes no number.
        command: what run.json says the run was started by.
        subject: what else ``load_subject`` takes (``prompts``, ``limit``, ``device``, ...).

    Raises:
        InputError: for whatever is wrong with the input, such as another model than the certified one.
        RunError: if no certificate could be challenged, or an attack left its budget.
    """
    chosen = plan_challenge(
        run, model, data, attack=attack, settings=settings, inside=inside, outside=outside, n=n, alpha_p=alpha_p,
        seed=seed_for(out, seed), **subject,
    )  # fmt: skip
    return execute(chosen, out, workers=workers, command=command)


def plan_challenge(
    run: str | Path | Run,
    model: str | Encoder,
    data: str | Path | Data,
    *,
    attack: str = "smoothadv",
    settings: dict[str, Any] | None = None,
    inside: Sequence[float] = INSIDE,
    outside: Sequence[float] = OUTSIDE,
    n: int = 1000,
    alpha_p: float = 1e-4,
    limit: int | None = None,
    **subject: Any,
) -> ChallengePlan:
    """The plan of a ``challenge`` with these arguments: everything loaded and checked, nothing attacked."""
    claimed = run if isinstance(run, Run) else read_run(run)
    if claimed.info.get("verb") != "certify":
        raise InputError(f"{claimed.path} was written by {claimed.info.get('verb')}; expected a run of certify")
    _check_factors(inside, outside)
    judge = Predict(n=n, alpha=alpha_p)
    check_draws(judge, alpha_p)
    method = _method(attack, settings or {})
    told = claimed.info["data"]
    shown = {"split": told["split"], "limit": told["limit"] if limit is None else limit}
    judged = load_subject(model, data, dtype=claimed.info["dtype"], **shown, **subject)
    _check_same(claimed, judged)
    ids = {example.id for example in judged.data.examples}
    ours = [
        record for record in claimed.records if record["prompts"] in judged.classifiers and record["sample_id"] in ids
    ]
    certificates = tuple(record for record in ours if record["prediction"] >= 0 and record["radius"] > 0)
    if not certificates:
        raise InputError(
            f"{claimed.path} has no radius above 0 for these images and prompt sets; there is nothing to challenge"
        )
    challenged = {record["sample_id"] for record in certificates}
    kept = replace(judged.data, examples=tuple(one for one in judged.data.examples if one.id in challenged))
    says = {record["prompts"]: record["guarantee"] for record in certificates}
    sets = {name: classifier for name, classifier in judged.classifiers.items() if name in says}
    channels = certificates[0].get("channels", 3)  # of the whole run
    votings = {
        name: Voting(sets[name], guarantee, judged.seed, channels) for name, guarantee in guarantees(sets, says).items()
    }
    _check_follows(attack, method, votings)
    return ChallengePlan(
        **{**vars(judged), "data": kept, "classifiers": sets},
        run=claimed, certificates=certificates, votings=votings, name=attack, attack=method,
        inside=tuple(sorted(inside)), outside=tuple(sorted(outside)), judge=judge,
    )  # fmt: skip


def _method(name: str, settings: dict[str, Any]) -> Attack:
    if "sigma" in settings:
        raise InputError("sigma: a challenge takes the certificate's; leave it out")
    method: Attack = ATTACKS.build(name, **settings)
    if "l2" not in method.norms or getattr(method, "of_features", False):
        raise InputError(f"attack {name!r}: a radius is an l2 distance; expected an attack on classes with norm l2")
    return method


def _check_factors(inside: Sequence[float], outside: Sequence[float]) -> None:
    for factor in inside:
        if not 0 < factor <= 1:
            raise InputError(f"inside: expected shares of the radius above 0 and at most 1, got {factor:g}")
    for factor in outside:
        if not 1 < factor < float("inf"):
            raise InputError(f"outside: expected shares of the radius above 1, got {factor:g}")
    if not [*inside, *outside]:
        raise InputError("inside, outside: expected one or more shares of the radius, got none")


def _check_same(run: Run, judged: Subject) -> None:
    """Refuse another model, prompt set or classes than were certified."""
    known = run.info["prompts"]
    for name in judged.classifiers:
        if name not in known:
            raise unknown("prompt set", name, known)
    was = {
        "model": run.info["model"]["fingerprint"],
        "prompts": {name: known[name] for name in judged.classifiers},
        "classes": [[text["label"], *text["texts"]] for text in run.info["classes"]],
    }
    now = {name: judged.who()[name] for name in was}
    found = differences(was, now)
    if found:
        raise InputError(f"{run.path} certified something else: {'; '.join(found)}; challenge what was certified")


def _check_follows(name: str, method: Attack, votings: dict[str, Voting]) -> None:
    for prompts, voting in votings.items():
        if voting.classifier.adapts_to_input and not isinstance(method, SmoothAdv):
            raise InputError(
                f"prompt set {prompts!r} changes with the image it is shown and attack {name!r} does not follow it; "
                "expected --attack smoothadv"
            )


def execute(chosen: ChallengePlan, out: str | Path, *, workers: int | None = None, command: str | None = None) -> Run:
    """Carry a plan out, or go on with it.

    Raises:
        InputError: if the directory belongs to other settings or another process writes there.
        RunError: if no certificate could be challenged, or the disk is full.
    """
    started = shlex.join(["python", *sys.argv]) if command is None else command
    crew = workers_for(chosen.encoder.device, workers)
    with RunWriter(Path(out), chosen.identity(), chosen.info_of("challenge", chosen.settings(), started)) as writer:
        _Session(chosen, writer).run(crew)
    return read_run(out)


class _Session:
    """One process's work on a run: certificates in, records out."""

    def __init__(self, chosen: ChallengePlan, writer: RunWriter) -> None:
        self.plan = chosen
        self.writer = writer
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()
        self.crew = Crew()
        self.examples = {example.id: example for example in chosen.data.examples}

    def run(self, workers: int) -> None:
        left = [record for record in self.plan.certificates if next(self._factors(record), None) is not None]
        if not left:
            conclude(self.writer, "done", len(self.examples), {})
            return
        with (
            running(self.writer, len(self.examples), self.failed),
            threads(1),
            progress("challenge", len(left)) as self.advance,
        ):
            self.crew.spread(workers, [partial(self._ladder, certificate) for certificate in left])

    def _factors(self, certificate: Record) -> Iterator[float]:
        """Shares of the radius still to be tried: all inside, then upward until the first break."""
        for factor in (*self.plan.inside, *self.plan.outside):
            done = [self.writer.done.get(self.plan.key(certificate, tried)) for tried in self._up_to(factor)]
            if factor > 1 and any(record["broken"] for record in done if record):
                return
            if self.plan.key(certificate, factor) not in self.writer.done:
                yield factor

    def _up_to(self, factor: float) -> list[float]:
        return [tried for tried in (*self.plan.inside, *self.plan.outside) if tried < factor]

    def _ladder(self, certificate: Record) -> None:
        """One certificate, budgets upward."""
        example = self.examples[certificate["sample_id"]]
        try:
            image, fields = self.plan.open(example)
            if fields["sha256"] != certificate["sha256"]:
                raise PictureError("not the picture that was certified: its bytes have another SHA-256")
        except PictureError as error:
            self._fail(example, str(error))
            return
        for factor in self._factors(certificate):
            record = self._challenged(certificate, factor, image, fields)
            with self.lock:
                self.writer.append(record)
        with self.lock:
            self.advance()

    def _fail(self, example: Example, error: str) -> None:
        with self.lock:
            if example.id not in self.failed:
                self.failed[example.id] = error
                self.writer.append({"sample_id": example.id, "path": example.path, "error": error})
            self.advance()

    def _challenged(self, certificate: Record, factor: float, image: Tensor, fields: Record) -> Record:
        began = time.perf_counter()
        voting, sigma, threat = (
            self.plan.votings[certificate["prompts"]], certificate["sigma"], self.plan.threat(certificate, factor)
        )  # fmt: skip
        image = image[: voting.channels]  # what is certified in grey levels is attacked and measured in them
        shown = self._attacked(voting, certificate, threat, factor, image)
        measured = distances(shown, image)
        # rounded to nine digits for the record, the distance may come out as the budget itself
        if not float((shown.double() - image.double()).norm()) <= threat.epsilon:
            raise RunError(
                f"attack {self.plan.name!r} left its budget on {fields['sample_id']}: l2 {threat.epsilon:.9g} was allowed, "
                f"the distance is {measured['l2']:.9g}"
            )
        # fresh draws for every challenge: the key says which
        answer = predicted(voting, shown, f"{fields['sample_id']}\x00{factor:g}", sigma, self.plan.judge)
        certified = certificate["prediction"]
        return {
            **fields,
            **self.plan.labels(certificate, factor),
            "factor": factor,
            "radius": certificate["radius"],
            "guarantee": certificate["guarantee"],
            "alpha": certificate["alpha"],
            "channels": voting.channels,
            "clean_prediction": certified,
            "prediction": answer.prediction,
            "inside": factor <= 1,
            "broken": answer.prediction not in (-1, certified),
            **{name: measured[name] for name in ("linf", "l2")},
            "counts": answer.counts.tolist(),
            "p_value": answer.p_value,
            "alpha_p": self.plan.judge.alpha,
            "seconds": round(time.perf_counter() - began, 4),
        }

    def _attacked(self, voting: Voting, certificate: Record, threat: Threat, factor: float, image: Tensor) -> Tensor:
        """The attacked image (channels, size, size): of what each aim leads to, what the deployed pipeline answers worst."""
        sample, sigma = certificate["sample_id"], certificate["sigma"]
        where = [self.plan.name, certificate["prompts"], f"{sigma:g}", f"{factor:g}"]
        random = Random(self.plan.seed, "\x00".join(["challenge", *where]), [sample])
        clean = image[None].to(self.plan.encoder.device)
        labels = torch.tensor([certificate["prediction"]], device=clean.device)
        smaller = Threat("l2", threat.epsilon * _WITHIN)
        method = self.plan.attack
        if isinstance(method, SmoothAdv):
            method = replace(method, sigma=sigma, draws=method.draws * (copies_of(voting) + 1))
            seen = [self.crew.stoppable(aim) for aim in aims(voting, sample, sigma)]
            able = [aim for aim in seen if len(seen) == 1 or gives_gradient(aim, voting, clean)] or seen
            found = [method.follow(aim, clean, labels, smaller, random) for aim in able]
            shown = method.strongest(seen[0], found, labels, random)
        else:
            (aim,) = map(self.crew.stoppable, aims(voting, sample, sigma))
            model = Smoothed(aim(clean), sigma * random.normal(_DRAWS, *image.shape)[0])
            shown = method(model, clean, labels, smaller, random)
        return allowed(self.plan.name, shown, clean, smaller)[0].cpu()
