"""What a run will cost, before it starts: draws, seconds and memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from titer.certify import Anytime, Predict
from titer.certify.pool import Job, run_jobs
from titer.data.splits import limited
from titer.errors import PictureError
from titer.evaluate.machine import default_workers, peak_memory
from titer.evaluate.plan import Plan
from titer.evaluate.session import affordable_workers, job_of, prepare, probe
from titer.features.stream import one_thread

_PILOT = 8  # images whose selection draws are made to guess how hard the data are
_PILOT_DRAWS = 100
_PROBE_BLOCKS = 10


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to cost, and at most.

    Args:
        draws, most_draws: noisy copies through the encoder, selection draws included.
        seconds, most_seconds: of wall time, at the rate just measured.
        memory: bytes that the process will hold at its peak.
        workers: threads that would work.
        pilot: images that the guess rests on.
    """

    draws: float
    most_draws: int
    seconds: float
    most_seconds: float
    memory: int
    workers: int
    pilot: int


def forecast(chosen: Plan, workers: int | None = None) -> Forecast:
    """Measure one block and a few images, and scale up."""
    workers = workers or affordable_workers(chosen)
    cost = probe(chosen, _PROBE_BLOCKS)
    images = len(chosen.data.examples)
    most = images * len(chosen.sigmas) * (chosen.method.n + _selection(chosen))
    method = chosen.method
    shares = list(_pilot(chosen, workers)) if isinstance(method, Anytime) else []
    expected = most * 1.0
    if isinstance(method, Anytime) and shares:
        per_image = np.mean([_expected_draws(method, sigma, share, chosen.alpha) for sigma, share in shares])
        expected = min(expected, images * len(chosen.sigmas) * (float(per_image) + _selection(chosen)))
    rate = cost.draws_per_second(min(workers, default_workers(chosen.encoder.device)))
    return Forecast(
        draws=expected,
        most_draws=most,
        seconds=expected / rate,
        most_seconds=most / rate,
        memory=peak_memory() + (workers - 1) * cost.memory,
        workers=workers,
        pilot=len(shares) // (len(chosen.sigmas) * len(chosen.votings)),
    )


def _selection(chosen: Plan) -> int:
    return 0 if isinstance(chosen.method, Predict) else chosen.method.n0


def _pilot(chosen: Plan, workers: int) -> Iterator[tuple[float, float]]:
    """(sigma, share of the top class in the selection draws) for a few images, with noise that no certificate uses."""

    def jobs() -> Iterator[Job]:
        for example in limited(chosen.data.examples, _PILOT):
            try:
                image = chosen.encoder.preprocess(chosen.data.read(example).pixels)
            except PictureError:
                continue
            for sigma in chosen.sigmas:
                prepared = prepare(chosen, image, example.id, sigma)
                yield job_of(chosen, Predict(n=_PILOT_DRAWS), prepared, image, example.id, sigma)

    for finished in run_jobs(jobs(), workers, 2 * workers, one_thread):
        counts = finished.statement.counts
        yield finished.job.sigma, float(counts.max() / counts.sum())


def _expected_draws(method: Anytime, sigma: float, share: float, alpha: float) -> float:
    """Wald's reference ln(1/alpha) / KL(share, p0) for the radius that is hardest to tell from the image's own."""
    share = min(max(share, 0.005), 0.995)
    needed = ndtr(np.asarray(method.questions(sigma, alpha)) / sigma)
    cost = [math.log(1 / alpha) / max(_divergence(share, float(p0)), 1e-9) for p0 in needed if p0 < 1]
    return float(min(method.n, max(cost, default=method.n)))


def _divergence(share: float, p0: float) -> float:
    return share * math.log(share / p0) + (1 - share) * math.log((1 - share) / (1 - p0))
