"""Zero-shot PromptSmooth's step: lower the entropy of the mean prediction over noisy copies (MICCAI 2024, arXiv 2408.16769)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.defenses.objectives import marginal_entropy
from titer.features.stream import noisy_features
from titer.models.classifier import Head, cosine_head
from titer.models.encoder import Encoder
from titer.models.prompts import Sentences

DIRECTIONS = 8  # dimensions of the subspace in which single draws are adapted


@dataclass(frozen=True, eq=False)
class EntropyStep:
    """Steps of AdamW from the starting context, for one image or for one draw at a time.

    For an image the step is the paper's: through the text tower, on ``copies`` noisy copies, from zero moments.

    For single draws that would cost a pass through the text tower for every vote. There the context moves in a
    subspace of a few directions, fixed beforehand, and class features move along secants: one normalised gradient step
    of the length that the first AdamW step has, all in feature space. It is a fixed function of the draw's features.

    Args:
        places: the classes' sentences.
        context: start.
        directions: orthonormal directions (rank, *context.shape).
        scale: logit scale.
        copies: noisy copies of the image.
        steps: of AdamW.
        rate: its learning rate.
    """

    places: Sentences
    context: Tensor
    directions: Tensor
    scale: float
    copies: int
    steps: int
    rate: float
    guarantees: ClassVar[tuple[str, ...]] = ("conditional", "per-draw", "product")
    start: Tensor = field(init=False)
    secants: Tensor = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            object.__setattr__(self, "start", self.places.features(self.context).float())
            object.__setattr__(self, "secants", self._secants())

    @property
    def length(self) -> float:
        """Length of a first AdamW step, rate * sign(gradient)."""
        return float(self.rate * self.context.numel() ** 0.5)

    def to_image(
        self, encoder: Encoder, image: Tensor, sample: str, sigma: float, seed: int, channels: int = 3
    ) -> Head:
        """The head adapted to noisy copies of one clean image."""
        copies = noisy_features(encoder, image, sample, sigma, seed, "adapt", self.copies, channels)
        return cosine_head(self.adapted(copies), self.scale)

    def adapted(self, copies: Tensor) -> Tensor:
        """Class features (classes, dim) after the steps, for features (copies, dim) of one image's copies."""
        return after_steps(self.places, self.context, copies, self.scale, self.steps, self.rate)

    def to_copies(self, copies: Tensor, features: Tensor) -> Tensor:
        """Logits (batch, classes) of draws (batch, dim), each after a step on its own copies (batch, copies, dim)."""
        move = -self.length * F.normalize(self._gradient(copies), dim=-1)
        moved = F.normalize(self.start + torch.einsum("rkd,br->bkd", self.secants, move), dim=-1)
        logits: Tensor = self.scale * torch.einsum("bd,bkd->bk", features, moved)
        return logits

    def _gradient(self, copies: Tensor) -> Tensor:
        """Gradient (batch, rank) of the marginal entropy along the directions, in closed form.

        With q the mean of the copies' predictions p_t, dH/dlogit_tk = -p_tk (log q_k - sum_j p_tj log q_j) / T.
        """
        predictions = (self.scale * copies @ self.start.T).softmax(dim=-1)
        log_mean = predictions.mean(dim=1, keepdim=True).clamp_min(torch.finfo(predictions.dtype).tiny).log()
        mean_log = (predictions * log_mean).sum(dim=-1, keepdim=True)
        by_logit = -predictions * (log_mean - mean_log) / copies.shape[1]
        by_class = self.scale * torch.einsum("btk,btd->bkd", by_logit, copies)
        gradient: Tensor = torch.einsum("bkd,rkd->br", by_class, self.secants)
        return gradient

    def _secants(self) -> Tensor:
        """Change of the class features per unit of each direction (rank, classes, dim), over a step's length."""
        ahead, behind = (
            torch.stack([self.places.features(self.context + side * self.length * way) for way in self.directions])
            for side in (1.0, -1.0)
        )
        slopes: Tensor = (ahead - behind) / (2 * self.length)
        return slopes


def after_steps(places: Sentences, context: Tensor, features: Tensor, scale: float, steps: int, rate: float) -> Tensor:
    """Class features (classes, dim) after steps of AdamW that lower the entropy of the mean prediction.

    Args:
        places: the classes' sentences.
        context: where the steps start, from zero moments: nothing is carried over from another image.
        features: unit features (copies, dim) of one image's copies or views.
        scale: logit scale.
        steps: number of steps.
        rate: learning rate.
    """
    with torch.enable_grad():
        context = context.clone().requires_grad_()
        optimiser = torch.optim.AdamW([context], lr=rate)
        for _ in range(steps):
            entropy = marginal_entropy(scale * features @ places.features(context).T)
            optimiser.zero_grad()
            entropy.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        moved: Tensor = places.features(context)
    return moved


def main_directions(places: Sentences, context: Tensor, features: Tensor, scale: float) -> Tensor:
    """Directions (rank, *context.shape) in which the entropy of single noisy copies pulls the context.

    The leading right singular vectors of the copies' gradients; every vote later moves within their span.

    Args:
        places: the classes' sentences.
        context: where the gradients are taken.
        features: unit features (copies, dim) of noisy copies of images that are not evaluated.
        scale: logit scale.
    """
    gradients = []
    for row in features:
        at = context.clone().requires_grad_()
        entropy = marginal_entropy(scale * row[None] @ places.features(at).T)
        gradients.append(torch.autograd.grad(entropy, at)[0].flatten())
    ways: Tensor = torch.linalg.svd(torch.stack(gradients), full_matrices=False).Vh
    return ways[:DIRECTIONS].reshape(-1, *context.shape)
