"""Fits compute on one thread, as they do in the package: tensors are small, and other processes want the cores."""

from collections.abc import Iterator

import pytest

from titer.features.stream import threads


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield
