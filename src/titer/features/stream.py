"""Noisy image features: one block of draws of one image through the encoder.

The encoder always gets ``BLOCK`` rows of one image on one thread, so a feature does not depend on how many images,
workers or draws a run has. On a CPU the work is spread over blocks, not within them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from titer.errors import PictureError, RunError
from titer.models.classifier import Head
from titer.models.encoder import Encoder
from titer.noise import BLOCK, NoiseStream, Purpose


def one_thread() -> None:
    """Let the calling thread compute alone: kernels split over threads may round differently."""
    torch.set_num_threads(1)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let the calling thread compute with so many threads while the block runs.

    One is best where work is spread over blocks, or where tensors are small and other processes want the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_channel(image: Tensor) -> None:
    """Refuse an image whose channels differ, for which noise drawn once and replicated would not be Gaussian.

    Args:
        image: (3, height, width).

    Raises:
        PictureError: if it is a colour picture.
    """
    if not bool((image[0] == image[1]).all() and (image[0] == image[2]).all()):
        raise PictureError("a colour picture; --noise-channels 1 is for one-channel pictures")


def noisy_images(
    image: Tensor, sample: str, sigma: float | Tensor, stream: NoiseStream, block: int, channels: int = 3
) -> Tensor:
    """One block of copies of an image with Gaussian noise, in float32, unclipped.

    Args:
        image: (3, height, width) in [0, 1].
        sample: the sample's id.
        sigma: standard deviation of the noise, in [0, 1] pixel units; one, or one for each draw (BLOCK,).
        stream: the run's noise for one purpose.
        block: which block of draws.
        channels: 3 draws each channel; 1 draws once and replicates, so that an L2 radius is in grey levels.

    Returns:
        (BLOCK, 3, height, width).
    """
    noise = stream.block(sample, block, (channels, *image.shape[1:]))
    noise *= np.float32(sigma) if isinstance(sigma, int | float) else sigma.float().view(-1, 1, 1, 1).numpy()
    noise += image[:channels].numpy()
    return torch.from_numpy(noise).expand(-1, 3, -1, -1)


def noisy_features(
    encoder: Encoder,
    image: Tensor,
    sample: str,
    sigma: float,
    seed: int,
    purpose: Purpose,
    count: int,
    channels: int = 3,
) -> Tensor:
    """Unit features (count, dim) of the first noisy copies of an image (3, height, width) made for a purpose."""
    stream = NoiseStream(seed, purpose)
    with torch.no_grad():
        blocks = [
            encoder.encode_image(noisy_images(image, sample, sigma, stream, block, channels))
            for block in range(-(-count // BLOCK))
        ]
    return torch.cat(blocks)[:count]


@dataclass(frozen=True, eq=False)
class Ballot:
    """How one prompt set votes.

    Args:
        encoder: whose features it votes on.
        votes: features of a block of draws (BLOCK, dim), and of the noisy copies that each draw has of its own
            (BLOCK, copies, dim), to class indices (rows, BLOCK).
        head: the answer without noise, on features of the clean image.
        rows: votes that a draw casts; more than one for a bank.
        copies: noisy copies that each draw has of its own.
    """

    encoder: Encoder
    votes: Callable[[Tensor, Tensor], Tensor]
    head: Head
    rows: int = 1
    copies: int = 0


def fixed_ballot(encoder: Encoder, *heads: Head, head: Head | None = None) -> Ballot:
    """Each head votes for its largest logit; ``head`` (the first one unless given) answers without noise."""

    def votes(features: Tensor, copies: Tensor) -> Tensor:  # noqa: ARG001
        return torch.stack([head(features).argmax(dim=1) for head in heads])

    return Ballot(encoder, votes, head or heads[0], len(heads))


@dataclass(frozen=True, eq=False)
class Voter:
    """The votes of several prompt sets on the same noise. Those on one encoder share its pass over a block of draws.

    Args:
        ballots: how each prompt set votes.
        seed: the run's seed.
        channels: 3, or 1 for noise drawn once and replicated.
    """

    ballots: Sequence[Ballot]
    seed: int
    channels: int = 3

    def __call__(
        self, image: Tensor, sample: str, sigma: float, purpose: Purpose, block: int, undecided: Collection[int]
    ) -> NDArray[np.int64]:
        """Votes for one block of draws of an image.

        Args:
            image: (3, height, width) in [0, 1].
            sample: the sample's id.
            sigma: standard deviation of the noise, in [0, 1] pixel units.
            purpose: what the draws are for.
            block: which block of draws.
            undecided: places of the prompt sets whose votes are asked for. The others, and encoders that only they use,
                are not run: their rows are zero.

        Returns:
            Class indices (rows of all ballots, BLOCK).
        """
        images = noisy_images(image, sample, sigma, NoiseStream(self.seed, purpose), block, self.channels)
        with torch.inference_mode():
            encoders = dict.fromkeys(self.ballots[place].encoder for place in sorted(undecided))
            features = {encoder: _finite(encoder, images, sample, sigma) for encoder in encoders}
            rows = [
                ballot.votes(features[ballot.encoder], self._copies(ballot, image, sample, sigma, purpose, block))
                if place in undecided
                else torch.zeros(ballot.rows, BLOCK, dtype=torch.int64, device=ballot.encoder.device)
                for place, ballot in enumerate(self.ballots)
            ]
            return torch.cat(rows).cpu().numpy()

    def clean(self, image: Tensor) -> list[int]:
        """Each prompt set's answer to the image (3, height, width) itself, without noise."""
        with torch.inference_mode():
            encoders = dict.fromkeys(ballot.encoder for ballot in self.ballots)
            features = {encoder: encoder.encode_image(image[None]) for encoder in encoders}
            return [int(ballot.head(features[ballot.encoder]).argmax()) for ballot in self.ballots]

    def _copies(self, ballot: Ballot, image: Tensor, sample: str, sigma: float, purpose: Purpose, block: int) -> Tensor:
        """Features (BLOCK, copies, dim) of the copies that each draw of a block has of its own.

        Selection and estimation draws must not share them, so the purpose is part of their key.
        """
        stream = NoiseStream(self.seed, "adapt")
        parts = [
            noisy_images(image, f"{purpose}\x00{sample}", sigma, stream, block * ballot.copies + place, self.channels)
            for place in range(ballot.copies)
        ]
        if not parts:
            return torch.empty(BLOCK, 0, ballot.encoder.dim)
        return torch.stack([_finite(ballot.encoder, part, sample, sigma) for part in parts], dim=1)


def _finite(encoder: Encoder, images: Tensor, sample: str, sigma: float) -> Tensor:
    features = encoder.encode_image(images.to(encoder.device))
    if not torch.isfinite(features).all():
        raise RunError(f"{encoder.name} gave nan or infinity for {sample} at sigma {sigma:g}; nothing can be certified")
    return features
