"""Strict loading of weights, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from titer.errors import InputError

Weights = dict[str, Tensor]

_NAMED = 3  # how many offending tensors a message lists


def read_weights(directory: Path) -> Weights:
    """The tensors of a model directory: safetensors, whole or sharded, else ``pytorch_model.bin`` without its code.

    Raises:
        InputError: if there are none, the file is damaged, or a pickle wants to execute code.
    """
    index = directory / "model.safetensors.index.json"
    if index.exists():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return {name: tensor for shard in shards for name, tensor in _safetensors(directory / shard).items()}
    if (directory / "model.safetensors").exists():
        return _safetensors(directory / "model.safetensors")
    if (directory / "pytorch_model.bin").exists():
        return _pickled(directory / "pytorch_model.bin")
    raise InputError(f"no weights in {directory}: expected model.safetensors or pytorch_model.bin")


def read_json(file: Path, kind: str) -> dict[str, Any]:
    """The content of a configuration file.

    Args:
        file: to read.
        kind: what its directory should be, for the error.

    Raises:
        InputError: if it is missing or no JSON.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{file.parent} is not {kind}: {file.name} is missing") from error
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    return content


def read_tensors(file: Path) -> Weights:
    """The tensors of one file: safetensors, or a pickle of tensors without its code.

    Raises:
        InputError: if it is missing, damaged, or a pickle wants to execute code.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected tensors in .safetensors, .pth, .pt or .bin")
    return _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)


def _safetensors(file: Path) -> Weights:
    try:
        return dict(load_file(file))
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing, though the index names it") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file} is damaged: {error}") from error


def _pickled(file: Path) -> Weights:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{file} is refused: the pickle holds more than tensors and could execute code") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{file}: expected a dictionary of tensors, got {type(content).__name__}")
    return content


def load_strictly(module: nn.Module, weights: Weights, source: Path) -> None:
    """Put weights into a module; every tensor must have its place and shape.

    Raises:
        InputError: for missing, unexpected, wrongly shaped or non-finite tensors, naming the first few.
    """
    expected = module.state_dict()
    # older transformers stored these constants; they are not weights
    weights = {
        name: tensor for name, tensor in weights.items() if not name.endswith("position_ids") or name in expected
    }
    missing, unexpected = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing:
        raise InputError(f"{source}: {len(missing)} tensors are missing, such as {_some(missing)}")
    if unexpected:
        raise InputError(
            f"{source}: {len(unexpected)} tensors do not belong to this model, such as {_some(unexpected)}"
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{source}: {name} holds nan or infinity")
    module.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in weights.items()})


def fingerprint_of(weights: Mapping[str, Tensor], *facts: object) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, and the facts beside them."""
    running = hashlib.sha256(repr(facts).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        running.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        running.update(tensor.flatten().view(torch.uint8).numpy().data)
    return running.hexdigest()


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:_NAMED])
