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
    """An encoder: ``titer:tiny``, a directory in Hugging Face layout, or a hub id. An existing path wins over a hub id.

    Args:
        name: see above.
        device: ``cpu`` or ``cuda``; cuda where there is one unless given.
        dtype: ``float32`` or ``bfloat16``, of the weights and the computation.

    Raises:
        InputError: for a model that does not exist or cannot be used.
    """
    from titer.models import huggingface

    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES)
    place = _device(device)
    directory = model_directory(name)
    text = str(name)
    short = directory.name if Path(text).is_dir() else text
    return huggingface.load_directory(directory, short, place, _DTYPES[dtype])


def model_directory(name: str | Path) -> Path:
    """The directory of a model by its name, as for ``load_model``; a hub model is fetched if it is not cached.

    Raises:
        InputError: for a model that does not exist or is of a kind that is not read.
    """
    from titer.models import huggingface

    text = str(name)
    if text in EMBEDDED:
        return Path(__file__).parent / "tiny"
    if text.startswith("titer:"):
        raise unknown("model", text, EMBEDDED)
    if text.startswith(("open_clip:", "medclip:")):
        raise InputError(f"{text}: models of this kind are not read by this version; convert it to Hugging Face layout")
    path = Path(text)
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise InputError(f"{text} is a file; expected a directory in Hugging Face layout")
    if not _HUB_ID.fullmatch(text):
        raise unknown("model: no such directory, and not a hub id (owner/name):", text, EMBEDDED)
    return huggingface.fetch(text)


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
