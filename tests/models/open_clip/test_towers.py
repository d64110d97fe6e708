"""Features of converted checkpoints against forward passes written by hand, in plain functions on the file's own tensors.

They follow the published descriptions: CLIP (Radford et al. 2021) with residual blocks that normalise first, query, key
and value in one matrix, a causal mask in the text tower and its features read where the id is highest; timm's ViT; BERT.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from by_hand import assert_same_features, attend, bert_ids, bert_states, gelu, linear, norm, quick_gelu
from published_files import (
    BIOMED,
    CLIP,
    PIXELS,
    TEXTS,
    VOCABULARY,
    WHOLE,
    Weights,
    biomed_directory,
    biomed_weights,
    clip_weights,
    open_clip_directory,
)
from titer.models import load_model

QUICK = {**CLIP, "quick_gelu": True}


def resblock(weights: Weights, name: str, x: Tensor, heads: int, mask: Tensor, activation: Any) -> Tensor:
    hidden = norm(weights, f"{name}.ln_1", x, 1e-5)
    fused = hidden @ weights[f"{name}.attn.in_proj_weight"].T + weights[f"{name}.attn.in_proj_bias"]
    x = x + linear(weights, f"{name}.attn.out_proj", attend(fused.chunk(3, dim=-1), heads, mask))
    hidden = linear(weights, f"{name}.mlp.c_fc", norm(weights, f"{name}.ln_2", x, 1e-5))
    return x + linear(weights, f"{name}.mlp.c_proj", activation(hidden))


def clip_image(weights: Weights, images: Tensor, activation: Any, heads: int = 2) -> Tensor:
    patches = F.conv2d(images, weights["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    start = weights["visual.class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([start, patches], dim=1) + weights["visual.positional_embedding"]
    x = norm(weights, "visual.ln_pre", x, 1e-5)
    for layer in range(2):
        x = resblock(weights, f"visual.transformer.resblocks.{layer}", x, heads, torch.zeros(()), activation)
    return norm(weights, "visual.ln_post", x[:, 0], 1e-5) @ weights["visual.proj"]


def clip_text(weights: Weights, ids: Tensor, activation: Any, heads: int = 2) -> Tensor:
    length = ids.shape[1]
    x = weights["token_embedding.weight"][ids] + weights["positional_embedding"][:length]
    causal = torch.full((length, length), -torch.inf).triu(1)
    for layer in range(2):
        x = resblock(weights, f"transformer.resblocks.{layer}", x, heads, causal, activation)
    x = norm(weights, "ln_final", x, 1e-5)
    return x[torch.arange(len(ids)), ids.argmax(dim=1)] @ weights["text_projection"]


def clip_ids(texts: list[str], length: int = 40) -> Tensor:
    """Whole words or letters, and zeros behind the end, as open_clip pads."""
    rows = []
    for text in texts:
        units = [[f"{word}</w>"] if word in WHOLE else [*word[:-1], f"{word[-1]}</w>"] for word in text.split()]
        named = ["<|startoftext|>", *(unit for word in units for unit in word), "<|endoftext|>"]
        rows.append([VOCABULARY.index(name) for name in named])
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def timm_image(weights: Weights, images: Tensor) -> Tensor:
    trunk = "visual.trunk"
    patch = weights[f"{trunk}.patch_embed.proj.weight"]
    patches = F.conv2d(images, patch, weights[f"{trunk}.patch_embed.proj.bias"], stride=patch.shape[-1])
    start = weights[f"{trunk}.cls_token"].expand(len(images), 1, -1)
    x = torch.cat([start, patches.flatten(2).transpose(1, 2)], dim=1) + weights[f"{trunk}.pos_embed"]
    for layer in range(2):
        block = f"{trunk}.blocks.{layer}"
        fused = linear(weights, f"{block}.attn.qkv", norm(weights, f"{block}.norm1", x, 1e-6))
        attended = attend(fused.chunk(3, dim=-1), x.shape[-1] // 64, torch.zeros(()))
        x = x + linear(weights, f"{block}.attn.proj", attended)
        hidden = gelu(linear(weights, f"{block}.mlp.fc1", norm(weights, f"{block}.norm2", x, 1e-6)))
        x = x + linear(weights, f"{block}.mlp.fc2", hidden)
    return norm(weights, f"{trunk}.norm", x, 1e-6)[:, 0] @ weights["visual.head.proj.weight"].T


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(PIXELS[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


@pytest.mark.parametrize(("config", "activation"), [(CLIP, gelu), (QUICK, quick_gelu)])
def test_clip_features_equal_a_forward_pass_by_hand(config: dict[str, Any], activation: Any, tmp_path: Path) -> None:
    encoder, weights = load_model(open_clip_directory(tmp_path, config)), clip_weights(config)
    images = torch.rand(3, 3, 32, 32)
    expected, expected_text = (
        clip_image(weights, normalised(images), activation),
        clip_text(weights, clip_ids(TEXTS), activation),
    )
    assert_same_features(encoder.image_features(images), expected)
    assert_same_features(encoder.text_tower(TEXTS), expected_text)
    assert encoder.logit_scale == pytest.approx(torch.tensor(3.0).exp().item())
    assert encoder.parameters == sum(tensor.numel() for tensor in weights.values())


def test_the_wrong_activation_is_no_rounding_error(tmp_path: Path) -> None:
    """Otherwise the test above would show nothing."""
    encoder, images = load_model(open_clip_directory(tmp_path, QUICK)), torch.rand(2, 3, 32, 32)
    other = F.normalize(clip_image(clip_weights(QUICK), normalised(images), gelu), dim=-1)
    assert (encoder.encode_image(images) - other).abs().max() > 1e-3


def test_a_text_tower_with_a_prefix_and_stored_constants_is_the_same(tmp_path: Path) -> None:
    plain = clip_weights()
    prefixed = {key if key.startswith(("visual.", "logit")) else f"text.{key}": value for key, value in plain.items()}
    constants = {
        "text.attn_mask": torch.zeros(40, 40),
        "context_length": torch.tensor(40),
        "logit_bias": torch.tensor(-9.0),
    }
    encoder = load_model(open_clip_directory(tmp_path / "a", weights={**prefixed, **constants}))
    assert torch.equal(encoder.encode_text(TEXTS), load_model(open_clip_directory(tmp_path / "b")).encode_text(TEXTS))


def test_biomedclip_features_equal_a_forward_pass_by_hand(tmp_path: Path) -> None:
    encoder, weights, images = load_model(biomed_directory(tmp_path)), biomed_weights(), torch.rand(3, 3, 32, 32)
    expected = timm_image(weights, normalised(images))
    start = bert_states(weights, "text.transformer.", bert_ids(TEXTS, 24))[-1][:, 0]
    expected_text = gelu(start @ weights["text.proj.0.weight"].T) @ weights["text.proj.2.weight"].T
    assert_same_features(encoder.image_features(images), expected)
    assert_same_features(encoder.text_tower(TEXTS), expected_text)


def test_towers_of_both_kinds_can_be_combined(tmp_path: Path) -> None:
    """QuiltNet-B-16-PMB and its kin: CLIP's image tower beside a BERT."""
    visual = {name: tensor for name, tensor in clip_weights().items() if name.startswith("visual.")}
    text = {name: tensor for name, tensor in biomed_weights().items() if not name.startswith("visual.")}
    directory = biomed_directory(tmp_path, {**visual, **text})
    config = {"model_cfg": {**CLIP, "text_cfg": BIOMED["text_cfg"]}}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    assert load_model(directory).encode_text(TEXTS).shape == (3, 8)


def test_ids_written_by_hand_are_those_of_the_files(tmp_path: Path) -> None:
    """The reference above reads its own ids; here they are looked at."""
    tower, end = load_model(open_clip_directory(tmp_path)).text_tower, len(VOCABULARY) - 1
    assert tower.ids("a brain xa") == [end - 1, 26, 55, 23, 26, end]  # type: ignore[attr-defined]
    assert clip_ids(["a brain xa"])[0, :7].tolist() == [end - 1, 26, 55, 23, 26, end, 0]
