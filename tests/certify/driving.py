"""Drives procedures with votes whose law is known, without images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from titer.certify import Answer, Certificate, Procedure

Sampler = Callable[[int], NDArray[np.int64]]
"""Number of draws -> votes per class of that many fresh draws."""


def drive(procedure: Procedure, sample: Sampler) -> Certificate | Answer:
    """Send a procedure the cumulative counts that it asks for."""
    seen: dict[str, tuple[int, NDArray[np.int64]]] = {}
    request = next(procedure)
    while True:
        before, counts = seen.get(request.purpose, (0, np.zeros_like(sample(0))))
        counts = counts + sample(request.total - before)
        seen[request.purpose] = (request.total, counts)
        try:
            request = procedure.send(counts.copy())
        except StopIteration as stop:
            statement: Certificate | Answer = stop.value
            return statement


def certificate(procedure: Procedure, sample: Sampler) -> Certificate:
    """As ``drive``, for a certifier."""
    statement = drive(procedure, sample)
    assert isinstance(statement, Certificate)
    return statement


def multinomial(probabilities: list[float], seed: int) -> Sampler:
    """Votes that fall by these probabilities."""
    generator = np.random.default_rng(seed)
    return lambda draws: generator.multinomial(draws, probabilities)


def fixed(hits: int, draws: int, n0: int = 100) -> Sampler:
    """All selection votes for class 1; exactly ``hits`` of ``draws`` estimation votes."""
    return lambda count: np.array([0, n0]) if count == n0 else np.array([draws - hits, hits]) * (count == draws)
