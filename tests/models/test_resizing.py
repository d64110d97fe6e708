import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling

from titer.models.resizing import FILTERS, Side, matrix, norm


def whole(length: int, made: int) -> Side:
    return Side(length, 0, length, made, 0, made)


def of_pillow(side: Side, resample: Resampling) -> np.ndarray:
    """What Pillow makes of each single pixel of a column."""
    single = np.zeros((side.padded, side.length), np.float32)
    single[side.before : side.before + side.length] = np.eye(side.length)
    made = np.asarray(Image.fromarray(single).resize((side.length, side.made), resample))
    return made[side.start : side.start + side.kept]


@pytest.mark.parametrize("resample", [Resampling(number) for number in FILTERS])
@pytest.mark.parametrize(
    "side",
    [
        whole(224, 64),
        whole(64, 224),
        whole(97, 64),
        whole(33, 33),
        whole(5, 64),
        Side(300, 0, 300, 96, 16, 64),
        Side(40, 12, 64, 32, 0, 32),
    ],
)
def test_the_matrix_is_pillows(side: Side, resample: Resampling) -> None:
    assert np.abs(matrix(side, resample).toarray() - of_pillow(side, resample)).max() < 3e-7


@pytest.mark.parametrize(("length", "made", "known"), [(224, 64, 0.289), (64, 224, 3.51)])
def test_known_norms_of_bicubic_squares(length: int, made: int, known: float) -> None:
    assert norm(whole(length, made), Resampling.BICUBIC) ** 2 == pytest.approx(known, rel=2e-3)


def test_the_norm_is_the_largest_singular_value_rounded_up() -> None:
    side = Side(150, 10, 170, 96, 16, 64)
    largest = np.linalg.svd(of_pillow(side, Resampling.BICUBIC).astype(float), compute_uv=False)[0]
    assert largest < norm(side, Resampling.BICUBIC) < largest * (1 + 3e-6)


def test_norms_that_are_known_without_a_computer() -> None:
    assert norm(whole(64, 64), Resampling.BICUBIC) == pytest.approx(1, abs=2e-6)
    assert norm(whole(64, 32), Resampling.BOX) == pytest.approx(1 / np.sqrt(2), abs=2e-6)  # means of two
    assert norm(whole(32, 64), Resampling.BOX) == pytest.approx(np.sqrt(2), abs=4e-6)  # each pixel twice
