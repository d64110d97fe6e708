"""SSIM: exact where it can be said by hand, and the figure of scikit-image 0.26 on one pair of pictures."""

import numpy as np
import pytest

from titer.upstream.similarity import ssim

EXPECTED, NEAR = 0.5802880337715858, 0.9877047679435723


def wave(phase: float) -> np.ndarray:
    rows, columns = np.mgrid[0:40, 0:48]
    return np.stack([0.5 + 0.4 * np.sin(rows / (3 + band) + columns / 5 + phase) for band in range(3)]).astype(
        np.float32
    )


def test_equal_pictures() -> None:
    assert ssim(wave(0), wave(0)) == pytest.approx(1)


def test_flat_pictures_by_hand() -> None:
    """Without contrast only light is compared: (2 * .2 * .6 + c) / (.04 + .36 + c), c = .01 squared."""
    one, other = np.full((1, 16, 16), 0.2, np.float32), np.full((1, 16, 16), 0.6, np.float32)
    assert ssim(one, other) == pytest.approx((0.24 + 1e-4) / (0.4 + 1e-4), rel=1e-6)


def test_the_opposite_is_negative() -> None:
    assert ssim(wave(0), 1 - wave(0)) < -0.5


def test_as_scikit_image() -> None:
    """structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=0)."""
    assert ssim(wave(0), wave(0.7)) == pytest.approx(EXPECTED, abs=1e-6)
    assert ssim(wave(0), wave(0.1)) == pytest.approx(NEAR, abs=1e-6)
