"""CLIP and SigLIP in Hugging Face layout, from a directory or a hub id."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from titer.errors import InputError, unknown
from titer.models.cards import terms_of
from titer.models.encoder import Encoder
from titer.models.gradients import with_cheap_gradients
from titer.models.injection import Injection
from titer.models.pixels import from_config
from titer.models.weights import fingerprint_of, load_strictly, read_json, read_weights

_KINDS = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel)}
_CONCH_WORDS = "conch_byte_level_bpe_uncased.json"


def _conch_tokenizer(place: Path, **_: object) -> PreTrainedTokenizerFast:
    file = place / _CONCH_WORDS
    return PreTrainedTokenizerFast(
        tokenizer_file=str(file if file.exists() else place / "tokenizer.json"),
        bos_token="<start_of_text>",  # noqa: S106 - a word
        eos_token="<end_of_text>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
    )


_Ways = tuple[tuple[str, ...], ...]
_TOKENIZERS: dict[str, tuple[Callable[..., Any], _Ways]] = {
    "clip": (CLIPTokenizer.from_pretrained, (("vocab.json", "merges.txt"), ("tokenizer.json",))),
    "bert": (BertTokenizer.from_pretrained, (("vocab.txt",), ("tokenizer.json",))),
    "conch": (_conch_tokenizer, ((_CONCH_WORDS,), ("tokenizer.json",))),
}
_WAYS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",), ("tokenizer.model",))
_LAYOUT = "a model in Hugging Face layout"
_WORDS = (
    "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "tokenizer_config.json", _CONCH_WORDS,
)  # fmt: skip
_UNTELLING = (
    "transformers_version",
    "_name_or_path",
    "torch_dtype",
    "dtype",
)  # of config.json: no answer depends on them
_BESIDE = ["*.json", "*.txt", "*.model"]
WEIGHTS = ("model*.safetensors", "pytorch_model.bin")
"""Files of weights in this layout, the better one first."""


def load_directory(directory: Path, name: str, device: torch.device, dtype: torch.dtype) -> Encoder:
    """An encoder from a directory that holds config, weights, tokenizer and preprocessor.

    Raises:
        InputError: for a directory that is no CLIP or SigLIP model, or whose weights do not fit.
    """
    return load_network(directory, name, device, dtype)[0]


def load_network(
    directory: Path, name: str, device: torch.device, dtype: torch.dtype
) -> tuple[Encoder, CLIPModel | SiglipModel]:
    """The encoder, and the model of the transformers library that it computes with.

    Raises:
        InputError: as ``load_directory``.
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
    model = model.to(device=device, dtype=dtype)
    text, length = model.text_model, config.text_config.max_position_embeddings
    image_tower = ImageTower(model.vision_model, getattr(model, "visual_projection", nn.Identity()))
    encoder = Encoder(
        name=name,
        image_tower=image_tower,
        text_tower=TextTower(
            lambda **tokens: model.get_text_features(**tokens).pooler_output,
            text.embeddings.token_embedding,
            text.encoder.layers,
            tokenizer,
            length,
            fixed=kind == "siglip",
        ),
        preprocess=preprocess,
        dim=image_tower.dim,
        # SigLIP also adds a bias, the same for all classes: no answer depends on it
        logit_scale=float(model.logit_scale.exp()),
        fingerprint=fingerprint_of(weights, *content_of(directory, config_file), preprocess, str(dtype)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        device=device,
        dtype=dtype,
        upstream=_upstream(directory / "upstream.json"),
        architecture=f"{kind}: {described_vision(config.vision_config)}; {described_text(config.text_config, length)}",
    )
    return encoder, model


def described_vision(config: Any) -> str:
    """What a configuration says of a ViT, in words."""
    return (
        f"{config.num_hidden_layers} layers of {config.hidden_size} on patches of {config.patch_size} pixels "
        f"({config.hidden_act})"
    )


def described_text(config: Any, length: int) -> str:
    """What a configuration says of a text's transformer, in words."""
    return f"text: {config.num_hidden_layers} layers of {config.hidden_size}, {length} tokens ({config.hidden_act})"


def content_of(directory: Path, config_file: dict[str, Any]) -> tuple[str, ...]:
    """What the files say of architecture and words, as they stand: what a library makes of them changes with its version."""
    told = {key: value for key, value in config_file.items() if key not in _UNTELLING}
    files = [directory / name for name in _WORDS if (directory / name).exists()]
    return json.dumps(told, sort_keys=True), *(sha256(file.read_bytes()).hexdigest() for file in files)


def fetch(hub_id: str, weights: Iterable[str] = WEIGHTS) -> Path:
    """The directory of a hub model: the cached copy, else a download.

    Args:
        hub_id: OWNER/NAME.
        weights: patterns of files of weights; the first that the model has is taken.

    Raises:
        InputError: if it is not cached and cannot be fetched.
    """
    try:
        for pattern in weights:
            path = Path(snapshot_download(hub_id, allow_patterns=[*_BESIDE, pattern]))
            if list(path.glob(pattern)):
                break
    except GatedRepoError as error:
        raise InputError(
            f"{hub_id!r} is gated{terms_of(hub_id)}: accept its terms at https://huggingface.co/{hub_id}, run `hf auth login` "
            "and try again, or give the path of a local copy"
        ) from error
    except Exception as error:  # the hub's client raises classes of three libraries
        raise InputError(
            f"{hub_id!r} is no directory here, and as a hub id it cannot be fetched ({type(error).__name__}); offline, put "
            f"{', '.join(_BESIDE)} and {' or '.join(weights)} of https://huggingface.co/{hub_id}{terms_of(hub_id)} into one "
            "directory and give its path"
        ) from error
    return path


def _tokenizer(directory: Path) -> Any:
    if not any(all((directory / file).exists() for file in files) for files in _WAYS):
        # without them the library makes one that knows no word, and says nothing
        raise InputError(f"{directory}: the tokenizer is missing: get {_either(_WAYS)} from where its weights are from")
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except ImportError as error:  # SigLIP's own words need sentencepiece and protobuf
        raise InputError(
            f"{directory}: its tokenizer needs packages that are not installed: pip install 'titer[siglip]'"
        ) from error
    except Exception as error:  # what the library raises of a damaged file depends on the file
        raise InputError(f"{directory}: no usable tokenizer: {_line(error)}") from error


def tokenizer_beside(directory: Path, kind: Literal["clip", "bert", "conch"], home: str) -> tuple[Any, Path]:
    """The tokenizer of weights in another layout, and the directory that it was found in.

    Args:
        directory: of the weights; a folder ``tokenizer`` in it is looked into as well.
        kind: which words and rules.
        home: address of its files, for the error.

    Raises:
        InputError: if its files are in neither place.
    """
    make, ways = _TOKENIZERS[kind]
    for place in (directory, directory / "tokenizer"):
        if any(all((place / file).exists() for file in files) for files in ways):
            try:
                return make(place, local_files_only=True), place
            except Exception as error:  # what the library raises of a damaged file depends on the file
                raise InputError(f"{place}: no usable tokenizer: {_line(error)}") from error
    raise InputError(
        f"{directory}: the tokenizer is missing: get {_either(ways)} from {home} and put them there, or into "
        f"{directory / 'tokenizer'}"
    )


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _either(ways: Iterable[Iterable[str]]) -> str:
    return ", or ".join(" and ".join(files) for files in ways)


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


class ProjectedTower(nn.Module):
    """Normalised images to features, with its transformer within reach.

    Args:
        vision: images (batch, 3, size, size) -> pooled output (batch, width).
        projection: to the space that images and texts share; SigLIP has none.

    ``dim`` is the number of features.
    """

    def __init__(self, vision: Any, projection: nn.Module) -> None:
        super().__init__()
        self.dim = projection.out_features if isinstance(projection, nn.Linear) else int(vision.config.hidden_size)
        self.vision: nn.Module = vision
        self.projection = projection

    def forward(self, images: Tensor) -> Tensor:
        """Features (batch, dim)."""
        features: Tensor = self.projection(self.vision(pixel_values=images).pooler_output)
        return features


class ImageTower(ProjectedTower):
    """A ViT, which takes tokens beside the patches.

    ``injections`` has a place in front of each layer, the first behind the embeddings, ``last`` that behind the last one;
    ``width`` is that of a token.
    """

    def __init__(self, vision: Any, projection: nn.Module) -> None:
        super().__init__(vision, projection)
        with_cheap_gradients(vision)
        self.width: int = vision.config.hidden_size
        self.injections = tuple(map(Injection, (vision.embeddings, *vision.encoder.layers[:-1])))
        self.last = Injection(vision.encoder.layers[-1])

    def tokens(self, images: Tensor) -> Tensor:
        """What the last layer makes of normalised images: (batch, tokens, width), before any norm; differentiable."""
        seen: list[Tensor] = []
        with self.last.watched(seen):
            self(images)
        return seen[-1]


class TextTower:
    """Texts or token ids to features, with a place to inject learned tokens.

    Args:
        encode: (input_ids, attention_mask where not ``fixed``) -> features (texts, dim).
        embedding: from token ids to embeddings; ``encode`` goes through it.
        layers: of the transformer, with a place for tokens in front of each but the first; none where they are not given.
        tokenizer: of the model.
        length: most tokens of a text.
        fixed: pad to ``length`` and use no mask, as SigLIP was trained.

    ``unknown`` is the word that stands for one that is left out.
    """

    def __init__(
        self,
        encode: Callable[..., Tensor],
        embedding: nn.Embedding,
        layers: Sequence[nn.Module],
        tokenizer: Any,
        length: int,
        fixed: bool = False,
    ) -> None:
        self.length = length
        self.embedding = embedding
        self.width = embedding.embedding_dim
        self.injection = Injection(embedding)
        self.layers = tuple(layers)
        for layer in self.layers:
            with_cheap_gradients(layer)
        self.deeper = tuple(map(Injection, self.layers[:-1]))
        self.last = Injection(self.layers[-1]) if self.layers else None
        self.start = self._place_of_first_token(tokenizer)
        self.unknown = _unknown_word(tokenizer)
        self._encode = encode
        self._tokenizer = tokenizer
        self._fixed = fixed

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (texts, dim), without gradient.

        Raises:
            InputError: for a text that would be cut.
        """
        ids = self._whole(texts)
        with torch.no_grad():
            return self.features(ids)

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What the last layer makes of texts: (texts, tokens, width), before any norm, and which of them are no padding.

        Raises:
            InputError: for a text that would be cut, and for a tower without layers.
        """
        if self.last is None:
            raise InputError("this text tower hides its layers, so there are no tokens to be had")
        ids, seen = self._whole(texts), list[Tensor]()
        with torch.no_grad(), self.last.watched(seen):
            self.features(ids)
        places = torch.arange(seen[-1].shape[1], device=seen[-1].device)
        lengths = torch.tensor([len(row) for row in ids], device=seen[-1].device)
        return seen[-1], places < lengths[:, None]

    def _whole(self, texts: Sequence[str]) -> list[list[int]]:
        ids = [self.ids(text) for text in texts]
        for text, row in zip(texts, ids, strict=True):
            if len(row) > self.length:
                raise InputError(
                    f"a class text has {len(row)} tokens, the text tower takes {self.length}: {text[:60]!r}..."
                )
        return ids

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, special tokens included."""
        return list(self._tokenizer(text)["input_ids"])

    def features(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Features (texts, dim) of lists of ids; differentiable in what is injected."""
        return self._encode(**self.padded(ids))

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
