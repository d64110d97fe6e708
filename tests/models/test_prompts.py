"""Learned tokens in the text towers of CLIP, SigLIP, open_clip's checkpoints, MedCLIP and the embedded model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from images import brightness_encoder
from published_files import biomed_directory, coca_directory, conch_directory, medclip_directory, open_clip_directory
from tiny_models import WORDS, clip_directory, siglip_directory, without_start
from titer.errors import InputError
from titer.features.stream import threads
from titer.models import Encoder, load_model
from titer.models.prompts import Sentences, count_tokens, sentences, token_tower

MAKERS: dict[str, Callable[[Path], object]] = {
    "clip": clip_directory,
    "siglip": siglip_directory,
    "siglip without a start": lambda path: without_start(siglip_directory(path)),
    "open_clip": open_clip_directory,
    "open_clip with a BERT": biomed_directory,
    "coca": coca_directory,
    "conch": conch_directory,
    "medclip": lambda path: f"medclip:{medclip_directory(path)}",
}
TEXTS = ["brain", "lung tissue", "blood cells"]  # short enough for the twenty tokens of the tiny towers
START = "a medical image of"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def embedded() -> Encoder:
    return load_model("titer:tiny")


@pytest.fixture(scope="module", params=[*MAKERS, "titer:tiny"])
def encoder(request: pytest.FixtureRequest, embedded: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    if request.param == "titer:tiny":
        return embedded
    return load_model(str(MAKERS[request.param](tmp_path_factory.mktemp("model"))))


def random_context(places: Sentences, *classes: int, seed: int = 0) -> Tensor:
    return torch.randn(*classes, places.tokens, places.tower.width, generator=torch.Generator().manual_seed(seed))


def test_an_empty_prompt_gives_exactly_the_unprompted_features(encoder: Encoder) -> None:
    for words in ("", START):
        places = sentences(encoder, TEXTS, 0, words)
        expected = encoder.encode_text([f"{words} {text}".strip() for text in TEXTS])
        for context in (torch.empty(0, places.tower.width), torch.empty(3, 0, places.tower.width)):
            assert torch.equal(places.features(context), expected)


@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_the_words_own_embeddings_give_exactly_the_features_of_the_sentence(encoder: Encoder, tokens: int) -> None:
    places = sentences(encoder, TEXTS, tokens, START)
    expected = encoder.encode_text([f"{START} {text}" for text in TEXTS])
    assert places.embeddings().shape == (tokens, places.tower.width)
    assert torch.equal(places.features(places.embeddings()), expected)
    assert torch.equal(places.features(places.embeddings().expand(3, -1, -1)), expected)


def test_features_are_unprompted_again_after_a_prompt(encoder: Encoder) -> None:
    before, places = encoder.encode_text(TEXTS), sentences(encoder, TEXTS, 2)
    assert not torch.allclose(places.features(random_context(places)), before, atol=1e-3)
    assert torch.equal(encoder.encode_text(TEXTS), before)


def test_a_context_without_words_stands_between_the_start_and_the_text(encoder: Encoder) -> None:
    """So it equals a sentence whose first words have these embeddings."""
    places = sentences(encoder, TEXTS, 4)
    said = sentences(encoder, TEXTS, 4, START)
    assert torch.allclose(
        places.features(said.embeddings()), encoder.encode_text([f"{START} {text}" for text in TEXTS]), atol=1e-6
    )


def test_every_class_may_have_a_context_of_its_own(encoder: Encoder) -> None:
    places = sentences(encoder, TEXTS, 2)
    contexts = random_context(places, 3)
    together = places.features(contexts)
    for row, context in enumerate(contexts):
        assert torch.allclose(together[row], places.features(context)[row], atol=1e-6)
    turned = places.features(contexts.flip(0))
    assert not torch.allclose(turned[0], together[0], atol=1e-3)


def test_gradients_reach_every_token_of_the_context(encoder: Encoder) -> None:
    places = sentences(encoder, TEXTS, 3)
    context = random_context(places, 3).requires_grad_()
    places.features(context)[1, 0].backward()  # type: ignore[no-untyped-call]
    assert context.grad is not None
    assert (context.grad[1].abs().sum(dim=-1) > 0).all()
    assert torch.equal(context.grad[[0, 2]], torch.zeros_like(context.grad[[0, 2]]))  # other classes' contexts


def test_the_gradient_is_that_of_finite_differences(encoder: Encoder) -> None:
    places, step = sentences(encoder, TEXTS, 2), 1e-2
    context = random_context(places).requires_grad_()
    weights = torch.randn(3, encoder.dim, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((places.features(context) * weights).sum(), context)
    way = gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = ((places.features(context + side * step * way) * weights).sum() for side in (1, -1))
    assert float(ahead - behind) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02)


def test_threads_use_one_tower_with_different_contexts(encoder: Encoder) -> None:
    places = sentences(encoder, TEXTS, 2)
    contexts = [random_context(places, seed=seed) for seed in range(4)]
    expected = [places.features(context) for context in contexts]
    together = threading.Barrier(4)

    def features(context: Tensor) -> Tensor:
        together.wait(10)
        with torch.no_grad():
            return [places.features(context) for _ in range(5)][-1]

    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(features, contexts), expected, strict=True):
            assert torch.allclose(found, wanted, atol=1e-6)


def test_a_context_of_words_tunes_exactly_the_tokens_asked_for(embedded: Encoder) -> None:
    """Words are not tokens: five words have eight tokens here, so five tokens end after the third word."""
    tower, words = token_tower(embedded), "An H&E image patch of"
    assert [len(tower.ids(word)) - 2 for word in words.split()] == [1, 3, 1, 2, 1]
    assert count_tokens(embedded, words) == 8
    whole = tower.ids(f"{words} debris")
    for tokens in (5, 6, 8):
        places = sentences(embedded, ["debris"], tokens, words)
        assert places.ids == (tuple(whole),)  # the sentence stays intact
        assert torch.equal(places.embeddings(), tower.embedding.weight[whole[1 : 1 + tokens]])
        seen: list[Tensor] = []
        handle = tower.embedding.register_forward_hook(lambda _, __, output: seen.append(output))  # noqa: B023
        places.features(torch.zeros(tokens, tower.width))
        handle.remove()
        (written,) = seen
        changed = (written[0] != tower.embedding.weight[torch.tensor(whole)]).any(dim=-1)
        assert changed.nonzero().flatten().tolist() == list(range(1, 1 + tokens))


def test_a_prefix_of_the_words_leaves_the_rest_of_the_sentence_fixed(embedded: Encoder) -> None:
    """As in the public code: five of eight tokens move, the others stay words."""
    words = "An H&E image patch of"
    places = sentences(embedded, ["debris", "mucus"], 5, words)
    moved = places.embeddings() + 0.01
    rest = sentences(embedded, ["patch of debris", "patch of mucus"], 5)
    assert torch.allclose(places.features(moved), rest.features(moved), atol=1e-6)


def test_one_text_by_hand_equals_the_hook(tmp_path: Path) -> None:
    """CLIP's text tower written out, with the context in the place of the words' embeddings."""
    encoder = load_model(clip_directory(tmp_path))
    places = sentences(encoder, ["brain"], 2, START)
    context = random_context(places)
    weights: dict[str, Tensor] = load_file(tmp_path / "model.safetensors")

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"text_model.{name}.weight"].T + weights[f"text_model.{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        unit = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return unit * weights[f"text_model.{name}.weight"] + weights[f"text_model.{name}.bias"]

    def attention(layer: str, x: Tensor) -> Tensor:
        query, key, value = (
            linear(f"{layer}.self_attn.{part}_proj", x).view(-1, 2, 8).transpose(0, 1) for part in "qkv"
        )
        scores = query @ key.transpose(1, 2) / 8**0.5
        later = torch.ones(len(x), len(x)).triu(1).bool()
        mixed = scores.masked_fill(later, float("-inf")).softmax(dim=-1) @ value
        return linear(f"{layer}.self_attn.out_proj", mixed.transpose(0, 1).reshape(-1, 16))

    ids = torch.tensor(places.ids[0])
    x = weights["text_model.embeddings.token_embedding.weight"][ids].clone()
    x[1:3] = context
    x += weights["text_model.embeddings.position_embedding.weight"][: len(ids)]
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        x = x + attention(layer, norm(f"{layer}.layer_norm1", x))
        inner = linear(f"{layer}.mlp.fc1", norm(f"{layer}.layer_norm2", x))
        x = x + linear(f"{layer}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
    last = norm("final_layer_norm", x)[-1] @ weights["text_projection.weight"].T
    assert torch.allclose(places.features(context)[0], F.normalize(last, dim=0), atol=1e-5)


def test_a_context_of_another_shape_is_refused(encoder: Encoder) -> None:
    """Two tokens in the place of three would leave one filler; four would overwrite the class's words."""
    places = sentences(encoder, TEXTS, 3)
    width = places.tower.width
    for shape in [(2, width), (4, width), (3, width - 1), (2, 3, width), (1, 3, width), (3 * width,)]:
        with pytest.raises(InputError, match=r"context: expected shape \(3, "):
            places.features(torch.zeros(shape))


