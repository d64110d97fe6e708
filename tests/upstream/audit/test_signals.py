"""All signals together: planting a few pairs gives what beginning again gives."""

from __future__ import annotations

import numpy as np
import pytest

from titer.errors import InputError
from titer.upstream.audit.canaries import FAMILIES
from titer.upstream.audit.pairs import Features, Pairs
from titer.upstream.audit.signals import SIGNALS, Rule, combined, percentiles, planted, population, signals
from upstream.audit.making import pairs, unit

RULE = Rule(k=5, captions=20)


def others(rows: list[int], source: Pairs) -> Pairs:
    """What stands at these rows of other pairs."""
    return Pairs(
        tuple(source.captions[row] for row in rows),
        tuple(Features(made.images[rows], made.texts[rows], made.shifts[rows]) for made in source.features),
        source.residuals[rows],
        None if source.surprisals is None else source.surprisals[rows],
    )


@pytest.mark.parametrize("encoders", [1, 2])
def test_planting_gives_what_beginning_again_gives(encoders: int) -> None:
    whole, rows = pairs(60, encoders), np.array([4, 31, 50])
    strange = pairs(60, encoders, seed=9)
    known = population(whole, RULE, 3)
    found = planted(known, rows, others(rows.tolist(), strange), RULE)
    again = population(whole.replaced(rows, others(rows.tolist(), strange)), RULE, 3)
    again = type(again)(again.pairs, again.near, _crowds(again.pairs, known.far), known.far)
    first, second = signals(found, RULE, 0), signals(again, RULE, 0)
    assert list(first) == list(second)
    for name, values in first.items():
        assert values == pytest.approx(second[name]), name
    assert {name.removesuffix("/2") for name in first} <= set(SIGNALS)
    assert ("disagreement" in first) == (encoders == 2)


def _crowds(whole: Pairs, far: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    from titer.upstream.audit.wording import crowds

    return crowds(whole.captions, whole.features[0].images, RULE.alike, far)


def test_replacing_leaves_the_others_as_they_are() -> None:
    whole, strange = pairs(10), pairs(10, seed=5)
    after = whole.replaced(np.array([2]), others([3], strange))
    assert after.captions[2] == strange.captions[3]
    assert (after.features[0].images[2] == strange.features[0].images[3]).all()
    assert after.captions[:2] + after.captions[3:] == whole.captions[:2] + whole.captions[3:]
    assert (whole.features[0].images[2] != strange.features[0].images[3]).any()


def test_a_planted_mismatch_has_the_highest_score() -> None:
    whole = pairs(90)
    (made,) = whole.features
    wrong = unit(np.eye(6)[[4]])
    odd = Pairs(("a violin of 5 cm",), (Features(made.images[[0]], wrong, made.shifts[[0]] * 3),), np.array([0.3]))
    found = signals(planted(population(whole, RULE, 1), np.array([0]), odd, RULE), RULE, 0)
    assert combined(found).argmax() == 0
    assert {name for name, values in found.items() if values.argmax() == 0} >= {
        "pair",
        "slof",
        "surprisal",
        "transform",
        "residual",
    }


def test_a_language_models_surprisals_replace_the_bigrams() -> None:
    made = pairs(40)
    told = Pairs(made.captions, made.features, made.residuals, np.arange(40.0))
    assert signals(population(told, RULE, 1), RULE, 0)["surprisal"].tolist() == list(range(40))


def test_the_score_is_the_mean_percentile() -> None:
    assert percentiles(np.array([3.0, 1, 1, 7])).tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6, 1])
    assert percentiles(np.zeros(5)).tolist() == [0.5] * 5
    found = {"one": np.array([0.0, 1, 2]), "two": np.array([5.0, 3, 4])}
    assert combined(found).tolist() == pytest.approx([0.5, 0.25, 0.75])


def test_families_are_those_asked_for_and_the_control() -> None:
    assert Rule().planted == tuple(FAMILIES)
    assert Rule(families=("wrong-caption", "text")).planted == ("text", "wrong-caption", "untouched")
    with pytest.raises(InputError, match="did you mean 'text'"):
        Rule(families=("texts",))


@pytest.mark.parametrize("wrong", [{"k": 0}, {"captions": 0}, {"alike": 0.0}, {"smoothing": 0.0}])
def test_rules_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Rule(**wrong)  # type: ignore[arg-type]
