"""A noise predictor of a diffusion model: the U-Net of DDPM (Ho et al., NeurIPS 2020, arXiv 2006.11239).

Module names and configuration are those of diffusers' ``UNet2DModel``, whose directories describe themselves:
``config.json``, safetensors, and a schedule beside them. diffusers itself is not needed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titer.errors import InputError

_DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}
_UP = {"UpBlock2D": False, "AttnUpBlock2D": True}
_ONLY: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,), "time_embedding_type": ("positional",), "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",), "mid_block_scale_factor": (1,), "downsample_type": ("conv",),
    "upsample_type": ("conv",), "act_fn": ("silu",), "resnet_time_scale_shift": ("default",), "add_attention": (True,),
    "attn_norm_num_groups": (None,), "class_embed_type": (None,), "num_class_embeds": (None,),
}  # fmt: skip


@dataclass(frozen=True)
class UNetConfig:
    """The fields of a ``UNet2DModel`` configuration that are read; the others must have their usual values.

    Args:
        in_channels, out_channels: of the images; equal, since the network predicts the noise in them.
        block_out_channels: channels of each level.
        down_block_types, up_block_types: with or without attention, from the top down and from the bottom up.
        layers_per_block: residual blocks of a level.
        attention_head_dim: channels of a head; one head where None.
        norm_num_groups, norm_eps: of group normalisation.
        downsample_padding: 1, or 0 for padding on the right and at the bottom only.
        freq_shift, flip_sin_to_cos: of the embedding of time.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    layers_per_block: int = 2
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    downsample_padding: int = 1
    freq_shift: float = 0
    flip_sin_to_cos: bool = True

    @property
    def factor(self) -> int:
        """Height and width must be multiples of it."""
        return int(2 ** (len(self.block_out_channels) - 1))


def unet_config(content: Mapping[str, Any], source: object) -> UNetConfig:
    """What a ``config.json`` says.

    Args:
        content: of the file.
        source: named in errors.

    Raises:
        InputError: for a network that is none of this kind.
    """
    for name, known in _ONLY.items():
        if content.get(name, known[0]) not in known:
            raise InputError(
                f"{source}: expected {name} = {known[0]!r}, got {content[name]!r}; not read by this version"
            )
    fields = [field.name for field in dataclasses.fields(UNetConfig)]
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items() if name in fields
    }
    config = UNetConfig(**given)
    levels = {len(config.block_out_channels), len(config.down_block_types), len(config.up_block_types)}
    kinds = set(config.down_block_types) - set(_DOWN) | set(config.up_block_types) - set(_UP)
    if kinds or len(levels) != 1:
        raise InputError(
            f"{source}: expected as many down as up blocks as channels, of the kinds {', '.join([*_DOWN, *_UP])}; got "
            f"{', '.join([*config.down_block_types, *config.up_block_types])}"
        )
    if config.layers_per_block < 1:
        raise InputError(f"{source}: expected layers_per_block of at least 1, got {config.layers_per_block}")
    if config.in_channels != config.out_channels or config.in_channels not in (1, 3):
        raise InputError(
            f"{source}: expected 1 or 3 channels in and as many out, got {config.in_channels} and {config.out_channels}"
        )
    return config


class UNet(nn.Module):
    """(images (batch, channels, height, width) in [-1, 1], step) -> the noise in them, in its standard deviations."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = _TimeEmbedding(widths[0])
        self.down_blocks = nn.ModuleList(
            _Down(config, widths[max(0, level - 1)], width, _DOWN[kind], last=level == len(widths) - 1)
            for level, (width, kind) in enumerate(zip(widths, config.down_block_types, strict=True))
        )
        self.mid_block = _Middle(config, widths[-1])
        upward = widths[::-1]
        self.up_blocks = nn.ModuleList(
            _Up(
                config, upward[max(0, level - 1)], upward[min(level + 1, len(widths) - 1)], width, _UP[kind],
                last=level == len(widths) - 1,
            )
            for level, (width, kind) in enumerate(zip(upward, config.up_block_types, strict=True))
        )  # fmt: skip
        self.conv_norm_out = _norm(config, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, images: Tensor, step: int) -> Tensor:
        time = self.time_embedding(_waves(step, self.conv_in.out_channels, self.config).to(images))
        hidden: Tensor = self.conv_in(images)
        kept = [hidden]
        for block in self.down_blocks:
            hidden, outputs = block(hidden, time)
            kept += outputs
        hidden = self.mid_block(hidden, time)
        for block in self.up_blocks:
            hidden = block(hidden, kept, time)
        noise: Tensor = self.conv_out(F.silu(self.conv_norm_out(hidden)))
        return noise


def _waves(step: int, width: int, config: UNetConfig) -> Tensor:
    """Sines and cosines (1, width) of a step at geometrically falling frequencies."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half) / (half - config.freq_shift))
    sines, cosines = (step * frequencies).sin(), (step * frequencies).cos()
    return torch.cat([cosines, sines] if config.flip_sin_to_cos else [sines, cosines])[None]


