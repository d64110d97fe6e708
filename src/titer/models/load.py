"""A model by its name."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from titer.errors import InputError, unknown
from titer.models.encoder import Encoder

EMBEDDED = ("titer:tiny",)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_model(name: str | Path, *, device: str | None = None, dtype: str = "float32") -> Encoder:
    """An encoder: ``titer:tiny``, a directory in Hugging Face's or open_clip's layout, a hub id,
    ``open_clip:ARCHITECTURE/PATH`` or ``medclip:PATH``. An existing path wins over a hub id.

    Args:
        name: see above.
        device: ``cpu`` or ``cuda``; cuda where there is one unless given.
        dtype: ``float32`` or ``bfloat16``, of the weights and the computation.

    Raises:
        InputError: for a model that does not exist or cannot be used.
    """
    from titer.models import huggingface, medclip, open_clip

    place, text, kind = _device(device), str(name), _dtype(dtype)
    if text.startswith("open_clip:"):
        return open_clip.load(text.removeprefix("open_clip:"), place, kind)
    if text.startswith("medclip:"):
        return medclip.load(text.removeprefix("medclip:"), place, kind)
    path, short = _directory(text)
    if open_clip.looks_like(path):
        return open_clip.load_directory(path, short, place, kind)
    if (path / "pytorch_model.bin").exists() and not (path / "config.json").exists():
        where = text if Path(text).is_dir() else f"hf-hub:{text}"
        raise InputError(
            f"{text} holds weights and nothing that says of what; CONCH is open_clip:conch_ViT-B-16/{where}, MedCLIP is "
            f"medclip:{path}"
        )
    return huggingface.load_directory(path, short, place, kind)


def open_model(name: str | Path, *, device: str | None = None) -> tuple[Encoder, nn.Module, Path]:
    """A CLIP model in Hugging Face layout as what can be trained: encoder, the network behind it, its directory.

    Raises:
        InputError: for a model that does not exist, or of another kind or layout.
    """
    from titer.models import huggingface, open_clip

    text = str(name)
    refusal = InputError(f"{text}: only CLIP models in Hugging Face layout are pre-trained by this version")
    if text.startswith(("open_clip:", "medclip:")):
        raise refusal
    path, short = _directory(text)
    if open_clip.looks_like(path):
        raise refusal
    encoder, network = huggingface.load_network(path, short, _device(device), torch.float32)
    if type(network).__name__ != "CLIPModel":
        raise refusal
    return encoder, network, path


def _directory(text: str) -> tuple[Path, str]:
    """The directory of a model and what it is called; a hub model is fetched if it is not cached."""
    from titer.models import huggingface, open_clip

    if text in EMBEDDED:
        return Path(__file__).parent / "tiny", text
    if text.startswith("titer:"):
        raise unknown("model", text, EMBEDDED)
    path = Path(text)
    if path.is_dir():
        return path, path.resolve().name
    if path.exists():
        raise InputError(f"{text} is a file; expected a directory, or open_clip:ARCHITECTURE/{text}")
    if not _HUB_ID.fullmatch(text):
        raise unknown("model: no such directory, and not a hub id (owner/name):", text, EMBEDDED)
    return huggingface.fetch(text, (*huggingface.WEIGHTS, *open_clip.WEIGHTS)), text


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise unknown("dtype", name, _DTYPES)
    return _DTYPES[name]


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device: expected cpu or cuda, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: this machine or this build of torch has no CUDA; use cpu")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: expected cpu or cuda, got {name!r}")
    return device
