"""Work on many items in threads, given back in order, and only a little ahead of who takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Done = TypeVar("Done")


def ahead(
    work: Callable[[Item], Done],
    items: Iterable[Item],
    workers: int,
    initializer: Callable[[], None] | None = None,
) -> Generator[Done, None, None]:
    """``work(item)`` of each item, in the order of the items.

    Items are taken as places get free, and at most two for each worker wait to be given back: memory does not grow with
    their number.

    Args:
        work: done by the workers; what it raises is raised here, in its place.
        items: may be many.
        workers: threads.
        initializer: called once in each of them.
    """
    waiting: deque[Future[Done]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
