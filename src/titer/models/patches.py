"""The first layer of a vision transformer, with a gradient of the images that costs what its answer costs.

PyTorch's gradient of a convolution does not know that the windows of this one neither overlap nor leave gaps: on a CPU it took
an eighth of a step of an attack (`docs/benchmarks.md`). One product of matrices gives the same numbers but for rounding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Patches(nn.Conv2d):
    """A convolution whose windows neither overlap nor leave gaps; its answers are PyTorch's to the last bit.

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


def with_patches(embeddings: nn.Module) -> None:
    """Put `Patches` in the place of a transformer's first layer, if that is what it is."""
    layer = getattr(embeddings, "patch_embedding", None)
    if isinstance(layer, nn.Conv2d) and not isinstance(layer, Patches) and _parts(layer):
        embeddings.patch_embedding = Patches(layer).train(layer.training)


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
