"""Co-attention against a forward pass written by hand, and an answerer whose rows know nothing of each other."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from images import brightness_encoder
from tiny_models import clip_directory, siglip_directory
from titer.errors import InputError
from titer.models import Encoder, load_model
from titer.models.fusion import Answerer, CoAttention, check_sizes, fused, new_fusion
from titer.models.towers import token_towers

Weights = dict[str, Tensor]
LONG, SHORT = "a medical image of blood cells", "a scan"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


def answerer(encoder: Encoder) -> Answerer:
    head = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    fusion = new_fusion(encoder, 16, 2, 4, 1).requires_grad_(False)
    return Answerer("a", encoder, fusion, lambda rows: rows @ head.T, tuple("abcde"), "f", {}, 0)


def images(encoder: Encoder, count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, encoder.size, encoder.size, generator=torch.Generator().manual_seed(seed))


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(w: Weights, name: str, asking: Tensor, told: Tensor, heads: int) -> Tensor:
    """One row, a loop over heads."""
    query, key, value = (
        linear(w, f"{name}.query", asking),
        linear(w, f"{name}.key", told),
        linear(w, f"{name}.value", told),
    )
    size, parts = query.shape[1] // heads, []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = query[:, own] @ key[:, own].T / math.sqrt(size)
        weights = scores.exp() / scores.exp().sum(1, keepdim=True)
        parts.append(weights @ value[:, own])
    return linear(w, f"{name}.out", torch.cat(parts, 1))


def itself(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    normed = norm(w, f"{name}.norm_own", x)
    return attention(w, f"{name}.own", normed, normed, heads)


def by_hand(w: Weights, image: Tensor, text: Tensor, layers: int, heads: int) -> Tensor:
    """The feature of one row without padding."""
    image, text = (linear(w, f"{n}_in.1", norm(w, f"{n}_in.0", x)) for n, x in (("image", image), ("text", text)))
    for layer in range(layers):
        a, b = f"image.{layer}", f"text.{layer}"
        image = image + itself(w, a, image, heads)
        text = text + itself(w, b, text, heads)
        seen = image + attention(w, f"{a}.other", norm(w, f"{a}.norm_other", image), text, heads)
        read = text + attention(w, f"{b}.other", norm(w, f"{b}.norm_other", text), image, heads)
        grown = []
        for name, x in ((a, seen), (b, read)):
            inner = linear(w, f"{name}.feed.0", norm(w, f"{name}.norm_feed", x))
            inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
            grown.append(x + linear(w, f"{name}.feed.2", inner))
        image, text = grown
    pooled = [norm(w, "image_out", image).mean(0), norm(w, "text_out", text).mean(0)]
    return linear(w, "join", torch.cat(pooled))


def test_co_attention_is_the_forward_pass_written_by_hand() -> None:
    torch.random.set_rng_state(torch.Generator().manual_seed(3).get_state())
    fusion = CoAttention(6, 10, 8, 2, 4).double()
    image, text = torch.randn(2, 7, 6).double(), torch.randn(2, 5, 10).double()
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = fusion(image, text, mask)
    weights = dict(fusion.state_dict())
    assert found.shape == (2, 8)
    assert torch.allclose(found[0], by_hand(weights, image[0], text[0], 2, 4), atol=1e-12)
    assert torch.allclose(found[1], by_hand(weights, image[1], text[1, :3], 2, 4), atol=1e-12)


@pytest.mark.parametrize("directory", [clip_directory, siglip_directory])
def test_tokens_are_what_the_last_layers_give(directory: type, tmp_path: Path) -> None:
    encoder = load_model(directory(tmp_path))
    tower, reading = token_towers(encoder)
    shown = encoder.normalised(images(encoder, 2))
    kept: list[Tensor] = []
    hook = tower.vision.encoder.layers[-1].register_forward_hook(lambda *call: kept.append(call[2]))  # type: ignore[attr-defined]
    encoder.image_tower(shown)
    hook.remove()
    last = kept[0] if isinstance(kept[0], Tensor) else kept[0][0]
    assert torch.equal(tower.tokens(shown), last)
    assert last.shape[2] == tower.width == 16
    told, mask = reading.tokens([LONG, SHORT])
    assert told.shape[:2] == mask.shape
    assert mask.sum(1).tolist() == [len(encoder.text_tower.ids(text)) for text in (LONG, SHORT)]  # type: ignore[attr-defined]
    assert encoder.encode_image(images(encoder, 2)).shape == (2, encoder.dim)


def test_a_row_does_not_change_its_neighbours_answers(encoder: Encoder) -> None:
    asked, shown, others = answerer(encoder), images(encoder, 3), 1 - images(encoder, 3, seed=1)
    together = asked.asking([SHORT, LONG, "blood"])(shown)
    mixed = asked.asking([SHORT, "a tile of lung tissue", LONG])(torch.cat([shown[:1], others[1:]]))
    alone = asked.asking([SHORT])(shown[:1])
    assert torch.allclose(together[0], mixed[0], atol=1e-5)
    assert torch.allclose(together[0], alone[0], atol=1e-5)
    assert not torch.allclose(together[1], mixed[1], atol=1e-3)


def test_questions_take_turns_when_there_are_more_images(encoder: Encoder) -> None:
    asked, shown = answerer(encoder), images(encoder, 4)
    both = asked.asking([SHORT, LONG])(shown)
    assert torch.allclose(both[[0, 2]], asked.asking([SHORT])(shown[[0, 2]]), atol=1e-5)
    assert torch.allclose(both[[1, 3]], asked.asking([LONG])(shown[[1, 3]]), atol=1e-5)
    with pytest.raises(ValueError, match="3 images for 2 questions"):
        asked.asking([SHORT, LONG])(shown[:3])


def test_one_image_held_fast_gives_the_same_answers(encoder: Encoder) -> None:
    asked, shown = answerer(encoder), images(encoder, 1)
    held = asked.about(shown[0]).encode_text([SHORT, LONG])
    assert torch.allclose(held, asked.asking([SHORT, LONG])(shown.repeat(2, 1, 1, 1)), atol=1e-5)


def test_gradients_reach_the_image_through_fusion_and_encoder(encoder: Encoder) -> None:
    shown = images(encoder, 2).requires_grad_()
    answerer(encoder).asking([SHORT])(shown)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert shown.grad is not None
    assert bool((shown.grad.flatten(1).abs().sum(1) > 0).all())


def test_towers_that_hide_their_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="no question can look at its patches") as caught:
        new_fusion(brightness_encoder(), 8, 1, 2, 0)
    assert "\n" not in str(caught.value)


def test_a_start_is_decided_by_its_seed_and_touches_no_global_generator(encoder: Encoder) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (new_fusion(encoder, 8, 1, 2, seed).join.weight for seed in (4, 4, 5))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    seen = fused(encoder, new_fusion(encoder, 8, 1, 2, 4), [SHORT])
    assert (seen.dim, seen.image_features(images(encoder, 2)).shape) == (8, (2, 8))


@pytest.mark.parametrize(
    ("width", "layers", "heads", "named"), [(8, 0, 2, "layers"), (8, 1, 3, "heads"), (0, 1, 1, "width")]
)
def test_sizes_that_make_no_attention_are_refused(width: int, layers: int, heads: int, named: str) -> None:
    with pytest.raises(InputError, match=f"^{named}"):
        check_sizes(width, layers, heads)
