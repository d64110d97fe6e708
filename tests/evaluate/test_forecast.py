from pathlib import Path

import pytest

from images import brightness_encoder, folder
from titer.certify import Anytime, Gaussian, Predict
from titer.evaluate.forecast import forecast
from titer.evaluate.plan import Method, plan


@pytest.mark.parametrize(("method", "most"), [(Gaussian(n=900), 8 * 1000), (Predict(n=500), 8 * 500)])
def test_fixed_numbers_of_draws_are_known(method: Method, most: int, tmp_path: Path) -> None:
    chosen = plan("certify", method, brightness_encoder(), folder(tmp_path / "data"), sigma=0.1)
    expected = forecast(chosen, workers=2)
    assert expected.draws == expected.most_draws == most
    assert 0 < expected.seconds == expected.most_seconds
    assert expected.memory > 10_000_000
    assert not list(tmp_path.glob("run*"))


def test_a_sequential_run_is_guessed_from_a_pilot(tmp_path: Path) -> None:
    chosen = plan(
        "certify", Anytime(n=50_000, radii=(0.01,)), brightness_encoder(), folder(tmp_path / "data"), sigma=0.1
    )
    expected = forecast(chosen, workers=1)
    assert expected.pilot == 8
    assert 8 * 100 < expected.draws < expected.most_draws == 8 * 50_100
    assert expected.seconds < expected.most_seconds
