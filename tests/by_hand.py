"""Parts of transformers as plain functions of a file's tensors, written from the published descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from published_files import BERT_WORDS, PIXELS, VOCABULARY, WHOLE, Weights


def assert_same_features(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of their size, and equal to 1e-5 when they are made unit."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (F.normalize(found, dim=-1) - F.normalize(expected, dim=-1)).abs().max() <= 1e-5


def norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    shown: Tensor = (x - mean) / (variance + eps).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return shown


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def attend(parts: Sequence[Tensor], heads: int, mask: Tensor) -> Tensor:
    """Query, key and value (batch, length, width); the mask (..., length, length) is added to the scores."""
    batch, length, width = parts[0].shape
    split = [x.reshape(batch, length, heads, width // heads).transpose(1, 2) for x in parts]
    scores = split[0] @ split[1].transpose(2, 3) / (width // heads) ** 0.5 + mask
    shown: Tensor = (scores.softmax(-1) @ split[2]).transpose(1, 2).reshape(batch, length, width)
    return shown


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def bert_states(weights: Weights, prefix: str, ids: Tensor) -> list[Tensor]:
    """Hidden states of the embeddings and of each layer, for ids padded with zeros."""
    name = f"{prefix}embeddings."
    x = weights[f"{name}word_embeddings.weight"][ids] + weights[f"{name}position_embeddings.weight"][: ids.shape[1]]
    x = norm(weights, f"{name}LayerNorm", x + weights[f"{name}token_type_embeddings.weight"][0], 1e-12)
    mask = torch.zeros(ids.shape).masked_fill(ids == 0, -torch.inf)[:, None, None]
    states, layer = [x], 0
    while f"{prefix}encoder.layer.{layer}.output.dense.weight" in weights:
        block = f"{prefix}encoder.layer.{layer}"
        parts = [linear(weights, f"{block}.attention.self.{part}", x) for part in ("query", "key", "value")]
        attended = linear(weights, f"{block}.attention.output.dense", attend(parts, x.shape[-1] // 64, mask))
        x = norm(weights, f"{block}.attention.output.LayerNorm", x + attended, 1e-12)
        hidden = linear(weights, f"{block}.output.dense", gelu(linear(weights, f"{block}.intermediate.dense", x)))
        x = norm(weights, f"{block}.output.LayerNorm", x + hidden, 1e-12)
        states.append(x)
        layer += 1
    return states


def bert_ids(texts: list[str], length: int) -> Tensor:
    rows = [[2, *(BERT_WORDS.index(word) for word in text.split()), 3] for text in texts]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(PIXELS[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


def resblock(weights: Weights, name: str, x: Tensor, heads: int, mask: Tensor, activation: Any) -> Tensor:
    hidden = norm(weights, f"{name}.ln_1", x, 1e-5)
    fused = hidden @ weights[f"{name}.attn.in_proj_weight"].T + weights[f"{name}.attn.in_proj_bias"]
    x = x + linear(weights, f"{name}.attn.out_proj", attend(fused.chunk(3, dim=-1), heads, mask))
    hidden = linear(weights, f"{name}.mlp.c_fc", norm(weights, f"{name}.ln_2", x, 1e-5))
    return x + linear(weights, f"{name}.mlp.c_proj", activation(hidden))


def clip_tokens(weights: Weights, images: Tensor, activation: Any, heads: int = 2) -> Tensor:
    """What the last layer of CLIP's ViT makes of each token."""
    patches = F.conv2d(images, weights["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    start = weights["visual.class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([start, patches], dim=1) + weights["visual.positional_embedding"]
    x = norm(weights, "visual.ln_pre", x, 1e-5)
    for layer in range(2):
        x = resblock(weights, f"visual.transformer.resblocks.{layer}", x, heads, torch.zeros(()), activation)
    return x


def timm_tokens(weights: Weights, images: Tensor) -> Tensor:
    """What timm's ViT makes of each token, after its last norm."""
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
    return norm(weights, f"{trunk}.norm", x, 1e-6)


def clip_ids(texts: list[str], length: int = 40) -> Tensor:
    """Whole words or letters, and zeros behind the end, as open_clip pads."""
    rows = []
    for text in texts:
        units = [[f"{word}</w>"] if word in WHOLE else [*word[:-1], f"{word[-1]}</w>"] for word in text.split()]
        named = ["<|startoftext|>", *(unit for word in units for unit in word), "<|endoftext|>"]
        rows.append([VOCABULARY.index(name) for name in named])
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])
