"""Files as open_clip, CONCH and MedCLIP publish them, tiny and with random weights; names and shapes by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
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
RESNET: dict[str, Any] = {**CLIP, "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8}}
COCA: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {**CLIP["vision_cfg"], "attentional_pool": True, "attn_pooler_queries": 5, "output_tokens": True},
    "text_cfg": {**CLIP["text_cfg"], "context_length": 40, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 40, "vocab_size": len(VOCABULARY), "width": 16, "heads": 2, "layers": 1},
    "custom_text": True,
}
CONCH_MERGES = [
    *(("Ġ", letter) for letter in LETTERS),
    *((f"Ġ{word[:end]}", word[end]) for word in WHOLE for end in range(1, len(word))),
]
CONCH_WORDS = ["<pad>", "<start_of_text>", "<end_of_text>", *LETTERS, "Ġ", *map("".join, CONCH_MERGES)]
CONCH: dict[str, Any] = {
    "embed_dim": 16,
    "embed_dim_caption": 64,
    "vision_cfg": {
        "image_size": 32, "patch_size": 16, "width": 64, "attentional_pool_contrast": True, "attentional_pool_caption": True,
        "attn_pooler_heads": 8, "n_queries_contrast": 1, "n_queries_caption": 4,
    },
    "text_cfg": {
        "context_length": 40, "vocab_size": len(CONCH_WORDS), "width": 24, "heads": 2, "layers": 2, "embed_cls": True,
    },
    "multimodal_cfg": {"context_length": 41, "vocab_size": len(CONCH_WORDS), "width": 24, "heads": 2, "layers": 1},
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

    def pool(self, name: str, norm: str, dim: int, width: int, queries: int) -> Weights:
        """CoCa's; torch's attention has one matrix where queries are as wide as tokens, else three."""
        parts = {"q_proj_weight": dim, "k_proj_weight": width, "v_proj_weight": width}
        return {
            f"{name}.query": self(queries, dim),
            **(
                {f"{name}.attn.in_proj_weight": self(3 * dim, dim)}
                if dim == width
                else {f"{name}.attn.{part}": self(dim, inner) for part, inner in parts.items()}
            ),
            f"{name}.attn.in_proj_bias": self(3 * dim),
            **self.linear(f"{name}.attn.out_proj", dim, dim),
            **self.norm(f"{name}.ln_q", dim),
            **self.norm(f"{name}.ln_k", width),
            **self.norm(norm, dim),
        }

    def batch_norm(self, name: str, channels: int) -> Weights:
        counted = {"running_mean": self(channels), "running_var": 0.5 + self(channels).abs()}
        kept = {f"{name}.{what}": tensor for what, tensor in counted.items()}
        return {**self.norm(name, channels), **kept, f"{name}.num_batches_tracked": torch.tensor(7)}

    def convolution(self, name: str, norm: str, into: int, out: int, side: int) -> Weights:
        return {f"{name}.weight": self(out, into, side, side) / into**0.5, **self.batch_norm(norm, out)}

    def stages(self, prefix: str, blocks: list[int], width: int) -> Weights:
        """Those of a ResNet, whose blocks have the same names and shapes in CLIP and in torchvision."""
        found: Weights = {}
        into = width
        for stage, count in enumerate(blocks):
            channels = width * 2**stage
            for place in range(count):
                name = f"{prefix}layer{stage + 1}.{place}."
                for part, (inner, out, side) in enumerate(
                    ((into, channels, 1), (channels, channels, 3), (channels, 4 * channels, 1)), 1
                ):
                    found |= self.convolution(f"{name}conv{part}", f"{name}bn{part}", inner, out, side)
                if not place:
                    found |= self.convolution(f"{name}downsample.0", f"{name}downsample.1", into, 4 * channels, 1)
                into = 4 * channels
        return found

    def resblocks(self, prefix: str, layers: int, width: int, norms: tuple[str, ...] = ("ln_1", "ln_2")) -> Weights:
        found: Weights = {}
        for layer in range(layers):
            block = f"{prefix}.{layer}"
            for name in norms:
                found |= self.norm(f"{block}.{name}", width)
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
        **fill.resblocks("visual.transformer.resblocks", vision["layers"], wide),
        **fill.norm("visual.ln_post", wide),
        "visual.proj": fill(wide, dim),
        "token_embedding.weight": fill(text["vocab_size"], narrow),
        "positional_embedding": fill(text["context_length"], narrow),
        **fill.resblocks("transformer.resblocks", text["layers"], narrow),
        **fill.norm("ln_final", narrow),
        "text_projection": fill(narrow, dim),
        "logit_scale": torch.tensor(3.0),
    }


def resnet_weights(config: dict[str, Any] = RESNET, seed: int = 5) -> Weights:
    """A CLIP with a ResNet under the names of OpenAI and open_clip."""
    fill, vision, dim = Filler(seed), config["vision_cfg"], config["embed_dim"]
    width = vision["width"]
    wide, half = 32 * width, width // 2
    text = {name: tensor for name, tensor in clip_weights(CLIP, seed).items() if not name.startswith("visual.")}
    found = {**text, **fill.stages("visual.", vision["layers"], width)}
    for place, (into, out) in enumerate(((3, half), (half, half), (half, width)), 1):
        found |= fill.convolution(f"visual.conv{place}", f"visual.bn{place}", into, out, 3)
    found["visual.attnpool.positional_embedding"] = fill((vision["image_size"] // 32) ** 2 + 1, wide)
    for part in ("q_proj", "k_proj", "v_proj"):
        found |= fill.linear(f"visual.attnpool.{part}", wide, wide)
    return found | fill.linear("visual.attnpool.c_proj", dim, wide)


def coca_text_weights(fill: Filler, config: dict[str, Any]) -> Weights:
    """CoCa's text tower: CLIP's with a token of its own behind the text."""
    text, width = config["text_cfg"], config["text_cfg"]["width"]
    return {
        "text.cls_emb": fill(width),
        "text.token_embedding.weight": fill(text["vocab_size"], width),
        "text.positional_embedding": fill(text["context_length"] + 1, width),
        **fill.resblocks("text.transformer.resblocks", text["layers"], width),
        **fill.norm("text.ln_final", width),
        "text.text_projection": fill(width, config["embed_dim"]),
    }


def decoder_weights(config: dict[str, Any], seed: int = 9) -> Weights:
    """What writes CoCa's captions."""
    fill, part = Filler(seed), config["multimodal_cfg"]
    return {
        **fill.resblocks("text_decoder.resblocks", part["layers"], part["width"]),
        **fill.resblocks("text_decoder.cross_attn", part["layers"], part["width"], ("ln_1", "ln_1_kv", "ln_2")),
        **fill.norm("text_decoder.ln_final", part["width"]),
        "text_decoder.text_projection": fill(part["width"], part["vocab_size"]),
    }


