"""CLIP and SigLIP in Hugging Face layout, from a directory or a hub id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from titer.errors import InputError, unknown
from titer.models.encoder import Encoder
from titer.models.injection import Injection
from titer.models.pixels import from_config
from titer.models.weights import fingerprint_of, load_strictly, read_json, read_weights

_KINDS = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel)}
_LAYOUT = "a model in Hugging Face layout"
_WORDS = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer_config.json")
_UNTELLING = (
    "transformers_version",
    "_name_or_path",
    "torch_dtype",
    "dtype",
)  # of config.json: no answer depends on them
_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors"]


def load_directory(directory: Path, name: str, device: torch.device, dtype: torch.dtype) -> Encoder:
    """An encoder from a directory that holds config, weights, tokenizer and preprocessor.

    Raises:
        InputError: for a directory that is no CLIP or SigLIP model, or whose weights do not fit.
    """
    config_file = read_json(directory / "config.json", _LAYOUT)
    kind = config_file.get("model_type")
    if kind not in _KINDS:
        raise unknown(f"model type in {directory / 'config.json'}:", str(kind), _KINDS)
    make_config, make_model = _KINDS[kind]
    config = make_config(**config_file)
    model = make_model(config).eval().requires_grad_(False)
    weights = read_weights(directory)
    load_strictly(model, weights, directory)
    preprocess = from_config(
        read_json(directory / "preprocessor_config.json", _LAYOUT), config.vision_config.image_size
    )
    tokenizer = _tokenizer(directory)
    length = config.text_config.max_position_embeddings
    model = model.to(device=device, dtype=dtype)
    return Encoder(
        name=name,
        image_tower=ImageTower(model.vision_model, getattr(model, "visual_projection", nn.Identity())),
        text_tower=TextTower(model, tokenizer, length, fixed=kind == "siglip"),
        preprocess=preprocess,
        dim=config.projection_dim if kind == "clip" else config.vision_config.hidden_size,
        # SigLIP also adds a bias, the same for all classes: no answer depends on it
        logit_scale=float(model.logit_scale.exp()),
        fingerprint=fingerprint_of(weights, *_content(directory, config_file), preprocess, str(dtype)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        device=device,
        dtype=dtype,
        upstream=_upstream(directory / "upstream.json"),
    )


def _content(directory: Path, config_file: dict[str, Any]) -> tuple[str, ...]:
    """What the files say of architecture and words, as they stand: what a library makes of them changes with its version."""
    told = {key: value for key, value in config_file.items() if key not in _UNTELLING}
    files = [directory / name for name in _WORDS if (directory / name).exists()]
    return json.dumps(told, sort_keys=True), *(sha256(file.read_bytes()).hexdigest() for file in files)


def fetch(hub_id: str) -> Path:
    """The directory of a hub model: the cached copy, else a download.

    Raises:
        InputError: if it is not cached and cannot be fetched.
    """
    try:
        path = Path(snapshot_download(hub_id, allow_patterns=_FILES))
        if not list(path.glob("model*.safetensors")):
            path = Path(snapshot_download(hub_id, allow_patterns=[*_FILES, "pytorch_model.bin"]))
    except Exception as error:  # the hub's client raises classes of three libraries
        raise InputError(
            f"{hub_id!r} is no directory here, and as a hub id it cannot be fetched ({type(error).__name__}); "
            "offline, give the path of a local copy"
        ) from error
    return path


def _tokenizer(directory: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{directory}: no usable tokenizer: {str(error).splitlines()[0]}") from error


def _unknown_word(tokenizer: Any) -> str:
    """The token for a word that is left out; CLIP's own unknown token is its end of text, which would cut the text there."""
    ends = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, None}
    return next((str(token) for token in (tokenizer.mask_token, tokenizer.unk_token) if token not in ends), "[UNK]")


def _upstream(file: Path) -> frozenset[str]:
    """What the model was trained on, where its directory says so: {set: {id: SHA-256, or nothing}}."""
    if not file.exists():
        return frozenset()
    sets: dict[str, dict[str, str]] = read_json(file, _LAYOUT)
    return frozenset(digest or f"{name}:{key}" for name, seen in sets.items() for key, digest in seen.items())


def _stack(transformer: Any) -> tuple[nn.Module, nn.ModuleList]:
    """Embeddings and layers."""
    return transformer.embeddings, transformer.encoder.layers


class ImageTower(nn.Module):
    """Normalised images to features, with its transformer within reach.

    Args:
        vision: images (batch, 3, size, size) -> pooled output (batch, width).
        projection: to the space that images and texts share; SigLIP has none.

    ``injections`` has a place in front of each layer, the first behind the embeddings; ``width`` is that of a token.
    """

    def __init__(self, vision: Any, projection: nn.Module) -> None:
        super().__init__()
        self.vision: nn.Module = vision
        self.projection = projection
        embeddings, layers = _stack(vision)
        self.width: int = vision.config.hidden_size
        self.injections = tuple(map(Injection, (embeddings, *layers[:-1])))

    def forward(self, images: Tensor) -> Tensor:
        """Features (batch, dim)."""
        features: Tensor = self.projection(self.vision(pixel_values=images).pooler_output)
        return features


class TextTower:
    """Texts or token ids to features, with a place to inject learned tokens.

    Args:
        model: a CLIP or SigLIP model.
        tokenizer: of the model.
        length: most tokens of a text.
        fixed: pad to ``length`` and use no mask, as SigLIP was trained.

    ``unknown`` is the word that stands for one that is left out.
    """

    def __init__(self, model: Any, tokenizer: Any, length: int, fixed: bool) -> None:
        self.length = length
        self.embedding: nn.Embedding = model.text_model.embeddings.token_embedding
        self.width = self.embedding.embedding_dim
        self.injection = Injection(self.embedding)
        self.deeper = tuple(map(Injection, _stack(model.text_model)[1][:-1]))
        self.start = self._place_of_first_token(tokenizer)
        self.unknown = _unknown_word(tokenizer)
        self.model = model
        self._tokenizer = tokenizer
        self._fixed = fixed

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (texts, dim), without gradient.

        Raises:
            InputError: for a text that would be cut.
        """
        ids = [self.ids(text) for text in texts]
        for text, row in zip(texts, ids, strict=True):
            if len(row) > self.length:
                raise InputError(
                    f"a class text has {len(row)} tokens, the text tower takes {self.length}: {text[:60]!r}..."
                )
        with torch.no_grad():
            return self.features(ids)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, special tokens included."""
        return list(self._tokenizer(text)["input_ids"])

    def features(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Features (texts, dim) of lists of ids; differentiable in what is injected."""
        features: Tensor = self.model.get_text_features(**self.padded(ids)).pooler_output
        return features

    def padded(self, ids: Sequence[Sequence[int]]) -> Any:
        """What the model takes for lists of ids, by name, on its device."""
        padding = {"padding": "max_length", "max_length": self.length} if self._fixed else {"padding": True}
        tokens = self._tokenizer.pad(
            {"input_ids": [list(row) for row in ids]},
            return_tensors="pt",
            return_attention_mask=not self._fixed,
            **padding,
        )
        return tokens.to(self.embedding.weight.device)

    @staticmethod
    def _place_of_first_token(tokenizer: Any) -> int:
        bare = tokenizer("x", add_special_tokens=False)["input_ids"]
        return int(tokenizer("x")["input_ids"].index(bare[0]))
