"""Order, errors, and how far ahead the work is."""

import threading
import time
from collections.abc import Iterator

import pytest

from titer.ahead import ahead


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * item

    assert list(ahead(slow_first, range(20), workers)) == [item * item for item in range(20)]
    assert list(ahead(slow_first, (), workers)) == []


def test_items_are_taken_a_little_ahead_of_who_takes_the_results() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = ahead(str, items(), workers=2)
    assert [next(results) for _ in range(10)] == [str(item) for item in range(10)]
    assert len(taken) == 10 + 4
    results.close()
    assert len(taken) == 10 + 4


def test_an_error_comes_in_its_place_and_ends_the_work() -> None:
    began: list[int] = []

    def broken(item: int) -> int:
        began.append(item)
        return 1 // (3 - item)

    results = ahead(broken, range(1000), workers=2)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(began) < 20


def test_workers_are_prepared_once_each_and_end_with_the_work() -> None:
    before = threading.active_count()
    prepared: list[int] = []
    assert list(ahead(abs, range(50), 2, lambda: prepared.append(threading.get_ident()))) == list(range(50))
    assert 1 <= len(prepared) == len(set(prepared)) <= 2
    assert threading.active_count() == before