def test_more_tokens_than_the_words_have_are_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="'a medical image of' has 4 tokens, 5 are asked for"):
        sentences(encoder, TEXTS, 5, START)


def test_a_sentence_that_gets_too_long_is_refused(encoder: Encoder) -> None:
    room = token_tower(encoder).length - max(len(token_tower(encoder).ids(text)) for text in TEXTS)
    sentences(encoder, TEXTS, room)
    with pytest.raises(InputError, match=f"make {room + 1 + token_tower(encoder).length - room} tokens"):
        sentences(encoder, TEXTS, room + 1)


def test_an_encoder_that_hides_its_tokens_is_refused() -> None:
    with pytest.raises(InputError, match=r"takes whole texts.*Hugging Face layout"):
        sentences(brightness_encoder(), WORDS, 2)


def test_a_tokenizer_that_joins_words_and_text_is_refused(embedded: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tokens must be the words' own, else a prefix of them cannot be tuned."""
    tower = token_tower(embedded)
    honest = tower.ids

    def joining(text: str) -> list[int]:
        ids = honest(text)
        return [ids[0], *ids[2:]] if text.startswith(f"{START} ") else ids

    monkeypatch.setattr(tower, "ids", joining)
    with pytest.raises(InputError, match="joins 'a medical image of' with 'debris'"):
        sentences(embedded, ["debris"], 2, START)
