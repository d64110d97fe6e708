"""The stream of Gaussian draws: a pure function of (seed, purpose, sample, draw).

Draw ``k`` of a sample is the same numbers whatever the batch size, the number of workers, the order of images or a
resume half-way. Draws come in blocks of ``BLOCK``; a block is keyed by SHA-256 of (seed, purpose, sample) and counted
by Philox4x64-10 (Salmon et al., SC 2011), turned into normals by Box and Muller's transform in float32.

The tails are not cut: float32 ``torch.randn`` on a CPU never exceeds 5.77 sigma, because its uniforms have 24 bits.
Here a uniform has 32 bits, and the cells nearest to zero (where the tail comes from) get 53 more, so that draws reach
``MAX_NORMAL``. What is left out beyond that is bounded by ``tail_gap``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Purpose = Literal["fit", "select", "estimate", "adapt", "attack", "predict", "show"]

BLOCK = 50
"""Draws made together. 50 divides the usual counts (100, 1,000, 10,000, 100,000), so nothing is drawn in vain."""

SAMPLER = "philox4x64-10/box-muller-float32/uniform-32+53"
"""Name of the sampler, part of a run's identity."""

_REFINED = np.uint32(256)  # cells of the radius' uniform that get 53 more bits; one value in 17 million
_UNIT = 2.0**-32
MAX_NORMAL = math.sqrt(-2 * math.log(2.0**-54 * _UNIT))
"""No draw exceeds this many standard deviations."""


@dataclass(frozen=True)
class NoiseStream:
    """Standard normal draws for one run.

    Args:
        seed: any integer >= 0; 0 is a seed like any other.
        purpose: what the draws are for. Two purposes never share numbers under one seed.
    """

    seed: int
    purpose: Purpose

    def block(self, sample: str, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draws ``index * BLOCK`` to ``(index + 1) * BLOCK - 1`` of a sample.

        Args:
            sample: the sample's id.
            index: which block, from 0.
            shape: shape of one draw, such as (3, height, width).

        Returns:
            Float32 array (BLOCK, *shape) of independent standard normals.
        """
        label = f"{self.seed}\x00{self.purpose}\x00{sample}".encode()
        key = np.frombuffer(hashlib.sha256(label).digest()[:16], np.uint64)
        philox = np.random.Philox(key=key, counter=np.array([0, 0, index, 0], np.uint64))
        return _normals(np.random.Generator(philox), BLOCK * math.prod(shape)).reshape(BLOCK, *shape)


def _normals(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    pairs = (count + 1) // 2
    bits = np.frombuffer(generator.bytes(8 * pairs), np.uint32)
    cells = bits[:pairs]
    radius = cells.astype(np.float32)
    radius += np.float32(0.5)
    refined = np.flatnonzero(cells < _REFINED)
    # the middle of 2**53 sub-cells: never zero, so the logarithm stays finite
    radius[refined] = cells[refined] + (generator.integers(2**53, size=refined.size) + 0.5) * 2.0**-53
    radius *= np.float32(_UNIT)
    np.log(radius, out=radius)
    radius *= np.float32(-2)
    np.sqrt(radius, out=radius)
    angle = bits[pairs:].view(np.int32).astype(np.float32)
    angle *= np.float32(2 * math.pi * _UNIT)
    normals = np.empty(2 * pairs, np.float32)
    np.multiply(radius, np.cos(angle), out=normals[:pairs])
    np.multiply(radius, np.sin(angle), out=normals[pairs:])
    return normals[:count]


def tail_gap(values: int) -> float:
    """Largest change of any probability by the cut tails of ``values`` normals: 2 * values * Phi(-MAX_NORMAL).

    Certifiers subtract it from the lower bound of the top class.
    """
    return float(2 * values * ndtr(-MAX_NORMAL))
