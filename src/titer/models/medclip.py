"""MedCLIP (Wang et al., EMNLP 2022, arXiv 2210.10163), with its Swin Transformer or its ResNet-50.

The package ``medclip`` does not work with current transformers; its released ``pytorch_model.bin`` is read here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import SwinConfig, SwinModel

from titer.errors import InputError
from titer.models.assembly import Vision, assemble, scale_of
from titer.models.bert import mean_of_three, read_bert
from titer.models.encoder import Encoder
from titer.models.huggingface import ProjectedTower
from titer.models.pixels import Preprocess
from titer.models.resnet import ResNet, ResNetTower, without_counters
from titer.models.weights import Origin, Weights, count_layers, load_strictly, read_tensors, shape_of

_SIZE, _MEAN, _STD = 224, 0.5862785803043838, 0.27950088968644304
_LENGTH = 77  # tokens of a text, as its processor cuts them
_LARGEST_SCALE = 4.6052  # of the logarithm, as its forward pass clamps it
_WORDS = "emilyalsentzer/Bio_ClinicalBERT"
_VISION = "vision_model.model."
_TABLE = "attention.self.relative_position_bias_table"
# names that SwinModel has in newer versions of transformers -> those in the released file; older versions have the latter
_RELEASED = (
    (r"attention\.q_proj", "attention.self.query"),
    (r"attention\.k_proj", "attention.self.key"),
    (r"attention\.v_proj", "attention.self.value"),
    (r"attention\.o_proj", "attention.output.dense"),
    (r"attention\.relative_position_bias\.", "attention.self."),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)


class SwinTower(ProjectedTower):
    """A Swin Transformer and a projection; ``closed`` says why no tokens can be learned in it."""

    closed = "is a Swin Transformer, whose windows have no place for tokens beside the patches"


def load(text: str, device: torch.device, dtype: torch.dtype) -> Encoder:
    """An encoder by what stands behind ``medclip:``.

    Args:
        text: the released ``pytorch_model.bin``, or its directory, with the tokenizer's files beside it.
        device, dtype: of the weights.

    Raises:
        InputError: for files that are missing, damaged or of another model.
    """
    file = Path(text) / "pytorch_model.bin" if Path(text).is_dir() else Path(text)
    if not text or not file.is_file():
        raise InputError(
            f"medclip:{text}: no such file; expected medclip:PATH to the pytorch_model.bin of medclip-vit or medclip-resnet, or "
            "to its directory (github.com/RyanWangZf/MedCLIP names the archive)"
        )
    weights = read_tensors(file)
    scale = scale_of(weights, file)
    visual = {key: tensor for key, tensor in weights.items() if key.startswith("vision_model.")}
    words = {key: tensor for key, tensor in weights.items() if key not in (*visual, "logit_scale")}
    image = (_resnet if f"{_VISION}fc.weight" in visual else _swin)(visual, file)
    bert = read_bert(words, "text_model.model.", "text_model.projection_head.", image.tower.dim, mean_of_three, file)
    read = bert.beside(file.parent, _WORDS, _LENGTH)
    return assemble(
        f"medclip:{Path(text).resolve().name}",
        image.tower,
        read,
        Preprocess(size=image.size, mean=(_MEAN,) * 3, std=(_STD,) * 3, mode="pad"),
        scale.clamp(0, _LARGEST_SCALE),
        weights,
        {},
        f"medclip: {image.made_of}; text: {read.config.num_hidden_layers} layers of {read.config.hidden_size}, "
        f"{_LENGTH} tokens",
        device,
        dtype,
    )


def _resnet(weights: Weights, file: Path) -> Vision:
    """The image tower as torchvision names its tensors, the last layer being the projection.

    Raises:
        InputError: if they are not those of a ResNet of such blocks.
    """
    dim, inner = shape_of(weights, f"{_VISION}fc.weight", 2, file)
    width = shape_of(weights, f"{_VISION}conv1.weight", 4, file)[0]
    blocks = [count_layers(weights, f"{_VISION}layer{stage}.") for stage in range(1, 5)]
    tower = ResNetTower(ResNet(blocks, width), nn.Linear(inner, dim, bias=False))

    def origin(name: str) -> Origin:
        return Origin(re.sub(r"^projection", f"{_VISION}fc", re.sub(r"^vision\.", _VISION, name)))

    load_strictly(tower, without_counters(weights), file, origin)
    return Vision(tower, _SIZE, "ResNet-50")


def _swin(weights: Weights, file: Path) -> Vision:
    """The image tower, of the sizes that the tensors have.

    Raises:
        InputError: if they are not those of a Swin Transformer and a projection.
    """
    constants = ("relative_position_index", "attention_mask")
    held = {name: tensor for name, tensor in weights.items() if not name.endswith(constants)}
    config, dim = _config(held, file), shape_of(held, "vision_model.projection_head.weight", 2, file)[0]
    tower = SwinTower(SwinModel(config), nn.Linear(config.hidden_size, dim, bias=False))
    load_strictly(tower, held, file, _origin)
    return Vision(tower, _SIZE, "Swin Transformer")


def _config(weights: Weights, file: Path) -> Any:
    width, _, _, patch = shape_of(weights, _VISION + "embeddings.patch_embeddings.projection.weight", 4, file)
    layers = _VISION + "encoder.layers."
    depths = [count_layers(weights, f"{layers}{layer}.blocks.") for layer in range(count_layers(weights, layers))]
    inner = shape_of(weights, f"{layers}0.blocks.0.intermediate.dense.weight", 2, file)[0]
    tables = [shape_of(weights, f"{layers}{layer}.blocks.0.{_TABLE}", 2, file) for layer in range(len(depths))]
    return SwinConfig(
        image_size=_SIZE,
        patch_size=patch,
        embed_dim=width,
        depths=depths,
        num_heads=[heads for _, heads in tables],
        window_size=(round(tables[0][0] ** 0.5) + 1) // 2,  # a table has (2 window - 1)² rows
        mlp_ratio=inner / width,
        drop_path_rate=0.0,
    )


def _origin(name: str) -> Origin:
    if name.startswith("projection."):
        return Origin(name.replace("projection.", "vision_model.projection_head."))
    released = name.removeprefix("vision.")
    for pattern, theirs in _RELEASED:
        released = re.sub(pattern, theirs, released)
    return Origin(_VISION + released)
