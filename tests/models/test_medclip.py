"""MedCLIP from the tensors of its released file against a forward pass by hand, and what can be wrong with the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from by_hand import assert_same_features, bert_ids, bert_states, gelu, linear, norm
from published_files import TEXTS, Weights, medclip_directory, medclip_weights
from titer.errors import InputError
from titer.models import Encoder, load_model
from titer.models.prompts import deeper_of, sentences, token_tower
from titer.models.towers import layered_tower, vision_tower

MEAN, STD = 0.5862785803043838, 0.27950088968644304
ROOT = "vision_model.model."


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(f"medclip:{medclip_directory(tmp_path_factory.mktemp('medclip'))}")


def windows(side: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """For all pairs of places: the row of the table of biases, and whether one sees the other.

    A place sees those of its own window after the picture is rolled, and of them those that were its neighbours before.
    """
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    rolled = torch.stack([(place.flatten() - shift) % side for place in (row, column)])
    inside = rolled % window
    apart = inside[:, :, None] - inside[:, None, :] + window - 1
    torn = (rolled >= side - shift) if shift else torch.zeros_like(rolled, dtype=torch.bool)
    groups = torch.cat([rolled // window, torn.long()])
    return apart[0] * (2 * window - 1) + apart[1], (groups[:, :, None] == groups[:, None, :]).all(dim=0)


def swin_block(weights: Weights, block: str, x: Tensor, heads: int, shift: int) -> Tensor:
    side, (batch, length, width) = round(x.shape[1] ** 0.5), x.shape
    bias, seen = windows(side, 7, shift)
    hidden = norm(weights, f"{block}.layernorm_before", x, 1e-5)
    query, key, value = (
        linear(weights, f"{block}.attention.self.{part}", hidden).reshape(batch, length, heads, -1).transpose(1, 2)
        for part in ("query", "key", "value")
    )
    table = weights[f"{block}.attention.self.relative_position_bias_table"]
    scores = query @ key.transpose(2, 3) / (width // heads) ** 0.5 + table[bias].permute(2, 0, 1)
    attended = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value
    attended = attended.transpose(1, 2).reshape(batch, length, width)
    x = x + linear(weights, f"{block}.attention.output.dense", attended)
    hidden = gelu(linear(weights, f"{block}.intermediate.dense", norm(weights, f"{block}.layernorm_after", x, 1e-5)))
    return x + linear(weights, f"{block}.output.dense", hidden)


def swin_image(weights: Weights, images: Tensor) -> Tensor:
    patches = f"{ROOT}embeddings.patch_embeddings.projection"
    x = F.conv2d(images, weights[f"{patches}.weight"], weights[f"{patches}.bias"], stride=4)
    x = norm(weights, f"{ROOT}embeddings.norm", x.flatten(2).transpose(1, 2), 1e-5)
    stages = f"{ROOT}encoder.layers"
    for place, shift in enumerate((0, 3)):
        x = swin_block(weights, f"{stages}.0.blocks.{place}", x, heads=1, shift=shift)
    grid = x.reshape(len(x), 56, 56, -1)
    quarters = [grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    x = norm(weights, f"{stages}.0.downsample.norm", torch.cat(quarters, dim=-1).reshape(len(x), 28 * 28, -1), 1e-5)
    x = x @ weights[f"{stages}.0.downsample.reduction.weight"].T
    x = swin_block(weights, f"{stages}.1.blocks.0", x, heads=2, shift=0)
    return norm(weights, f"{ROOT}layernorm", x, 1e-5).mean(dim=1) @ weights["vision_model.projection_head.weight"].T


def test_image_features_equal_a_forward_pass_by_hand(encoder: Encoder) -> None:
    images = torch.rand(1, 3, 224, 224)
    expected = swin_image(medclip_weights(), (images - MEAN) / STD)
    assert_same_features(encoder.image_features(images), expected)


def test_text_features_equal_a_forward_pass_by_hand_of_one_text_at_a_time(encoder: Encoder) -> None:
    """Its code averages the padding of a batch as well; of a text alone there is none."""
    weights = medclip_weights()
    for text, features in zip(TEXTS, encoder.text_tower(TEXTS), strict=True):
        states = bert_states(weights, "text_model.model.", bert_ids([text], 2 + len(text.split())))
        pooled = torch.stack([states[1], states[2], states[-1]]).mean(dim=0).mean(dim=1)
        expected = pooled @ weights["text_model.projection_head.weight"].T
        assert_same_features(features, expected[0])


def test_the_scale_is_clamped_as_in_its_forward_pass(encoder: Encoder) -> None:
    assert encoder.logit_scale == pytest.approx(torch.tensor(4.6052).exp().item())
    assert (encoder.dim, encoder.size, encoder.architecture) == (
        8, 224, "medclip: Swin Transformer; text: 3 layers of 64, 77 tokens"
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(300, 200, 3), (100, 90, 3), (301, 244, 1)])
def test_pictures_are_grey_and_padded_as_in_its_code(shape: tuple[int, ...], encoder: Encoder) -> None:
    """Its code, by hand: Pillow's mode L, a black square of at least 224, then bicubic to 224."""
    pixels = np.random.default_rng(0).integers(90, 160, shape, dtype=np.uint8)
    picture = Image.fromarray(pixels.squeeze()).convert("L")
    side = max(224, *picture.size)
    square = Image.new("L", (side, side), 0)
    square.paste(picture, tuple(int((side - edge) / 2) for edge in picture.size))  # type: ignore[arg-type]
    expected = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC)) / 255
    shown = encoder.preprocess(pixels.astype(np.float32) / np.float32(255))
    assert shown.shape == (3, 224, 224)
    assert np.abs(shown.numpy() - expected).max() < 1.5 / 255  # it rounds to 8 bits twice