def _norm(config: UNetConfig, width: int) -> nn.GroupNorm:
    try:
        return nn.GroupNorm(config.norm_num_groups, width, eps=config.norm_eps)
    except ValueError as error:
        raise InputError(f"config.json: {width} channels do not fall into {config.norm_num_groups} groups") from error


class _TimeEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, waves: Tensor) -> Tensor:
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(waves)))
        return embedded


class _Residual(nn.Module):
    def __init__(self, config: UNetConfig, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(config, before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * config.block_out_channels[0], width)
        self.norm2 = _norm(config, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, width, 1) if before != width else None

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(hidden))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        inner = self.conv2(F.silu(self.norm2(inner)))
        result: Tensor = inner + (hidden if self.conv_shortcut is None else self.conv_shortcut(hidden))
        return result


class _Attention(nn.Module):
    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        self.heads = width // (config.attention_head_dim or width)
        self.group_norm = _norm(config, width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, hidden: Tensor) -> Tensor:
        pixels = self.group_norm(hidden).flatten(2).transpose(1, 2)
        query, key, value = (
            project(pixels).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        result: Tensor = hidden + self.to_out[0](mixed).transpose(1, 2).reshape(hidden.shape)
        return result


class _Middle(nn.Module):
    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(config, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([_Attention(config, width)])

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        first, second = self.resnets
        result: Tensor = second(self.attentions[0](first(hidden, time)), time)
        return result


class _Resampling(nn.Module):
    """Halves or doubles height and width."""

    def __init__(self, width: int, *, up: bool, padding: int = 1) -> None:
        super().__init__()
        self.up = up
        self.padding = padding
        self.conv = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=padding)

    def forward(self, hidden: Tensor) -> Tensor:
        if self.up:
            hidden = F.interpolate(hidden, scale_factor=2.0, mode="nearest")
        elif self.padding == 0:
            hidden = F.pad(hidden, (0, 1, 0, 1))
        result: Tensor = self.conv(hidden)
        return result


class _Level(nn.Module):
    """Residual blocks, each followed by attention where the level has it."""

    def __init__(self, config: UNetConfig, before: list[int], width: int, attends: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Residual(config, channels, width) for channels in before)
        self.attentions = nn.ModuleList(_Attention(config, width) for _ in before if attends)

    def layer(self, place: int, hidden: Tensor, time: Tensor) -> Tensor:
        """One residual block with its attention."""
        hidden = self.resnets[place](hidden, time)
        return self.attentions[place](hidden) if self.attentions else hidden


class _Down(_Level):
    def __init__(self, config: UNetConfig, before: int, width: int, attends: bool, *, last: bool) -> None:
        super().__init__(config, [before] + [width] * (config.layers_per_block - 1), width, attends)
        halving = [] if last else [_Resampling(width, up=False, padding=config.downsample_padding)]
        self.downsamplers = nn.ModuleList(halving)

    def forward(self, hidden: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs = []
        for place in range(len(self.resnets)):
            hidden = self.layer(place, hidden, time)
            outputs.append(hidden)
        for halve in self.downsamplers:
            hidden = halve(hidden)
            outputs.append(hidden)
        return hidden, outputs


class _Up(_Level):
    def __init__(self, config: UNetConfig, before: int, beside: int, width: int, attends: bool, *, last: bool) -> None:
        layers = config.layers_per_block
        inputs = [before + width, *([2 * width] * (layers - 1)), width + beside]
        super().__init__(config, inputs, width, attends)
        self.upsamplers = nn.ModuleList([] if last else [_Resampling(width, up=True)])

    def forward(self, hidden: Tensor, kept: list[Tensor], time: Tensor) -> Tensor:
        for place in range(len(self.resnets)):
            hidden = self.layer(place, torch.cat([hidden, kept.pop()], dim=1), time)
        for double in self.upsamplers:
            hidden = double(hidden)
        return hidden
