"""CoCa and CONCH against forward passes by hand, with the published mask, and everything that is left unread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from by_hand import assert_same_features, clip_ids, clip_tokens, gelu, linear, norm, normalised, resblock, timm_tokens
from published_files import (
    CONCH,
    CONCH_WORDS,
    TEXTS,
    WHOLE,
    Weights,
    coca_directory,
    coca_weights,
    conch_directory,
    conch_weights,
    decoder_weights,
)
from titer.errors import InputError
from titer.models import Encoder, load_model
from titer.models.open_clip import config as configurations
from titer.models.towers import layered_tower, prompted

MAKERS = {"coca": (coca_directory, coca_weights), "conch": (conch_directory, conch_weights)}


def pooled(weights: Weights, name: str, tokens: Tensor) -> Tensor:
    """What all queries of a pool find, (batch, queries, dim)."""
    query, known = (
        norm(weights, f"{name}.ln_q", weights[f"{name}.query"], 1e-5),
        norm(weights, f"{name}.ln_k", tokens, 1e-5),
    )
    biases = weights[f"{name}.attn.in_proj_bias"].chunk(3)
    matrices = [weights[f"{name}.attn.{part}_proj_weight"] for part in "qkv"]
    parts = [x @ matrix.T + bias for x, matrix, bias in zip((query, known, known), matrices, biases, strict=True)]
    heads, dim = 8, query.shape[-1]
    split = [part.reshape(*part.shape[:-1], heads, dim // heads).transpose(-3, -2) for part in parts]
    scores = (split[0] @ split[1].transpose(-2, -1) / (dim // heads) ** 0.5).softmax(-1)
    found = (scores @ split[2]).transpose(-3, -2).flatten(-2)
    return linear(weights, f"{name}.attn.out_proj", found)


def coca_image(weights: Weights, images: Tensor) -> Tensor:
    found = pooled(weights, "visual.attn_pool", clip_tokens(weights, images, gelu))
    return norm(weights, "visual.ln_post", found, 1e-5)[:, 0] @ weights["visual.proj"]


def conch_image(weights: Weights, images: Tensor) -> Tensor:
    found = pooled(weights, "visual.attn_pool_contrast", timm_tokens(weights, images))
    return norm(weights, "visual.ln_contrast", found, 1e-5)[:, 0] @ weights["visual.proj_contrast"]


def coca_text(weights: Weights, ids: Tensor, places: int = 40) -> Tensor:
    """As published: texts padded to all places, the class token behind them, its mask of padding one place too far."""
    ids = F.pad(ids, (0, places - ids.shape[1]))
    x = torch.cat([weights["text.token_embedding.weight"][ids], weights["text.cls_emb"].expand(len(ids), 1, -1)], dim=1)
    x = x + weights["text.positional_embedding"]
    mask = torch.full((len(ids), 1, places + 1, places + 1), -torch.inf).triu(1)
    for text, row in enumerate(ids.tolist()):
        for place, token in enumerate(row):
            if token == 0:
                mask[text, :, -1, place + 1] = -torch.inf
    named = {name.removeprefix("text."): tensor for name, tensor in weights.items()}
    for layer in range(2):
        x = resblock(named, f"transformer.resblocks.{layer}", x, 2, mask, gelu)
    return norm(weights, "text.ln_final", x[:, -1], 1e-5) @ weights["text.text_projection"]


def conch_ids(texts: list[str]) -> Tensor:
    """Whole words or letters, the first with the space before it."""
    rows = []
    for text in texts:
        units = [[f"Ġ{word}"] if word in WHOLE else [f"Ġ{word[0]}", *word[1:]] for word in text.split()]
        rows.append([1, *(CONCH_WORDS.index(unit) for word in units for unit in word), 2])
    return torch.tensor([row + [0] * (40 - len(row)) for row in rows])


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(kind: str, tmp_path: Path) -> Encoder:
    return load_model(MAKERS[kind][0](tmp_path / kind))


def test_image_features_equal_a_forward_pass_by_hand(kind: str, encoder: Encoder) -> None:
    images, by_hand = torch.rand(3, 3, 32, 32), {"coca": coca_image, "conch": conch_image}[kind]
    assert_same_features(encoder.image_features(images), by_hand(MAKERS[kind][1](), normalised(images)))


def test_text_features_equal_a_forward_pass_by_hand_that_pads_to_all_places(kind: str, encoder: Encoder) -> None:
    full = "a" + " x" * 37  # with start and end it fills 40 places, so that the class token sees itself
    texts = [*TEXTS, full, full[:-2]]
    ids = {"coca": clip_ids, "conch": conch_ids}[kind](texts)
    assert (ids[3] != 0).all()
    expected = coca_text(MAKERS[kind][1](), ids)
    assert_same_features(encoder.text_tower(texts), expected)
    for text, features in zip(texts, expected, strict=True):  # a text's feature is its own, whatever stands beside it
        assert_same_features(encoder.text_tower([text])[0], features)


def test_the_published_mask_is_no_rounding_error(tmp_path: Path) -> None:
    """Otherwise the test above would not see whether the first place of padding counts."""
    weights, ids = conch_weights(), conch_ids(TEXTS)
    first = (ids != 0).sum(dim=1)
    moved = weights | {"text.positional_embedding": weights["text.positional_embedding"].clone()}
    moved["text.positional_embedding"][first[1]] *= -1  # of the place behind the end of "x"
    found, other = coca_text(weights, ids), coca_text(moved, ids)
    assert (found[1] - other[1]).abs().max() > 1e-3
    features = load_model(conch_directory(tmp_path, moved)).text_tower(TEXTS)
    assert_same_features(features, other)


def test_ids_written_by_hand_are_those_of_the_file(tmp_path: Path) -> None:
    tower: Any = load_model(conch_directory(tmp_path)).text_tower
    assert tower.ids("A Lung scan") == conch_ids(["a lung scan"])[0, :8].tolist()
    with pytest.raises(InputError, match="a class text has 41 tokens, the text tower takes 40"):
        tower(["a" + " x" * 38])


def test_the_published_names_are_those_of_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONCH has no configuration beside its weights: its name says what it is, for the file and its directory."""
    monkeypatch.setitem(configurations.architectures(), "conch_ViT-B-16", CONCH)
    directory = conch_directory(tmp_path / "conch", config=None)
    found = [load_model(f"open_clip:conch_ViT-B-16/{path}") for path in (directory, directory / "pytorch_model.bin")]
    assert found[0].fingerprint == found[1].fingerprint
    assert [encoder.name for encoder in found] == ["conch", "open_clip:conch_ViT-B-16/pytorch_model.bin"]
    assert found[0].preprocess.mean == (0.48145466, 0.4578275, 0.40821073)
    assert found[0].architecture == (
        "open_clip: 2 layers of 64 on patches of 16 pixels (gelu); text: 2 layers of 24, 40 tokens (gelu); "
        "11 tensors for captions, checked and not read"
    )
    with pytest.raises(InputError, match=r"holds CONCH; give open_clip:conch_ViT-B-16/PATH"):
        load_model(f"open_clip:ViT-B-16/{directory}")
    with pytest.raises(
        InputError, match=r"nothing that says of what; CONCH is open_clip:conch_ViT-B-16/.*, MedCLIP is medclip:"
    ):
        load_model(directory)
    (directory / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"no weights in .*: expected .* or pytorch_model\.bin"):
        load_model(f"open_clip:conch_ViT-B-16/{directory}")


