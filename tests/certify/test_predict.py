import numpy as np
import pytest
from scipy.stats import binomtest

from certify.driving import drive, multinomial
from titer.certify import ABSTAIN, Answer, Predict
from titer.errors import InputError


def answer(counts: list[int], alpha: float = 0.001) -> Answer:
    statement = drive(Predict(n=sum(counts)).certify(0.5, alpha), lambda draws: np.array(counts) * (draws > 0))
    assert isinstance(statement, Answer)
    return statement


def test_eleven_draws_are_the_least_that_can_answer() -> None:
    assert answer([11, 0]).prediction == 0
    assert answer([10, 0]).prediction == ABSTAIN
    assert Predict().fewest_draws(0.001) == 11


def test_it_is_the_binomial_test_of_the_top_two() -> None:
    found = answer([10, 60, 25, 5])
    assert found.p_value == pytest.approx(binomtest(60, 85).pvalue)
    assert found.prediction == 1
    assert answer([50, 40, 10]).prediction == ABSTAIN


def test_a_wrong_answer_is_rarer_than_alpha() -> None:
    """Two classes tied: whatever it answers is wrong with respect to one of them."""
    answers = [
        drive(Predict(n=100).certify(0.5, 0.05), multinomial([0.5, 0.5], seed)).prediction for seed in range(2000)
    ]
    assert sum(found != ABSTAIN for found in answers) <= 140


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="got 0"):
        Predict(n=0)
    with pytest.raises(InputError, match="alpha"):
        Predict(alpha=1.5)
