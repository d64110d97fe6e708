"""Grain of a picture: exact values of pictures whose blur is known by hand, and noise of any small budget raises it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d

from titer.upstream.audit.residual import residuals


def test_an_even_picture_has_none_and_a_chessboard_has_all() -> None:
    assert residuals(torch.full((1, 3, 8, 8), 0.4)).tolist() == pytest.approx([0.0], abs=1e-6)
    board = torch.tensor([[(row + column) % 2 for column in range(64)] for row in range(64)], dtype=torch.float32)
    assert float(residuals(board.expand(1, 3, -1, -1))[0]) == pytest.approx(1, abs=0.05)  # but for the edge


def test_it_is_what_another_library_blurs_away() -> None:
    images = torch.rand(3, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    for image, found in zip(images.numpy().astype(float), residuals(images).tolist(), strict=True):
        blurred = image
        for axis in (1, 2):
            blurred = convolve1d(blurred, np.array([0.25, 0.5, 0.25]), axis=axis, mode="nearest")
        whole = image - image.mean(axis=(1, 2), keepdims=True)
        assert found == pytest.approx(np.square(image - blurred).sum() / np.square(whole).sum(), rel=1e-5)


def test_brightness_and_contrast_do_not_change_it_and_noise_raises_it() -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 5, 5), 40, mode="bilinear") * 0.5 + 0.2
    before = residuals(smooth)
    assert residuals(smooth * 0.5 + 0.3).tolist() == pytest.approx(before.tolist(), rel=1e-3)
    signs = torch.where(torch.rand(2, 3, 40, 40) < 0.5, -1.0, 1.0)
    assert bool((residuals(smooth + 4 / 255 * signs) > 1.5 * before).all())
