"""Fits that do not depend on each other, in processes of their own.

Threads would not do: a fit may put learned tensors in the place of a model's own while it runs. Each process loads the model
once and computes on one thread, as a fit always does, so that what is learned is the same to the bit.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from titer.data.classes import Wording
from titer.data.derived import hashed_once
from titer.data.example import Data
from titer.data.load import load_all
from titer.defenses import Defense
from titer.errors import RunError
from titer.evaluate.fitting import fit
from titer.evaluate.running import Deadline
from titer.features.stream import one_thread
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.progress import progress


@dataclass(frozen=True)
class Source:
    """What fits learn from, by name, so that a process can load it.

    Args:
        model: a model's name.
        data: a data set's name or directory.
        wording: classes and words in the place of the data set's own.
        device: ``cpu`` or ``cuda``.
    """

    model: str
    data: str
    wording: Wording | None
    device: str

    def load(self) -> tuple[Encoder, Data]:
        """The model and all splits of the data."""
        return load_model(self.model, device=self.device), hashed_once(load_all(self.data, self.wording))


@dataclass(frozen=True)
class FitJob:
    """One fit.

    Args:
        defense: with its settings.
        out: the directory to write.
        shots: images of each class; None where it needs no labels.
        seed: of the fit.
        cache: where noisy features are kept for other fits.
        command: what the adapter says it was made by.
    """

    defense: Defense
    out: Path
    shots: int | None
    seed: int
    cache: Path
    command: str

    def run(self, encoder: Encoder, data: Data) -> None:
        """Fit and write it."""
        fit(
            self.defense, encoder, data, out=self.out, shots=self.shots, seed=self.seed, cache=self.cache,
            command=self.command,
        )  # fmt: skip


def fit_all(jobs: Sequence[FitJob], source: Source, workers: int, deadline: Deadline) -> None:
    """Do all fits, so many at a time.

    Args:
        jobs: in the order in which they begin.
        source: what they learn from.
        workers: processes.
        deadline: after which no fit is begun; those in work are finished.

    Raises:
        TiterError: the first one that a fit raises; the others in work are given up.
        RunError: if a process is ended from outside, as for want of memory.
        TimeIsUpError: if the deadline passed meanwhile.
    """
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _begin, (source,))
    try:
        with progress("fits", len(jobs)) as advance:
            working: set[Future[None]] = set()
            for job in jobs:
                if len(working) == workers:
                    working = _waited(working, FIRST_COMPLETED, advance)
                if deadline.passed:
                    break
                working.add(pool.submit(_run, job))
            _waited(working, ALL_COMPLETED, advance)
        deadline.check()
    except BrokenProcessPool as error:
        raise RunError(
            "a process that was fitting has ended, perhaps for want of memory; expected fewer --workers. The same command goes on"
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _waited(working: set[Future[None]], until: str, advance: Callable[[], None]) -> set[Future[None]]:
    """Those still in work after one or all are finished."""
    finished, left = wait(working, return_when=until)
    for future in finished:
        future.result()
        advance()
    return left


_LOADED: list[tuple[Encoder, Data]] = []
"""What this process fits on, where it was started for that."""


def _begin(source: Source) -> None:
    """Of a process: Ctrl-C is its parent's to handle, and it does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()
    warnings.filterwarnings("ignore", category=FutureWarning)
    one_thread()
    _LOADED.append(source.load())


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(job: FitJob) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # one bar, the parent's
        job.run(*_LOADED[0])
