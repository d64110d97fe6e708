"""Names, places and prefixes of checkpoints, and everything that can be wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from published_files import (
    BIOMED,
    CLIP,
    TEXTS,
    biomed_directory,
    biomed_weights,
    clip_weights,
    open_clip_directory,
    write_clip_words,
)
from tiny_models import clip_directory
from titer.errors import InputError
from titer.models import load_model
from titer.models.open_clip import config as configurations
from titer.models.pixels import Preprocess


@pytest.fixture
def tiny_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B-32 is a tiny architecture here; ViT-L-14 stays what it is."""
    monkeypatch.setitem(configurations.architectures(), "ViT-B-32", CLIP)
    monkeypatch.setitem(configurations.architectures(), "ViT-B-32-quickgelu", {**CLIP, "quick_gelu": True})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return open_clip_directory(tmp_path / "model")


def rewrite(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = directory / "open_clip_config.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.usefixtures("tiny_names")
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_a_checkpoint_file_and_a_directory_give_the_same_features(suffix: str, wrapped: bool, tmp_path: Path) -> None:
    file, weights = tmp_path / f"epoch_3.{suffix}", clip_weights()
    named = {f"module.{name}": tensor for name, tensor in weights.items()} if wrapped else weights
    if suffix == "safetensors":
        save_file(named, file)
    else:
        training = {"epoch": 3, "name": "run", "state_dict": named, "optimizer": {"state": {0: torch.zeros(1)}}}
        torch.save(training if wrapped else named, file)
    write_clip_words(tmp_path / "tokenizer")
    encoder = load_model(f"open_clip:ViT-B-32/{file}")
    other = load_model(open_clip_directory(tmp_path / "hub"))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(encoder.image_tower(images), other.image_tower(images))
    assert torch.equal(encoder.encode_text(TEXTS), other.encode_text(TEXTS))
    assert encoder.preprocess == Preprocess(
        32, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )  # OpenAI's, in a file that says nothing
    assert encoder.architecture == (
        "open_clip: 2 layers of 32 on patches of 8 pixels (gelu); text: 2 layers of 24, 40 tokens (gelu)"
    )


@pytest.mark.usefixtures("tiny_names")
def test_the_name_decides_the_activation_of_a_file(directory: Path) -> None:
    file, images = directory / "open_clip_model.safetensors", torch.rand(2, 3, 32, 32)
    plain, quick = (load_model(f"open_clip:{name}/{file}") for name in ("ViT-B-32", "ViT-B-32-quickgelu"))
    assert plain.preprocess.mean == (0.5, 0.4, 0.3)  # of the configuration beside the file
    assert torch.equal(plain.encode_image(images), load_model(directory).encode_image(images))
    assert (plain.encode_image(images) - quick.encode_image(images)).abs().max() > 1e-3


@pytest.mark.usefixtures("tiny_names")
def test_a_directory_says_its_own_architecture_and_a_name_must_agree(directory: Path) -> None:
    assert load_model(f"open_clip:{directory}").fingerprint == load_model(f"open_clip:ViT-B-32/{directory}").fingerprint
    assert load_model(directory).name == "model"
    with pytest.raises(InputError, match="activation is gelu, but ViT-B-32-quickgelu means quick_gelu"):
        load_model(f"open_clip:ViT-B-32-quickgelu/{directory}")
    with pytest.raises(InputError, match=r"vision_cfg\.image_size is 32, but ViT-L-14 has 224"):
        load_model(f"open_clip:ViT-L-14/{directory}")


@pytest.mark.usefixtures("tiny_names")
def test_another_family_under_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vision_cfg is vit_base_patch16_224, not ViT-B-32"):
        load_model(f"open_clip:ViT-B-32/{biomed_directory(tmp_path)}")


def test_fingerprint_follows_activation_preprocessing_and_words(directory: Path) -> None:
    found = [load_model(directory).fingerprint]
    rewrite(directory, lambda content: content["model_cfg"].update(quick_gelu=True))
    found.append(load_model(directory).fingerprint)
    rewrite(directory, lambda content: content["preprocess_cfg"].update(mean=[0.1, 0.1, 0.1]))
    found.append(load_model(directory).fingerprint)
    (directory / "merges.txt").write_text("#version: 0.2\nb r\n")
    found.append(load_model(directory).fingerprint)
    assert len(set(found)) == 4


def test_preprocessing_is_the_files(directory: Path) -> None:
    rewrite(directory, lambda content: content["preprocess_cfg"].update(resize_mode="squash", interpolation="bilinear"))
    assert load_model(directory).preprocess == Preprocess(32, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "squash", resample=2)


def test_a_directory_in_both_layouts_is_read_as_hugging_faces(directory: Path) -> None:
    clip_directory(directory)
    assert load_model(directory).architecture.startswith("clip: ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual.ln_post.weight": None}, r"1 tensors are missing, such as visual.ln_post.weight"),
        ({"transformer.resblocks.1.ln_1.bias": None}, "such as transformer.resblocks.1.ln_1.bias"),
        ({"visual.proj": torch.zeros(9, 8)}, r"visual.proj has shape \(9, 8\), expected \(32, 8\)"),
        (
            {"visual.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(95, 32)},
            r"in_proj_weight has shape \(95, 32\), expected \(96, 32\)",
        ),
        ({"visual.conv1.weight": torch.full((32, 3, 8, 8), torch.nan)}, "visual.conv1.weight holds nan"),
        ({"visual.transformer.resblocks.2.ln_1.bias": torch.zeros(32)}, "do not belong to this model"),
        ({"extra": torch.zeros(1)}, "do not belong to this model, such as extra"),
        ({"logit_scale": None}, "logit_scale is missing"),
        (
            {"visual.attn_pool.query": torch.zeros(1)},
            "holds a CoCa; give its own architecture, such as open_clip:coca_ViT",
        ),
        ({"visual.attn_pool_contrast.query": torch.zeros(1)}, "holds CONCH; give open_clip:conch_ViT-B-16/PATH"),
        ({"visual.layer1.0.conv1.weight": torch.zeros(1)}, "a CLIP with a ResNet; give its own architecture"),
    ],
)
def test_tensors_that_do_not_fit_are_named_as_the_file_does(
    change: dict[str, torch.Tensor | None], words: str, tmp_path: Path
) -> None:
    weights = {**clip_weights(), **change}
    with pytest.raises(InputError, match=words):
        load_model(open_clip_directory(tmp_path, weights={k: v for k, v in weights.items() if v is not None}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual.trunk.cls_token": None}, "visual.trunk.cls_token is missing"),
        ({"visual.trunk.cls_token": torch.zeros(64)}, r"cls_token has shape \(64,\), expected 3 axes"),
        ({"visual.trunk.blocks.1.attn.qkv.bias": None}, "missing, such as visual.trunk.blocks.1.attn.qkv.bias"),
        ({"visual.trunk.pos_embed": torch.zeros(1, 6, 64)}, r"pos_embed has shape \(6, 64\), expected \(5, 64\)"),
        ({"visual.trunk.blocks.0.ls1.gamma": torch.zeros(64)}, "do not belong to this model"),
        ({"text.transformer.embeddings.word_embeddings.weight": None}, "word_embeddings.weight is missing"),
        ({"text.transformer.embeddings.token_type_embeddings.weight": torch.zeros(1, 128)}, "expected two kinds"),
        ({"text.proj.2.weight": torch.zeros(7, 68)}, r"text.proj.2.weight has shape \(7, 68\), expected \(8, 68\)"),
        ({"text.stray": torch.zeros(1)}, "do not belong to this model, such as text.stray"),
    ],
)
def test_the_same_for_biomedclip(change: dict[str, torch.Tensor | None], words: str, tmp_path: Path) -> None:
    weights = {**biomed_weights(), **change}
    with pytest.raises(InputError, match=words):
        load_model(biomed_directory(tmp_path, {k: v for k, v in weights.items() if v is not None}))


