"""The card of an adapter, as the hub's own client reads it."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard

from titer.defenses.card import card, hub_id, loadable

FACTS: dict[str, Any] = {
    "defense": "coop",
    "encoder": {"name": "vinid/plip", "fingerprint": "ab" * 32, "size": 224},
    "classes": [{"label": "ADI", "texts": ["adipose | tissue"]}, {"label": "TUM", "texts": ["one\ntumour", "cancer"]}],
    "settings": {"context": 4, "checkpoint": "/home/someone/model.pth.tar-50"},
    "data": {"name": "kather", "split": "train", "left_out": 3},
    "shots": 16,
    "seed": 7,
    "allow": ["overlap"],
    "ids": [f"train/ADI/patient {place}.png" for place in range(1234)],
    "groups": ["Jane Doe", "John Doe"],
    "sha256": ["cd" * 32],
    "command": "titer fit coop --data /home/someone/kather --out prompts/theirs",
    "warnings": ["collapsed"],
    "versions": {"titer": "0.1.0"},
}


def test_front_matter_is_what_the_hub_reads() -> None:
    read = ModelCard(card(FACTS), ignore_metadata_errors=False).data.to_dict()
    assert read == {
        "base_model": "vinid/plip",
        "library_name": "titer",
        "license": "unknown",
        "pipeline_tag": "image-classification",
        "tags": ["titer", "adversarial-robustness", "medical", "coop"],
    }


def test_what_it_says_and_that_nothing_in_it_is_private() -> None:
    text = card(FACTS)
    for said in (
        'classifier = titer.from_pretrained("DIRECTORY_OR_HUB_ID")\n',
        "| data | kather, split train |",
        "| images | 1,234 (16 of each class) |",
        "| groups (patients, slides) | 2 |",
        "| left out, since the encoder was trained on them | 3 |",
        "| refusals that were lifted | overlap |",
        "| ADI | adipose \\| tissue |",
        "| TUM | one tumour; cancer |",
        "| checkpoint | model.pth.tar-50 |",
        "The encoder's: none stated.",
        "- collapsed",
        "--to hub",
    ):
        assert said in text
    for private in ("someone", "Doe", "patient 1", "cdcd"):
        assert private not in text


def test_an_encoder_of_a_directory_has_to_be_given(facts: dict[str, Any]) -> None:
    text = card({**facts, "encoder": {"name": "mine", "fingerprint": "ab" * 32, "size": 32}})
    assert 'titer.from_pretrained("DIRECTORY_OR_HUB_ID", model="PATH/TO/mine")' in text
    assert "base_model" not in text


def test_what_answers_questions_is_used_otherwise(facts: dict[str, Any]) -> None:
    text = card({**facts, "defense": "fusion"})
    assert "titer attack pgd --model vinid/plip" in text
    assert "from_pretrained" not in text
    assert "pipeline_tag" not in text


@pytest.fixture
def facts() -> dict[str, Any]:
    """The least that an adapter says."""
    return {name: FACTS[name] for name in ("defense", "encoder", "classes", "settings")}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("vinid/plip", "vinid/plip"),
        ("open_clip:hf-hub:microsoft/BiomedCLIP", "microsoft/BiomedCLIP"),
        ("open_clip:ViT-B-32/hf-hub:o/n", "o/n"),
        ("open_clip:ViT-B-32/epoch_10.pt", None),
        ("titer:tiny", None),
        ("plip", None),
        ("a/b/c", None),
    ],
)
def test_which_names_are_the_hubs(model: str, expected: str | None) -> None:
    assert hub_id(model) == expected
    assert loadable(model) == (expected is not None or model == "titer:tiny")
