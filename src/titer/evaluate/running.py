"""How a run stands while it runs and after: its status, its counts and its seconds, whatever ends it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from titer.errors import RunError
from titer.results.store import RunWriter


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
    except KeyboardInterrupt:
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
