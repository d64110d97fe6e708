"""Learned tokens against a forward pass written by hand, and how many numbers are learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.tiny import CLASSES, images
from images import brightness_encoder
from published_files import biomed_directory, coca_directory, conch_directory, open_clip_directory
from tiny_models import clip_directory, siglip_directory
from titer.defenses.learners import Layout, Tokens, Tower
from titer.errors import InputError
from titer.models import Encoder, load_model
from titer.models.injection import Injection
from titer.models.prompts import sentences
from titer.models.towers import vision_tower

MAKERS: dict[str, Callable[[Path], Path]] = {
    "clip": clip_directory,
    "siglip": siglip_directory,
    "open_clip": open_clip_directory,
    "open_clip with timm's ViT and a BERT": biomed_directory,
    "coca": coca_directory,
    "conch": conch_directory,
}


@pytest.fixture(scope="module", params=MAKERS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    make = MAKERS[request.param]
    return load_model(make(tmp_path_factory.mktemp(request.param)))


def learner_on(encoder: Encoder, **layout: Any) -> Tokens:
    made = Layout(**layout)
    start = made.start(encoder, CLASSES, "{}", 1)
    return Tokens(made, encoder, CLASSES, "{}", {name: 20 * value for name, value in start.items()})


def image_features_by_hand(encoder: Encoder, shown: Tensor, tokens: list[Tensor]) -> Tensor:
    """CLIP's and SigLIP's image towers, layer by layer, with tokens behind the patches."""
    tower: Any = encoder.image_tower
    vision = tower.vision
    hidden = vision.embeddings(encoder.preprocess.normalise(shown))
    rows = hidden.shape[1]
    for place, layer in enumerate(vision.encoder.layers):
        if place < len(tokens):
            hidden = torch.cat([hidden[:, :rows], tokens[place].expand(len(shown), -1, -1)], dim=1)
        if place == 0 and hasattr(vision, "pre_layrnorm"):
            hidden = vision.pre_layrnorm(hidden)
        hidden = layer(hidden, None)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    whole: Tensor = vision.post_layernorm(hidden)
    if hasattr(tower, "pool"):
        of_the_picture: Tensor = tower.projection(tower.pool(whole[:, :rows]))
        return of_the_picture
    pooled: Tensor = vision.head(whole) if hasattr(vision, "head") else tower.projection(whole[:, 0])
    return pooled


@pytest.mark.parametrize("depth", [1, 2])
def test_image_features_are_those_of_a_forward_pass_by_hand(encoder: Encoder, depth: int) -> None:
    learner, shown = learner_on(encoder, image=3, depth=depth), images(encoder, 4)
    tokens = [learner.weights[f"image.{layer}"] for layer in range(depth)]
    with torch.no_grad():
        found, expected = learner.image_features(learner.weights, shown), image_features_by_hand(encoder, shown, tokens)
        plain = encoder.image_features(shown)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_deep_text_tokens_are_those_of_a_forward_pass_by_hand(encoder: Encoder) -> None:
    """Hooks of this test's own write into embeddings and layers of the library's model."""
    learner = learner_on(encoder, text=2, depth=2)
    tower: Any = encoder.text_tower
    first = tower.start
    written = [learner.weights["text.0"], learner.weights["text.1"]]

    def writing(rows: Tensor) -> Any:
        def hook(_: nn.Module, __: object, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, first : first + 2] = rows
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    ids = sentences(encoder, [named.texts[0] for named in CLASSES], 2).ids
    places = (tower.embedding, tower.layers[0])
    handles = [module.register_forward_hook(writing(rows)) for module, rows in zip(places, written, strict=True)]
    with torch.no_grad():
        expected = F.normalize(tower.features(ids), dim=-1)
        for handle in handles:
            handle.remove()
        found = learner.class_features(learner.weights)
    assert torch.allclose(found, expected, atol=1e-5)


def test_features_without_tokens_are_the_encoders_own(encoder: Encoder) -> None:
    learner, shown = learner_on(encoder, image=2, depth=2), images(encoder, 2)
    before = encoder.image_features(shown)
    learner.image_features(learner.weights, shown)
    assert torch.equal(encoder.image_features(shown), before)


@pytest.mark.parametrize("coupling", ["text-to-image", "image-to-text"])
def test_coupled_tokens_are_linear_maps_of_their_partners(encoder: Encoder, coupling: str) -> None:
    learner = learner_on(encoder, text=2, image=2, depth=2, coupling=coupling)
    weights = learner.weights
    text, image = learner.layout.tokens(weights)
    assert torch.allclose(image[0], text[0] @ weights["map.0.weight"].T + weights["map.0.bias"])
    made, source = (image[1], text[1]) if coupling == "text-to-image" else (text[1], image[1])
    assert torch.allclose(made, source @ weights["map.1.weight"].T + weights["map.1.bias"])
    assert ("image.1" in weights) == (coupling == "image-to-text")


@pytest.mark.parametrize(("shared", "expected"), [(False, 3_557_120), (True, 801_024)])
def test_faps_layout_on_vit_b32_has_the_published_codes_number_of_parameters(shared: bool, expected: int) -> None:
    """2 x 512, one map 512 -> 768, 8 x (2 x 768), and eight maps 768 -> 512, or one (reference: released code)."""
    encoder = vit_b32()
    layout = Layout(text=2, image=2, depth=9, coupling="image-to-text", shared_map=shared)
    count = sum(torch.Size(shape).numel() for shape in layout.shapes(encoder, 10).values())
    assert count == expected


def test_maples_and_ivlps_layouts_on_vit_b32() -> None:
    encoder = vit_b32()
    maple = Layout(text=2, image=2, depth=9, coupling="text-to-image").shapes(encoder, 10)
    assert {maple[f"map.{layer}.weight"] for layer in range(9)} == {(768, 512)}
    ivlp = Layout(text=2, image=2, depth=9).shapes(encoder, 10)
    assert sum(torch.Size(shape).numel() for shape in ivlp.values()) == 9 * 2 * (512 + 768)


class Wide:
    """As much of a ViT-B/32's tower as a layout asks for."""

    def __init__(self, width: int) -> None:
        self.width, self.length, self.start = width, 77, 1
        self.embedding = nn.Embedding(1, 1)
        self.injection = Injection(self.embedding)
        layers = tuple(Injection(nn.Identity()) for _ in range(11))
        self.deeper, self.injections = layers, (self.injection, *layers)

    def __call__(self, shown: Any) -> Tensor:
        raise NotImplementedError

    ids = features = __call__


