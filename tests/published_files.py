"""Files as open_clip and MedCLIP publish them, tiny and with random weights; names and shapes by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Weights = dict[str, Tensor]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WHOLE = ["brain", "lung", "medical", "image", "of"]
"""Words of one token; others are letters."""
MERGES = [
    (word[:end], word[end] + ("</w>" if end == len(word) - 1 else "")) for word in WHOLE for end in range(1, len(word))
]
VOCABULARY = [
    *LETTERS, *(f"{letter}</w>" for letter in LETTERS), *("".join(pair) for pair in MERGES), "<|startoftext|>", "<|endoftext|>"
]  # fmt: skip
BERT_WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "brain", "scan", "##s", "x", "of", "lung", "tissue", "tile", "dark",
    "bright", "picture",
]  # fmt: skip
TEXTS = ["a brain scan", "x", "a scan of lung tissue"]

CLIP: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 40, "vocab_size": len(VOCABULARY), "width": 24, "heads": 2, "layers": 2},
}
BIOMED: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
        "image_size": 32,
    },
    "text_cfg": {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 24,
    },
}  # fmt: skip
PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


class Filler:
    """Random tensors, one after the other from one generator."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator) * 0.3

    def norm(self, name: str, width: int) -> Weights:
        return {f"{name}.weight": 1 + self(width), f"{name}.bias": self(width)}

    def linear(self, name: str, outer: int, inner: int) -> Weights:
        return {f"{name}.weight": self(outer, inner), f"{name}.bias": self(outer)}

    def resblocks(self, prefix: str, layers: int, width: int) -> Weights:
        found: Weights = {}
        for layer in range(layers):
            block = f"{prefix}.resblocks.{layer}"
            found |= self.norm(f"{block}.ln_1", width) | self.norm(f"{block}.ln_2", width)
            found |= {
                f"{block}.attn.in_proj_weight": self(3 * width, width),
                f"{block}.attn.in_proj_bias": self(3 * width),
            }
            found |= self.linear(f"{block}.attn.out_proj", width, width)
            found |= self.linear(f"{block}.mlp.c_fc", 4 * width, width)
            found |= self.linear(f"{block}.mlp.c_proj", width, 4 * width)
        return found


