"""Networks that stand in front of an encoder: noisy images in [0, 1] to cleaner ones, row by row.

None has batch statistics. A network of one channel is applied to each channel of an image by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titer.errors import InputError, unknown
from titer.models.unet import UNet, unet_config
from titer.models.weights import Weights, load_strictly, read_json, read_tensors

Module = TypeVar("Module", bound=nn.Module)

_LAYOUT = "a diffusion model in diffusers' layout"
_CONFIG, _SCHEDULE = "config.json", "scheduler_config.json"
_TENSORS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class DnCNN(nn.Module):
    """Convolutions that predict the noise, which is subtracted (Zhang et al., TIP 2017, arXiv 1608.03981).

    Batch normalisation is left out, or folded into the convolutions as in KAIR's files, whose tensor names these are.

    Args:
        channels: of the images that it takes; 1 for a network that is applied to each channel.
        depth: convolutions.
        width: channels between them.
    """

    def __init__(self, channels: int, depth: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.model = _convolutions(channels, depth, width)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, 3, height, width) with noise -> without."""
        return images - by_channel(self.model, self.channels, images)


class FastDenoiser(nn.Module):
    """A DnCNN on pixels unshuffled into channels, as in FFDNet (Zhang et al., TIP 2018, arXiv 1710.04026).

    A factor f costs f**2 times less for the same width, and every convolution sees f times as far. One linear convolution
    runs beside the network, and both answer with the image rather than the noise: noise far stronger than the image
    would have to pass the network unharmed, which takes it thousands of steps to learn.

    Args:
        depth: convolutions.
        width: channels between them.
        factor: of the unshuffling; images are padded to a multiple of it.
    """

    def __init__(self, depth: int, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.model = _convolutions(3 * factor**2, depth, width)
        self.linear = nn.Conv2d(3 * factor**2, 3 * factor**2, 3, padding=1)

    def start(self, generator: torch.Generator) -> None:
        """Draw weights; what answers is zero at first: the last convolution and the linear one."""
        for name, parameter in self.named_parameters():
            if name.endswith("weight") and not name.startswith("linear"):
                nn.init.kaiming_normal_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.get_parameter(f"model.{len(self.model) - 1}.weight"))

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, 3, height, width) with noise -> without."""
        height, width = images.shape[-2:]
        missing = (0, -width % self.factor, 0, -height % self.factor)
        padded = F.pad(images, missing, mode="replicate") if any(missing) else images
        pixels = F.pixel_unshuffle(padded, self.factor)
        clean = F.pixel_shuffle(self.model(pixels) + self.linear(pixels), self.factor)
        return clean[..., :height, :width]


def _convolutions(ends: int, depth: int, width: int) -> nn.Sequential:
    widths = [ends, *[width] * (depth - 1), ends]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def unfilled(make: Callable[[], Module]) -> Module:
    """A network whose weights are still to be given; the global generator, which PyTorch starts them from, is not used."""
    with torch.device("meta"):
        network = make()
    return network.to_empty(device="cpu").eval().requires_grad_(False)


def by_channel(network: Callable[[Tensor], Tensor], channels: int, images: Tensor) -> Tensor:
    """A network's answer to images (batch, 3, height, width), or to each of their channels where it takes one."""
    if channels == images.shape[1]:
        return network(images)
    return network(images.flatten(0, 1)[:, None]).view_as(images)


def dncnn_of(weights: Mapping[str, Tensor], source: Path) -> DnCNN:
    """The DnCNN that tensors in KAIR's layout belong to (``model.0.weight``, ``model.2.weight``, ...).

    Args:
        weights: tensors by name.
        source: named in errors.

    Raises:
        InputError: if they are not those of a DnCNN for 1 or 3 channels.
    """
    kernels = [tensor for name, tensor in weights.items() if name.endswith(".weight") and tensor.ndim == 4]
    first = weights.get("model.0.weight")
    if first is None or first.ndim != 4 or len(kernels) < 2:
        raise InputError(
            f"{source}: expected a DnCNN in KAIR's layout (model.0.weight, model.2.weight, ...), got "
            f"{', '.join(sorted(weights)[:3]) or 'nothing'}"
        )
    if first.shape[1] not in (1, 3):
        raise InputError(f"{source}: expected a DnCNN for images of 1 or 3 channels, got {first.shape[1]}")
    network = unfilled(lambda: DnCNN(first.shape[1], len(kernels), first.shape[0]))
    load_strictly(network, dict(weights), source)
    return network


