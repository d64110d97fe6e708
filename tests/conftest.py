"""Tests compute on one thread: tensors are small, and on a busy machine threads that wait for each other take much longer.

Nor may a busy machine fail a property: Hypothesis has no deadline here.
"""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from titer.features.stream import threads

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    with threads(1):
        yield
