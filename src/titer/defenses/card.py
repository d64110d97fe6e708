"""The model card of an adapter: a ``README.md`` that the Hugging Face hub reads, with nothing private in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from titer.models.cards import licence_of
from titer.models.load import EMBEDDED

CARD = "README.md"
_PATHS = ("checkpoint", "source")  # settings that name a file of the machine
_HUB_ID = re.compile(r"(?:open_clip:(?:[\w.-]+/)?hf-hub:)?([A-Za-z0-9][\w.-]*/[\w.-]+)")


def hub_id(model: str) -> str | None:
    """OWNER/NAME of a model that was loaded from the hub, by the name that it goes by here; None for others."""
    found = _HUB_ID.fullmatch(model)
    return found[1] if found else None


def base_of(facts: Mapping[str, Any]) -> str:
    """The encoder's hub id, else the name that it was loaded by."""
    name: str = facts["encoder"]["name"]
    return hub_id(name) or name


def loadable(model: str) -> bool:
    """Whether a model can be loaded by its recorded name alone, wherever that is."""
    return model in EMBEDDED or hub_id(model) is not None


def counts(facts: Mapping[str, Any]) -> dict[str, int]:
    """Images and groups of a fit, also where their names were taken out."""
    found: dict[str, int] | None = facts.get("counts")
    return found or {"images": len(facts.get("ids", ())), "groups": len(facts.get("groups", ()))}


def without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with files by their names alone."""
    return {
        name: Path(value).name if name in _PATHS and isinstance(value, str) else value
        for name, value in settings.items()
    }


def card(facts: Mapping[str, Any]) -> str:
    """The card's text: front matter, how to load it, what it was fitted on, classes, settings and licences.

    Args:
        facts: what ``adapter_config.json`` says under ``titer``.
    """
    return "\n".join([*_front(facts), *_body(facts)]) + "\n"


def _front(facts: Mapping[str, Any]) -> Iterator[str]:
    base = hub_id(facts["encoder"]["name"])
    yield "---"
    yield "library_name: titer"
    if base:
        yield f"base_model: {json.dumps(base)}"
    yield "license: unknown"
    if facts["defense"] != "fusion":
        yield "pipeline_tag: image-classification"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("titer", "adversarial-robustness", "medical", facts["defense"]))
    yield "---"


def _body(facts: Mapping[str, Any]) -> Iterator[str]:
    encoder, classes = facts["encoder"], facts["classes"]
    model = encoder["name"] if loadable(encoder["name"]) else f"PATH/TO/{encoder['name']}"
    size = encoder.get("size", "size")
    yield f"# {facts['defense']} for {encoder['name']}\n"
    yield (
        f"What `titer fit {facts['defense']}` learned for the encoder {encoder['name']} (fingerprint "
        f"`{encoder['fingerprint'][:12]}`; another one is refused). Research software: not a medical device, and no claim of "
        "compliance with any regulation.\n"
    )
    yield "## Loading it\n"
    if facts["defense"] == "fusion":
        yield f"```\ntiter attack pgd --model {model} --data DATA --prompts DIRECTORY --eps 1/255 --out runs/attacked\n```\n"
    else:
        given = "" if loadable(encoder["name"]) else f', model="{model}"'
        yield "```python\nimport titer\n"
        yield f'classifier = titer.from_pretrained("DIRECTORY_OR_HUB_ID"{given})'
        yield f"logits = classifier(images)  # (batch, 3, {size}, {size}) in [0, 1] to (batch, {len(classes)})\n```\n"
        yield f"```\ntiter certify --model {model} --data DATA --prompts DIRECTORY --sigma 0.25 --out runs/certified\n```\n"
    yield "## What it was fitted on\n"
    yield from _table(("", ""), _fitted_on(facts))
    yield "## Classes, in the order of the logits\n"
    yield from _table(("class", "texts"), [(each["label"], "; ".join(each["texts"])) for each in classes])
    yield "## Settings\n"
    yield from _table(("setting", "value"), list(without_paths(facts["settings"]).items()))
    yield "## Licence\n"
    yield (
        "None has been chosen: `license` above says so until its publisher does. The encoder's: "
        f"{licence_of(base_of(facts))}. The terms of the data that it was fitted on apply as well."
    )
    if facts.get("warnings"):
        yield "\n## Warnings\n"
        yield from (f"- {warning}" for warning in facts["warnings"])
    if facts.get("ids") or facts.get("command"):
        yield (
            "\n## Before it is published\n\n`adapter_config.json` names the images and groups (patients, slides) of the fit and "
            "the command that made it. `titer export DIRECTORY --to hub --out COPY` writes a copy without them."
        )


def _fitted_on(facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    data, found, shots = facts.get("data", {}), counts(facts), facts.get("shots")
    yield "data", f"{data.get('name', 'not recorded')}" + (f", split {data['split']}" if data.get("split") else "")
    yield "images", f"{found['images']:,}" + (f" ({shots} of each class)" if shots else "")
    yield "groups (patients, slides)", f"{found['groups']:,}" if found["groups"] else "not known"
    yield "left out, since the encoder was trained on them", data.get("left_out", "not recorded")
    yield "seed", facts.get("seed", "not recorded")
    if facts.get("allow"):
        yield "refusals that were lifted", ", ".join(facts["allow"])
    yield "versions", ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())


def _table(head: Sequence[str], rows: Iterator[tuple[str, object]] | Sequence[tuple[str, object]]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |"
    yield "|---|---|"
    yield from (f"| {_plain(name)} | {_plain(value)} |" for name, value in rows)
    yield ""


def _plain(value: object) -> str:
    """On one line, and no column's end."""
    return " ".join(str(value).split()).replace("|", "\\|")
