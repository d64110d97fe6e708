"""A BERT as text tower, as BiomedCLIP and MedCLIP have one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertModel

from titer.errors import InputError
from titer.models.assembly import Text
from titer.models.huggingface import TextTower, tokenizer_beside
from titer.models.weights import Origin, Weights, count_layers, load_strictly, shape_of

Pool = Callable[[tuple[Tensor, ...], Tensor], Tensor]
"""(hidden states of the embeddings and of each layer (texts, length, width), mask (texts, length)) -> (texts, width)."""

_HEAD = 64  # entries of a head in every published BERT
_UNUSED = "pooler."  # of a task that no dual encoder has


def first_token(states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """The last layer's state of the start token (BiomedCLIP)."""
    del mask
    return states[-1][:, 0]


def mean_of_three(states: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """The mean over a text's tokens of the first, second and last layer's states (MedCLIP's code).

    That code also averages what padding becomes, so that a text's features change with the longest text beside it. Here
    they are those of the text alone, which is what that code gives for one text at a time.
    """
    own = mask[:, :, None].to(states[-1].dtype)
    mean = (states[1] + states[2] + states[-1]) / 3
    return (mean * own).sum(dim=1) / own.sum(dim=1)


class BertText(nn.Module):
    """Token ids to features.

    Args:
        bert: the transformer.
        projection: to the space that images and texts share.
        pool: what of the transformer's states is projected.
    """

    def __init__(self, bert: Any, projection: nn.Module, pool: Pool) -> None:
        super().__init__()
        self.bert = bert
        self.projection = projection
        self.pool = pool

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features (texts, dim)."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        features: Tensor = self.projection(self.pool(states, attention_mask))
        return features

    def beside(self, directory: Path, home: str, length: int) -> Text:
        """With the tokenizer beside its weights, and its tokens within reach.

        Args:
            directory: of the weights.
            home: hub id of a model with that tokenizer, for the error.
            length: most tokens of a text.

        Raises:
            InputError: if the tokenizer is missing, or has words that the weights do not know.
        """
        tokenizer, place = tokenizer_beside(directory, "bert", f"https://huggingface.co/{home}")
        words = self.bert.embeddings.word_embeddings
        if len(tokenizer) > words.num_embeddings:
            raise InputError(f"{place}: this tokenizer has {len(tokenizer)} tokens, the model {words.num_embeddings}")
        # what is written over a layer's output reaches the layers behind it, but not the state that is pooled
        layers = self.bert.encoder.layer if self.pool is first_token else ()
        return Text(self, self.bert.config, TextTower(self, words, layers, tokenizer, length), place)


def read_bert(weights: Weights, prefix: str, head: str, dim: int, pool: Pool, source: Path) -> BertText:
    """A text tower from the tensors of a file.

    Args:
        weights: of the tower, under these two prefixes.
        prefix: of the transformer's names.
        head: of the projection's: a matrix, or ``0`` and ``2`` around a GELU.
        dim: of the space that is projected to.
        pool: what is projected.
        source: the file, for errors.

    Raises:
        InputError: if the tensors are not those of a BERT and a projection.
    """
    own = {name: tensor for name, tensor in weights.items() if not name.startswith(prefix + _UNUSED)}
    config = _config(own, prefix, source)
    module = BertText(
        BertModel(config, add_pooling_layer=False), _projection(own, head, config.hidden_size, dim, source), pool
    )
    parts = {"bert": prefix.removesuffix("."), "projection": head.removesuffix(".")}

    def origin(name: str) -> Origin:
        part, _, rest = name.partition(".")
        return Origin(f"{parts[part]}.{rest}")

    load_strictly(module, own, source, origin)
    return module


def _projection(weights: Weights, head: str, width: int, dim: int, source: Path) -> nn.Module:
    """A matrix, or two around a GELU, without biases; whether the file's fit, loading will say."""
    if f"{head}0.weight" not in weights:
        return nn.Linear(width, dim, bias=False)
    inner = shape_of(weights, f"{head}0.weight", 2, source)[0]
    return nn.Sequential(nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, dim, bias=False))


def _config(weights: Weights, prefix: str, source: Path) -> BertConfig:
    """The sizes, as the tensors have them; all else is as in BERT's base model.

    Raises:
        InputError: if those that tell are missing, or of a RoBERTa, which counts positions in another way.
    """
    words, positions, kinds, inner = (
        shape_of(weights, prefix + name, 2, source)
        for name in (
            "embeddings.word_embeddings.weight",
            "embeddings.position_embeddings.weight",
            "embeddings.token_type_embeddings.weight",
            "encoder.layer.0.intermediate.dense.weight",
        )
    )
    vocabulary, width = words
    if kinds[0] != 2 or width % _HEAD:
        raise InputError(
            f"{source}: its text tower is no BERT that is read here: expected two kinds of tokens and heads of {_HEAD}, got "
            f"{kinds[0]} and a width of {width}"
        )
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=count_layers(weights, prefix + "encoder.layer."),
        num_attention_heads=width // _HEAD,
        intermediate_size=inner[0],
        max_position_embeddings=positions[0],
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )
