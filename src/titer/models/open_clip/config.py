"""What is known of a checkpoint beside its tensors: open_clip's configurations, and the names that it gives to some."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from titer.errors import InputError, unknown
from titer.models.pixels import Preprocess, triple
from titer.models.weights import read_json

CONFIG = "open_clip_config.json"

_LAYOUT = "a model in open_clip's layout"
_TWIN = "-quickgelu"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
_MODES: dict[str, Literal["crop", "squash"]] = {"shortest": "crop", "squash": "squash"}
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# options that are read, that change no answer, and, for the others, what is no variant
_READ: dict[str, set[str]] = {
    "vision_cfg": {
        "image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "timm_model_name", "timm_pool", "timm_proj",
        "attn_pooler_heads", "attn_pooler_queries", "attentional_pool_contrast", "attentional_pool_caption",
        "n_queries_contrast", "n_queries_caption",
    },
    "text_cfg": {
        "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_model_name", "hf_pooler_type",
        "pooler_type", "embed_cls", "pad_id",
    },
    "multimodal_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "attn_pooler_heads"},
}  # fmt: skip
_IDLE = {
    "patch_dropout", "timm_model_pretrained", "timm_drop", "timm_drop_path", "output_tokens", "hf_model_pretrained",
    "hf_tokenizer_name", "hf_proj_type", "proj", "bos_id", "eos_id",
}  # fmt: skip
_ORDINARY: dict[str, tuple[Any, ...]] = {
    "pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",), "attentional_pool": (True,),
}  # fmt: skip


@cache
def architectures() -> dict[str, dict[str, Any]]:
    """open_clip's ``model_cfg`` by the names that it gives them."""
    file = Path(__file__).with_name("architectures.toml")
    plain: dict[str, dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8"))
    twins = {name: config for name, config in plain.items() if "multimodal_cfg" not in config}
    return plain | {name + _TWIN: {**config, "quick_gelu": True} for name, config in twins.items()}


@dataclass(frozen=True)
class Told:
    """What is said of a checkpoint.

    Args:
        model: open_clip's ``model_cfg``.
        pixels: its ``preprocess_cfg``.
        source: where it is said, for errors.
    """

    model: Mapping[str, Any]
    pixels: Mapping[str, Any]
    source: Path

    @property
    def dim(self) -> int:
        """Number of features."""
        return int(self.model.get("embed_dim", 512))

    @property
    def activation(self) -> str:
        """Of CLIP's own towers. It is no tensor: a wrong one fits every shape and changes every feature."""
        return "quick_gelu" if self.model.get("quick_gelu") else "gelu"

    @property
    def conch(self) -> bool:
        """Whether it is laid out as CONCH: timm's ViT, one pool for its feature and another one for captions, own words."""
        return bool((self.model.get("vision_cfg") or {}).get("attentional_pool_contrast"))

    @property
    def resnet(self) -> bool:
        """Whether the image tower is CLIP's ResNet: its layers are counted for each stage."""
        return isinstance((self.model.get("vision_cfg") or {}).get("layers"), list)

    @property
    def coca(self) -> bool:
        """Whether the feature of an image is pooled by attention."""
        return self.conch or bool((self.model.get("vision_cfg") or {}).get("attentional_pool"))

    def part(self, name: Literal["vision_cfg", "text_cfg", "multimodal_cfg"]) -> Mapping[str, Any]:
        """The options of a tower, or of what writes captions.

        Raises:
            InputError: for one that is not read here and changes what the tower computes.
        """
        part: dict[str, Any] = self.model.get(name) or {}
        for key, value in part.items():
            if value and key not in _READ[name] | _IDLE and value not in _ORDINARY.get(key, ()):
                raise InputError(f"{self.source}: {name}.{key} = {value!r} is a variant of CLIP that is not read here")
        return part

    def preprocess(self, size: int) -> Preprocess:
        """Resizing and normalisation, OpenAI's where nothing else is said.

        Args:
            size: of the image tower's input.

        Raises:
            InputError: for a way of resizing that this package does not have.
        """
        mode, filter_ = self.pixels.get("resize_mode", "shortest"), self.pixels.get("interpolation", "bicubic")
        if mode not in _MODES:
            raise unknown(f"resize_mode in {self.source}:", str(mode), _MODES)
        if filter_ not in _FILTERS:
            raise unknown(f"interpolation in {self.source}:", str(filter_), _FILTERS)
        if side(self.pixels.get("size") or size) != size:
            raise InputError(
                f"{self.source}: pictures of {self.pixels['size']} pixels, but the image tower takes {size}"
            )
        return Preprocess(
            size=size,
            mean=triple(self.pixels.get("mean") or _MEAN),
            std=triple(self.pixels.get("std") or _STD),
            mode=_MODES[mode],
            resample=int(_FILTERS[filter_]),
        )


def side(size: Any) -> int:
    """The side of a square that is given by one number or two.

    Raises:
        InputError: if it is no square.
    """
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise InputError(f"image_size: expected a square, got {size}")
    return int(sides.pop())


def read_told(directory: Path, architecture: str | None = None) -> Told:
    """What the ``open_clip_config.json`` of a directory says.

    Args:
        directory: with that file.
        architecture: what the user says it is.

    Raises:
        InputError: if the file is missing or damaged, or says something else than the user.
    """
    content = read_json(directory / CONFIG, _LAYOUT)
    told = Told(content.get("model_cfg") or {}, content.get("preprocess_cfg") or {}, directory / CONFIG)
    if architecture is not None:
        _agree(told, architecture)
    return told


def told_by_name(architecture: str, file: Path) -> Told:
    """What an architecture's name says of a file; how pictures are prepared, a configuration beside the file may say."""
    beside = file.parent / CONFIG
    pixels = read_json(beside, _LAYOUT).get("preprocess_cfg") if beside.exists() else None
    return Told(architectures()[architecture], pixels or {}, file)


def _agree(told: Told, architecture: str) -> None:
    named = architectures()[architecture]
    for part, key in (("vision_cfg", "timm_model_name"), ("text_cfg", "hf_model_name")):
        if other := (told.model.get(part) or {}).get(key):
            raise InputError(f"{told.source}: {part} is {other}, not {architecture}; leave the architecture out")
    for part in ("vision_cfg", "text_cfg"):
        for key, value in named[part].items():
            if (found := told.model.get(part, {}).get(key, value)) != value:
                raise InputError(
                    f"{told.source}: {part}.{key} is {found}, but {architecture} has {value}; leave the architecture out "
                    "to follow the file"
                )
    means = Told(named, {}, told.source).activation
    if means != told.activation:
        raise InputError(
            f"{told.source}: the activation is {told.activation}, but {architecture} means {means}, and the wrong one "
            "changes every feature; leave the architecture out to follow the file, or give the path of the weights "
            "themselves to follow the name"
        )
