"""Runs the procedures of many images through shared workers, refilled as each image is decided.

The unit of work is one block of draws of one image. What a block's votes are is a function of (image, sigma, purpose,
block index) alone, so neither the number of workers nor the order in which blocks come back changes a count.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from titer.certify.certificate import Counts, Draws, Procedure, Statement
from titer.noise import BLOCK, Purpose

Votes = NDArray[np.int64]
Vote = Callable[[Purpose, int, Collection[int]], Votes]
"""(purpose, block index, procedures that are still undecided, by place) -> class indices (rows, BLOCK).

Rows of procedures that are decided are not read, and need not be made."""

_PURPOSES: tuple[Purpose, ...] = ("select", "estimate", "predict")


@dataclass(frozen=True, eq=False)
class Job:
    """One image at one sigma; its procedures, one per prompt set, share its draws.

    Args:
        sample: the sample's id.
        sigma: standard deviation of the noise.
        vote: makes one block of draws' votes.
        procedures: certifiers at work, not yet started.
        classes: number of classes.
        rows: how many rows of votes each procedure counts, in their order; one for each unless given. A procedure
            with one row is sent its counts (classes,), one with several (rows, at least classes): its first row may vote
            for something else than classes.
    """

    sample: str
    sigma: float
    vote: Vote
    procedures: Sequence[Procedure]
    classes: int
    rows: Sequence[int] = ()

    @property
    def columns(self) -> int:
        """How many different votes there may be: for classes, or for any of several rows."""
        return max(self.classes, *self.rows, 0)

    @property
    def places(self) -> list[int | slice]:
        """Which rows of the votes each procedure counts."""
        rows = self.rows or [1] * len(self.procedures)
        ends = list(itertools.accumulate(rows))
        return [end - 1 if row == 1 else slice(end - row, end) for row, end in zip(rows, ends, strict=True)]


@dataclass(frozen=True, eq=False)
class Finished:
    """What one procedure of a job said, and the seconds of work that the job had taken by then."""

    job: Job
    place: int
    statement: Statement
    seconds: float


def run_jobs(
    jobs: Iterable[Job], workers: int, in_flight: int, initializer: Callable[[], None] | None = None
) -> Iterator[Finished]:
    """Run all jobs and yield each statement as soon as it is known.

    Args:
        jobs: taken one by one as places get free.
        workers: threads that make votes.
        in_flight: most jobs open at a time.
        initializer: called once in each worker.
    """
    source = iter(jobs)
    queue: deque[tuple[_Open, int]] = deque()
    pending: dict[Future[tuple[Votes, float]], tuple[_Open, int]] = {}
    opened = 0
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        while True:
            while opened < in_flight and (job := next(source, None)) is not None:
                opened += 1
                queue.extend(_Open(job).start())
            while queue and len(pending) < 2 * workers:
                task = queue.popleft()
                pending[pool.submit(task[0].make, task[1])] = task
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                job_open, block = pending.pop(future)
                statements, tasks = job_open.take(block, *future.result())
                queue.extend(tasks)
                opened -= job_open.closed
                yield from statements
    finally:
        pool.shutdown(cancel_futures=True)


Tasks = list[tuple["_Open", int]]


@dataclass(eq=False)
class _Open:
    """A job at work: what its procedures ask for next, and the votes so far."""

    job: Job
    requests: dict[int, Draws] = field(default_factory=dict)
    tallies: dict[Purpose, _Tally] = field(default_factory=dict)
    missing: set[int] = field(default_factory=set)
    places: list[int | slice] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def closed(self) -> bool:
        return not self.requests

    @property
    def request(self) -> Draws:
        """The earliest request: procedures that ask for more wait for those that ask for less."""
        return min(self.requests.values(), key=lambda draws: (_PURPOSES.index(draws.purpose), draws.total))

    def start(self) -> Tasks:
        self.requests = {place: next(procedure) for place, procedure in enumerate(self.job.procedures)}
        shape = (sum(self.job.rows) or len(self.job.procedures), self.job.columns)
        self.places = self.job.places
        self.tallies = {purpose: _Tally(np.zeros(shape, np.int64)) for purpose in _PURPOSES}
        self._plan()
        return self._tasks()

    def make(self, block: int) -> tuple[Votes, float]:
        """Runs in a worker."""
        began = time.perf_counter()
        votes = self.job.vote(self.request.purpose, block, self.requests.keys())
        return votes, time.perf_counter() - began

    def take(self, block: int, votes: Votes, seconds: float) -> tuple[list[Finished], Tasks]:
        """Count one block; when the request is met, send the counts to those who asked."""
        request = self.request
        self.seconds += seconds
        self.missing.discard(block)
        self.tallies[request.purpose].blocks[block] = votes
        if self.missing:
            return [], []
        finished: list[Finished] = []
        while not self.missing and self.requests:
            finished += self._answer()
            self._plan()
        return finished, self._tasks()

    def _answer(self) -> list[Finished]:
        """Send the counts to those who asked for them."""
        request = self.request
        counts = self.tallies[request.purpose].up_to(request.total)
        finished = []
        for place in [place for place, asked in self.requests.items() if asked == request]:
            try:
                self.requests[place] = self.job.procedures[place].send(self._own(counts, place))
            except StopIteration as stop:
                del self.requests[place]
                finished.append(Finished(self.job, place, stop.value, self.seconds))
        return finished

    def _own(self, counts: Counts, place: int) -> Counts:
        """A procedure's rows; a single row votes for classes only."""
        rows = self.places[place]
        return counts[rows].copy() if isinstance(rows, slice) else counts[rows, : self.job.classes].copy()

    def _plan(self) -> None:
        """Find the blocks that the earliest request still misses; there may be none."""
        if self.requests:
            self.missing = self.tallies[self.request.purpose].wanted(self.request.total)

    def _tasks(self) -> Tasks:
        return [(self, block) for block in sorted(self.missing)]


@dataclass(eq=False)
class _Tally:
    """Votes of one purpose: counts (rows, classes) of the first ``draws`` draws, and blocks not fully counted."""

    counts: Votes
    draws: int = 0
    blocks: dict[int, Votes] = field(default_factory=dict)

    def wanted(self, total: int) -> set[int]:
        """Blocks still to be made before the first ``total`` draws can be counted."""
        return set(range(self.draws // BLOCK, -(-total // BLOCK))) - set(self.blocks)

    def up_to(self, total: int) -> Votes:
        """Counts of the first ``total`` draws."""
        for block in sorted(self.blocks):
            start = block * BLOCK
            votes = self.blocks[block][:, max(0, self.draws - start) : max(0, total - start)]
            for place, row in enumerate(votes):
                self.counts[place] += np.bincount(row, minlength=self.counts.shape[1])
            if start + BLOCK <= total:
                del self.blocks[block]
        self.draws = total
        return self.counts
