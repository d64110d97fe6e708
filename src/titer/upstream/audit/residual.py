"""Is the picture grainy? Energy that a small blur takes away: noise within a budget for each pixel differs between neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BLUR = (0.25, 0.5, 0.25)  # in both directions
_TINY = 1e-12


def residuals(images: Tensor) -> Tensor:
    """Share of each image's energy that a blur over three pixels takes away; 0 for an even image.

    The sum of (x - blur(x))^2 over that of (x - mean of x's channel)^2. The edge is repeated.

    Args:
        images: (batch, 3, size, size) in [0, 1].

    Returns:
        (batch,), at least 0.
    """
    kernel = torch.tensor(_BLUR, dtype=images.dtype, device=images.device)
    channels = images.shape[1]
    blurred = F.pad(images, (1, 1, 1, 1), mode="replicate")
    for shape in ((1, 1, 1, 3), (1, 1, 3, 1)):
        blurred = F.conv2d(blurred, kernel.view(shape).expand(channels, -1, -1, -1), groups=channels)
    taken = (images - blurred).square().flatten(1).sum(dim=1)
    whole = (images - images.mean(dim=(2, 3), keepdim=True)).square().flatten(1).sum(dim=1)
    return taken / whole.clamp_min(_TINY)