def vit_b32() -> Encoder:
    with torch.random.fork_rng():
        towers: Any = {"image_tower": Wide(768), "text_tower": Wide(512)}
    return replace(brightness_encoder(), **towers)


def test_a_frame_is_zero_inside_and_has_every_pixel_of_its_border(encoder: Encoder) -> None:
    layout = Layout(frame=30 / 224)
    wide, size = layout.frame_pixels(encoder), encoder.size
    frame = layout.framed({"frame": torch.ones(4, 3, wide, size - wide)}, size)
    assert frame is not None
    assert not frame[:, wide : size - wide, wide : size - wide].any()
    assert int(frame.sum()) == 3 * (size * size - (size - 2 * wide) ** 2)
    assert float(frame.max()) == 1


def test_a_frame_is_added_to_normalised_images(encoder: Encoder) -> None:
    learner = learner_on(encoder, frame=0.1)
    learner.weights["frame"] = torch.randn(learner.weights["frame"].shape, generator=torch.Generator().manual_seed(0))
    shown, added = images(encoder, 2), learner.layout.framed(learner.weights, encoder.size)
    assert added is not None
    moved = (
        shown
        + added
        * encoder.preprocess.normalise(torch.zeros(1, 3, 1, 1))
        .sub(encoder.preprocess.normalise(torch.ones(1, 3, 1, 1)))
        .abs()
        .reciprocal()
    )
    with torch.no_grad():
        assert torch.allclose(learner.image_features(learner.weights, shown), encoder.image_features(moved), atol=1e-4)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_the_class_text_stands_where_it_is_said(encoder: Encoder, position: Any) -> None:
    made = sentences(encoder, ["a scan", "blood"], 3, position=position)
    tower: Any = encoder.text_tower
    for place, text in enumerate(("a scan", "blood")):
        own = tower.ids(text)
        ends = len(tower.ids("")) - tower.start
        text_ids = own[tower.start : len(own) - ends]
        taken = range(tower.start, tower.start + 3) if made.places is None else made.places[place]
        assert [token for at, token in enumerate(made.ids[place]) if at not in taken] == own
        before = {"end": 3, "middle": 1, "front": 0}[position]
        assert list(made.ids[place])[tower.start + before :][: len(text_ids)] == text_ids


def test_a_tuned_tower_gives_the_features_it_was_tuned_to(encoder: Encoder) -> None:
    weights = {name: value + 0.01 for name, value in Tower(encoder, CLASSES, "{}", {}).start(0).items()}
    learner, shown = Tower(encoder, CLASSES, "{}", weights), images(encoder, 3)
    with torch.no_grad():
        tuned = learner.encoder_of(weights)
        assert torch.allclose(tuned.image_features(shown), learner.image_features(weights, shown), atol=1e-5)
        assert not torch.allclose(tuned.image_features(shown), encoder.image_features(shown), atol=1e-3)
    assert tuned.fingerprint != encoder.fingerprint
    assert vision_tower(tuned) is not vision_tower(encoder)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"text": 2, "depth": 3}, "has 2"),
        ({"image": 2, "depth": 3}, "the image tower of .* has 2"),
    ],
)
def test_a_depth_beyond_the_tower_is_refused(encoder: Encoder, layout: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Layout(**layout).shapes(encoder, 3)


def test_towers_that_hide_their_layers_are_refused() -> None:
    with pytest.raises(InputError, match="hides its layers"):
        Layout(image=1).shapes(brightness_encoder(), 3)
    with pytest.raises(InputError, match="takes whole texts"):
        Layout(text=1).shapes(brightness_encoder(), 3)
