"""CLIP and SigLIP directories in Hugging Face layout with random weights, a few kilobytes each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

LAYERS: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2
}  # fmt: skip
WORDS = ["a brain scan", "a tile of lung tissue", "a medical image of blood cells"]


def clip_directory(path: Path, size: int = 32, length: int = 20) -> Path:
    """A two-layer CLIP with 32-pixel input, and texts of up to ``length`` tokens."""
    tokenizer = _tokenizer("<|startoftext|>", "<|endoftext|>", length)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=length, projection_dim=8, **LAYERS,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = CLIPVisionConfig(image_size=size, patch_size=8, projection_dim=8, **LAYERS)
    torch.random.set_rng_state(torch.Generator().manual_seed(0).get_state())
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    crop = {"do_center_crop": True, "crop_size": {"height": size, "width": size}, "size": {"shortest_edge": size}}
    return _save(path, model, tokenizer, {"image_processor_type": "CLIPImageProcessor", "resample": 3, **crop})


def siglip_directory(path: Path, size: int = 24) -> Path:
    """A two-layer SigLIP with 24-pixel input, squashed and not cropped."""
    tokenizer = _tokenizer("<s>", "</s>")
    text = SiglipTextConfig(vocab_size=len(tokenizer), max_position_embeddings=20, **LAYERS)
    vision = SiglipVisionConfig(image_size=size, patch_size=8, **LAYERS)
    torch.random.set_rng_state(torch.Generator().manual_seed(1).get_state())
    model = SiglipModel(SiglipConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    squash = {"size": {"height": size, "width": size}, "resample": 2}
    return _save(path, model, tokenizer, {"image_processor_type": "SiglipImageProcessor", **squash})


def without_start(path: Path) -> Path:
    """The model with a tokenizer that puts no token in front of a text, as SigLIP's own."""
    content = json.loads((path / "tokenizer.json").read_text())
    template = content["post_processor"]["single"]
    content["post_processor"]["single"] = template[1:]
    (path / "tokenizer.json").write_text(json.dumps(content))
    return path


def _tokenizer(start: str, end: str, length: int = 20) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=[start, end], initial_alphabet=alphabet, show_progress=False
        ),
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=end, model_max_length=length
    )


def _save(path: Path, model: Any, tokenizer: PreTrainedTokenizerFast, preprocessor: dict[str, Any]) -> Path:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    normal = {"image_mean": [0.48, 0.45, 0.40], "image_std": [0.26, 0.27, 0.28]}
    (path / "preprocessor_config.json").write_text(json.dumps({**preprocessor, **common, **normal}))
    return path
