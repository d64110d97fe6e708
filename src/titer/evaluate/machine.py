"""What of the machine a run uses and what of it changes a number."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import sys
from importlib.metadata import version

import numpy as np
import torch

from titer.errors import InputError
from titer.noise import SAMPLER


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(device: torch.device) -> int:
    """One per core; on a GPU they only make noise, and eight are enough to keep it busy."""
    return cores() if device.type == "cpu" else min(8, cores())


def workers_for(device: torch.device, workers: int | None) -> int:
    """As many as asked, else as many as the machine is good for.

    Raises:
        InputError: for less than one.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}")
    return workers or default_workers(device)


def program(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What beside weights and data decides a bit of the result: a certificate is about the exact program that voted."""
    kernels = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return {
        "device": device.type,
        "kernels": kernels,
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "noise": SAMPLER,
    }


def versions() -> dict[str, str]:
    """Versions that a run records."""
    packages = ("titer", "torch", "transformers", "numpy", "scipy", "pillow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


def reuse_buffers() -> None:
    """Let the C library keep freed memory for the next block of draws.

    By default glibc gives large buffers back at once, and every activation of every block is faulted in anew: with
    ``titer:tiny`` on two cores that is a fifth to a quarter of the time (``benchmarks/buffers.py``). Changes no number; does
    nothing where the C library is another one.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, size in ((_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**30), (_TOP_PAD, 2**26)):
            mallopt(parameter, size)


def peak_memory() -> int:
    """Most memory this process has held so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def free_memory() -> int:
    """Memory that is free now, in bytes; a lower bound where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 2**31
