"""Tests compute on one thread: tensors are small, and on a busy machine threads that wait for each other take much longer."""

from collections.abc import Iterator

import pytest

from titer.features.stream import threads


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield
