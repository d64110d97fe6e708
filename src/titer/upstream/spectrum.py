"""The singular spectrum of features: how many directions a model uses, and how much the first ones dominate.

NMTune (Chen et al., ICLR 2024, arXiv 2309.17002) reads both from noise of pre-training: more directions go with better
probes on like data, a weaker first direction with worse ones elsewhere. Its name for the second, LSVR, is used with two
signs; here the share itself is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.errors import InputError, unknown

Centring = Literal["column", "row", "none"]


@dataclass(frozen=True)
class Spectrum:
    """What the singular values of features say.

    Args:
        entropy: - sum p log p of the values' shares p (singular value entropy).
        rank: its exponential: how many directions of equal weight would have that entropy.
        first: share of the largest value.
        five: share of the five largest.
        centring: what was subtracted before.
        rows: features.
    """

    entropy: float
    rank: float
    first: float
    five: float
    centring: Centring
    rows: int


def spectrum(features: Tensor, centring: Centring = "column") -> Spectrum:
    """The spectrum of features (rows, dim), each made unit first.

    Args:
        features: at least two rows.
        centring: ``column`` subtracts the mean feature; ``row`` each feature's mean over its dimensions, as NMTune's
            script does; ``none``.

    Raises:
        InputError: for fewer than two rows, or rows that are all alike.
    """
    if centring not in get_args(Centring):
        raise unknown("centring", centring, get_args(Centring))
    if features.ndim != 2 or len(features) < 2:
        raise InputError(f"spectrum: expected features (rows, dim) with two rows or more, got {tuple(features.shape)}")
    unit = F.normalize(features.double(), dim=1)
    if centring != "none":
        unit = unit - unit.mean(dim=0 if centring == "column" else 1, keepdim=True)
    values = torch.linalg.svdvals(unit)
    if float(values.sum()) < 1e-9:
        raise InputError("spectrum: all features are alike; nothing is left after centring")
    shares = values / values.sum()
    entropy = float(-torch.special.xlogy(shares, shares).sum())
    return Spectrum(
        entropy, float(torch.tensor(entropy).exp()), float(shares[0]), float(shares[:5].sum()), centring, len(features)
    )
