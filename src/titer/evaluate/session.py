"""One process's work on a run: jobs out, records in, and what a block of draws costs."""

from __future__ import annotations

import itertools
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from titer.certify.guarantees import Rule
from titer.certify.pool import Finished, Job, run_jobs
from titer.data.example import Example
from titer.errors import InputError, PictureError
from titer.evaluate.machine import default_workers, free_memory, peak_memory
from titer.evaluate.plan import Plan
from titer.evaluate.running import NEVER, Deadline, TimeIsUpError, conclude, running
from titer.evaluate.subject import keep_picture, kept
from titer.features.stream import Voter, one_channel, one_thread, threads
from titer.noise import BLOCK
from titer.progress import progress
from titer.results.store import Record, Run, RunWriter, key_of, read_run


def execute(
    chosen: Plan,
    out: str | Path,
    *,
    workers: int | None = None,
    batch_size: int | None = None,
    images: bool | None = None,
    command: str | None = None,
    deadline: Deadline = NEVER,
) -> Run:
    """Carry a plan out, or go on with it.

    Raises:
        InputError: if the directory belongs to other settings or another process writes there.
        RunError: if no sample succeeded, or the disk is full.
        TimeIsUpError: if the deadline passed before all was done.
    """
    for name, value in (("workers", workers), ("batch size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
    started = " ".join(shlex.quote(word) for word in ("python", *sys.argv)) if command is None else command
    with RunWriter(Path(out), chosen.identity(), chosen.info(started)) as writer:
        session = _Session(chosen, writer, images, deadline)
        if session.complete:
            conclude(writer, "done", len(chosen.data.examples), {})
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
    image = torch.zeros(3, chosen.encoder.size, chosen.encoder.size)
    sample = "\x00probe"  # no sample has such an id
    voter = prepare(chosen, image, sample, chosen.sigmas[0]).voter
    vote = partial(voter, image, sample, chosen.sigmas[0], undecided=range(len(voter.ballots)))
    before = peak_memory()
    with threads(1):
        vote("show", 0)
        began = time.perf_counter()
        for block in range(blocks):
            vote("show", block)
    return Probe((time.perf_counter() - began) / blocks, max(peak_memory() - before, BLOCK * image.nbytes * 4))


class _Session:
    """One process's work on a run: jobs out, records in."""

    def __init__(self, chosen: Plan, writer: RunWriter, images: bool | None, deadline: Deadline) -> None:
        self.plan = chosen
        self.writer = writer
        self.images = images
        self.deadline = deadline
        self.late = False
        self.failed: dict[str, str] = {}
        self.known: WeakKeyDictionary[Job, tuple[Record, _Prepared]] = WeakKeyDictionary()

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
                for prompts in self.plan.votings:
                    yield example, prompts, sigma

    def run(self, workers: int, batch_size: int | None) -> None:
        in_flight = max(1, batch_size // BLOCK) if batch_size else 2 * workers + 2
        with (
            running(self.writer, len(self.plan.data.examples), self.failed),
            threads(1),
            progress(self.plan.verb, self.remaining()) as advance,
        ):
            self.advance = advance
            for finished in run_jobs(self._jobs(), workers, in_flight, one_thread):
                self._record(finished)
            if self.late:
                raise TimeIsUpError

    def _jobs(self) -> Iterator[Job]:
        """Jobs for all that is not done. Pictures are read as their turn comes; one that fails is recorded."""
        for example in self.plan.data.examples:
            sigmas = [sigma for sigma in self.plan.sigmas if self._unfinished(example, sigma)]
            if not sigmas:
                continue
            if self.deadline.passed:
                self.late = True
                return
            try:
                image, fields = self._open(example)
            except PictureError as error:
                self.failed[example.id] = str(error)
                self.writer.append({"sample_id": example.id, "path": example.path, "error": str(error)})
                for _ in range(len(sigmas) * len(self.plan.votings)):
                    self.advance()
                continue
            for sigma in sigmas:
                prepared = prepare(self.plan, image, example.id, sigma)
                job = job_of(self.plan, self.plan.method, prepared, image, example.id, sigma)
                self.known[job] = fields, prepared
                yield job

    def _unfinished(self, example: Example, sigma: float) -> bool:
        return any(self.plan.key(example, prompts, sigma) not in self.writer.done for prompts in self.plan.votings)

    def _open(self, example: Example) -> tuple[Tensor, Record]:
        image, fields = self.plan.open(example)
        if self.plan.channels == 1:
            one_channel(image)
        if kept(self.images, fields):
            keep_picture(image, self.writer.path / "images", example.id)
        return image, fields

    def _record(self, finished: Finished) -> None:
        prompts = list(self.plan.votings)[finished.place]
        fields, prepared = self.known[finished.job]
        warnings = self.plan.warnings(prompts, finished.job.sigma)
        adapting = self.plan.votings[prompts].guarantee == "conditional"
        record = {
            **fields,
            "prompts": prompts,
            **finished.statement.fields(),
            "clean_prediction": prepared.clean[finished.place],
            **({"adapt_seconds": round(prepared.seconds[finished.place], 4)} if adapting else {}),
            **({"warnings": warnings} if warnings else {}),
            "channels": self.plan.channels,
            "seconds": round(finished.seconds, 4),
        }
        self.advance()
        if key_of(record) not in self.writer.done:
            self.writer.append(record)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What is known of an image at one sigma before its first vote.

    Args:
        voter: all prompt sets; those that adapt to the image have done so.
        clean: each one's answer without noise.
        seconds: that each one's adaptation took.
    """

    voter: Voter
    clean: tuple[int, ...]
    seconds: tuple[float, ...]


def prepare(chosen: Plan, image: Tensor, sample: str, sigma: float) -> _Prepared:
    """Let every prompt set see an image (3, size, size): what its guarantee allows it to."""
    ballots, times = [], [time.perf_counter()]
    for voting in chosen.votings.values():
        ballots.append(voting.ballot(image, sample, sigma))
        times.append(time.perf_counter())
    voter = Voter(ballots, chosen.seed, chosen.channels)
    seconds = tuple(after - before for before, after in itertools.pairwise(times))
    return _Prepared(voter, tuple(voter.clean(image)), seconds)


def job_of(chosen: Plan, method: Rule, prepared: _Prepared, image: Tensor, sample: str, sigma: float) -> Job:
    """One image at one sigma under all prompt sets."""
    rows = [ballot.rows for ballot in prepared.voter.ballots]
    return Job(
        sample=sample,
        sigma=sigma,
        vote=partial(prepared.voter, image, sample, sigma),
        procedures=[voting.procedure(method, sigma, chosen.alpha, chosen.gap) for voting in chosen.votings.values()],
        classes=len(chosen.data.classes),
        rows=rows,
    )