def coca_weights(config: dict[str, Any] = COCA, seed: int = 3) -> Weights:
    """A CoCa under open_clip's names."""
    fill, vision, dim = Filler(seed), config["vision_cfg"], config["embed_dim"]
    clip = clip_weights({**config, "text_cfg": CLIP["text_cfg"]}, seed)
    visual = {name: tensor for name, tensor in clip.items() if name.startswith("visual.")}
    pool = fill.pool("visual.attn_pool", "visual.ln_post", dim, vision["width"], vision["attn_pooler_queries"])
    return {
        **visual,
        **pool,
        "visual.proj": fill(dim, dim),
        **coca_text_weights(fill, config),
        **decoder_weights(config),
        "logit_scale": torch.tensor(3.5),
    }


def conch_weights(config: dict[str, Any] = CONCH, seed: int = 4) -> Weights:
    """A CONCH as published: a timm ViT, two pools, and no decoder."""
    fill, vision, dim = Filler(seed), config["vision_cfg"], config["embed_dim"]
    trunk = {name: tensor for name, tensor in biomed_weights(seed).items() if name.startswith("visual.trunk.")}
    pools = [
        fill.pool(f"visual.attn_pool_{kind}", f"visual.ln_{kind}", inner, vision["width"], vision[f"n_queries_{kind}"])
        for kind, inner in (("contrast", dim), ("caption", config["embed_dim_caption"]))
    ]
    return {
        **trunk,
        **pools[0],
        **pools[1],
        "visual.proj_contrast": fill(dim, dim),
        **coca_text_weights(fill, config),
        "logit_scale": torch.tensor(4.0),
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


def coca_directory(directory: Path, weights: Weights | None = None) -> Path:
    """A CoCa as open_clip publishes it on the hub."""
    return open_clip_directory(directory, COCA, coca_weights() if weights is None else weights)


def write_conch_words(directory: Path) -> None:
    """A tokenizer of bytes in the file of CONCH's code."""
    start, end = CONCH_WORDS[1:3]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(CONCH_WORDS)}, CONCH_MERGES))
    tokenizer.add_special_tokens(CONCH_WORDS[:3])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, 1), (end, 2)]
    )
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "conch_byte_level_bpe_uncased.json"))


def conch_directory(directory: Path, weights: Weights | None = None, config: dict[str, Any] | None = CONCH) -> Path:
    """CONCH's one file, the tokenizer of its code, and a configuration for its size here, which the real one has not."""
    write_conch_words(directory)
    torch.save(conch_weights() if weights is None else weights, directory / "pytorch_model.bin")
    if config is not None:
        (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": PIXELS}))
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


def medclip_resnet_weights(fill: Filler, width: int = 8, dim: int = 8) -> Weights:
    """torchvision's ResNet, of fewer blocks, with a last layer to MedCLIP's space."""
    root = "vision_model.model."
    return {
        **fill.convolution(f"{root}conv1", f"{root}bn1", 3, width, 7),
        **fill.stages(root, [1, 2, 1, 1], width),
        f"{root}fc.weight": fill(dim, 32 * width),
    }


def medclip_weights(seed: int = 2, vision: Callable[[Filler], Weights] = swin_weights) -> Weights:
    """A MedCLIP as released: the pooler of its BERT is there and unused."""
    fill = Filler(seed)
    return {
        **vision(fill),
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
