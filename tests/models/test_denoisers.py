"""Denoisers against independent numbers: diffusers' own outputs, posterior means in closed form, a published file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from titer.data import load_data
from titer.errors import InputError
from titer.models.denoisers import (
    DnCNN,
    FastDenoiser,
    OneStep,
    Schedule,
    dncnn_of,
    read_diffusion,
    schedule_of,
    unet_of,
    unfilled,
)
from titer.models.unet import UNet, unet_config
from titer.models.weights import Weights, read_tensors

HERE = Path("here")
KAIR = Path(__file__).parents[3] / "shared" / "weights" / "dncnn_25" / "dncnn_25.pth"

NEW: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": [4, 8],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 2, "attention_head_dim": 4, "sample_size": 16, "act_fn": "silu",
}  # fmt: skip
OLD: dict[str, Any] = {  # as the files of the DDPM paper have it
    **NEW, "in_channels": 1, "out_channels": 1, "layers_per_block": 2, "block_out_channels": [4, 8, 8],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": None, "norm_eps": 1e-6,
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip

# every sixth of the outputs, and their mean, of diffusers 0.42.1's UNet2DModel with these weights and images at step 37
FROM_DIFFUSERS: list[tuple[dict[str, Any], list[float], float]] = [
    (NEW, [-0.0447453, -0.1524647, -0.0731920, 0.1961684, 0.1001395, 0.1899607], -0.3060269),
    (OLD, [-0.3580132, -0.0021502, -0.9813157, -0.4429573, -0.0744235, -0.8578622], -0.2926533),
]


def filled(network: torch.nn.Module) -> Weights:
    """Weights by a formula: 0.4 * sin(0.7 * i + k) for entry i of tensor k in order of names."""
    return {
        name: 0.4 * torch.sin(torch.arange(tensor.numel()) * 0.7 + place).reshape(tensor.shape)
        for place, (name, tensor) in enumerate(sorted(network.state_dict().items()))
    }


def weights_of(content: Mapping[str, Any]) -> Weights:
    return filled(UNet(unet_config(content, HERE)))


def write_model(root: Path, content: Mapping[str, Any], weights: Weights, schedule: Mapping[str, Any]) -> Path:
    for part in ("unet", "scheduler"):
        (root / part).mkdir(parents=True)
    (root / "unet" / "config.json").write_text(json.dumps(content))
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    save_file(weights, root / "unet" / "diffusion_pytorch_model.safetensors")
    return root


@pytest.mark.parametrize(("content", "some", "mean"), FROM_DIFFUSERS, ids=["new", "old"])
def test_the_unet_computes_what_diffusers_computes(content: dict[str, Any], some: list[float], mean: float) -> None:
    channels = content["in_channels"]
    network = unet_of(content, weights_of(content), HERE)
    images = torch.sin(torch.arange(2 * channels * 64) * 0.3).reshape(2, channels, 8, 8)
    noise = network(images, 37)
    assert noise.shape == images.shape
    assert torch.allclose(noise.flatten()[:: noise.numel() // 6][:6], torch.tensor(some), atol=1e-5)
    assert float(noise.mean()) == pytest.approx(mean, abs=1e-5)
    assert not noise.requires_grad


def test_a_directory_is_read_whole_with_old_names_of_tensors(tmp_path: Path) -> None:
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = weights_of(OLD)
    older = weights
    for name, old in new.items():
        older = {key.replace(f".{name}.", f".{old}."): tensor for key, tensor in older.items()}
    assert older.keys() != weights.keys()
    content, read, schedule = read_diffusion(write_model(tmp_path, OLD, older, {"num_train_timesteps": 100}))
    assert content == OLD
    assert read.keys() == weights.keys()
    assert len(schedule.alphas) == 100


@pytest.mark.parametrize(
    ("content", "first", "middle", "last"),  # of alphas_cumprod of diffusers 0.42.1's DDPMScheduler
    [
        ({}, 0.99989998, 0.07779665, 4.0358304e-05),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, 0.99914998, 0.27633247, 0.004660095),
        ({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}, 0.99825251, 0.46270686, 9.7118e-07),
    ],
)  # fmt: skip
def test_schedules_are_those_of_diffusers(content: dict[str, Any], first: float, middle: float, last: float) -> None:
    alphas = schedule_of(content, HERE).alphas
    found = [float(alphas[place]) for place in (0, len(alphas) // 2, -1)]
    assert found == pytest.approx([first, middle, last], rel=1e-4)


def test_a_step_has_at_least_the_noise_asked_for_and_the_one_before_has_less() -> None:
    schedule = schedule_of({}, HERE)
    for sigma in (0.1, 0.25, 0.5, 1.0):
        step = schedule.step(sigma)
        assert float(schedule.levels[step - 1]) < sigma <= float(schedule.levels[step])
        # sigma beside [0, 1] is 2 * sigma beside [-1, 1], where the model's noise is sqrt((1 - alpha) / alpha)
        alpha = float(schedule.alphas[step])
        assert math.sqrt((1 - alpha) / alpha) == pytest.approx(2 * sigma, rel=0.02)
    assert schedule.step(float(schedule.levels[7])) == 7


@pytest.mark.parametrize("sigma", [0.0, 0.004, 79.0, math.nan])
def test_noise_outside_the_schedule_is_refused_with_its_range(sigma: float) -> None:
    with pytest.raises(InputError, match=r"outside the diffusion model's levels, 0\.005 to 78\.7"):
        schedule_of({}, HERE).step(sigma)


@pytest.mark.parametrize("channels", [1, 3])
def test_with_an_ideal_predictor_one_step_is_the_posterior_mean(channels: int) -> None:
    """Prior N(mean, spread**2) for each pixel in [0, 1]: E[x | y] = mean + spread**2 / (spread**2 + sigma**2) * (y - mean)."""
    schedule = schedule_of({}, HERE)
    mean, spread, step = 0.5, 0.1, schedule.step(0.25)
    alpha, sigma = schedule.alphas[step], float(schedule.levels[step])

    def ideal(images: Tensor, at: int) -> Tensor:
        """E[noise | x_t] where x_t = sqrt(alpha) * x + sqrt(1 - alpha) * noise, and x in [-1, 1] has twice the spread."""
        assert at == step
        assert images.shape[1] == channels
        centred = images - alpha.sqrt() * (2 * mean - 1)
        return ((1 - alpha).sqrt() * centred / (alpha * (2 * spread) ** 2 + 1 - alpha)).float()

    chance = torch.Generator().manual_seed(0)
    clean = mean + spread * torch.randn(2, 3, 6, 6, generator=chance)
    noisy = clean + sigma * torch.randn(clean.shape, generator=chance)
    expected = mean + spread**2 / (spread**2 + sigma**2) * (noisy - mean)
    assert torch.allclose(OneStep(ideal, step, sigma, channels)(noisy), expected, atol=1e-5)


def test_a_guess_outside_the_range_is_clipped() -> None:
    one = OneStep(lambda images, step: torch.zeros_like(images), 0, 0.25)  # noqa: ARG005
    assert torch.equal(one(torch.full((1, 3, 2, 2), 1.5)), torch.ones(1, 3, 2, 2))


def test_a_grey_network_sees_each_channel_alone() -> None:
    network = unfilled(lambda: DnCNN(1, 3, 4))
    network.load_state_dict(filled(network))
    images = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack([(images[:, c : c + 1] - network.model(images[:, c : c + 1]))[:, 0] for c in range(3)], dim=1)
    assert torch.allclose(network(images), by_hand, atol=1e-6)


@pytest.mark.parametrize("side", [8, 10, 13])
def test_a_side_that_is_no_multiple_of_the_factor_is_padded_and_cut(side: int) -> None:
    network = unfilled(lambda: FastDenoiser(2, 8, 4))
    network.start(torch.Generator().manual_seed(0))
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(images), torch.zeros_like(images))  # so begins training
    with torch.no_grad():
        for channel in range(48):
            network.linear.weight[channel, channel, 1, 1] = 1
    assert torch.allclose(network(images), images)  # every pixel comes back to its place


def test_a_start_is_decided_by_its_generator_and_leaves_the_global_one_alone() -> None:
    before = torch.random.get_rng_state()
    networks = [unfilled(lambda: FastDenoiser(3, 8, 2)) for _ in range(2)]
    for network in networks:
        network.start(torch.Generator().manual_seed(5))
    assert torch.equal(torch.random.get_rng_state(), before)
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert float(first["model.2.weight"].std()) == pytest.approx(math.sqrt(2 / 72), rel=0.2)  # He et al.


def test_a_dncnn_of_a_file_is_recognised_by_its_tensors(tmp_path: Path) -> None:
    weights = filled(DnCNN(1, 4, 6))
    torch.save(weights, tmp_path / "net.pth")
    network = dncnn_of(read_tensors(tmp_path / "net.pth"), HERE)
    assert network.channels == 1
    assert [tuple(layer.weight.shape[:2]) for layer in network.model if isinstance(layer, torch.nn.Conv2d)] == [
        (6, 1), (6, 6), (6, 6), (1, 6),
    ]  # fmt: skip


def test_the_published_dncnn_takes_noise_of_25_away() -> None:
    if not KAIR.exists():
        pytest.skip("the published weights are not beside the repository")
    network = dncnn_of(read_tensors(KAIR), KAIR)
    data = load_data("titer:phantoms", limit=2)
    for example in data.examples:
        clean = torch.from_numpy(data.read(example).pixels[:64, :64]).permute(2, 0, 1).expand(3, -1, -1)[None]
        noise = 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        error = float((network(clean + noise) - clean).square().mean())
        assert error < 0.15 * (25 / 255) ** 2


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"out_channels": 6}, "expected 1 or 3 channels in and as many out, got 3 and 6"),
    ({"down_block_types": ["DownBlock2D", "ResnetDownsampleBlock2D"]}, "got DownBlock2D, ResnetDownsampleBlock2D"),
    ({"block_out_channels": [4, 8, 8]}, "as many down as up blocks as channels"),
    ({"time_embedding_type": "fourier"}, "expected time_embedding_type = 'positional', got 'fourier'"),
    ({"class_embed_type": "timestep"}, "expected class_embed_type = None"),
    ({"norm_num_groups": 3}, "4 channels do not fall into 3 groups"),
    ({"layers_per_block": 0}, "layers_per_block of at least 1"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN)
def test_networks_of_another_kind_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        unet_of({**NEW, **change}, weights_of(NEW), HERE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prediction_type": "v_prediction"}, "expected prediction_type 'epsilon', got 'v_prediction'"),
        ({"beta_schedule": "liner"}, "did you mean 'linear'"),
        ({"trained_betas": [0.1]}, "unknown schedule"),
    ],
)
def test_schedules_of_another_kind_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        schedule_of(change, HERE)


def test_tensors_that_do_not_fit_are_refused() -> None:
    weights = weights_of(NEW)
    for name, damaged, words in [
        ("conv_in.bias", torch.zeros(5), r"conv_in.bias has shape \(5,\), expected \(4,\)"),
        ("conv_in.bias", torch.full((4,), torch.nan), "conv_in.bias holds nan or infinity"),
        ("extra", torch.zeros(1), "1 tensors do not belong to this model, such as extra"),
    ]:
        with pytest.raises(InputError, match=words):
            unet_of(NEW, {**weights, name: damaged}, HERE)
    del weights["conv_out.bias"]
    with pytest.raises(InputError, match=r"1 tensors are missing, such as conv_out\.bias"):
        unet_of(NEW, weights, HERE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.0.weight": torch.zeros(6, 2, 3, 3)}, "for images of 1 or 3 channels, got 2"),
        ({"model.0.weight": None}, "expected a DnCNN in KAIR's layout"),
        ({"model.2.weight": torch.zeros(6, 5, 3, 3)}, "model.2.weight has shape"),
        ({"model.1.running_mean": torch.zeros(6)}, "do not belong to this model"),  # batch normalisation
        ({"model.2.bias": torch.full((6,), torch.inf)}, "holds nan or infinity"),
    ],
)
def test_a_file_that_is_no_dncnn_is_refused(change: dict[str, Tensor | None], words: str) -> None:
    weights = {**filled(DnCNN(1, 4, 6)), **change}
    with pytest.raises(InputError, match=words):
        dncnn_of({name: tensor for name, tensor in weights.items() if tensor is not None}, HERE)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"net\.pth: no such file"):
        read_tensors(tmp_path / "net.pth")
    (tmp_path / "net.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"net\.pth is (damaged|refused)"):
        read_tensors(tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"not a diffusion model in diffusers' layout: config\.json is missing"):
        read_diffusion(tmp_path)
    root = write_model(tmp_path / "model", NEW, weights_of(NEW), {})
    (root / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors: no such file"):
        read_diffusion(root)
    (root / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(InputError, match=r"scheduler_config\.json is not valid JSON"):
        read_diffusion(root)


def test_levels_are_half_of_those_beside_minus_one_to_one() -> None:
    levels = Schedule(torch.tensor([0.8, 0.5], dtype=torch.float64)).levels
    assert levels.tolist() == pytest.approx([0.25, 0.5])
