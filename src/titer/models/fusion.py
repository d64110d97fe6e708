"""Co-attention: the tokens of an image and of a question, each looking at the other, become one feature.

The block that RAN's figure 4 names without its details (Han et al., Findings of EMNLP 2024, arXiv 2407.02716); this is
the usual one of dual-stream models (Lu et al., NeurIPS 2019, arXiv 1908.02265) with norms in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titer.errors import InputError
from titer.models.classifier import Head
from titer.models.encoder import Encoder, TextTower
from titer.models.towers import token_towers
from titer.models.weights import seeded

_INNER = 4  # width of a feed-forward layer over that of a token


class Attention(nn.Module):
    """Multi-head attention of one set of tokens to another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, asking: Tensor, told: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (batch, asking, width); ``mask`` (batch, told) says which tokens may be looked at."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(asking), self.key(told), self.value(told))
        )
        allowed = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        found: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return found


class Stream(nn.Module):
    """One modality's part of a layer: its tokens look at themselves, then at the other's, then each passes two linear maps."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.own, self.other = Attention(width, heads), Attention(width, heads)
        self.norm_own, self.norm_other, self.norm_feed = (nn.LayerNorm(width) for _ in range(3))
        self.feed = nn.Sequential(nn.Linear(width, _INNER * width), nn.GELU(), nn.Linear(_INNER * width, width))

    def within(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """After its tokens have looked at themselves."""
        normed = self.norm_own(tokens)
        looked: Tensor = tokens + self.own(normed, normed, mask)
        return looked

    def across(self, tokens: Tensor, told: Tensor, mask: Tensor | None) -> Tensor:
        """After they have looked at the other modality's, ``mask`` being its."""
        tokens = tokens + self.other(self.norm_other(tokens), told, mask)
        fed: Tensor = tokens + self.feed(self.norm_feed(tokens))
        return fed


class Rectifier(nn.Module):
    """Z = F + scale * MLP(F) of each token by itself, F being the token at mean 0 and variance 1.

    Args:
        width: of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.up, self.down = nn.Linear(width, _INNER * width), nn.Linear(_INNER * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Z (batch, tokens, width)."""
        frozen = standard(tokens)
        moved: Tensor = frozen + self.scale * self.down(standard(self.up(frozen)).relu())
        return moved


def standard(tokens: Tensor) -> Tensor:
    """Each token at mean 0 and variance 1."""
    return F.layer_norm(tokens, tokens.shape[-1:])


class CoAttention(nn.Module):
    """Tokens of two modalities to one feature.

    Args:
        image_width, text_width: of a token.
        width: that both are projected to, and of the feature.
        layers: of both streams.
        heads: of each attention; they share the width.
        rectified: whether the tokens of each modality pass a ``Rectifier`` before.
    """

    def __init__(
        self, image_width: int, text_width: int, width: int, layers: int, heads: int, *, rectified: bool = False
    ) -> None:
        super().__init__()
        self.image_front = Rectifier(image_width) if rectified else nn.Identity()
        self.text_front = Rectifier(text_width) if rectified else nn.Identity()
        self.image_in = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, width))
        self.text_in = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width))
        self.image = nn.ModuleList(Stream(width, heads) for _ in range(layers))
        self.text = nn.ModuleList(Stream(width, heads) for _ in range(layers))
        self.image_out, self.text_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.join = nn.Linear(2 * width, width)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Features (batch, width); a row is a function of that row's tokens alone.

        Args:
            image: tokens (batch, patches, image width).
            text: tokens (batch, words, text width).
            mask: (batch, words), which of them are no padding.
        """
        return self.joined(self.image_front(image), self.text_front(text), mask)

    def joined(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """The same of tokens that have passed what stands in front."""
        image, text = self.image_in(image), self.text_in(text)
        for seeing, reading in zip(self.image, self.text, strict=True):
            image, text = seeing.within(image, None), reading.within(text, mask)  # type: ignore[operator]
            image, text = seeing.across(image, text, mask), reading.across(text, image, None)  # type: ignore[operator]
        pooled = mean_of_words(self.text_out(text), mask)
        joined: Tensor = self.join(torch.cat([self.image_out(image).mean(dim=1), pooled], dim=1))
        return joined


def mean_of_words(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean (batch, width) over the tokens (batch, words, width) that are no padding."""
    words = mask[:, :, None].to(tokens)
    return (tokens * words).sum(dim=1) / words.sum(dim=1)


