"""What is said of published models."""

from __future__ import annotations

import pytest

from titer.models.cards import cards, licence_of, terms_of


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wisdomik/QuiltNet-B-32", "MIT, for research"),
        ("vinid/plip", "none stated"),
        ("plip", "none stated, if it is vinid/plip"),
        ("MahmoodLab/CONCH", "CC BY-NC-ND 4.0; adapters made of it may not be passed on; gated"),
        ("MahmoodLab/conch", "CC BY-NC-ND 4.0; adapters made of it may not be passed on; gated"),
        ("conch", "CC BY-NC-ND 4.0; adapters made of it may not be passed on; gated, if it is MahmoodLab/CONCH"),
        ("QuiltNet-B-32-mine", "not known here; see where it comes from"),
        ("", "not known here; see where it comes from"),
    ],
)
def test_a_licence_is_told_by_id_and_guessed_by_the_name_of_a_copy(name: str, words: str) -> None:
    assert licence_of(name) == words


def test_terms_are_said_of_known_models_alone() -> None:
    assert terms_of("google/medsiglip-448") == " (licence: Health AI Developer Foundations terms; gated)"
    assert terms_of("owner/name") == ""


def test_no_two_cards_share_the_name_of_a_copy() -> None:
    names = [hub_id.rpartition("/")[2] for hub_id in cards()]
    assert len(set(names)) == len(names)