def test_the_table_has_the_published_sizes() -> None:
    """Tensors of the real sizes, on the device that holds none, under the names that the file must have."""
    told = configurations.told_by_name("conch_ViT-B-16", Path("pytorch_model.bin"))
    assert (told.dim, told.conch, told.coca) == (512, True, True)
    assert told.part("text_cfg")["context_length"] + 1 == 128
    assert not configurations.told_by_name("coca_ViT-B-32", Path("x")).conch
    assert "conch_ViT-B-16-quickgelu" not in configurations.architectures()


def test_tokens_beside_the_patches_change_the_feature_and_are_not_pooled(kind: str, encoder: Encoder) -> None:
    weights, images = MAKERS[kind][1](), torch.rand(2, 3, 32, 32)
    tower: Any = encoder.image_tower
    tokens = [torch.randn(2, tower.width) for _ in range(len(layered_tower(encoder).injections))]
    shown = normalised(images)
    assert not torch.allclose(prompted(tower, tokens)(shown), tower(shown), atol=1e-3)
    assert torch.equal(prompted(tower, [])(shown), tower(shown))
    seen: list[Tensor] = []
    with tower.last.watched(seen):
        found = prompted(tower, tokens)(shown)
    if kind == "conch":
        own = norm(weights, "visual.trunk.norm", seen[0][:, :-2], 1e-6)
        expected = norm(weights, "visual.ln_contrast", pooled(weights, "visual.attn_pool_contrast", own), 1e-5)
        assert_same_features(found, expected[:, 0] @ weights["visual.proj_contrast"])


