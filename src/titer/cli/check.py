"""titer check."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from titer.cli.output import document, note, table
from titer.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("check")(check)


def check(
    model: Annotated[str | None, typer.Option("--model", help="A model's name.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="A data set's name.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or bfloat16.")] = "float32",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what a model or a data set is, before time is spent on it.

    Example: titer check --model titer:tiny --data titer:phantoms
    """
    if model is None and data is None:
        raise InputError("nothing to check: give --model, --data or both")
    told: dict[str, Any] = {}
    if model is not None:
        told["model"] = _model(model, device, dtype)
    if data is not None:
        told["data"] = _data(data)
    if json:
        document(told)
        return
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


def _model(name: str, device: str | None, dtype: str) -> dict[str, Any]:
    from titer.models import load_model

    encoder = load_model(name, device=device, dtype=dtype)
    return {
        "name": encoder.name,
        "input size": f"{encoder.size} x {encoder.size} pixels",
        "mean": list(encoder.preprocess.mean),
        "std": list(encoder.preprocess.std),
        "features": encoder.dim,
        "parameters": encoder.parameters,
        "logit scale": round(encoder.logit_scale, 4),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "device": str(encoder.device),
        "fingerprint": encoder.fingerprint,
    }


def _data(name: str) -> dict[str, Any]:
    from titer.data import describe_data

    return describe_data(name)
