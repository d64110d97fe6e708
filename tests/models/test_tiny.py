"""The embedded model: what ships, what it saw, and that it knows what its card says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import titer
from titer import models

TINY = Path(models.__file__).parent / "tiny"
SHARED = Path(__file__).parents[3] / "shared" / "data"
METRICS = json.loads((TINY / "metrics.json").read_text())
SEEN = json.loads((TINY / "upstream.json").read_text())


def test_it_is_small_and_complete() -> None:
    assert (TINY / "model.safetensors").stat().st_size <= 16_000_000
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json", "README.md", "LICENSE-WEIGHTS.md"):
        assert (TINY / name).stat().st_size > 0


def test_the_card_says_what_was_measured() -> None:
    card = (TINY / "README.md").read_text()
    for name, found in METRICS["test"].items():
        assert f"| {name} | {found['right']}/{found['total']} | {found['accuracy']:.3f} |" in card


@pytest.mark.parametrize(
    ("name", "least"), [("mednist", 0.97), ("blood_cells", 0.93), ("lung_histology", 0.80), ("brain_mri", 0.75)]
)
def test_zero_shot_accuracy_reaches_its_target(name: str, least: float) -> None:
    assert METRICS["test"][name]["accuracy"] >= least


def test_the_unseen_set_is_unseen() -> None:
    assert "cxr_nih" not in SEEN
    assert "cxr_nih" not in METRICS["pictures"]


def test_only_the_upstream_part_was_seen() -> None:
    for name, pictures in SEEN.items():
        for identifier in pictures if name == "phantoms" else ():
            assert int(hashlib.sha256(identifier.encode()).hexdigest()[:8], 16) / 2**32 < 0.7
    assert all(len(pictures) == METRICS["pictures"][name] for name, pictures in SEEN.items())


@pytest.mark.parametrize("name", [name for name in SEEN if name != "phantoms"])
def test_ids_and_files_are_those_of_the_upstream_rule(name: str) -> None:
    if not SHARED.exists():
        pytest.skip("no real images beside this clone: ../shared/data")
    data = titer.load_data(SHARED / name, split="train")
    upstream = {
        e.id for e in data.examples if int(hashlib.sha256((e.group or e.id).encode()).hexdigest()[:8], 16) / 2**32 < 0.7
    }
    assert set(SEEN[name]) == upstream
    for identifier in sorted(upstream)[:5]:
        assert hashlib.sha256((SHARED / name / identifier).read_bytes()).hexdigest() == SEEN[name][identifier]


def test_it_answers_the_phantoms() -> None:
    encoder, data = titer.load_model("titer:tiny"), titer.load_data("titer:phantoms", limit=96)
    images = torch.stack([encoder.preprocess(data.read(example).pixels) for example in data.examples])
    answers = titer.zero_shot(encoder, data.classes)(images).argmax(dim=1).tolist()
    right = sum(answer == example.label for answer, example in zip(answers, data.examples, strict=True))
    assert right / len(data) > METRICS["test"]["phantoms"]["accuracy"] - 0.15


@pytest.mark.parametrize("name", ["blood_cells", "lung_histology"])
def test_its_accuracy_on_real_images_is_that_of_the_card(name: str) -> None:
    """Through the package's own readers, resizing and prompts."""
    if not SHARED.exists():
        pytest.skip("no real images beside this clone: ../shared/data")
    encoder, data = titer.load_model("titer:tiny"), titer.load_data(SHARED / name)
    images = torch.stack([encoder.preprocess(data.read(example).pixels) for example in data.examples])
    answers = titer.zero_shot(encoder, data.classes)(images).argmax(dim=1).tolist()
    right = sum(answer == example.label for answer, example in zip(answers, data.examples, strict=True))
    assert abs(right / len(data) - METRICS["test"][name]["accuracy"]) < 0.01


def test_no_text_is_unknown_to_its_tokenizer() -> None:
    encoder = titer.load_model("titer:tiny")
    features = encoder.encode_text(["naïve Ärztin 3 µm ≥ 2", "日本語", ""])
    assert torch.isfinite(features).all()
