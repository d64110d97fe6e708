"""How a run stands while it runs and after, whatever ends it; the threads that do its work, and the time it may take."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from titer.errors import RunError
from titer.features.stream import one_thread
from titer.results.store import RunWriter


class TimeIsUpError(Exception):
    """The time that a piece of work may take is over; what is finished is kept, and the same call goes on."""


@dataclass(frozen=True)
class Deadline:
    """When a piece of work ends; what is in the middle of something finishes that first.

    Args:
        at: seconds of ``time.monotonic``; never unless given.
    """

    at: float = math.inf

    @classmethod
    def within(cls, minutes: float | None) -> Deadline:
        """So many minutes from now; never where None."""
        return cls() if minutes is None else cls(time.monotonic() + 60 * minutes)

    @property
    def passed(self) -> bool:
        """Whether nothing more should be begun."""
        return time.monotonic() >= self.at

    def check(self) -> None:
        """Before something is begun.

        Raises:
            TimeIsUpError: if it should not be.
        """
        if self.passed:
            raise TimeIsUpError


NEVER = Deadline()


@contextmanager
def running(writer: RunWriter, expected: int, failed: Mapping[str, str]) -> Iterator[None]:
    """Keep run.json true around the work: running, then done, failed or interrupted.

    Args:
        writer: the run, already begun.
        expected: images it is of.
        failed: ids of images that could not be used, and why; filled by the work.

    Raises:
        RunError: if no sample succeeded.
    """
    began = time.perf_counter() - float(writer.info["seconds"])
    status = "failed"
    try:
        writer.save(status="running")
        yield
        status = "done" if writer.done or not expected else "failed"
    except (KeyboardInterrupt, TimeIsUpError):
        status = "interrupted"
        raise
    finally:
        with contextlib.suppress(RunError):  # a full disk is told by the line that could not be written
            conclude(writer, status, expected, failed, time.perf_counter() - began)
    if status == "failed":
        raise RunError(f"no sample succeeded; the first error: {next(iter(failed.values()))}")


def conclude(
    writer: RunWriter, status: str, expected: int, failed: Mapping[str, str], seconds: float | None = None
) -> None:
    """Say in run.json how the run stands; seconds stay as they are unless given."""
    done = len({key[0] for key in writer.done})
    counts = {"expected": expected, "done": done, "failed": len(failed)}
    spent = writer.info["seconds"] if seconds is None else seconds
    writer.save(status=status, samples=counts, seconds=round(spent, 3))


_Shown = TypeVar("_Shown")
_Answer = TypeVar("_Answer")


class StopError(Exception):
    """The run was told to end while a worker was in the middle of an attack."""


class Crew:
    """Threads that work until all is done or one of them fails; then the others leave off at their next look at the model."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def stoppable(self, model: Callable[[_Shown], _Answer]) -> Callable[[_Shown], _Answer]:
        """The model, which ends the work of whoever asks it after the crew was told to stop."""

        def watched(shown: _Shown) -> _Answer:
            if self._stop.is_set():
                raise StopError
            return model(shown)

        return watched

    def spread(self, workers: int, tasks: Sequence[Callable[[], None]]) -> None:
        """Do all tasks; the first error of one is raised, in the order of the tasks."""
        pool = ThreadPoolExecutor(workers, initializer=one_thread)
        try:
            for future in [pool.submit(task) for task in tasks]:
                future.result()
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            self._stop.clear()
