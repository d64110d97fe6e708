"""What is known of published models: licence, field, and whether the hub asks for an agreement first."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """What a model's authors say of it.

    Args:
        called: its name in papers.
        field: what its pictures are of.
        licence: empty where none is stated.
        gated: whether the hub asks for an agreement before it hands out the weights.
    """

    called: str
    field: str
    licence: str
    gated: bool = False

    @property
    def terms(self) -> str:
        """Licence and gating in words."""
        return (self.licence or "none stated") + ("; gated" if self.gated else "")


@cache
def cards() -> dict[str, Card]:
    """The cards by hub id."""
    content = tomllib.loads(Path(__file__).with_name("cards.toml").read_text(encoding="utf-8"))
    return {hub_id: Card(**told) for hub_id, told in content.items()}


def card_of(name: str) -> Card | None:
    """The card of a model by its hub id, in capitals or not."""
    return next((card for hub_id, card in cards().items() if hub_id.lower() == name.lower()), None)


def terms_of(name: str) -> str:
    """`` (licence: ...)`` where the model is known, else nothing."""
    card = card_of(name)
    return f" (licence: {card.terms})" if card else ""


def licence_of(name: str) -> str:
    """What may be said of a model's licence from its name: a hub id, or that of a directory with a copy."""
    card = card_of(name)
    if card:
        return card.terms
    likely = next((hub_id for hub_id in cards() if hub_id.rpartition("/")[2].lower() == name.lower()), None)
    if likely is None:
        return "not known here; see where it comes from"
    return f"{cards()[likely].terms}, if it is {likely}"
