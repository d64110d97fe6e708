"""Adapters by name, and copies of them that can be shared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import titer
from defenses.tiny import data, judged
from tiny_models import clip_directory
from titer.cli.main import run as command_line
from titer.defenses import Coop
from titer.defenses.adapter import CONFIG, load_classifier
from titer.defenses.pretrained import publish
from titer.errors import InputError
from titer.models import Encoder, load_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_directory(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return load_model(model)


@pytest.fixture(scope="module")
def adapter(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "mine"
    titer.fit(Coop(epochs=2, context=2), encoder, data(), out=path, shots=2, seed=7, command="titer fit /home/x")
    return path


IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_it_is_the_classifier_that_certify_would_load(adapter: Path, model: Path, encoder: Encoder) -> None:
    expected = load_classifier(adapter, encoder, judged(data()))
    for given in (encoder, model, str(model)):
        found = titer.from_pretrained(adapter, model=given)
        assert found.classes == expected.classes
        assert torch.equal(found(IMAGES), expected(IMAGES))
        assert (found.name, found.sigmas, found.warnings) == (expected.name, expected.sigmas, expected.warnings)


def test_the_recorded_encoder_is_taken_where_its_name_can_be_loaded(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fitted on '.*', which is no hub id: pass model=PATH"):
        titer.from_pretrained(adapter)
    copy = shutil.copytree(adapter, tmp_path / "copy")
    content = json.loads((copy / CONFIG).read_text())
    content["titer"]["encoder"]["name"] = "titer:tiny"
    (copy / CONFIG).write_text(json.dumps(content))
    with pytest.raises(InputError, match="was fitted on another encoder"):
        titer.from_pretrained(copy)


def test_a_hub_id_is_fetched_and_offline_it_says_what_to_do(
    adapter: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append((hub_id, allow_patterns))
        return str(adapter)

    monkeypatch.setattr("titer.models.huggingface.snapshot_download", snapshot)
    assert titer.from_pretrained("someone/robust-plip", model=encoder).name == "mine"
    assert asked == [("someone/robust-plip", ["*.json", "*.txt", "*.model", "adapter_model.safetensors"])]

    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr("titer.models.huggingface.snapshot_download", offline)
    with pytest.raises(
        InputError, match=r"offline, put .*adapter_model\.safetensors of https://huggingface\.co/a/b into"
    ):
        titer.from_pretrained("a/b", model=encoder)


@pytest.mark.parametrize("name", ["nowhere", "no/such/directory"])
def test_what_is_no_adapter(name: str, encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"adapter_config\.json is missing"):
        titer.from_pretrained(name, model=encoder)


def test_a_copy_to_share_names_nothing_private_and_is_the_same_classifier(
    adapter: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    assert command_line(["export", str(adapter), "--to", "hub", "--out", str(out)]) == 0
    before, after = (json.loads((path / CONFIG).read_text())["titer"] for path in (adapter, out))
    assert before["ids"]
    assert before["groups"]
    assert (after["ids"], after["groups"], after["command"]) == ([], [], "")
    assert after["counts"] == {"images": len(before["ids"]), "groups": len(before["groups"])}
    text = "".join((out / name).read_text() for name in (CONFIG, "README.md"))
    assert not any(private in text for private in (*before["ids"], *map(json.dumps, before["groups"]), "/home"))
    assert f"| images | {len(before['ids'])} (2 of each class) |" in text
    assert "--to hub" in (adapter / "README.md").read_text()
    assert "--to hub" not in (out / "README.md").read_text()
    ours, theirs = (titer.from_pretrained(path, model=encoder)(IMAGES) for path in (adapter, out))
    assert torch.equal(ours, theirs)
    with pytest.raises(InputError, match="was fitted on 6 of these images"):
        load_classifier(out, encoder, data())
    with pytest.raises(InputError, match="is the adapter itself"):
        publish(adapter, adapter)


def test_another_librarys_entries_stay_without_paths(adapter: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(adapter, tmp_path / "peft")
    content: dict[str, Any] = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps({**content, "peft_type": "LORA", "base_model_name_or_path": "/home/x/clip"}))
    publish(copy, tmp_path / "out")
    written = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (written["peft_type"], written["base_model_name_or_path"]) == ("LORA", None)
