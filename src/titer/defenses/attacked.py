"""Features of attacked images, for heads that learn from them: the encoder is attacked, and no label is looked at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from titer.attacks.attack import Random
from titer.defenses.learners import Layout, Tokens
from titer.defenses.task import Task
from titer.defenses.tuning import Inner, Step
from titer.features.store import FeatureStore

_BATCH = 32  # images attacked at a time


def attacked_store(task: Task, eps: float, copies: int | None = None) -> FeatureStore:
    """Unit features of images moved within a linf budget so that their feature leaves its place.

    Three steps of half the budget climb ||f(x + d) - f(x)||^2 from a random d: at d = 0 the gradient is zero.

    Args:
        task: images and the frozen encoder, which must be differentiable in its images.
        eps: budget, in [0, 1] pixel units.
        copies: random starts of each image; the task's unless given.
    """
    copies = task.copies if copies is None else copies
    found = np.empty((len(task.ids), copies, task.encoder.dim), np.float16)
    for copy in range(copies):
        for places, images in attacked_images(task, eps, copy):
            encoder = task.encoder_of(places)
            with torch.no_grad():
                found[places, copy] = F.normalize(encoder.image_features(images).cpu(), dim=-1).half().numpy()
    return FeatureStore(tuple(found), np.zeros((len(task.ids), copies), np.float32))


def attacked_images(task: Task, eps: float, copy: int) -> Iterator[tuple[range, Tensor]]:
    """All images of a task, some at a time, attacked as ``attacked_store`` says.

    Args:
        task, eps: as there.
        copy: which of the random starts.

    Returns:
        Places, and images (places, 3, size, size) on the encoder's device.
    """
    known, inner = task.features, Inner(eps, 3, 0.5, loss="distance", prompting="constant")
    for first in range(0, len(task.ids), _BATCH):
        places = range(first, min(first + _BATCH, len(task.ids)))
        yield places, _attacked(task, places, known[first : places.stop], inner, copy)


def _attacked(task: Task, places: range, known: Tensor, inner: Inner, copy: int) -> Tensor:
    encoder = task.encoder_of(places)
    device = encoder.device
    images = torch.stack([task.kept(place) for place in places]).to(device)
    random = Random(task.seed, f"fit attacked {copy}", [task.ids[place] for place in places])
    nothing = torch.empty(0, device=device)
    frozen = Tokens(Layout(), encoder, task.classes, "{}", {})
    return Step(frozen, encoder, nothing, images, nothing, known.to(device), inner, random).attacked_images
