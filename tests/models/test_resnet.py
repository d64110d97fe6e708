"""ResNets against forward passes by hand, in CLIP's layout and in MedCLIP's, and what they have no place for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from by_hand import assert_same_features, attend, clip_ids, linear, norm, normalised, quick_gelu, resblock
from published_files import (
    CLIP,
    RESNET,
    TEXTS,
    Weights,
    medclip_directory,
    medclip_resnet_weights,
    medclip_weights,
    open_clip_directory,
    resnet_weights,
    write_clip_words,
)
from titer.errors import InputError
from titer.models import Encoder, load_model
from titer.models.open_clip.config import architectures
from titer.models.prompts import deeper_of, sentences, token_tower
from titer.models.resnet import ClipResNet, ResNet
from titer.models.towers import layered_tower, vision_tower

BLOCKS = [1, 2, 1, 1]
ROOT = "vision_model.model."


def batch_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean, variance, scale, shift = (
        weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def convolved(weights: Weights, name: str, norm: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = weights[f"{name}.weight"]
    return batch_norm(weights, norm, F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2))


def stages(weights: Weights, prefix: str, x: Tensor, averaged: bool) -> Tensor:
    """Where a stage halves its maps: CLIP by averages, torchvision by steps of the middle convolution."""
    for stage, count in enumerate(BLOCKS):
        for place in range(count):
            block, half = f"{prefix}layer{stage + 1}.{place}.", bool(stage and not place)
            step = 2 if half and not averaged else 1
            hidden = convolved(weights, f"{block}conv1", f"{block}bn1", x).relu()
            hidden = convolved(weights, f"{block}conv2", f"{block}bn2", hidden, step).relu()
            past = x
            if half and averaged:
                hidden, past = F.avg_pool2d(hidden, 2), F.avg_pool2d(past, 2)
            hidden = convolved(weights, f"{block}conv3", f"{block}bn3", hidden)
            if not place:
                past = convolved(weights, f"{block}downsample.0", f"{block}downsample.1", past, step)
            x = (hidden + past).relu()
    return x


def clip_image(weights: Weights, images: Tensor) -> Tensor:
    x = convolved(weights, "visual.conv1", "visual.bn1", images, 2).relu()
    x = convolved(weights, "visual.conv2", "visual.bn2", x).relu()
    x = F.avg_pool2d(convolved(weights, "visual.conv3", "visual.bn3", x).relu(), 2)
    places = stages(weights, "visual.", x, averaged=True).flatten(2).transpose(1, 2)
    x = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + weights["visual.attnpool.positional_embedding"]
    parts = [linear(weights, f"visual.attnpool.{part}_proj", x) for part in "qkv"]
    attended = attend(parts, x.shape[-1] // 64, torch.zeros(()))
    return linear(weights, "visual.attnpool.c_proj", attended)[:, 0]


def medclip_image(weights: Weights, images: Tensor) -> Tensor:
    x = convolved(weights, f"{ROOT}conv1", f"{ROOT}bn1", images, 2).relu()
    x = stages(weights, ROOT, F.max_pool2d(x, 3, 2, 1), averaged=False)
    return x.mean(dim=(2, 3)) @ weights[f"{ROOT}fc.weight"].T


def clip_text(weights: Weights, ids: Tensor) -> Tensor:
    x = weights["token_embedding.weight"][ids] + weights["positional_embedding"]
    causal = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
    for layer in range(2):
        x = resblock(weights, f"transformer.resblocks.{layer}", x, 2, causal, quick_gelu)
    return norm(weights, "ln_final", x, 1e-5)[torch.arange(len(ids)), ids.argmax(dim=1)] @ weights["text_projection"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    directory = tmp_path_factory.mktemp("resnet")
    return load_model(open_clip_directory(directory, {**RESNET, "quick_gelu": True}, resnet_weights()))


@pytest.fixture(scope="module")
def medclip(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    weights = medclip_weights(vision=medclip_resnet_weights)
    return load_model(f"medclip:{medclip_directory(tmp_path_factory.mktemp('medclip-resnet'), weights)}")


def test_clips_features_equal_a_forward_pass_by_hand(encoder: Encoder) -> None:
    weights, images = resnet_weights(), torch.rand(2, 3, 64, 64)
    assert_same_features(encoder.image_features(images), clip_image(weights, normalised(images)))
    assert_same_features(encoder.text_tower(TEXTS), clip_text(weights, clip_ids(TEXTS)))
    assert encoder.architecture.startswith("open_clip: ResNet, 1 + 2 + 1 + 1 blocks from 8 channels on; text: 2 layers")


def test_medclips_features_equal_a_forward_pass_by_hand(medclip: Encoder) -> None:
    images = torch.rand(1, 3, 224, 224)
    expected = medclip_image(
        medclip_weights(vision=medclip_resnet_weights), (images - 0.5862785803043838) / 0.27950088968644304
    )
    assert_same_features(medclip.image_features(images), expected)
    assert medclip.architecture == "medclip: ResNet-50; text: 3 layers of 64, 77 tokens"


def test_a_picture_never_depends_on_those_beside_it(encoder: Encoder) -> None:
    images = torch.rand(3, 3, 64, 64)
    tower = vision_tower(encoder)
    assert isinstance(tower, torch.nn.Module)
    alone, beside = tower(images[:1]), tower.train()(images)
    tower.eval()
    assert torch.allclose(alone, beside[:1], atol=1e-6)


@pytest.mark.parametrize("which", ["encoder", "medclip"])
def test_tokens_can_be_learned_in_the_text_tower_alone(which: str, request: pytest.FixtureRequest) -> None:
    encoder: Encoder = request.getfixturevalue(which)
    places = sentences(encoder, TEXTS, tokens=2)
    context = torch.randn(2, places.tower.width, requires_grad=True)
    places.features(context)[0, 0].backward()  # type: ignore[no-untyped-call]
    assert context.grad is not None
    assert context.grad.abs().sum() > 0
    assert bool(deeper_of(token_tower(encoder))) == (which == "encoder")
    with pytest.raises(
        InputError, match="its image encoder is a ResNet, which has no tokens, so no tokens can be learned there"
    ):
        layered_tower(encoder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual.bn2.running_var": None}, "1 tensors are missing, such as visual.bn2.running_var"),
        ({"visual.attnpool.c_proj.bias": None}, "missing, such as visual.attnpool.c_proj.bias"),
        ({"visual.attnpool.positional_embedding": torch.zeros(50, 256)}, r"shape \(50, 256\), expected \(5, 256\)"),
        ({"visual.layer2.2.conv1.weight": torch.zeros(1)}, "do not belong to this model, such as visual.layer2.2"),
        ({"visual.layer1.0.conv2.weight": torch.zeros(8, 8, 1, 1)}, r"expected \(8, 8, 3, 3\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, Tensor | None], words: str, tmp_path: Path) -> None:
    weights = {**resnet_weights(), **change}
    with pytest.raises(InputError, match=words):
        load_model(open_clip_directory(tmp_path, RESNET, {k: v for k, v in weights.items() if v is not None}))


def test_pubmedclips_file_is_read_by_its_architectures_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its code saves: half precision, with optimizer and loss beside; features are those of the same numbers in float32."""
    monkeypatch.setitem(architectures(), "RN50-quickgelu", {**RESNET, "quick_gelu": True})
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in resnet_weights().items()}
    saved = {
        "best_epoch": 7,
        "state_dict": half,
        "optimizer_state_dict": {"state": {}, "param_groups": []},
        "best_loss": 0.5,
    }
    torch.save(saved, tmp_path / "PubMedCLIP_RN50.pth")
    write_clip_words(tmp_path)
    encoder = load_model(f"open_clip:RN50-quickgelu/{tmp_path / 'PubMedCLIP_RN50.pth'}")
    weights, images = {name: tensor.float() for name, tensor in half.items()}, torch.rand(1, 3, 64, 64)
    expected = clip_image(weights, encoder.preprocess.normalise(images))
    assert_same_features(encoder.image_features(images), expected)


