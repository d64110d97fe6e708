"""titer list, titer show."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.errors import unknown

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for name, verb in (("list", list_), ("show", show)):
        app.command(name)(o.with_unused(verb, seed=o.UnusedSeed, device=o.UnusedDevice))


def list_(
    kind: Annotated[str | None, typer.Argument(help="models, data, certifiers, ...; all unless given.")] = None,
    json: Json = False,
) -> None:
    """List what can be named on the command line.

    Example: titer list certifiers
    """
    known = _known()
    if kind in (None, "recipes"):
        known["recipes"] = _recipes()
    if kind is not None and kind not in known:
        raise unknown("kind", kind, known)
    rows = [(name, entry, text) for name in known if kind in (None, name) for entry, text in known[name].items()]
    if json:
        document([{"kind": name, "name": entry, "description": text} for name, entry, text in rows])
    else:
        table(("kind", "name", "description"), rows)
    if "recipes" in known and not known["recipes"] and kind == "recipes":
        note("there is no folder recipes/ here; a recipe is a file: titer run FILE.toml --out DIR")


def show(
    kind: Annotated[str, typer.Argument(help="attack, benchmark, certifier, defense, noise, pretraining or recipe.")],
    name: Annotated[str, typer.Argument(help="A name that `titer list` shows; of a recipe, its path.")],
    json: Json = False,
) -> None:
    """Show a method: what it does, its settings and their defaults. Or a recipe, with what it extends.

    Example: titer show certifier anytime
    """
    kind = kind.removesuffix("s")
    if kind == "recipe":
        _show_recipe(name, json)
        return
    methods = _methods()
    if kind not in methods:
        raise unknown("kind", kind, [*methods, "recipe"])
    if name not in methods[kind]:
        raise unknown(kind, name, methods[kind])
    method = methods[kind][name]
    fields = dict(_flat({field.name: _default(field) for field in dataclasses.fields(method)}))
    if json:
        document({"name": name, "description": _explained(method), "settings": fields})
        return
    print(_explained(method), end="\n\n")
    table(("setting", "default"), list(fields.items()))


def _explained(method: type) -> str:
    """What a method says of itself, and below that the settings that it shares with others.

    What others say of themselves is left out: the summary of a relative is not true of it.
    """
    shared = [inspect.cleandoc(kind.__doc__ or "") for kind in method.__mro__[1:] if dataclasses.is_dataclass(kind)]
    settings = [text[text.index("Args:") :] for text in shared if "Args:" in text]
    return "\n\n".join([inspect.getdoc(method) or "", *settings])


def _show_recipe(path: str, json: bool) -> None:
    from titer.config import read_tables

    recipe = read_tables(path)
    if json:
        document(recipe)
    else:
        table(("key", "value"), list(_flat(recipe)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys as --set takes them."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _recipes() -> dict[str, str]:
    from titer.config import recipes_here

    return recipes_here()


def _default(field: dataclasses.Field[Any]) -> Any:
    if dataclasses.is_dataclass(field.default) and not isinstance(field.default, type):
        return dataclasses.asdict(field.default)
    return None if field.default is dataclasses.MISSING else field.default


def _methods() -> dict[str, Mapping[str, type[Any]]]:
    from titer.attacks import ATTACKS
    from titer.attacks.pairs import PAIR_ATTACKS  # one kind for users: what they are given decides which can be meant
    from titer.certify import CERTIFIERS
    from titer.defenses import DEFENSES, QUESTION_DEFENSES
    from titer.evaluate.benchmarks import BENCHMARKS
    from titer.upstream.noises import NOISES
    from titer.upstream.pretraining import RECIPES

    return {
        "attack": {**ATTACKS, **PAIR_ATTACKS},
        "benchmark": BENCHMARKS,
        "certifier": CERTIFIERS,
        "defense": {**DEFENSES, **QUESTION_DEFENSES},
        "noise": {**PAIR_ATTACKS, **NOISES},
        "pretraining": RECIPES,
    }


def _known() -> dict[str, dict[str, str]]:
    from titer.data.coop import known_sets
    from titer.data.corruptions import CORRUPTIONS
    from titer.data.described import known_sets as described_sets
    from titer.models.cards import cards

    return {
        "models": {
            "titer:tiny": "the embedded CLIP, 80 pixels; its card is titer/models/tiny/README.md",
            "DIRECTORY": "a CLIP or SigLIP model in Hugging Face layout, or one as open_clip publishes it",
            "OWNER/NAME": "a Hugging Face hub id of such a model; these are known:",
            **{
                hub_id: f"{card.called}; pictures: {card.field}; licence: {card.terms}"
                for hub_id, card in cards().items()
                if "/" in hub_id
            },
            "open_clip:ARCHITECTURE/PATH": "a checkpoint of open_clip's; the architecture as ViT-B-32-quickgelu",
            "medclip:PATH": "MedCLIP with a Swin Transformer, from its pytorch_model.bin",
        },
        "data": {
            "titer:phantoms": "medical-looking images drawn by code",
            "DIRECTORY": "[train|val|test]/class/*.png, or a directory with metadata.csv",
            "coop:NAME@ROOT": f"CoOp's layout below ROOT; {', '.join(known_sets())}",
            "medmnist:FILE.npz": "a file of MedMNIST's layout",
            **{f"set:{name}@ROOT": f"{about.title}; {about.licence}" for name, about in described_sets().items()},
            "set:FILE.toml@ROOT": "a set described by a TOML file of your own",
            "multilabel:A+B@DATA": "several labels for an image: columns of the table that say 1 or 0; all such without A+B@",
            "captioned:DATA": "labelled images with a caption each, in 24 phrasings; titer:phantoms has its own",
            "classes:base@DATA": "the first half of a set's classes; new: the rest; LABEL+LABEL: these",
            "corrupted:NAME/SEVERITY@DATA": f"severities 1 to 5 of {', '.join(CORRUPTIONS)}",
            "questions:DATA": "questions and answers made from the captions of blood smears or of titer:phantoms",
            "pooled:DATA,DATA": "several sets in one label space",
            "train:SHARE@DATA": "a part of the training images, whole groups; other splits stay as they are",
            "windowed:CENTER/WIDTH@DATA": "DICOM files seen through this window; NUMBER: through that one of each file's own",
            "TABLE": "*.csv, *.jsonl or *.parquet with file_name (or path) and label",
        },
        "recipes": {},
        **{
            f"{kind}s": {name: (inspect.getdoc(methods[name]) or "").split("\n")[0] for name in methods}
            for kind, methods in _methods().items()
        },
    }
