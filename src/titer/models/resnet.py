"""ResNets (He et al., CVPR 2016) as image towers: CLIP's, and torchvision's ResNet-50, which MedCLIP has.

Both are modules of their own with the published names, so that neither torchvision nor open_clip is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention as Output

from titer.models.huggingface import ProjectedTower
from titer.models.weights import Weights

_WIDER = 4  # channels behind a block, in terms of those in it
_HEAD = 64  # entries of a head of the attention


class ResNetTower(ProjectedTower):
    """A ResNet and a projection; ``closed`` says why no tokens can be learned in it."""

    closed = "is a ResNet, which has no tokens"


class FixedNorm(nn.Module):
    """Batch normalisation by what training counted; an image's answer never depends on those beside it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Of maps (batch, channels, height, width)."""
        return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias)  # type: ignore[arg-type]


class Bottleneck(nn.Module):
    """Three convolutions beside a short cut.

    Args:
        into: channels of the input.
        channels: in the block; there are four times as many behind it.
        stride: height and width are divided by it.
        averaged: whether an average does that (CLIP), or steps of the middle convolution and the short cut (torchvision).
    """

    def __init__(self, into: int, channels: int, stride: int, averaged: bool) -> None:
        super().__init__()
        step, out = 1 if averaged else stride, _WIDER * channels
        self.conv1 = _conv(into, channels, 1)
        self.bn1 = FixedNorm(channels)
        self.conv2 = _conv(channels, channels, 3, step)
        self.bn2 = FixedNorm(channels)
        self.conv3 = _conv(channels, out, 1)
        self.bn3 = FixedNorm(out)
        self.shrink = nn.AvgPool2d(stride) if averaged and stride > 1 else nn.Identity()
        same = stride == 1 and into == out
        self.downsample = nn.Identity() if same else nn.Sequential(_conv(into, out, 1, step), FixedNorm(out))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (batch, 4 channels, height / stride, width / stride)."""
        hidden = F.relu(self.bn1(self.conv1(maps)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        hidden = self.bn3(self.conv3(self.shrink(hidden)))
        return F.relu(hidden + self.downsample(self.shrink(maps)))


class ResNet(nn.Module):
    """torchvision's, up to the mean over places.

    Args:
        blocks: in each of the four stages.
        width: channels in the blocks of the first stage; each stage has twice as many as the one before.
    """

    averaged = False

    def __init__(self, blocks: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv1 = _conv(3, width, 7, 2)
        self.bn1 = FixedNorm(width)
        into = width
        for stage, count in enumerate(blocks):
            channels, made = width * 2**stage, []
            for place in range(count):
                made.append(Bottleneck(into, channels, 2 if stage and not place else 1, self.averaged))
                into = _WIDER * channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.stages = len(blocks)

    def stem(self, images: Tensor) -> Tensor:
        """Maps (batch, width, height / 4, width / 4)."""
        return F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)

    def pooled(self, maps: Tensor) -> Tensor:
        """(batch, channels) of the last maps."""
        return maps.mean(dim=(2, 3))

    def forward(self, pixel_values: Tensor) -> Output:
        """The last maps, and what is made of them, as transformers' models give both."""
        maps = self.stem(pixel_values)
        for stage in range(self.stages):
            maps = self.get_submodule(f"layer{stage + 1}")(maps)
        return Output(last_hidden_state=maps, pooler_output=self.pooled(maps))


class ClipResNet(ResNet):
    """CLIP's (Radford et al. 2021): a stem of three convolutions, averages in front of steps, and pooling by attention.

    Args:
        blocks, width: as above.
        size: of the input, in pixels.
    """

    averaged = True

    def __init__(self, blocks: Sequence[int], width: int, size: int) -> None:
        super().__init__(blocks, width)
        self.conv1, self.bn1 = _conv(3, width // 2, 3, 2), FixedNorm(width // 2)
        self.conv2, self.bn2 = _conv(width // 2, width // 2, 3), FixedNorm(width // 2)
        self.conv3, self.bn3 = _conv(width // 2, width, 3), FixedNorm(width)
        self.attnpool = AttentionPool2d(width * 2 ** (self.stages - 1) * _WIDER, (size // 2 ** (self.stages + 1)) ** 2)

    def stem(self, images: Tensor) -> Tensor:
        """Maps (batch, width, height / 4, width / 4)."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return F.avg_pool2d(F.relu(self.bn3(self.conv3(hidden))), 2)

    def pooled(self, maps: Tensor) -> Tensor:
        """(batch, channels) of the last maps."""
        pooled: Tensor = self.attnpool(maps)
        return pooled


class AttentionPool2d(nn.Module):
    """What the mean over places finds among the places and itself; the projection behind it is the tower's.

    Args:
        width: channels.
        places: height times width.
    """

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(places + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels)."""
        places = maps.flatten(2).transpose(1, 2)
        known = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + self.positional_embedding
        query, key, value = (
            part.unflatten(2, (-1, _HEAD)).transpose(1, 2)
            for part in (self.q_proj(known[:, :1]), self.k_proj(known), self.v_proj(known))
        )
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)


def without_counters(weights: Weights) -> Weights:
    """A file's tensors but for the numbers of batches that its normalisations saw: no answer depends on them."""
    return {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}


def _conv(into: int, out: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(into, out, side, stride, side // 2, bias=False)
