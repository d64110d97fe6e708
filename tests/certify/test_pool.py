"""Counts do not depend on workers, on how many jobs are open, or on the order in which blocks come back."""

import random
import time
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from titer.certify import Anytime, Certificate, Draws, Gaussian, Procedure
from titer.certify.guarantees import bank
from titer.certify.pool import Finished, Job, run_jobs
from titer.noise import BLOCK, NoiseStream, Purpose

SIGMA = 0.5


def half_space_job(
    sample: str, distance: float, methods: Sequence[Anytime | Gaussian], log: Counter[tuple[str, str, int]]
) -> Job:
    """An image at a known distance from a plane, seen by classifiers that all agree."""

    def vote(purpose: Purpose, block: int, _: Collection[int]) -> NDArray[np.int64]:
        log[sample, purpose, block] += 1
        time.sleep(random.random() / 2000)
        noise = NoiseStream(7, purpose).block(sample, block, (1,))[:, 0]
        votes = (distance + SIGMA * noise > 0).astype(np.int64)
        return np.stack([votes] * len(methods))

    return Job(sample, SIGMA, vote, [method.certify(SIGMA, 0.001) for method in methods], classes=2)


def results(
    workers: int, in_flight: int, methods: Sequence[Anytime | Gaussian]
) -> tuple[dict[tuple[str, int], Certificate], Counter[tuple[str, str, int]]]:
    log: Counter[tuple[str, str, int]] = Counter()
    jobs = (half_space_job(f"image {place}", 0.08 * place - 0.3, methods, log) for place in range(12))
    finished = list(run_jobs(jobs, workers, in_flight))
    return {(done.job.sample, done.place): _certificate(done) for done in finished}, log


def _certificate(done: Finished) -> Certificate:
    assert isinstance(done.statement, Certificate)
    return done.statement


METHODS = (Anytime(n=1300, radii=(0.0, 0.1, 0.3)), Gaussian(n=330), Anytime(n=900, n0=70, radii=(0.2,)))


@pytest.mark.parametrize(("workers", "in_flight"), [(1, 1), (2, 1), (2, 5), (3, 12)])
def test_statements_are_the_same_however_the_work_is_spread(workers: int, in_flight: int) -> None:
    expected, _ = results(1, 3, METHODS)
    found, log = results(workers, in_flight, METHODS)
    assert {key: str(value.fields()) for key, value in found.items()} == {
        key: str(value.fields()) for key, value in expected.items()
    }
    assert len(found) == 12 * len(METHODS)
    assert set(log.values()) == {1}  # no block is made twice


def test_counts_are_those_of_the_draws_asked_for() -> None:
    """A partial block is used in part now and in full later."""
    seen: list[NDArray[np.int64]] = []

    def procedure() -> Procedure:
        for total in (BLOCK // 2, BLOCK // 2 + 1, 3 * BLOCK + 7):
            seen.append((yield Draws("estimate", total)))
        return Certificate(0, 0.0, seen[-1], seen[0], 0.0, SIGMA, 0.001, "one-vs-rest")

    votes = np.random.default_rng(0).integers(0, 3, 4 * BLOCK)
    job = Job("x", SIGMA, lambda _, block, __: votes[None, block * BLOCK :][:, :BLOCK], [procedure()], classes=3)
    assert len(list(run_jobs([job], 2, 2))) == 1
    for counts, total in zip(seen, (BLOCK // 2, BLOCK // 2 + 1, 3 * BLOCK + 7), strict=True):
        assert counts.tolist() == np.bincount(votes[:total], minlength=3).tolist()


def test_a_vote_is_told_which_sets_are_undecided() -> None:
    """And its rows for the others are not read: here they vote for the wrong class."""
    asked: list[tuple[int, tuple[int, ...]]] = []

    def vote(purpose: Purpose, block: int, undecided: Collection[int]) -> NDArray[np.int64]:
        asked.append((block, tuple(undecided)) if purpose == "estimate" else (-1, tuple(undecided)))
        return np.repeat([[int(place in undecided)] for place in (0, 1)], BLOCK, axis=1)

    short, long = Gaussian(n0=50, n=70), Gaussian(n0=50, n=200)
    job = Job("x", SIGMA, vote, [method.certify(SIGMA, 0.001) for method in (short, long)], classes=2)
    found = {done.place: _certificate(done).counts.tolist() for done in run_jobs([job], 1, 1)}
    assert found == {0: [0, 70], 1: [0, 200]}
    assert asked == [(-1, (0, 1)), (0, (0, 1)), (1, (0, 1)), (2, (1,)), (3, (1,))]


def test_places_are_refilled_as_images_are_decided() -> None:
    """The easy images finish while a hard one is at work."""
    log: Counter[tuple[str, str, int]] = Counter()
    method = Anytime(n=20_000, radii=(0.3,))
    distances = {"hard": 0.3, **{f"easy {place}": 2.0 for place in range(6)}}
    jobs = (half_space_job(name, distance, [method], log) for name, distance in distances.items())
    order = [done.job.sample for done in run_jobs(jobs, workers=2, in_flight=2)]
    assert order[-1] == "hard"
    assert len(order) == 7


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    def vote(_: Purpose, __: int, ___: Collection[int]) -> NDArray[np.int64]:
        raise RuntimeError("the encoder broke")

    job = Job("x", SIGMA, vote, [Gaussian().certify(SIGMA, 0.001)], classes=2)
    with pytest.raises(RuntimeError, match="the encoder broke"):
        list(run_jobs([job], 2, 2))


def test_counts_have_a_place_for_each_class_and_no_more() -> None:
    """Also beside a bank with more members than there are classes: its selector votes for members."""

    def vote(_: Purpose, __: int, ___: Collection[int]) -> NDArray[np.int64]:
        return np.repeat([[1], [2], [0], [0], [1]], BLOCK, axis=1)  # a fixed set, then a selector and its three members

    rule = Gaussian(n=100)
    procedures = [rule.certify(SIGMA, 0.001), bank(rule, members=3, classes=2, sigma=SIGMA, alpha=0.001)]
    job = Job("x", SIGMA, vote, procedures, classes=2, rows=(1, 4))
    fixed, chosen = (_certificate(done) for done in run_jobs([job], 1, 1))
    assert fixed.counts.tolist() == fixed.counts0.tolist() == [0, 100]
    assert chosen.choice is not None
    assert (chosen.choice.prediction, chosen.choice.counts.tolist()) == (2, [0, 0, 100])
    assert (chosen.prediction, chosen.counts.tolist()) == (1, [0, 100])