def clip_weights(config: dict[str, Any] = CLIP, seed: int = 0) -> Weights:
    """A CLIP under the names of OpenAI and open_clip."""
    fill, vision, text, dim = Filler(seed), config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    wide, narrow, patch = vision["width"], text["width"], vision["patch_size"]
    return {
        "visual.class_embedding": fill(wide),
        "visual.conv1.weight": fill(wide, 3, patch, patch) * 0.2,
        "visual.positional_embedding": fill((vision["image_size"] // patch) ** 2 + 1, wide),
        **fill.norm("visual.ln_pre", wide),
        **fill.resblocks("visual.transformer", vision["layers"], wide),
        **fill.norm("visual.ln_post", wide),
        "visual.proj": fill(wide, dim),
        "token_embedding.weight": fill(text["vocab_size"], narrow),
        "positional_embedding": fill(text["context_length"], narrow),
        **fill.resblocks("transformer", text["layers"], narrow),
        **fill.norm("ln_final", narrow),
        "text_projection": fill(narrow, dim),
        "logit_scale": torch.tensor(3.0),
    }


def bert_weights(fill: Filler, prefix: str, width: int, layers: int, positions: int = 512) -> Weights:
    """A BERT under the names of transformers, with the constants that old versions stored."""
    found = {
        f"{prefix}embeddings.word_embeddings.weight": fill(len(BERT_WORDS), width),
        f"{prefix}embeddings.position_embeddings.weight": fill(positions, width),
        f"{prefix}embeddings.token_type_embeddings.weight": fill(2, width),
        **fill.norm(f"{prefix}embeddings.LayerNorm", width),
        f"{prefix}embeddings.position_ids": torch.arange(positions)[None],
    }
    for layer in range(layers):
        block = f"{prefix}encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            found |= fill.linear(f"{block}.attention.self.{part}", width, width)
        found |= fill.linear(f"{block}.attention.output.dense", width, width)
        found |= fill.norm(f"{block}.attention.output.LayerNorm", width)
        found |= fill.linear(f"{block}.intermediate.dense", 2 * width, width)
        found |= fill.linear(f"{block}.output.dense", width, 2 * width)
        found |= fill.norm(f"{block}.output.LayerNorm", width)
    return found


def biomed_weights(seed: int = 1, vision: int = 64, text: int = 128, dim: int = 8, patch: int = 16) -> Weights:
    """A timm ViT with one head a layer and a BERT with two, as in BiomedCLIP."""
    fill = Filler(seed)
    found = {
        "visual.trunk.cls_token": fill(1, 1, vision),
        "visual.trunk.pos_embed": fill(1, 5, vision),
        "visual.trunk.patch_embed.proj.weight": fill(vision, 3, patch, patch) * 0.2,
        "visual.trunk.patch_embed.proj.bias": fill(vision),
        **fill.norm("visual.trunk.norm", vision),
        "visual.head.proj.weight": fill(dim, vision),
        **bert_weights(fill, "text.transformer.", text, layers=2),
        "text.proj.0.weight": fill((text + dim) // 2, text),
        "text.proj.2.weight": fill(dim, (text + dim) // 2),
        "logit_scale": torch.tensor(4.0),
    }
    for layer in range(2):
        block = f"visual.trunk.blocks.{layer}"
        found |= fill.norm(f"{block}.norm1", vision) | fill.norm(f"{block}.norm2", vision)
        found |= fill.linear(f"{block}.attn.qkv", 3 * vision, vision) | fill.linear(
            f"{block}.attn.proj", vision, vision
        )
        found |= fill.linear(f"{block}.mlp.fc1", 3 * vision, vision) | fill.linear(
            f"{block}.mlp.fc2", vision, 3 * vision
        )
    return found


def write_clip_words(directory: Path) -> None:
    """A tokenizer of CLIP's kind, in its published files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(VOCABULARY)}))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, MERGES), ""]))


def write_bert_words(directory: Path) -> None:
    """A tokenizer of BERT's kind, in its published file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(BERT_WORDS))


def open_clip_directory(directory: Path, config: dict[str, Any] = CLIP, weights: Weights | None = None) -> Path:
    """A model as open_clip publishes it on the hub."""
    directory.mkdir(parents=True, exist_ok=True)
    hub = {"model_cfg": config, "preprocess_cfg": PIXELS}
    (directory / "open_clip_config.json").write_text(json.dumps(hub))
    save_file(clip_weights(config) if weights is None else weights, directory / "open_clip_model.safetensors")
    write_clip_words(directory)
    return directory


def biomed_directory(directory: Path, weights: Weights | None = None) -> Path:
    """A model as BiomedCLIP is published: a pickle, and a BERT's tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": BIOMED, "preprocess_cfg": PIXELS}))
    torch.save(biomed_weights() if weights is None else weights, directory / "open_clip_pytorch_model.bin")
    write_bert_words(directory)
    return directory


def swin_weights(fill: Filler, width: int = 4, window: int = 7, dim: int = 8) -> Weights:
    """A Swin Transformer of two stages under the names of transformers 4, and MedCLIP's projection."""
    root = "vision_model.model."
    found = {
        f"{root}embeddings.patch_embeddings.projection.weight": fill(width, 3, 4, 4),
        f"{root}embeddings.patch_embeddings.projection.bias": fill(width),
        **fill.norm(f"{root}embeddings.norm", width),
        **fill.norm(f"{root}layernorm", 2 * width),
        f"{root}encoder.layers.0.downsample.reduction.weight": fill(2 * width, 4 * width),
        **fill.norm(f"{root}encoder.layers.0.downsample.norm", 4 * width),
        "vision_model.projection_head.weight": fill(dim, 2 * width),
    }
    for stage, blocks in enumerate((2, 1)):
        wide = width * 2**stage
        for place in range(blocks):
            block = f"{root}encoder.layers.{stage}.blocks.{place}"
            found |= fill.norm(f"{block}.layernorm_before", wide) | fill.norm(f"{block}.layernorm_after", wide)
            for part in ("query", "key", "value"):
                found |= fill.linear(f"{block}.attention.self.{part}", wide, wide)
            found |= {
                f"{block}.attention.self.relative_position_bias_table": fill((2 * window - 1) ** 2, 1 + stage),
                f"{block}.attention.self.relative_position_index": torch.zeros(window**2, window**2, dtype=torch.long),
            }
            found |= fill.linear(f"{block}.attention.output.dense", wide, wide)
            found |= fill.linear(f"{block}.intermediate.dense", 4 * wide, wide)
            found |= fill.linear(f"{block}.output.dense", wide, 4 * wide)
    return found


def medclip_weights(seed: int = 2) -> Weights:
    """A MedCLIP as released: the pooler of its BERT is there and unused."""
    fill = Filler(seed)
    return {
        **swin_weights(fill),
        **bert_weights(fill, "text_model.model.", 64, layers=3),
        **fill.linear("text_model.model.pooler.dense", 64, 64),
        "text_model.projection_head.weight": fill(8, 64),
        "logit_scale": torch.tensor(5.0),
    }


def medclip_directory(directory: Path, weights: Weights | None = None) -> Path:
    """The unpacked archive of medclip-vit, with a tokenizer beside."""
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(medclip_weights() if weights is None else weights, directory / "pytorch_model.bin")
    write_bert_words(directory)
    return directory
