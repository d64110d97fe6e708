"""Structural similarity of two pictures (Wang et al., IEEE TIP 2004): what an eye would say of a change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

_SIGMA = 1.5  # pixels; with the filter cut at 3.5 sigma the window is the paper's 11 x 11
_STABLE = (0.01**2, 0.03**2)


def ssim(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Mean structural similarity over pixels and channels, 1 for equal pictures.

    Args:
        one, other: (channels, height, width) in [0, 1], at least 11 pixels a side.
    """
    return float(
        np.mean([_channel(*pair) for pair in zip(one.astype(np.float64), other.astype(np.float64), strict=True)])
    )


def _channel(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    first, second = _smooth(one), _smooth(other)
    spread, other_spread = _smooth(one * one) - first**2, _smooth(other * other) - second**2
    shared = _smooth(one * other) - first * second
    light, contrast = _STABLE
    found = (2 * first * second + light) * (2 * shared + contrast)
    found /= (first**2 + second**2 + light) * (spread + other_spread + contrast)
    edge = 5  # where the window leaves the picture
    return float(found[edge:-edge, edge:-edge].mean())


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    smoothed: NDArray[np.float64] = gaussian_filter(values, _SIGMA, truncate=3.5)
    return smoothed
