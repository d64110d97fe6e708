"""Parts of transformers as plain functions of a file's tensors, written from the published descriptions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from published_files import BERT_WORDS, Weights


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