def new_fusion(
    encoder: Encoder, width: int, layers: int, heads: int, seed: int, *, rectified: bool = False
) -> CoAttention:
    """A co-attention for an encoder's tokens, as PyTorch begins its layers; global randomness stays as it is.

    Raises:
        InputError: for an encoder that hides its tokens.
    """
    image, text = token_towers(encoder)
    with seeded(seed):
        return CoAttention(image.width, text.width, width, layers, heads, rectified=rectified)


def fused(encoder: Encoder, fusion: CoAttention, questions: Sequence[str]) -> Encoder:
    """The encoder whose image features a question has a part in; the questions are read once, here.

    Args:
        encoder: whose towers show their tokens.
        fusion: on its device.
        questions: one for each image, in turn: n questions take images (k * n, 3, size, size).
    """
    tower, reading = token_towers(encoder)
    told, mask = reading.tokens(questions)

    def features(images: Tensor) -> Tensor:
        times, left = divmod(len(images), len(questions))
        if left:
            raise ValueError(f"{len(images)} images for {len(questions)} questions")
        seen = tower.tokens(images).float()
        found: Tensor = fusion(seen, told.float().repeat(times, 1, 1), mask.repeat(times, 1))
        return found

    return replace(encoder, image_tower=features, dim=int(fusion.join.out_features))


@dataclass(frozen=True, eq=False)
class Answerer:
    """Images and questions to logits over answers.

    Args:
        name: what records call it.
        encoder: whose towers show their tokens.
        fusion: their co-attention.
        head: fused features (batch, width) -> logits (batch, answers).
        answers: in order of the logits.
        fingerprint: of all that is not in the encoder.
        prior: the commonest answer to each question of the fit, as an index; what one would say without a look.
        commonest: the commonest of all, for questions that the fit has not seen.
        warnings: what every record should say about it.
    """

    name: str
    encoder: Encoder
    fusion: CoAttention
    head: Head
    answers: tuple[str, ...]
    fingerprint: str
    prior: Mapping[str, int]
    commonest: int
    warnings: tuple[str, ...] = ()

    def asking(self, questions: Sequence[str]) -> Asking:
        """What answers these questions in turn."""
        return Asking(self, tuple(questions))

    def about(self, image: Tensor) -> About:
        """The same with one image (3, size, size) held fast, for who changes the question."""
        tower, _ = token_towers(self.encoder)
        with torch.no_grad():
            return About(self, tower.tokens(self.encoder.normalised(image[None])).float())


@dataclass(frozen=True, eq=False)
class Asking:
    """Questions held fast: what takes images in the place of a classifier.

    Args:
        answerer: that answers.
        questions: of the rows of a batch, in turn.
    """

    answerer: Answerer
    questions: tuple[str, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Images (k * questions, 3, size, size) in [0, 1] -> logits (batch, answers)."""
        return self.answerer.head(self._encoder.image_features(images))

    def part(self, rows: Tensor | slice) -> Asking:
        """Some of the questions."""
        places = torch.arange(len(self.questions))[rows.cpu() if isinstance(rows, Tensor) else rows]
        return Asking(self.answerer, tuple(self.questions[place] for place in places.tolist()))

    @cached_property
    def _encoder(self) -> Encoder:
        return fused(self.answerer.encoder, self.answerer.fusion, self.questions)


@dataclass(frozen=True, eq=False)
class About:
    """Questions about one image: what reads them in the place of an encoder.

    Args:
        answerer: that answers.
        seen: the image's tokens (1, patches, width).
    """

    answerer: Answerer
    seen: Tensor

    @property
    def text_tower(self) -> TextTower:
        """Of the encoder."""
        return self.answerer.encoder.text_tower

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Logits (questions, answers), without gradient."""
        _, reading = token_towers(self.answerer.encoder)
        told, mask = reading.tokens(texts)
        with torch.no_grad():
            return self.answerer.head(self.answerer.fusion(self.seen.expand(len(texts), -1, -1), told.float(), mask))


def check_sizes(width: int, layers: int, heads: int) -> None:
    """Refuse sizes that make no co-attention.

    Raises:
        InputError: naming the setting.
    """
    for name, value in (("width", width), ("layers", layers), ("heads", heads)):
        if value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
    if width % heads:
        raise InputError(f"heads: expected a number that {width}, the width, can be divided by, got {heads}")
