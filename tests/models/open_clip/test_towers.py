"""Features of converted checkpoints against forward passes written by hand, in plain functions on the file's own tensors.

They follow the published descriptions: CLIP (Radford et al. 2021) with residual blocks that normalise first, query, key
and value in one matrix, a causal mask in the text tower and its features read where the id is highest; timm's ViT; BERT.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from by_hand import (
    assert_same_features,
    bert_ids,
    bert_states,
    clip_ids,
    clip_tokens,
    gelu,
    norm,
    normalised,
    quick_gelu,
    resblock,
    timm_tokens,
)
from published_files import (
    BIOMED,
    CLIP,
    TEXTS,
    VOCABULARY,
    Weights,
    biomed_directory,
    biomed_weights,
    clip_weights,
    open_clip_directory,
)
from titer.models import load_model

QUICK = {**CLIP, "quick_gelu": True}


def clip_image(weights: Weights, images: Tensor, activation: Any) -> Tensor:
    start = clip_tokens(weights, images, activation)[:, 0]
    return norm(weights, "visual.ln_post", start, 1e-5) @ weights["visual.proj"]


def clip_text(weights: Weights, ids: Tensor, activation: Any, heads: int = 2) -> Tensor:
    length = ids.shape[1]
    x = weights["token_embedding.weight"][ids] + weights["positional_embedding"][:length]
    causal = torch.full((length, length), -torch.inf).triu(1)
    for layer in range(2):
        x = resblock(weights, f"transformer.resblocks.{layer}", x, heads, causal, activation)
    x = norm(weights, "ln_final", x, 1e-5)
    return x[torch.arange(len(ids)), ids.argmax(dim=1)] @ weights["text_projection"]


def timm_image(weights: Weights, images: Tensor) -> Tensor:
    return timm_tokens(weights, images)[:, 0] @ weights["visual.head.proj.weight"].T


@pytest.mark.parametrize(("config", "activation"), [(CLIP, gelu), (QUICK, quick_gelu)])
def test_clip_features_equal_a_forward_pass_by_hand(config: dict[str, Any], activation: Any, tmp_path: Path) -> None:
    encoder, weights = load_model(open_clip_directory(tmp_path, config)), clip_weights(config)
    images = torch.rand(3, 3, 32, 32)
    expected, expected_text = (
        clip_image(weights, normalised(images), activation),
        clip_text(weights, clip_ids(TEXTS), activation),
    )
    assert_same_features(encoder.image_features(images), expected)
    assert_same_features(encoder.text_tower(TEXTS), expected_text)
    assert encoder.logit_scale == pytest.approx(torch.tensor(3.0).exp().item())
    assert encoder.parameters == sum(tensor.numel() for tensor in weights.values())


def test_the_wrong_activation_is_no_rounding_error(tmp_path: Path) -> None:
    """Otherwise the test above would show nothing."""
    encoder, images = load_model(open_clip_directory(tmp_path, QUICK)), torch.rand(2, 3, 32, 32)
    other = F.normalize(clip_image(clip_weights(QUICK), normalised(images), gelu), dim=-1)
    assert (encoder.encode_image(images) - other).abs().max() > 1e-3


def test_a_text_tower_with_a_prefix_and_stored_constants_is_the_same(tmp_path: Path) -> None:
    plain = clip_weights()
    prefixed = {key if key.startswith(("visual.", "logit")) else f"text.{key}": value for key, value in plain.items()}
    constants = {
        "text.attn_mask": torch.zeros(40, 40),
        "context_length": torch.tensor(40),
        "logit_bias": torch.tensor(-9.0),
    }
    encoder = load_model(open_clip_directory(tmp_path / "a", weights={**prefixed, **constants}))
    assert torch.equal(encoder.encode_text(TEXTS), load_model(open_clip_directory(tmp_path / "b")).encode_text(TEXTS))


def test_biomedclip_features_equal_a_forward_pass_by_hand(tmp_path: Path) -> None:
    encoder, weights, images = load_model(biomed_directory(tmp_path)), biomed_weights(), torch.rand(3, 3, 32, 32)
    expected = timm_image(weights, normalised(images))
    start = bert_states(weights, "text.transformer.", bert_ids(TEXTS, 24))[-1][:, 0]
    expected_text = gelu(start @ weights["text.proj.0.weight"].T) @ weights["text.proj.2.weight"].T
    assert_same_features(encoder.image_features(images), expected)
    assert_same_features(encoder.text_tower(TEXTS), expected_text)


def test_towers_of_both_kinds_can_be_combined(tmp_path: Path) -> None:
    """QuiltNet-B-16-PMB and its kin: CLIP's image tower beside a BERT."""
    visual = {name: tensor for name, tensor in clip_weights().items() if name.startswith("visual.")}
    text = {name: tensor for name, tensor in biomed_weights().items() if not name.startswith("visual.")}
    directory = biomed_directory(tmp_path, {**visual, **text})
    config = {"model_cfg": {**CLIP, "text_cfg": BIOMED["text_cfg"]}}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    assert load_model(directory).encode_text(TEXTS).shape == (3, 8)


def test_ids_written_by_hand_are_those_of_the_files(tmp_path: Path) -> None:
    """The reference above reads its own ids; here they are looked at."""
    tower, end = load_model(open_clip_directory(tmp_path)).text_tower, len(VOCABULARY) - 1
    assert tower.ids("a brain xa") == [end - 1, 26, 55, 23, 26, end]  # type: ignore[attr-defined]
    assert clip_ids(["a brain xa"])[0, :7].tolist() == [end - 1, 26, 55, 23, 26, end, 0]
