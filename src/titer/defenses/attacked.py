"""Features of attacked images, for heads that learn from them: the encoder is attacked, and no label is looked at."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titer.attacks.attack import Random
from titer.defenses.learners import Layout, Tokens
from titer.defenses.task import Task
from titer.defenses.tuning import Inner, Step
from titer.features.store import FeatureStore

ATTACKED = 8  # attacked copies of each image, from as many random starts
_BATCH = 32  # images attacked at a time


def attacked_store(task: Task, eps: float, copies: int = ATTACKED) -> FeatureStore:
    """Unit features of images moved within a linf budget so that their feature leaves its place.

    Three steps of half the budget climb ||f(x + d) - f(x)||^2 from a random d: at d = 0 the gradient is zero.

    Args:
        task: images and the frozen encoder, which must be differentiable in its images.
        eps: budget, in [0, 1] pixel units.
        copies: random starts of each image.
    """
    known, inner = task.features, Inner(eps, 3, 0.5, loss="distance", prompting="constant")
    found = np.empty((len(task.ids), copies, task.encoder.dim), np.float16)
    for copy in range(copies):
        for first in range(0, len(task.ids), _BATCH):
            part = range(first, min(first + _BATCH, len(task.ids)))
            found[part, copy] = _attacked(task, part, known[first : part.stop], inner, copy).half().numpy()
    return FeatureStore(tuple(found), np.zeros((len(task.ids), copies), np.float32))


def _attacked(task: Task, places: range, known: Tensor, inner: Inner, copy: int) -> Tensor:
    encoder = task.encoder_of(places)
    device = encoder.device
    images = torch.stack([task.kept(place) for place in places]).to(device)
    random = Random(task.seed, f"fit attacked {copy}", [task.ids[place] for place in places])
    nothing = torch.empty(0, device=device)
    frozen = Tokens(Layout(), encoder, task.classes, "{}", {})
    step = Step(frozen, encoder, nothing, images, nothing, known.to(device), inner, random)
    with torch.no_grad():
        return F.normalize(encoder.image_features(step.attacked_images).cpu(), dim=-1)
