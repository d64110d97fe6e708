"""The towers of open_clip's checkpoints as modules of transformers, so that prompts, attacks and LoRA find what they know.

An image tower is CLIP's transformer or timm's, which is CLIP's without the first normalisation and with a bias in the
patches, each with a projection of its start token or with CoCa's pool, or CLIP's ResNet; a text tower is CLIP's transformer,
CoCa's or a BERT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from titer.errors import InputError
from titer.models.assembly import Text, Vision
from titer.models.bert import first_token, read_bert
from titer.models.huggingface import ImageTower, TextTower, described_vision, tokenizer_beside
from titer.models.open_clip.coca import AttentionPool, CocaText, PoolingTower
from titer.models.open_clip.config import Told, side
from titer.models.open_clip.keys import conch_origin, resnet_origin, text_origin, timm_origin, vision_origin
from titer.models.resnet import ClipResNet, ResNetTower, without_counters
from titer.models.weights import Weights, count_layers, load_strictly, shape_of

_CLIP_WORDS = "https://huggingface.co/openai/clip-vit-base-patch32"  # its tokenizer is that of all CLIPs
_CONCH_WORDS = "https://github.com/mahmoodlab/CONCH/tree/main/conch/open_clip_custom/tokenizers"
_CONCH_END = 2
_HEAD = 64  # entries of a head in every ViT of timm's that is read here
_TIMM = re.compile(r"vit_(tiny|small|base|large)_patch\d+_\d+")


def read_vision(told: Told, weights: Weights, file: Path) -> Vision:
    """An image tower from tensors ``visual.*``.

    Raises:
        InputError: for a variant that is not read, or tensors that do not fit.
    """
    part = told.part("vision_cfg")
    if told.resnet:
        return _resnet_vision(told, part, weights, file)
    if told.conch or part.get("timm_model_name"):
        return _timm_vision(told, part, weights, file)
    width = int(part.get("width", 768))
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=int(width * part.get("mlp_ratio", 4.0)),
        num_hidden_layers=int(part.get("layers", 12)),
        num_attention_heads=width // int(part.get("head_width", 64)),
        image_size=side(part.get("image_size", 224)),
        patch_size=int(part.get("patch_size", 16)),
        projection_dim=told.dim,
        hidden_act=told.activation,
    )
    vision: Any = CLIPVisionModel(config)
    if told.coca:
        vision.post_layernorm = nn.Identity()
    tower = _tower(told, part, vision)
    load_strictly(tower, weights, file, vision_origin)
    return Vision(tower, config.image_size, described_vision(config))


def _tower(told: Told, part: Mapping[str, Any], vision: Any) -> ImageTower:
    """A transformer with what makes features of its tokens."""
    if not told.coca:
        return ImageTower(vision, nn.Linear(vision.config.hidden_size, told.dim, bias=False))
    queries = part.get("n_queries_contrast", 1) if told.conch else part.get("attn_pooler_queries", 256)
    pool = AttentionPool(told.dim, vision.config.hidden_size, int(part.get("attn_pooler_heads", 8)), int(queries))
    return PoolingTower(vision, pool, nn.Linear(told.dim, told.dim, bias=False))


def _resnet_vision(told: Told, part: Mapping[str, Any], weights: Weights, file: Path) -> Vision:
    blocks, width, size = part["layers"], int(part.get("width", 64)), side(part.get("image_size", 224))
    tower = ResNetTower(ClipResNet(blocks, width, size), nn.Linear(width * 32, told.dim))
    load_strictly(tower, without_counters(weights), file, resnet_origin)
    return Vision(tower, size, f"ResNet, {' + '.join(map(str, blocks))} blocks from {width} channels on")


def _timm_vision(told: Told, part: Mapping[str, Any], weights: Weights, file: Path) -> Vision:
    name, pool, head = part.get("timm_model_name"), part.get("timm_pool", "avg"), part.get("timm_proj", "linear")
    if not told.conch and (not _TIMM.fullmatch(str(name)) or pool not in ("", "token") or head != "linear"):
        raise InputError(
            f"{told.source}: expected timm's vit_SIZE_patchP_PIXELS with timm_pool '' and timm_proj 'linear', got {name} "
            f"with {pool!r} and {head!r}; of a SigLIP take the version in Hugging Face layout"
        )
    start, positions = "visual.trunk.cls_token", "visual.trunk.pos_embed"
    shape_of(weights, positions, 3, file)
    width = shape_of(weights, start, 3, file)[-1]
    patch = shape_of(weights, "visual.trunk.patch_embed.proj.weight", 4, file)[-1]
    inner = shape_of(weights, "visual.trunk.blocks.0.mlp.fc1.weight", 2, file)[0]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=count_layers(weights, "visual.trunk.blocks."),
        num_attention_heads=width // _HEAD,
        image_size=side(part.get("image_size", 224)),
        patch_size=patch,
        projection_dim=told.dim,
        hidden_act="gelu",  # whatever quick_gelu says
        layer_norm_eps=1e-6,
    )
    vision: Any = CLIPVisionModel(config)
    vision.pre_layrnorm = nn.Identity()
    vision.embeddings.patch_embedding = nn.Conv2d(3, width, patch, patch)
    tower = _tower(told, part, vision)
    # those have a first axis for the batch
    unbatched = {start: weights[start].flatten(), positions: weights[positions].squeeze(0)}
    load_strictly(tower, {**weights, **unbatched}, file, conch_origin if told.conch else timm_origin)
    return Vision(tower, config.image_size, described_vision(config))


def read_text(told: Told, weights: Weights, file: Path) -> Text:
    """A text tower from the tensors beside those of the image tower, with the tokenizer beside the file.

    Raises:
        InputError: for a variant that is not read, tensors that do not fit, or a tokenizer that is missing.
    """
    part = told.part("text_cfg")
    read = _bert_text if part.get("hf_model_name") else _clip_text
    return read(told, part, weights, file)


def _clip_text(told: Told, part: Mapping[str, Any], weights: Weights, file: Path) -> Text:
    width, words, length = (
        int(part.get(key, usual)) for key, usual in (("width", 512), ("vocab_size", 49408), ("context_length", 77))
    )
    apart = bool(part.get("embed_cls"))  # CoCa's class token, whose position is the one behind the text's
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=int(width * part.get("mlp_ratio", 4.0)),
        num_hidden_layers=int(part.get("layers", 12)),
        num_attention_heads=int(part.get("heads", 8)),
        max_position_embeddings=length + apart,
        projection_dim=told.dim,
        hidden_act=told.activation,
        bos_token_id=words - 2,
        eos_token_id=words - 1,  # open_clip reads the features where the id is highest
        pad_token_id=words - 1,
    )
    model: Any = (
        CocaText(config, told.dim, int(part.get("pad_id", 0))) if apart else CLIPTextModelWithProjection(config)
    )
    load_strictly(model, {name.removeprefix("text."): tensor for name, tensor in weights.items()}, file, text_origin)
    if told.conch:
        (tokenizer, place), end = tokenizer_beside(file.parent, "conch", _CONCH_WORDS), _CONCH_END
    else:
        (tokenizer, place), end = tokenizer_beside(file.parent, "clip", _CLIP_WORDS), words - 1
    if tokenizer.eos_token_id != end:
        raise InputError(
            f"{place}: this tokenizer ends a text with token {tokenizer.eos_token_id}, the model with {end}; expected "
            "the model's own"
        )
    text = model.text_model
    tower = TextTower(
        model if apart else lambda **tokens: model(**tokens).text_embeds,
        text.embeddings.token_embedding,
        text.encoder.layers,
        tokenizer,
        length,
    )
    return Text(model, config, tower, place)


def _bert_text(told: Told, part: Mapping[str, Any], weights: Weights, file: Path) -> Text:
    pooler = part.get("hf_pooler_type", part.get("pooler_type"))
    if pooler != "cls_last_hidden_state_pooler":
        raise InputError(f"{told.source}: expected hf_pooler_type 'cls_last_hidden_state_pooler', got {pooler!r}")
    model = read_bert(weights, "text.transformer.", "text.proj.", told.dim, first_token, file)
    return model.beside(file.parent, part["hf_model_name"], int(part.get("context_length", 77)))