class NoisePredictor(Protocol):
    """What a diffusion model has learned."""

    def __call__(self, images: Tensor, step: int, /) -> Tensor:
        """The noise in images (batch, 3, height, width) around [-1, 1], in its standard deviations, at a step."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """The noise levels of a diffusion model.

    Args:
        alphas: cumulated products (steps,) in float64: at step t a model sees sqrt(alphas[t]) * x + sqrt(1 - alphas[t])
            * noise, for x in [-1, 1].
    """

    alphas: Tensor

    @property
    def levels(self) -> Tensor:
        """Standard deviation (steps,) that the noise of each step has beside an image in [0, 1].

        Half of what it has beside an image in [-1, 1], which is sqrt((1 - alpha) / alpha).
        """
        return ((1 - self.alphas) / self.alphas).sqrt() / 2

    def step(self, sigma: float) -> int:
        """The first step with at least so much noise, as in Carlini et al.'s code.

        Raises:
            InputError: if there is none, or sigma lies below the first.
        """
        low, high = float(self.levels[0]), float(self.levels[-1])
        if not low <= sigma <= high:
            raise InputError(f"sigma {sigma:g} is outside the diffusion model's levels, {low:.4g} to {high:.4g}")
        return int(torch.searchsorted(self.levels, sigma))


@dataclass(frozen=True, eq=False)
class OneStep:
    """The clean image that a diffusion model guesses in one step (Carlini et al., ICLR 2023, arXiv 2206.10550).

    x_t = sqrt(alpha) * (2 * image - 1), and (x_t - sqrt(1 - alpha) * noise(x_t, t)) / sqrt(alpha) brought back to [0, 1]
    is image - level * noise(x_t, t). What leaves [0, 1] is clipped.

    Args:
        predictor: what the model has learned.
        step: t.
        level: noise of that step beside an image in [0, 1]; it also gives alpha = 1 / (1 + 4 level**2).
        channels: that the predictor takes; 1 is applied to each channel.
    """

    predictor: NoisePredictor
    step: int
    level: float
    channels: int = 3

    def __call__(self, images: Tensor) -> Tensor:
        """Images (batch, 3, height, width) in [0, 1] with noise -> without."""
        scaled = (2 * images - 1) / (1 + 4 * self.level**2) ** 0.5
        noise = by_channel(lambda part: self.predictor(part, self.step), self.channels, scaled)
        return (images - self.level * noise).clamp(0, 1)


def read_diffusion(directory: Path) -> tuple[dict[str, Any], Weights, Schedule]:
    """A diffusion model in diffusers' layout: ``unet/`` and ``scheduler/``, or all files in one directory.

    Returns:
        Configuration of the U-Net, its tensors, and the schedule.

    Raises:
        InputError: if a file is missing or damaged, or the model is not one that predicts noise.
    """
    inner, beside = directory / "unet", directory / "scheduler"
    inner, beside = inner if inner.is_dir() else directory, beside if beside.is_dir() else directory
    content, schedule = read_json(inner / _CONFIG, _LAYOUT), read_json(beside / _SCHEDULE, _LAYOUT)
    file = next((inner / name for name in _TENSORS if (inner / name).exists()), inner / _TENSORS[0])
    return content, _renamed(read_tensors(file)), schedule_of(schedule, beside / _SCHEDULE)


def unet_of(content: Mapping[str, Any], weights: Weights, source: Path) -> UNet:
    """The noise predictor that a configuration and tensors describe.

    Raises:
        InputError: if they do not fit each other, or are of another kind.
    """
    config = unet_config(content, source)
    network = unfilled(lambda: UNet(config))
    load_strictly(network, weights, source)
    return network


def schedule_of(content: Mapping[str, Any], source: Path) -> Schedule:
    """What a ``scheduler_config.json`` says.

    Raises:
        InputError: for a schedule of another kind, or a model that predicts something else than the noise.
    """
    if content.get("prediction_type", "epsilon") != "epsilon":
        raise InputError(f"{source}: expected prediction_type 'epsilon', got {content['prediction_type']!r}")
    steps = content.get("num_train_timesteps", 1000)
    ends = torch.tensor([content.get("beta_start", 1e-4), content.get("beta_end", 0.02)], dtype=torch.float64)
    kinds: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: _even(ends, steps),
        "scaled_linear": lambda: _even(ends.sqrt(), steps) ** 2,
        "squaredcos_cap_v2": lambda: _cosine(steps),
    }
    kind = content.get("beta_schedule", "linear")
    if kind not in kinds or content.get("trained_betas") is not None or content.get("rescale_betas_zero_snr"):
        raise unknown(f"schedule in {source}:", str(kind), kinds)
    return Schedule((1 - kinds[kind]()).cumprod(dim=0))


def _even(ends: Tensor, steps: int) -> Tensor:
    return torch.linspace(float(ends[0]), float(ends[1]), steps, dtype=torch.float64)


def _cosine(steps: int) -> Tensor:
    """Betas (steps,) of Nichol and Dhariwal's schedule (ICML 2021)."""
    places = torch.arange(steps + 1, dtype=torch.float64) / steps
    left = torch.cos((places + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - left[1:] / left[:-1]).clamp_max(0.999)


def _renamed(weights: Weights) -> Weights:
    """Tensors of older files under the names of newer ones."""
    found = {}
    for name, tensor in weights.items():
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new) if ".attentions." in name else name
        found[name] = tensor
    return found
