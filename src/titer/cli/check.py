"""titer check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.errors import InputError

if TYPE_CHECKING:
    from titer.models import Encoder


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("check")(o.with_unused(check, seed=o.UnusedSeed))


def check(
    model: Annotated[str | None, typer.Option("--model", help="A model's name.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="A data set's name.")] = None,
    allow: o.Allow = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or bfloat16.")] = "float32",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what a model or a data set is, before time is spent on it.

    Example: titer check --model titer:tiny --data titer:phantoms
    """
    if model is None and data is None:
        raise InputError("nothing to check: give --model, --data or both")
    told = facts_of(model, data, device, dtype, allow or ())
    if json:
        document(told)
    else:
        show_facts(told)


def facts_of(
    model: str | None, data: str | None, device: str | None, dtype: str, allow: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """What is known of the model and of the data set that are named."""
    told = {}
    if model is not None:
        told["model"] = _model(model, device, dtype)
    if data is not None:
        told["data"] = _data(data, allow)
    return told


def show_facts(told: dict[str, dict[str, Any]]) -> None:
    """Tables of what facts_of found, and its warnings."""
    for part in told.values():
        facts = {name: value for name, value in part.items() if name not in ("counts", "warnings")}
        table(("property", "value"), list(facts.items()))
        if "counts" in part:
            splits = list(part["counts"])
            labels = dict.fromkeys(label for counts in part["counts"].values() for label in counts)
            rows = [[label, *(part["counts"][split].get(label, 0) for split in splits)] for label in labels]
            table(("class", *splits), rows)
        for warning in part.get("warnings", ()):
            note(f"warning: {warning}")


_PREPARED = {
    "crop": "resized and cut to the centre",
    "squash": "squashed to a square",
    "pad": "made grey and padded to a square",
}


def _places(encoder: Encoder) -> str:
    """In front of how many layers of each tower tokens can be learned."""
    from titer.models.prompts import TokenTower, deeper_of
    from titer.models.towers import LayeredTower

    text, image = encoder.text_tower, encoder.image_tower
    layers = {
        "text": 1 + len(deeper_of(text)) if isinstance(text, TokenTower) else 0,
        "image": len(image.injections) if isinstance(image, LayeredTower) else 0,
    }
    return ", ".join(
        f"in front of {count or 'no'} {tower} layer{'s' * (count != 1)}" for tower, count in layers.items()
    )


def _model(name: str, device: str | None, dtype: str) -> dict[str, Any]:
    from titer.models import load_model
    from titer.models.cards import card_of, licence_of

    encoder = load_model(name, device=device, dtype=dtype)
    card = card_of(encoder.name)
    return {
        "name": encoder.name,
        **({"known as": f"{card.called}; pictures: {card.field}"} if card else {}),
        "licence": licence_of(encoder.name),
        "architecture": encoder.architecture or "not known",
        "input size": f"{encoder.size} x {encoder.size} pixels",
        "mean": list(encoder.preprocess.mean),
        "std": list(encoder.preprocess.std),
        "pictures are": _PREPARED[encoder.preprocess.mode],
        "learned tokens": _places(encoder),
        "features": encoder.dim,
        "parameters": encoder.parameters,
        "logit scale": round(encoder.logit_scale, 4),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "device": str(encoder.device),
        "fingerprint": encoder.fingerprint,
    }


def _data(name: str, allow: Sequence[str]) -> dict[str, Any]:
    from titer.data import describe_data
    from titer.evaluate.machine import cores

    return describe_data(name, workers=cores(), allow=allow)