@pytest.mark.parametrize(
    ("part", "option", "words"),
    [
        ("vision_cfg", {"attentional_pool": "parallel"}, "vision_cfg.attentional_pool = 'parallel' is a variant"),
        ("vision_cfg", {"attentional_pool": True}, "tensors are missing, such as visual.attn_pool.attn"),
        ("vision_cfg", {"pool_type": "avg"}, "vision_cfg.pool_type = 'avg' is a variant"),
        ("text_cfg", {"no_causal_mask": True}, "text_cfg.no_causal_mask = True is a variant"),
        ("text_cfg", {"norm_kwargs": {"eps": 1e-6}}, "text_cfg.norm_kwargs"),
        (
            "vision_cfg",
            {"timm_model_name": "vit_base_patch16_siglip_224"},
            "of a SigLIP take the version in Hugging Face",
        ),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "expected hf_pooler_type"),
        ("vision_cfg", {"image_size": [32, 24]}, "expected a square"),
        (
            "vision_cfg",
            {"head_width": 5},
            r"open_clip_config\.json: no model can be built of it: ValueError: The hidden size",
        ),
        ("vision_cfg", {"width": "wide"}, "no model can be built of it: invalid literal"),
        ("text_cfg", {"heads": 5}, "no model can be built of it"),
    ],
)
def test_variants_that_are_not_read_are_refused(part: str, option: dict[str, Any], words: str, directory: Path) -> None:
    rewrite(directory, lambda content: content["model_cfg"][part].update(option))
    with pytest.raises(InputError, match=words):
        load_model(directory)