def test_tokens_can_be_learned_in_the_text_tower_alone(encoder: Encoder) -> None:
    places = sentences(encoder, TEXTS, tokens=2)
    context = torch.randn(2, 64, requires_grad=True)
    places.features(context)[0, 0].backward()  # type: ignore[no-untyped-call]
    assert context.grad is not None
    assert context.grad.abs().sum() > 0
    assert deeper_of(token_tower(encoder)) == ()
    assert vision_tower(encoder).vision is not None
    with pytest.raises(InputError, match=r"its image encoder is a Swin Transformer, whose windows have no place"):
        layered_tower(encoder)


def test_the_file_itself_may_be_named(tmp_path: Path) -> None:
    directory = medclip_directory(tmp_path)
    fingerprints = {load_model(f"medclip:{path}").fingerprint for path in (directory, directory / "pytorch_model.bin")}
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logit_scale": None}, "logit_scale is missing"),
        ({"vision_model.projection_head.weight": None}, "vision_model.projection_head.weight is missing"),
        ({f"{ROOT}fc.weight": torch.zeros(1)}, r"fc.weight has shape \(1,\), expected 2 axes"),
        ({f"{ROOT}encoder.layers.1.blocks.0.attention.self.relative_position_bias_table": None}, "table is missing"),
        (
            {f"{ROOT}encoder.layers.0.blocks.1.output.dense.bias": None},
            r"missing, such as vision_model.model.*dense\.bias",
        ),
        ({f"{ROOT}layernorm.weight": torch.zeros(3)}, r"layernorm.weight has shape \(3,\), expected \(8,\)"),
        ({"text_model.projection_head.weight": torch.zeros(9, 64)}, r"has shape \(9, 64\), expected \(8, 64\)"),
        ({"text_model.projection_head.bias": torch.zeros(8)}, "do not belong to this model"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, Tensor | None], words: str, tmp_path: Path) -> None:
    weights = {**medclip_weights(), **change}
    with pytest.raises(InputError, match=words):
        load_model(f"medclip:{medclip_directory(tmp_path, {k: v for k, v in weights.items() if v is not None})}")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"medclip:nowhere: no such file; expected medclip:PATH"):
        load_model("medclip:nowhere")
    with pytest.raises(InputError, match=r"medclip:: no such file"):
        load_model("medclip:")
    (medclip_directory(tmp_path) / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"get vocab.txt, or tokenizer.json from .*emilyalsentzer/Bio_ClinicalBERT"):
        load_model(f"medclip:{tmp_path}")
