"""Layers of a transformer whose answers are those of the library to the last bit, and whose gradients cost less.

On a CPU they took a quarter of a step of an attack (`docs/benchmarks.md`). The gradients are the same but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

_SLOPE = 1.702  # of the sigmoid of the quick GELU


def with_cheap_gradients(module: nn.Module) -> None:
    """Put `Patches` and `QuickGelu` in the places of the layers that they stand for, wherever they are in a module."""
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and _parts(layer) and not isinstance(layer, Patches):
                setattr(parent, name, Patches(layer).train(layer.training))
            elif isinstance(layer, QuickGELUActivation):
                setattr(parent, name, QuickGelu().train(layer.training))


class Patches(nn.Conv2d):
    """A convolution whose windows neither overlap nor leave gaps: one product of matrices gives the images' gradient.

    PyTorch's gradient of a convolution does not know that there is no overlap.

    Args:
        layer: whose weights it shares.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        patch = layer.kernel_size[0]
        super().__init__(
            layer.in_channels, layer.out_channels, patch, patch, bias=layer.bias is not None, device="meta"
        )
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, images: Tensor) -> Tensor:
        """Patches (batch, width, rows, columns) of images (batch, channels, height, width)."""
        patch = self.kernel_size[0]
        learned = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if learned or not images.requires_grad or images.shape[-2] % patch or images.shape[-1] % patch:
            return super().forward(images)
        found: Tensor = _Patched.apply(images, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return found


class QuickGelu(nn.Module):
    """``x * sigmoid(1.702 x)``: its gradient is that of the SiLU at 1.702 x, in one pass."""

    def forward(self, values: Tensor) -> Tensor:
        """Of any shape."""
        if not values.requires_grad:
            return values * torch.sigmoid(_SLOPE * values)
        found: Tensor = _QuickGelu.apply(values)  # type: ignore[no-untyped-call]
        return found


def _parts(layer: nn.Conv2d) -> bool:
    """Whether the windows are square, and part an image without overlap or gap."""
    patch = (layer.kernel_size[0],) * 2
    unpadded = layer.padding in ((0, 0), "valid")
    return layer.kernel_size == layer.stride == patch and unpadded and layer.dilation == (1, 1) and layer.groups == 1


class _Patched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.conv2d(images, weight, bias, stride=weight.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (weight,), (gradient,) = ctx.saved_tensors, gradients
        width, channels, patch, _ = weight.shape
        batch, _, rows, columns = gradient.shape
        of_pixels = gradient.permute(0, 2, 3, 1).reshape(-1, width) @ weight.flatten(1).to(gradient.dtype)
        parted = of_pixels.view(batch, rows, columns, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
        return parted.reshape(batch, channels, rows * patch, columns * patch), None, None


class _QuickGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values * torch.sigmoid(_SLOPE * values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (values,), (gradient,) = ctx.saved_tensors, gradients
        steep = _SLOPE * values
        if not torch.is_grad_enabled():
            return torch.ops.aten.silu_backward(gradient, steep)
        share = torch.sigmoid(steep)  # that of the SiLU has no gradient of its own
        return gradient * share * (1 + steep * (1 - share))
