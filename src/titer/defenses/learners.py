"""What adversarial tuning changes: tokens in both towers, or the image encoder itself. One shape for the one loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from titer.defenses.task import Weights
from titer.errors import InputError, unknown
from titer.models.classifier import Named, class_features
from titer.models.encoder import Encoder
from titer.models.prompts import Position, Sentences, deeper_of, sentences, token_tower
from titer.models.towers import layered_tower, prompted, vision_tower
from titer.models.weights import fingerprint_of

Coupling = Literal["independent", "text-to-image", "image-to-text"]
"""``text-to-image`` (MaPLe): an image token is a linear map of the text token of its layer. ``image-to-text`` (FAP's
released code): so in the first layer; in deeper ones the text token is a map of the image token."""

DEPTH = 9  # of MaPLe and its descendants
_SPREAD = 0.02  # standard deviation of tokens at the start


class Learner(Protocol):
    """Tensors that are learned, and the features that they give."""

    weights: Weights
    """Leaf tensors by name, which the loop changes in place."""

    def class_features(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Unit features (classes, dim), differentiable in the weights."""

    def image_features(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Features (batch, dim), not unit, of images in [0, 1]; differentiable in weights and images."""


@dataclass(frozen=True)
class Layout:
    """Where learned tokens stand.

    Args:
        text: tokens in front of the class's text; 0 for none.
        image: tokens beside the patches; 0 for none.
        depth: how many layers of a tower get tokens of their own; None for 9, or as many as the shallower tower has.
        coupling: whether the tokens of one tower are a linear map of those of the other.
        shared_map: one map for all deeper layers.
        frame: width of a learned frame of pixels, as a share of the input's side.
        words: words in front of the class's text that the tokens take the place of and start from.
        class_specific: text tokens of its own for each class.
        position: of the class's text: ``end``, ``middle`` or ``front``.
    """

    text: int = 0
    image: int = 0
    depth: int | None = 1
    coupling: Coupling = "independent"
    shared_map: bool = False
    frame: float = 0.0
    words: str = ""
    class_specific: bool = False
    position: Position = "end"

    def __post_init__(self) -> None:
        for name in ("text", "image"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected at least 0 tokens, got {getattr(self, name)}")
        if self.depth is not None and self.depth < 1:
            raise InputError(f"depth: expected at least 1 layer, got {self.depth}")
        for name, kind in (("coupling", Coupling), ("position", Position)):
            if getattr(self, name) not in get_args(kind):
                raise unknown(name, str(getattr(self, name)), get_args(kind))
        if not 0 <= self.frame < 0.5:
            raise InputError(f"frame: expected a share of the input's side below 0.5, got {self.frame:g}")
        if self.coupling != "independent" and not (self.text == self.image > 0):
            raise InputError(
                f"coupling {self.coupling}: expected as many text as image tokens, got {self.text} and {self.image}"
            )
        if self.class_specific and (self.coupling != "independent" or self.depth != 1):
            raise InputError("class_specific: expected depth 1 and independent towers")
        if self.position != "end" and self.depth != 1:
            raise InputError(f"position: {self.position!r} needs depth 1")

    def depth_on(self, encoder: Encoder) -> int:
        """Layers that get tokens of their own.

        Raises:
            InputError: if a tower that gets tokens has fewer.
        """
        layers = {}
        if self.text:
            layers["text"] = 1 + len(deeper_of(token_tower(encoder)))
        if self.image:
            layers["image"] = len(layered_tower(encoder).injections)
        if self.depth is None:
            return min([DEPTH, *layers.values()])
        for tower, count in layers.items():
            if self.depth > count:
                raise InputError(f"depth: {self.depth} layers, but the {tower} tower of {encoder.name} has {count}")
        return self.depth

    def shapes(self, encoder: Encoder, classes: int) -> dict[str, tuple[int, ...]]:
        """Shape of each learned tensor, by name."""
        depth, found = self.depth_on(encoder), {}
        wide, high = self.text and token_tower(encoder).width, self.image and layered_tower(encoder).width
        for layer in range(depth):
            from_text, from_image = self._mapped(layer)
            if self.text and not from_image:
                own = (classes,) if self.class_specific else ()
                found[f"text.{layer}"] = (*own, self.text, wide)
            if self.image and not from_text:
                found[f"image.{layer}"] = (self.image, high)
            if from_text or from_image:
                out, into = (high, wide) if from_text else (wide, high)
                found[f"{self._map(layer)}.weight"], found[f"{self._map(layer)}.bias"] = (out, into), (out,)
        if self.frame:
            found["frame"] = (4, 3, self.frame_pixels(encoder), encoder.size - self.frame_pixels(encoder))
        return found

    def tokens(self, weights: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Text tokens and image tokens of each layer."""
        text: list[Tensor] = []
        image: list[Tensor] = []
        layer = 0
        while {f"text.{layer}", f"image.{layer}"} & weights.keys():
            from_text, from_image = self._mapped(layer)
            own = weights.get(f"text.{layer}"), weights.get(f"image.{layer}")
            if from_text or from_image:
                source = weights[f"text.{layer}" if from_text else f"image.{layer}"]
                named = self._map(layer)
                mapped = nn.functional.linear(source, weights[f"{named}.weight"], weights[f"{named}.bias"])
                own = (source, mapped) if from_text else (mapped, source)
            for rows, among in zip(own, (text, image), strict=True):
                if rows is not None:
                    among.append(rows)
            layer += 1
        return text, image

    def _mapped(self, layer: int) -> tuple[bool, bool]:
        """Whether a layer's image tokens are a map of the text's, and the other way round."""
        from_text = self.coupling == "text-to-image" or (self.coupling == "image-to-text" and layer == 0)
        return from_text, self.coupling == "image-to-text" and layer > 0

    def _map(self, layer: int) -> str:
        return f"map.{min(layer, 1) if self.shared_map else layer}"

    def frame_pixels(self, encoder: Encoder) -> int:
        """Width of the frame; at least one pixel."""
        return max(1, round(self.frame * encoder.size))

    def framed(self, weights: Mapping[str, Tensor], size: int) -> Tensor | None:
        """The frame (3, size, size), zero inside; its four sides go round like a windmill's."""
        if not self.frame:
            return None
        sides = weights["frame"]
        wide, whole = sides.shape[2], sides.new_zeros(3, size, size)
        for turn, side in enumerate(sides):
            padded = nn.functional.pad(side, (0, size - side.shape[2], 0, size - wide))
            whole = whole + torch.rot90(padded, turn, (1, 2))
        return whole

    def sentences(self, encoder: Encoder, classes: Sequence[Named], template: str) -> Sentences:
        """The classes' texts with places for the text tokens."""
        texts = [template.replace("{}", named.texts[0]) for named in classes]
        return sentences(encoder, texts, self.text, self.words, self.position)

    def start(self, encoder: Encoder, classes: Sequence[Named], template: str, seed: int) -> Weights:
        """What learning starts from: tokens near zero or those of the words, PyTorch's linear maps, an empty frame."""
        chance = torch.Generator().manual_seed(seed)
        weights = {}
        for name, shape in self.shapes(encoder, len(classes)).items():
            if name.startswith("map."):
                inputs = self._inputs(name, encoder)
                weights[name] = (2 * torch.rand(shape, generator=chance) - 1) / math.sqrt(inputs)
            elif name == "frame":
                weights[name] = torch.zeros(shape)
            else:
                weights[name] = _SPREAD * torch.randn(shape, generator=chance)
        if self.words and "text.0" in weights:
            own = self.sentences(encoder, classes, template).embeddings().cpu()
            weights["text.0"] = own.expand(weights["text.0"].shape).clone()
        return weights

    def _inputs(self, name: str, encoder: Encoder) -> int:
        layer = int(name.split(".")[1])
        return token_tower(encoder).width if self._mapped(layer)[0] else layered_tower(encoder).width

    def check(self, weights: Mapping[str, Tensor], encoder: Encoder, classes: int) -> None:
        """Refuse tensors of other names or shapes than this layout has on an encoder.

        Raises:
            KeyError: for one that is missing.
            InputError: for another shape, or one too many.
        """
        _check_shapes(weights, self.shapes(encoder, classes), "this layout")


@dataclass(eq=False)
class Tokens:
    """Learned tokens on a frozen encoder.

    Args:
        layout: where they stand.
        encoder: frozen.
        classes: with texts.
        template: around a class's text.
        weights: what is learned.
    """

    layout: Layout
    encoder: Encoder
    classes: Sequence[Named]
    template: str
    weights: Weights

    @cached_property
    def _sentences(self) -> Sentences:
        return self.layout.sentences(self.encoder, self.classes, self.template)

    @cached_property
    def _frozen_classes(self) -> Tensor:
        return class_features(self.encoder, self.classes, self.template)

    def class_features(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Unit features (classes, dim); the frozen ones where no text token is learned."""
        text, _ = self.layout.tokens(weights)
        return self._sentences.features(text[0], text[1:]) if text else self._frozen_classes

    def image_features(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Features (batch, dim), not unit."""
        _, image = self.layout.tokens(weights)
        tower = prompted(self.encoder.image_tower, image, self.layout.framed(weights, self.encoder.size))
        return replace(self.encoder, image_tower=tower).image_features(images)

    def encoder_of(self, weights: Weights) -> Encoder:
        """The encoder with its learned tokens; the same one where the image tower has none."""
        _, image = self.layout.tokens(weights)
        frame = self.layout.framed(weights, self.encoder.size)
        if not image and frame is None:
            return self.encoder
        return replace(
            self.encoder,
            image_tower=prompted(self.encoder.image_tower, image, frame),
            fingerprint=fingerprint_of(weights, self.encoder.fingerprint, "image tokens"),
        )


@dataclass(eq=False)
class Tower:
    """The whole image encoder, learned; class features stay those of the template.

    Args:
        encoder: whose tower is copied; it stays as it is.
        classes: with texts.
        template: around a class's text.
        weights: of the copy, by name.
    """

    encoder: Encoder
    classes: Sequence[Named]
    template: str
    weights: Weights

    def start(self, seed: int) -> Weights:  # noqa: ARG002
        """What learning starts from: the tower's own weights, copied."""
        return {name: value.clone() for name, value in _parameters(self.encoder).items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each learned tensor, by name."""
        return {name: tuple(value.shape) for name, value in _parameters(self.encoder).items()}

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters of the tower, by name, that take the place of its own."""
        return dict(weights)

    @cached_property
    def _classes(self) -> Tensor:
        return class_features(self.encoder, self.classes, self.template)

    def class_features(self, weights: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """Unit features (classes, dim), frozen."""
        return self._classes

    def image_features(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Features (batch, dim), not unit."""
        module, tensors = tower_module(self.encoder), self.tensors(weights)
        tower = lambda shown: torch.func.functional_call(module, tensors, (shown,))  # noqa: E731
        return replace(self.encoder, image_tower=tower).image_features(images)

    def encoder_of(self, weights: Weights) -> Encoder:
        """The encoder with a tower of its own.

        Raises:
            KeyError: for a tensor that is missing.
            InputError: for one of another shape or too many.
        """
        _check_shapes(weights, self.shapes, "the image tower")
        tower = copy.deepcopy(tower_module(self.encoder))
        own = dict(tower.named_parameters())
        for name, value in self.tensors(weights).items():
            own[name].data.copy_(value)
        fingerprint = fingerprint_of(weights, self.encoder.fingerprint, "tuned tower")
        return replace(self.encoder, image_tower=tower, fingerprint=fingerprint)


@dataclass(eq=False)
class LowRank(Tower):
    """Low-rank changes of the image encoder's linear layers (Hu et al., ICLR 2022, arXiv 2106.09685): W + up down.

    ``weights`` holds ``LAYER.down`` (rank, inputs) and ``LAYER.up`` (outputs, rank). The loop needs features as a function of
    tensors, which a PEFT model is not.

    Args:
        rank: of each change; no more than a layer's smaller side.
    """

    rank: int

    def start(self, seed: int) -> Weights:
        """What learning starts from: ``up`` is zero, so that nothing changes yet."""
        chance, weights = torch.Generator().manual_seed(seed), {}
        for name, shape in self.shapes.items():
            down = name.endswith(".down")
            drawn = (2 * torch.rand(shape, generator=chance) - 1) / math.sqrt(shape[1]) if down else torch.zeros(shape)
            weights[name] = drawn.to(self.encoder.device)
        return weights

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each learned tensor, by name."""
        found: dict[str, tuple[int, ...]] = {}
        for name, module in tower_module(self.encoder).named_modules():
            if isinstance(module, nn.Linear):
                rank = min(self.rank, module.in_features, module.out_features)
                found |= {f"{name}.down": (rank, module.in_features), f"{name}.up": (module.out_features, rank)}
        if not found:
            raise InputError(f"{self.encoder.name}: its image tower has no linear layers to change")
        return found

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The changed matrices."""
        own = _parameters(self.encoder)
        return {
            f"{layer}.weight": own[f"{layer}.weight"] + weights[f"{layer}.up"] @ down
            for layer, down in (
                (name.removesuffix(".down"), down) for name, down in weights.items() if name.endswith(".down")
            )
        }


def _check_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], place: str) -> None:
    for name, shape in expected.items():
        if tuple(weights[name].shape) != shape:
            raise InputError(f"{name}: expected shape {shape}, got {tuple(weights[name].shape)}")
    if weights.keys() - expected.keys():
        raise InputError(f"{min(weights.keys() - expected.keys())} has no place in {place}")


def _parameters(encoder: Encoder) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in tower_module(encoder).named_parameters()}


def tower_module(encoder: Encoder) -> nn.Module:
    """The encoder's image tower, whose parameters can be tuned.

    Raises:
        InputError: for one that hides them.
    """
    tower = vision_tower(encoder)
    if not isinstance(tower, nn.Module):
        raise InputError(f"{encoder.name}: its image tower is no torch module, so its weights cannot be tuned")
    return tower
