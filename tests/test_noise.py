import numpy as np
import pytest
from scipy import stats

from titer.noise import _UNIT, BLOCK, MAX_NORMAL, NoiseStream, _normals, tail_gap

GOLDEN = [-0.9366232752799988, 0.24230799078941345, -0.36935123801231384, -1.4952313899993896]


def test_draws_are_standard_normal() -> None:
    stream = NoiseStream(0, "estimate")
    draws = np.concatenate([stream.block("x", block, (3, 16, 16)).ravel() for block in range(100)])
    assert draws.dtype == np.float32
    assert np.isfinite(draws).all()
    assert stats.kstest(draws, "norm").pvalue > 1e-4
    for place in (1, 2, 3, 4):
        expected = 2 * stats.norm.sf(place) * draws.size
        assert abs((np.abs(draws) > place).sum() - expected) < 5 * np.sqrt(expected)


def test_blocks_differ_in_every_part_of_their_key() -> None:
    first = NoiseStream(0, "estimate").block("x", 0, (1, 8, 8))
    others = [
        NoiseStream(1, "estimate").block("x", 0, (1, 8, 8)),
        NoiseStream(0, "select").block("x", 0, (1, 8, 8)),
        NoiseStream(0, "estimate").block("y", 0, (1, 8, 8)),
        NoiseStream(0, "estimate").block("x", 1, (1, 8, 8)),
    ]
    for other in others:
        assert abs(np.asarray(np.corrcoef(first.ravel(), other.ravel()))[0, 1]) < 5 / np.sqrt(first.size)
    assert np.array_equal(first, NoiseStream(0, "estimate").block("x", 0, (1, 8, 8)))


def test_numbers_never_change() -> None:
    """Records of earlier runs stay reproducible."""
    draws = NoiseStream(0, "estimate").block("x", 2, (1, 2, 2))
    assert draws.shape == (BLOCK, 1, 2, 2)
    assert draws[0].ravel().tolist() == pytest.approx(GOLDEN, abs=1e-6)


def test_draws_are_independent_of_each_other() -> None:
    draws = NoiseStream(3, "estimate").block("x", 0, (3, 16, 16)).reshape(BLOCK, -1)
    correlations = np.asarray(np.corrcoef(draws))[np.triu_indices(BLOCK, 1)]
    assert np.abs(correlations).max() < 6 / np.sqrt(draws.shape[1])


class Smallest(np.random.Generator):
    """Bits that are all zero: the outermost cell of the tail."""

    def bytes(self, length: int) -> bytes:
        return bytes(length)


def test_the_outermost_cells_are_refined_and_stay_finite() -> None:
    draws = _normals(Smallest(np.random.Philox(1)), 1000)
    unrefined = np.sqrt(-2 * np.log(0.5 * _UNIT))
    assert np.isfinite(draws).all()
    assert draws[:500].max() > unrefined
    assert draws.max() <= MAX_NORMAL
    assert MAX_NORMAL > 10.9


def test_tail_gap_is_negligible_but_not_forgotten() -> None:
    assert 0 < tail_gap(3 * 224 * 224) < 1e-20
    assert tail_gap(2) == 2 * tail_gap(1)
