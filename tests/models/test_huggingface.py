"""The backend against transformers itself, and everything that can be wrong with a model directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel, SiglipModel

from published_files import open_clip_directory
from tiny_models import WORDS, clip_directory, siglip_directory
from titer.errors import InputError
from titer.models import load_model


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_directory(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return siglip_directory(tmp_path_factory.mktemp("siglip"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return clip_directory(tmp_path / "model")


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_clip_features_equal_the_librarys_own(clip: Path, batch: int) -> None:
    encoder, reference = load_model(clip), CLIPModel.from_pretrained(clip).eval()
    images = torch.rand(batch, 3, 32, 32)
    mean, std = torch.tensor([0.48, 0.45, 0.40]).view(3, 1, 1), torch.tensor([0.26, 0.27, 0.28]).view(3, 1, 1)
    with torch.no_grad():
        expected = reference.get_image_features(pixel_values=(images - mean) / std).pooler_output
        tokens = AutoTokenizer.from_pretrained(clip)(WORDS, padding=True, return_tensors="pt")
        expected_text = reference.get_text_features(**tokens).pooler_output
    assert torch.allclose(encoder.encode_image(images), F.normalize(expected, dim=-1), atol=1e-5)
    assert torch.allclose(encoder.encode_text(WORDS), F.normalize(expected_text, dim=-1), atol=1e-5)
    assert encoder.logit_scale == pytest.approx(reference.logit_scale.exp().item())
    assert (encoder.dim, encoder.size) == (8, 32)


def test_siglip_features_equal_the_librarys_own(siglip: Path) -> None:
    encoder, reference = load_model(siglip), SiglipModel.from_pretrained(siglip).eval()
    images = torch.rand(4, 3, 24, 24)
    mean, std = torch.tensor([0.48, 0.45, 0.40]).view(3, 1, 1), torch.tensor([0.26, 0.27, 0.28]).view(3, 1, 1)
    with torch.no_grad():
        expected = reference.get_image_features(pixel_values=(images - mean) / std).pooler_output
        tokens = AutoTokenizer.from_pretrained(siglip)(WORDS, padding="max_length", max_length=20, return_tensors="pt")
        expected_text = reference.get_text_features(input_ids=tokens["input_ids"]).pooler_output
    assert torch.allclose(encoder.encode_image(images), F.normalize(expected, dim=-1), atol=1e-5)
    assert torch.allclose(encoder.encode_text(WORDS), F.normalize(expected_text, dim=-1), atol=1e-5)


def test_bfloat16_gives_float32_features_near_by(clip: Path) -> None:
    images = torch.rand(4, 3, 32, 32)
    exact, rough = load_model(clip), load_model(clip, dtype="bfloat16")
    assert rough.encode_image(images).dtype == torch.float32
    assert torch.allclose(exact.encode_image(images), rough.encode_image(images), atol=0.05)
    assert exact.fingerprint != rough.fingerprint


def test_fingerprint_follows_weights_tokenizer_and_preprocessing(copy: Path) -> None:
    before = load_model(copy).fingerprint
    assert load_model(copy).fingerprint == before
    config = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**config, "image_mean": [0.5, 0.5, 0.5]}))
    preprocessing = load_model(copy).fingerprint
    weights = load_file(copy / "model.safetensors")
    weights["visual_projection.weight"][0, 0] += 1e-6
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert len({before, preprocessing, load_model(copy).fingerprint}) == 3


def test_fingerprint_does_not_follow_the_version_of_a_library(copy: Path) -> None:
    """An adapter fitted on one machine fits the same model on another."""
    before = load_model(copy).fingerprint
    config = json.loads((copy / "config.json").read_text())
    written_elsewhere = {
        **dict(reversed(config.items())),
        "transformers_version": "0.0.1",
        "_name_or_path": "/elsewhere",
    }
    (copy / "config.json").write_text(json.dumps(written_elsewhere))
    assert load_model(copy).fingerprint == before
    words = copy / "tokenizer.json"
    words.write_text(words.read_text() + "\n")
    assert load_model(copy).fingerprint != before


def rewrite(directory: Path, change: dict[str, torch.Tensor | None]) -> None:
    weights = {**load_file(directory / "model.safetensors"), **change}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"visual_projection.weight": torch.zeros(8, 17)},
            r"visual_projection.weight has shape \(8, 17\), expected \(8, 16\)",
        ),
        ({"visual_projection.weight": torch.full((8, 16), torch.nan)}, "nan or infinity"),
        ({"visual_projection.weight": torch.full((8, 16), torch.inf)}, "nan or infinity"),
        ({"visual_projection.weight": None}, "1 tensors are missing, such as visual_projection.weight"),
        ({"extra.weight": torch.zeros(2)}, "do not belong to this model, such as extra.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(copy: Path, change: dict[str, torch.Tensor | None], words: str) -> None:
    rewrite(copy, change)
    with pytest.raises(InputError, match=words):
        load_model(copy)


def test_stale_position_ids_and_half_precision_storage_are_accepted(copy: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    before = load_model(copy).encode_image(images)
    halves = {name: tensor.half() for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file({**halves, "text_model.embeddings.position_ids": torch.arange(20)[None]}, copy / "model.safetensors")
    encoder = load_model(copy)
    assert encoder.dtype == torch.float32
    assert torch.allclose(encoder.encode_image(images), before, atol=1e-2)


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (os.system, (f"touch {self.target}",))  # type: ignore[return-value]


def test_a_pickle_that_wants_to_execute_code_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({"weights": Malicious(str(tmp_path / "owned"))}, copy / "pytorch_model.bin")
    with pytest.raises(InputError, match="could execute code"):
        load_model(copy)
    assert not (tmp_path / "owned").exists()


def test_a_harmless_pickle_and_shards_are_read(copy: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    encoder = load_model(copy)
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    assert load_model(copy).fingerprint == encoder.fingerprint
    names = sorted(weights)
    shards = {"a.safetensors": names[:10], "b.safetensors": names[10:]}
    for shard, own in shards.items():
        save_file({name: weights[name] for name in own}, copy / shard)
    index = {"weight_map": {name: shard for shard, own in shards.items() for name in own}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(load_model(copy).encode_image(images), encoder.encode_image(images))
    (copy / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors is missing"):
        load_model(copy)


def test_damaged_directories_are_refused(copy: Path, tmp_path: Path) -> None:
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_model(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        load_model(copy)
    (copy / "config.json").write_text(json.dumps({"model_type": "clap"}))
    with pytest.raises(InputError, match="did you mean 'clip'"):
        load_model(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load_model(tmp_path / "empty")


def test_a_tokenizer_without_its_files_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would make one that knows no word: every text the same, and no error."""
    (copy / "tokenizer.json").unlink()
    with pytest.raises(
        InputError, match=r"the tokenizer is missing: get tokenizer\.json, or vocab\.json and merges\.txt, or"
    ):
        load_model(copy)
    (copy / "vocab.json").write_text("{}")
    with pytest.raises(InputError, match="the tokenizer is missing"):
        load_model(copy)
    (copy / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(InputError, match="no usable tokenizer: ") as caught:
        load_model(copy)
    assert "\n" not in str(caught.value)
    for raised, said in ((Exception("\nUnk token not found\nin x"), "Unk token not found$"), (KeyError(), "KeyError$")):

        def damaged(*_: object, error: Exception = raised, **__: object) -> object:
            raise error

        monkeypatch.setattr("titer.models.huggingface.AutoTokenizer.from_pretrained", damaged)
        with pytest.raises(InputError, match=f"no usable tokenizer: {said}"):
            load_model(copy)


def test_a_tokenizer_whose_package_is_missing_says_what_to_install(
    siglip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SigLIP's own tokenizer asks for sentencepiece, which CLIP does not need."""

    def missing(*_: object, **__: object) -> object:
        raise ImportError("\nSiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr("titer.models.huggingface.AutoTokenizer.from_pretrained", missing)
    with pytest.raises(InputError, match=r"needs packages that are not installed: pip install 'titer\[siglip\]'"):
        load_model(siglip)


def test_a_text_that_would_be_cut_is_refused(clip: Path) -> None:
    with pytest.raises(InputError, match="tokens, the text tower takes 20"):
        load_model(clip).encode_text(["word " * 40])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("titer:tinny", "did you mean 'titer:tiny'"),
        ("./nowhere", "no such directory"),
        ("owner/name", "cannot be fetched"),
        (
            "vinid/plip",
            r"offline, put .* of https://huggingface\.co/vinid/plip \(licence: none stated\) into one directory",
        ),
    ],
)
def test_names_that_lead_nowhere(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=words):
        load_model(name)


def test_a_gated_model_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise GatedRepoError.__new__(GatedRepoError)  # made without the response of a server

    monkeypatch.setattr("titer.models.huggingface.snapshot_download", refuse)
    with pytest.raises(
        InputError, match=r"is gated \(licence: Health AI .*\): accept its terms at https://.*`hf auth login`"
    ):
        load_model("google/medsiglip-448")


@pytest.mark.parametrize("layout", ["hugging face", "open_clip"])
def test_a_hub_model_is_read_by_the_files_that_it_has(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = (clip_directory if layout == "hugging face" else open_clip_directory)(tmp_path / "snapshot")
    asked: list[str] = []

    def download(_: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns[-1])
        return str(snapshot)

    monkeypatch.setattr("titer.models.huggingface.snapshot_download", download)
    encoder = load_model("owner/name")
    assert (encoder.name, encoder.dim) == ("owner/name", 8)
    assert asked == ["model*.safetensors", "pytorch_model.bin", "open_clip_model.safetensors"][: len(asked)]
    assert len(asked) == (1 if layout == "hugging face" else 3)


def test_an_existing_path_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_directory(tmp_path / "vinid" / "plip")
    monkeypatch.chdir(tmp_path)
    assert load_model("vinid/plip").dim == 8
