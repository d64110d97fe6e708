"""Encoders from open_clip's checkpoints, by name or from a directory."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError

from titer.errors import InputError, unknown
from titer.models import huggingface
from titer.models.assembly import assemble, scale_of
from titer.models.encoder import Encoder
from titer.models.huggingface import described_text, fetch
from titer.models.open_clip.coca import without_captions
from titer.models.open_clip.config import CONFIG, Told, architectures, read_told, told_by_name
from titer.models.open_clip.towers import read_text, read_vision
from titer.models.weights import Weights, read_tensors

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")
"""Files of weights in this layout, the better one first; the last is CONCH's."""

_HUB = "hf-hub:"
_CONSTANTS = ("attn_mask", "text.attn_mask", "input_resolution", "context_length", "vocab_size", "logit_bias")
"""Stored beside the weights by some versions. SigLIP's bias is the same for all classes: no answer depends on it."""
_OTHERS = {
    "vision_model.": "a model in Hugging Face layout; give its directory, without open_clip:",
    "base_model.": "an adapter of PEFT and no model",
}
_COCA = {
    "visual.attn_pool_contrast.": "CONCH; give open_clip:conch_ViT-B-16/PATH",
    "visual.attn_pool.": "a CoCa; give its own architecture, such as open_clip:coca_ViT-B-32/PATH",
}
_RESNET = {"visual.layer1.": "a CLIP with a ResNet; give its own architecture, such as open_clip:RN50-quickgelu/PATH"}


def looks_like(directory: Path) -> bool:
    """Whether a directory is in open_clip's layout; one that is in Hugging Face's too is read as such."""
    theirs = (directory / "config.json").exists() and any(any(directory.glob(name)) for name in huggingface.WEIGHTS)
    return (directory / CONFIG).exists() and not theirs


def load(text: str, device: torch.device, dtype: torch.dtype) -> Encoder:
    """An encoder by what stands behind ``open_clip:``.

    Args:
        text: ``ARCHITECTURE/FILE``, ``ARCHITECTURE/DIRECTORY`` or ``ARCHITECTURE/hf-hub:OWNER/NAME``; the last two may
            stand alone where a configuration says the architecture.
        device, dtype: of the weights.

    Raises:
        InputError: for an unknown architecture, or files that are missing, damaged or of another model.
    """
    if text.startswith(_HUB) or (text and Path(text).is_dir()):
        return load_directory(_place(text), _name(text), device, dtype)
    architecture, _, where = text.partition("/")
    if architecture not in architectures():
        raise unknown("architecture", architecture, architectures())
    if not where or not (place := _place(where)).exists():
        raise InputError(
            f"open_clip:{text}: no such file; expected open_clip:{architecture}/PATH, a checkpoint (.pt, .bin, .safetensors) "
            f"or a directory with {CONFIG}, or open_clip:{architecture}/{_HUB}OWNER/NAME (open_clip's tags are not looked up)"
        )
    if (place / CONFIG).exists():
        return load_directory(place, _name(where), device, dtype, architecture)
    if place.is_dir():
        file = _weights(place)
        return _encoder(told_by_name(architecture, file), file, _name(where), device, dtype)
    return _encoder(told_by_name(architecture, place), place, f"open_clip:{architecture}/{_name(where)}", device, dtype)


def load_directory(
    directory: Path, name: str, device: torch.device, dtype: torch.dtype, architecture: str | None = None
) -> Encoder:
    """An encoder from a directory as open_clip publishes models on the hub.

    Args:
        directory: with ``open_clip_config.json``, weights, and the tokenizer's files.
        name: what runs call it.
        device, dtype: of the weights.
        architecture: what the user says it is; must agree with the file.

    Raises:
        InputError: if something is missing, or does not fit.
    """
    told = read_told(directory, architecture)
    return _encoder(told, _weights(directory), name, device, dtype)


def _weights(directory: Path) -> Path:
    for name in WEIGHTS:
        if (directory / name).exists():
            return directory / name
    raise InputError(f"no weights in {directory}: expected {' or '.join(WEIGHTS)}")


def _place(where: str) -> Path:
    return fetch(where.removeprefix(_HUB), WEIGHTS) if where.startswith(_HUB) else Path(where)


def _name(where: str) -> str:
    """What runs call it: a hub id, or the last part of a path."""
    return where.removeprefix(_HUB) if where.startswith(_HUB) else Path(where).resolve().name


def _encoder(told: Told, file: Path, name: str, device: torch.device, dtype: torch.dtype) -> Encoder:
    weights = read_tensors(file)
    others = _OTHERS | ({} if told.coca else _COCA) | ({} if told.resnet else _RESNET)
    for beginning, what in others.items():
        if any(key.startswith(beginning) for key in weights):
            raise InputError(f"{file} holds {what}")
    scale = scale_of(weights, file)
    try:
        own, unread = without_captions(told, weights, file) if told.coca else (weights, 0)
        visual, rest = _parted(own)
        vision, text = read_vision(told, visual, file), read_text(told, rest, file)
    except (ValueError, TypeError, ZeroDivisionError, StrictDataclassError) as error:  # sizes that do not go together
        raise InputError(
            f"{told.source}: no model can be built of it: {str(error).splitlines()[-1].strip()}"
        ) from error
    return assemble(
        name,
        vision.tower,
        text,
        told.preprocess(vision.size),
        scale,
        weights,
        told.model,
        f"open_clip: {vision.made_of}; {described_text(text.config, text.tower.length)}"
        + (f"; {unread} tensors for captions, checked and not read" if unread else ""),
        device,
        dtype,
    )


def _parted(weights: Weights) -> tuple[Weights, Weights]:
    """Tensors of the image tower, and those of the text tower."""
    held = {key: tensor for key, tensor in weights.items() if key not in (*_CONSTANTS, "logit_scale")}
    visual = {key: tensor for key, tensor in held.items() if key.startswith("visual.")}
    return visual, {key: tensor for key, tensor in held.items() if key not in visual}
