"""A model by its name."""

from __future__ import annotations

import re
from pathlib import Path

import torch

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

    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES)
    place = _device(device)
    text = str(name)
    if text in EMBEDDED:
        return huggingface.load_directory(Path(__file__).parent / "tiny", text, place, _DTYPES[dtype])
    if text.startswith("titer:"):
        raise unknown("model", text, EMBEDDED)
    if text.startswith("open_clip:"):
        return open_clip.load(text.removeprefix("open_clip:"), place, _DTYPES[dtype])
    if text.startswith("medclip:"):
        return medclip.load(text.removeprefix("medclip:"), place, _DTYPES[dtype])
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise InputError(f"{text} is a file; expected a directory, or open_clip:ARCHITECTURE/{text}")
    name = path.resolve().name
    if not path.exists():
        if not _HUB_ID.fullmatch(text):
            raise unknown("model: no such directory, and not a hub id (owner/name):", text, EMBEDDED)
        path, name = huggingface.fetch(text, (*huggingface.WEIGHTS, *open_clip.WEIGHTS)), text
    load_directory = open_clip.load_directory if open_clip.looks_like(path) else huggingface.load_directory
    return load_directory(path, name, place, _DTYPES[dtype])


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
