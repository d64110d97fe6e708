"""Strict loading of weights, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from titer.errors import InputError

Weights = dict[str, Tensor]

_PARALLEL = "module."
_NAMED = 3  # how many offending tensors a message lists


@dataclass(frozen=True)
class Origin:
    """Where a tensor of a module stands in the file of another library.

    Args:
        name: of the tensor in the file.
        third: which third of its rows, for query, key and value in one tensor; all rows where None.
        transposed: whether rows and columns are exchanged.
    """

    name: str
    third: int | None = None
    transposed: bool = False

    def take(self, tensor: Tensor) -> Tensor:
        """The file's tensor, or the part of it, as the module wants it."""
        part = tensor if self.third is None else tensor.chunk(3)[self.third]
        return part.T.contiguous() if self.transposed else part

    def shape(self, wanted: torch.Size) -> tuple[int, ...]:
        """What the file's tensor must be for the module's to be ``wanted``."""
        rows = wanted if self.third is None else (3 * wanted[0], *wanted[1:])
        return tuple(reversed(rows)) if self.transposed else tuple(rows)


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

    Of a training checkpoint its ``state_dict``; the ``module.`` that a parallel run puts before all names is taken away.

    Raises:
        InputError: if it is missing, damaged, or a pickle wants to execute code.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected tensors in .safetensors, .pth, .pt or .bin")
    weights = _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    parallel = all(name.startswith(_PARALLEL) for name in weights)
    return {name.removeprefix(_PARALLEL): tensor for name, tensor in weights.items()} if parallel else weights


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
        if "TorchScript" in str(error):  # OpenAI's own files of CLIP
            raise InputError(
                f"{file} is refused: it is a TorchScript archive, which holds code beside tensors; "
                "get the same weights as .safetensors, or save their state_dict"
            ) from error
        raise InputError(f"{file} is damaged: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{file}: expected a dictionary of tensors, got {type(content).__name__}")
    return content


def load_strictly(module: nn.Module, weights: Weights, source: Path, origin: Callable[[str], Origin] = Origin) -> None:
    """Put weights into a module; every tensor must have its place and shape.

    Args:
        module: to be filled.
        weights: of a file.
        source: the file, for errors.
        origin: a name in the module -> where it stands in the file; under the same name unless given.

    Raises:
        InputError: for missing, unexpected, wrongly shaped or non-finite tensors, naming the first few as the file does.
    """
    expected = module.state_dict()
    origins = {name: origin(name) for name in expected}
    check(
        {place.name: place.shape(expected[name].shape) for name, place in origins.items()},
        weights,
        source,
    )
    module.load_state_dict(
        {name: place.take(weights[place.name]).to(expected[name].dtype) for name, place in origins.items()}
    )


def check(shapes: Mapping[str, tuple[int, ...]], weights: Weights, source: Path) -> None:
    """Every tensor must have its place and shape, whether it is loaded or left unread.

    Args:
        shapes: what is expected, by the file's names.
        weights: of a file.
        source: the file, for errors.

    Raises:
        InputError: for missing, unexpected, wrongly shaped or non-finite tensors, naming the first few.
    """
    # older transformers stored these constants; they are not weights
    held = {name for name in weights if not name.endswith("position_ids") or name in shapes}
    missing, unexpected = shapes.keys() - held, held - shapes.keys()
    if missing:
        raise InputError(f"{source}: {len(missing)} tensors are missing, such as {_some(missing)}")
    if unexpected:
        raise InputError(
            f"{source}: {len(unexpected)} tensors do not belong to this model, such as {_some(unexpected)}"
        )
    for name, shape in shapes.items():
        tensor = weights[name]
        if tensor.shape != shape:
            raise InputError(f"{source}: {name} has shape {tuple(tensor.shape)}, expected {shape}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{source}: {name} holds nan or infinity")


def shape_of(weights: Weights, name: str, axes: int, source: Path) -> torch.Size:
    """The shape of a tensor that tells a model's sizes.

    Raises:
        InputError: if it is missing, or has another number of axes.
    """
    if name not in weights:
        raise InputError(f"{source}: {name} is missing")
    shape = weights[name].shape
    if len(shape) != axes:
        raise InputError(f"{source}: {name} has shape {tuple(shape)}, expected {axes} axes")
    return shape


def count_layers(weights: Weights, prefix: str) -> int:
    """How many layers there are below a prefix that ends in front of their numbers."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def fingerprint_of(weights: Mapping[str, Tensor], *facts: object) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, and the facts beside them."""
    running = hashlib.sha256(repr(facts).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        running.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        running.update(tensor.flatten().view(torch.uint8).numpy().data)
    return running.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Layers that a library makes while the block runs begin as this seed says; global randomness stays as it is.

    Only the CPU's generator is set, and set back: seeding globally would also seed every GPU's, for good.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        yield


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:_NAMED])