def test_options_that_change_nothing_are_passed_over(directory: Path) -> None:
    before = load_model(directory).encode_text(TEXTS)
    option = {"output_tokens": True, "pool_type": "argmax", "ls_init_value": None, "hf_tokenizer_name": "owner/name"}
    rewrite(directory, lambda content: content["model_cfg"]["text_cfg"].update(option))
    assert torch.equal(load_model(directory).encode_text(TEXTS), before)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("resize_mode", "longest", "unknown resize_mode"),
        ("interpolation", "nearest", "unknown interpolation"),
        ("size", 64, "pictures of 64 pixels, but the image tower takes 32"),
    ],
)
def test_preprocessing_that_is_not_done_is_refused(key: str, value: Any, words: str, directory: Path) -> None:
    rewrite(directory, lambda content: content["preprocess_cfg"].update({key: value}))
    with pytest.raises(InputError, match=words):
        load_model(directory)


def test_a_tokenizer_without_its_files_says_what_to_get_and_where_to_put_it(directory: Path, tmp_path: Path) -> None:
    (directory / "merges.txt").unlink()
    with pytest.raises(
        InputError,
        match=r"get vocab.json and merges.txt, or tokenizer.json from https://huggingface.co/openai/.* into .*/tokenizer",
    ):
        load_model(directory)
    biomed = biomed_directory(tmp_path / "biomed")
    (biomed / "vocab.txt").unlink()
    home = BIOMED["text_cfg"]["hf_model_name"]
    with pytest.raises(InputError, match=rf"get vocab.txt, or tokenizer.json from https://huggingface.co/{home}"):
        load_model(biomed)


def test_the_tokenizer_of_another_model_is_refused(directory: Path) -> None:
    words = json.loads((directory / "vocab.json").read_text())
    (directory / "vocab.json").write_text(json.dumps({**words, "<|endoftext|>": 3, "d": len(words) - 1}))
    with pytest.raises(InputError, match=f"ends a text with token 3, the model with {len(words) - 1}"):
        load_model(directory)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("open_clip:ViT-B-33/model.pt", "unknown architecture 'ViT-B-33'; did you mean 'ViT-B-32'"),
        ("open_clip:vit-b-32-quickgelu/model.pt", "did you mean 'ViT-B-32-quickgelu'"),
        ("open_clip:", "unknown architecture ''"),
        ("open_clip:ViT-B-32", "no such file; expected open_clip:ViT-B-32/PATH"),
        ("open_clip:ViT-B-32/", "no such file; expected open_clip:ViT-B-32/PATH"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "tags are not looked up"),
        (
            "open_clip:ViT-B-32/hf-hub:wisdomik/QuiltNet-B-32",
            r"offline, put .* and open_clip_model.safetensors or open_clip_pytorch_model.bin or pytorch_model.bin of "
            r"https://huggingface.co/wisdomik/QuiltNet-B-32 \(licence: MIT, for research\) into one directory",
        ),
        ("open_clip:hf-hub:owner/name", "cannot be fetched"),
    ],
)
def test_names_that_lead_nowhere(name: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=words):
        load_model(name)


def test_an_empty_or_foreign_directory_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no weights in .*: expected open_clip_model.safetensors or"):
        load_model(directory)
    with pytest.raises(InputError, match=r"is not a model in open_clip's layout: open_clip_config.json is missing"):
        load_model(f"open_clip:{clip_directory(tmp_path / 'other')}")


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (os.system, (f"touch {self.target}",))  # type: ignore[return-value]


def test_pickles_with_code_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "args": Malicious(str(tmp_path / "owned"))}, tmp_path / "epoch.pt")
    with pytest.raises(InputError, match="could execute code"):
        load_model(f"open_clip:ViT-B-32/{tmp_path / 'epoch.pt'}")
    assert not (tmp_path / "owned").exists()
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ViT-B-32.pt"))  # type: ignore[no-untyped-call]
    with pytest.warns(UserWarning, match="TorchScript"), pytest.raises(InputError, match="a TorchScript archive"):
        load_model(f"open_clip:ViT-B-32/{tmp_path / 'ViT-B-32.pt'}")
