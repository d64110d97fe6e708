"""Learned tokens as a value, and the text features that they give."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.errors import InputError, unknown
from titer.models.encoder import Encoder
from titer.models.injection import Injection

Position = Literal["end", "middle", "front"]
"""Where the class's text stands among the learned tokens."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Learned tokens in front of each class's text.

    Args:
        context: token embeddings (tokens, width), shared by all classes, or (classes, tokens, width).
        words: words in front of the class's text, whose first tokens the context takes the place of; without words
            the context has places of its own.
        template: around the class's text, at ``{}``.
    """

    context: Tensor
    words: str = ""
    template: str = "{}"

    @property
    def tokens(self) -> int:
        """Number of learned tokens."""
        return int(self.context.shape[-2])

    def class_features(self, encoder: Encoder, texts: Sequence[str], tokens: int | None = None) -> Tensor:
        """Unit features (classes, dim) of the texts behind the context, without gradient.

        Args:
            encoder: the dual encoder.
            texts: one for each class.
            tokens: how many learned tokens are expected; as many as there are unless given.

        Raises:
            InputError: if the context has another shape than expected, or a text gets too long.
        """
        around = [self.template.replace("{}", text) for text in texts]
        places = sentences(encoder, around, self.tokens if tokens is None else tokens, self.words)
        with torch.no_grad():
            return places.features(self.context.to(encoder.device))


@runtime_checkable
class TokenTower(Protocol):
    """A text tower whose tokens can be reached: texts -> features, and token ids -> features that can be differentiated."""

    width: int
    """Entries of a token's embedding."""
    length: int
    """Most tokens of a text, special ones included."""
    start: int
    """Place of a text's first own token: 1 where a start token comes first."""
    embedding: torch.nn.Embedding
    """From token ids to embeddings."""
    injection: Injection
    """Writes over the output of ``embedding``."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (texts, dim), without gradient."""

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, special tokens included."""

    def features(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Features (texts, dim) of lists of ids, not necessarily unit; differentiable in what is injected."""


@dataclass(frozen=True, eq=False)
class Sentences:
    """Texts of all classes in tokens, with places for a context.

    Args:
        tower: the text tower.
        ids: token ids of each sentence.
        tokens: how many places the context takes.
        places: of the context in each sentence; from ``tower.start`` on where None.
    """

    tower: TokenTower
    ids: tuple[tuple[int, ...], ...]
    tokens: int
    places: tuple[tuple[int, ...], ...] | None = None

    def features(self, context: Tensor, deeper: Sequence[Tensor] = ()) -> Tensor:
        """Unit features (classes, dim) in float32, differentiable in the context and what is deeper.

        Args:
            context: (tokens, width) or (classes, tokens, width).
            deeper: tokens (tokens, width) that take the context's places anew in front of the second layer, the third...

        Raises:
            InputError: for a context of another shape, which would be written over other places than its own, or for
                more layers of tokens than the tower has.
        """
        shared = (self.tokens, self.tower.width)
        if tuple(context.shape) not in (shared, (len(self.ids), *shared)):
            raise InputError(
                f"context: expected shape {shared} or {(len(self.ids), *shared)}, got {tuple(context.shape)}"
            )
        start = self.tower.start if self.places is None else torch.tensor(self.places)
        injections = (self.tower.injection, *deeper_of(self.tower))
        if len(deeper) >= len(injections):
            raise InputError(f"depth: the text tower has places in front of {len(injections)} layers")
        with ExitStack() as stack:
            for injection, tokens in zip(injections, (context, *deeper), strict=False):
                stack.enter_context(injection.of(tokens, start))
            return F.normalize(self.tower.features(self.ids).float(), dim=-1)

    def embeddings(self) -> Tensor:
        """Embeddings (tokens, width) of the words whose places the context takes."""
        places = slice(self.tower.start, self.tower.start + self.tokens)
        rows = torch.tensor(self.ids[0][places], dtype=torch.long, device=self.tower.embedding.weight.device)
        return self.tower.embedding.weight[rows].detach().float()


def deeper_of(tower: TokenTower) -> tuple[Injection, ...]:
    """Places in front of each layer but the first; none where a tower hides its layers."""
    return tuple(getattr(tower, "deeper", ()))


def sentences(
    encoder: Encoder, texts: Sequence[str], tokens: int, words: str = "", position: Position = "end"
) -> Sentences:
    """Sentences with places for so many learned tokens.

    Args:
        encoder: its text tower's tokens must be within reach.
        texts: one for each class.
        tokens: learned tokens.
        words: see ``Prompts``; a word may be several tokens, and exactly ``tokens`` of them are taken.
        position: of the class's text: behind the tokens (``end``), before them (``front``), or behind the first half of
            them (``middle``); only where there are no words.

    Raises:
        InputError: if the encoder hides its tokens, the words have fewer tokens, or a sentence gets too long.
    """
    tower = token_tower(encoder)
    if position not in get_args(Position):
        raise unknown("position", position, get_args(Position))
    if words and position != "end":
        raise InputError(f"position: {position!r} needs tokens with places of their own; expected end, or no words")
    if words:
        own = tower.ids(words)[tower.start :][: count_tokens(encoder, words)]
        if len(own) < tokens:
            raise InputError(f"context: {words!r} has {len(own)} tokens, {tokens} are asked for")
        ids, places = [tower.ids(f"{words} {text}") for text in texts], None
        for text, sentence in zip(texts, ids, strict=True):
            if sentence[tower.start : tower.start + tokens] != own[:tokens]:
                raise InputError(f"context: this tokenizer joins {words!r} with {text!r}; use other words")
    else:
        filler = [tower.ids("x")[tower.start]] * tokens  # what stands there is written over
        ids, places = _with_places(tower, texts, filler, position)
    longest = max(ids, key=len)
    if len(longest) > tower.length:
        raise InputError(
            f"context: {tokens} learned tokens and the longest class text make {len(longest)} tokens, "
            f"the text tower takes {tower.length}"
        )
    return Sentences(tower, tuple(tuple(sentence) for sentence in ids), tokens, places)


def _with_places(
    tower: TokenTower, texts: Sequence[str], filler: list[int], position: Position
) -> tuple[list[list[int]], tuple[tuple[int, ...], ...] | None]:
    """Ids of each text with a filler around it, and where the filler stands, unless it comes first."""
    wholes, ends = [tower.ids(text) for text in texts], len(tower.ids("")) - tower.start
    if position == "end":
        return [[*whole[: tower.start], *filler, *whole[tower.start :]] for whole in wholes], None
    before = len(filler) // 2 if position == "middle" else 0
    ids, places = [], []
    for whole in wholes:
        first, last = tower.start, len(whole) - ends
        ids.append([*whole[:first], *filler[:before], *whole[first:last], *filler[before:], *whole[last:]])
        places.append(
            tuple(
                place if place < first + before else place + last - first for place in range(first, first + len(filler))
            )
        )
    return ids, tuple(places)


def count_tokens(encoder: Encoder, words: str) -> int:
    """How many tokens a text has, special ones not counted."""
    tower = token_tower(encoder)
    return len(tower.ids(words)) - len(tower.ids(""))


def token_tower(encoder: Encoder) -> TokenTower:
    """The encoder's text tower, if its tokens can be reached.

    Raises:
        InputError: if it takes whole texts only.
    """
    tower = encoder.text_tower
    if not isinstance(tower, TokenTower):
        raise InputError(
            f"{encoder.name}: its text encoder takes whole texts, so no tokens can be learned; "
            "expected a model in Hugging Face layout"
        )
    return tower
