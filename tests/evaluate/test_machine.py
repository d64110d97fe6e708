"""What of the machine a run uses."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest

from titer.evaluate import machine


def test_glibc_takes_the_sizes_of_kept_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("glibc is a Linux library")
    answers: list[int] = []
    library = ctypes.CDLL("libc.so.6")

    class Watched:
        def mallopt(self, parameter: int, size: int) -> None:
            answers.append(library.mallopt(parameter, size))

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Watched())  # noqa: ARG005
    machine.reuse_buffers()
    assert answers == [1, 1, 1]  # 0 would mean refused


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    machine.reuse_buffers()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # noqa: ARG005
    machine.reuse_buffers()