def test_counters_may_be_missing(tmp_path: Path) -> None:
    bare = {name: tensor for name, tensor in resnet_weights().items() if not name.endswith("num_batches_tracked")}
    assert load_model(open_clip_directory(tmp_path, RESNET, bare)).dim == 8


def test_a_resnet_under_the_name_of_a_vit_says_which_it_wants(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"holds a CLIP with a ResNet; give its own architecture, such as open_clip:RN50-"
    ):
        load_model(open_clip_directory(tmp_path, CLIP, resnet_weights()))


@pytest.mark.parametrize(("name", "weights"), [("RN50", 38_316_896), ("RN101", 56_259_936), ("RN50x4", 87_137_080)])
def test_the_table_has_the_published_sizes(name: str, weights: int) -> None:
    """Numbers of weights of CLIP's image towers; that of RN50 is compared with the library's own by make check-openclip."""
    told = architectures()[name]
    vision = told["vision_cfg"]
    with torch.device("meta"):
        tower = ClipResNet(vision["layers"], vision["width"], vision["image_size"])
        projection = torch.nn.Linear(32 * vision["width"], told["embed_dim"])
    assert sum(tensor.numel() for module in (tower, projection) for tensor in module.parameters()) == weights
    assert f"{name}-quickgelu" in architectures()


def test_torchvisions_resnet_50_has_its_number_of_weights() -> None:
    """25,557,032 with its last layer of 1,000 classes."""
    with torch.device("meta"):
        assert sum(tensor.numel() for tensor in ResNet([3, 4, 6, 3], 64).parameters()) + 2_049_000 == 25_557_032
