"""Adapters as the Hugging Face hub has them: read by name, and written so that they can be shared."""

from __future__ import annotations

from pathlib import Path

from titer.defenses.adapter import (
    WEIGHTS,
    Adapter,
    check_directory,
    classifier_of,
    read_adapter,
    read_config,
    write_adapter,
)
from titer.defenses.card import counts, hub_id, loadable, without_paths
from titer.errors import InputError
from titer.models import load_model
from titer.models.classifier import Classifier
from titer.models.encoder import Encoder
from titer.models.huggingface import fetch


def from_pretrained(
    name: str | Path, *, model: str | Path | Encoder | None = None, device: str | None = None, dtype: str = "float32"
) -> Classifier:
    """The classifier that an adapter makes, for the classes that it was fitted on.

    To judge it, give its directory as ``prompts`` instead: images that it was fitted on are refused only there.

    Args:
        name: a directory that ``fit`` wrote, or the hub id of one (the cached copy, else a download); an existing path wins.
        model: the encoder that it was fitted on; by its recorded name unless given, which must be a hub id or ``titer:tiny``.
        device, dtype: of the encoder, where it is loaded here.

    Returns:
        Images (batch, 3, size, size) in [0, 1] -> logits (batch, classes); ``classes`` names them.

    Raises:
        InputError: for what is no adapter, cannot be fetched, answers questions, or does not fit the encoder.
    """
    adapter = read_adapter(_directory(name))
    if not isinstance(model, Encoder):
        recorded = adapter.encoder[0]
        if model is None and not loadable(recorded):
            raise InputError(
                f"{name} was fitted on {recorded!r}, which is no hub id: pass model=PATH, the directory of that encoder"
            )
        model = load_model(recorded if model is None else model, device=device, dtype=dtype)
    return classifier_of(adapter, model)


def _directory(name: str | Path) -> Path:
    path = Path(name)
    if path.exists() or hub_id(str(name)) is None:
        return path
    return fetch(str(name), (WEIGHTS,))


def publish(path: Path, out: Path) -> Path:
    """Write a copy of an adapter that names no image, group, path or command; numbers and the pictures' SHA-256 stay.

    Images of the fit are still refused by their SHA-256, other images of its groups no more.

    Args:
        path: the adapter's directory.
        out: a new or empty directory, or one with an adapter.

    Raises:
        InputError: if it is no adapter, or ``out`` is another kind of directory or the same one.
    """
    adapter = read_adapter(path)
    if out.resolve() == path.resolve():
        raise InputError(f"{out} is the adapter itself; expected another directory for the copy")
    check_directory(out)
    write_adapter(out, adapter.weights, _public(adapter), _foreign(adapter))
    return out


def _public(adapter: Adapter) -> dict[str, object]:
    private: dict[str, object] = {"ids": [], "groups": [], "command": ""}
    settings = without_paths(adapter.facts["settings"])
    return {**adapter.facts, **private, "settings": settings, "counts": counts(adapter.facts)}


def _foreign(adapter: Adapter) -> dict[str, object]:
    """The entries of another library, with the base model by its hub id or not at all."""
    content = {name: value for name, value in read_config(adapter.path).items() if name != "titer"}
    known = "base_model_name_or_path"
    return content | ({known: hub_id(adapter.encoder[0])} if known in content else {})
