"""Image towers whose modules a method can reach, and towers with learned tokens in them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from titer.errors import InputError
from titer.models.encoder import Encoder, ImageTower
from titer.models.injection import Injection


@runtime_checkable
class VisionTower(Protocol):
    """An image tower that shows its transformer. `copy.deepcopy` of one has weights of its own."""

    vision: nn.Module
    """The transformer; put another module of the same call in its place to change what the tower computes."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features (batch, dim) of normalised images (batch, 3, size, size); differentiable in weights and images."""


def vision_tower(encoder: Encoder) -> VisionTower:
    """The encoder's image tower, if its modules can be reached.

    Raises:
        InputError: if it takes images only.
    """
    tower = encoder.image_tower
    if not isinstance(tower, VisionTower):
        raise _hidden(encoder, "none can be tuned")
    return tower


@runtime_checkable
class LayeredTower(Protocol):
    """An image tower with a place for learned tokens in front of each layer."""

    injections: tuple[Injection, ...]
    """The first writes behind the embeddings, the others into the output of the layer before."""
    width: int
    """Entries of a token."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features (batch, dim) of normalised images (batch, 3, size, size)."""


def layered_tower(encoder: Encoder) -> LayeredTower:
    """The encoder's image tower, if tokens can be put into its layers.

    Raises:
        InputError: if it takes images only.
    """
    tower = encoder.image_tower
    if not isinstance(tower, LayeredTower):
        raise _hidden(encoder, "no tokens can be learned there")
    return tower


@runtime_checkable
class TokenTower(Protocol):
    """An image tower that shows what its last layer makes of each patch."""

    width: int
    """Entries of a token."""

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (batch, tokens, width) of normalised images (batch, 3, size, size); differentiable in the images."""


@runtime_checkable
class ReadingTower(Protocol):
    """A text tower that shows what its last layer makes of each token."""

    width: int
    """Entries of a token."""
    layers: tuple[nn.Module, ...]
    """None where they are hidden."""

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens (texts, tokens, width), and which of them (texts, tokens) are no padding; without gradient."""


def token_towers(encoder: Encoder) -> tuple[TokenTower, ReadingTower]:
    """The encoder's towers, if both show their tokens.

    Raises:
        InputError: if one gives nothing but its feature.
    """
    image: object = encoder.image_tower
    text: object = encoder.text_tower
    if not isinstance(image, TokenTower):
        raise _hidden(encoder, "no question can look at its patches")
    if not isinstance(text, ReadingTower) or not text.layers:
        raise InputError(
            f"{encoder.name}: its text encoder hides its layers, so a question is one feature and no words; "
            "expected titer:tiny, or a CLIP or SigLIP model in Hugging Face or open_clip layout"
        )
    return image, text


def _hidden(encoder: Encoder, consequence: str) -> InputError:
    why = getattr(encoder.image_tower, "closed", "hides its layers")
    return InputError(
        f"{encoder.name}: its image encoder {why}, so {consequence}; "
        "expected titer:tiny, or a CLIP or SigLIP model in Hugging Face or open_clip layout"
    )


def prompted(tower: ImageTower, tokens: Sequence[Tensor], frame: Tensor | None = None) -> ImageTower:
    """The tower with learned tokens beside the patches (VPT: Jia et al., ECCV 2022, arXiv 2203.12119).

    Args:
        tower: a ``LayeredTower`` where there are tokens.
        tokens: (tokens, width) for each of the first layers; those of a layer take the place of what the layer before
            made of its own, as in MaPLe. They stand behind the patches and have no position.
        frame: (3, size, size), added to the normalised images.
    """

    def with_tokens(images: Tensor) -> Tensor:
        shown = images if frame is None else images + frame.to(images)
        with ExitStack() as stack:
            for layer, rows in enumerate(tokens):
                injection = tower.injections[layer]  # type: ignore[attr-defined]
                stack.enter_context(injection.of(rows, -len(rows)) if layer else injection.behind(rows))
            return tower(shown)

    return with_tokens