def test_gradients_reach_the_image(encoder: Encoder) -> None:
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    encoder.encode_image(images)[0, 0].backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert (images.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


def test_the_decoder_may_be_missing_or_whole(tmp_path: Path) -> None:
    whole = coca_weights()
    bare = {name: tensor for name, tensor in whole.items() if not name.startswith("text_decoder.")}
    first, second = (load_model(coca_directory(tmp_path / str(len(w)), w)) for w in (whole, bare))
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(first.encode_image(images), second.encode_image(images))
    assert first.parameters == second.parameters == sum(tensor.numel() for tensor in bare.values())
    assert first.architecture.endswith("29 tensors for captions, checked and not read")
    assert "captions" not in second.architecture


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("coca", {"text_decoder.ln_final.bias": None}, "1 tensors are missing, such as text_decoder.ln_final.bias"),
        ("coca", {"text_decoder.stray": torch.zeros(1)}, "do not belong to this model, such as text_decoder.stray"),
        ("coca", {"text_decoder.text_projection": torch.zeros(16, 3)}, r"has shape \(16, 3\), expected \(16, \d+\)"),
        ("coca", {"text_decoder.ln_final.weight": torch.full((16,), torch.nan)}, "ln_final.weight holds nan"),
        ("coca", {"visual.attn_pool.query": None}, "missing, such as visual.attn_pool.query"),
        ("coca", {"visual.attn_pool.query": torch.zeros(6, 16)}, r"query has shape \(6, 16\), expected \(5, 16\)"),
        ("coca", {"visual.attn_pool_contrastive.query": torch.zeros(1, 16)}, "do not belong to this model"),
        ("coca", {"text.cls_emb": None}, "missing, such as cls_emb"),
        ("coca", {"text.positional_embedding": torch.zeros(40, 24)}, r"has shape \(40, 24\), expected \(41, 24\)"),
        ("conch", {"visual.attn_pool_contrast.attn.k_proj_weight": None}, "k_proj_weight"),
        ("conch", {"visual.ln_contrast.weight": None}, "missing, such as visual.ln_contrast.weight"),
        (
            "conch",
            {"visual.proj_contrast": torch.zeros(16, 8)},
            r"proj_contrast has shape \(16, 8\), expected \(16, 16\)",
        ),
        ("conch", {"visual.attn_pool_caption.query": torch.zeros(9, 64)}, r"shape \(9, 64\), expected \(4, 64\)"),
        ("conch", {"visual.ln_caption.bias": None}, "missing, such as visual.ln_caption.bias"),
        ("conch", {"visual.trunk.fc_norm.weight": torch.zeros(64)}, "do not belong to this model"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    kind: str, change: dict[str, Tensor | None], words: str, tmp_path: Path
) -> None:
    make, weights = MAKERS[kind]
    changed = {**weights(), **change}
    with pytest.raises(InputError, match=words):
        load_model(make(tmp_path, {name: tensor for name, tensor in changed.items() if tensor is not None}))


def test_conchs_decoder_is_checked_where_someone_has_it(tmp_path: Path) -> None:
    encoder = load_model(conch_directory(tmp_path, conch_weights() | decoder_weights(CONCH)))
    assert encoder.architecture.endswith("40 tensors for captions, checked and not read")


def test_the_tokenizer_is_to_be_had_from_its_code(tmp_path: Path) -> None:
    directory = conch_directory(tmp_path)
    words = directory / "conch_byte_level_bpe_uncased.json"
    words.rename(directory / "tokenizer.json")
    assert load_model(directory).encode_text(["x"]).shape == (1, 16)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(
        InputError, match=r"get conch_byte_level_bpe_uncased\.json, or tokenizer\.json from .*mahmoodlab/CONCH"
    ):
        load_model(directory)


def test_options_of_other_cocas_are_refused(tmp_path: Path) -> None:
    for part, option, words in (
        ("vision_cfg", {"attentional_pool": "cascade"}, "vision_cfg.attentional_pool = 'cascade' is a variant"),
        ("text_cfg", {"correct_cls_mask": True}, "text_cfg.correct_cls_mask = True is a variant"),
        ("multimodal_cfg", {"mlp_ratio": 2}, "multimodal_cfg.mlp_ratio = 2 is a variant"),
    ):
        directory = coca_directory(tmp_path / part)
        file = directory / "open_clip_config.json"
        content = json.loads(file.read_text())
        content["model_cfg"][part].update(option)
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match=words):
            load_model(directory)
