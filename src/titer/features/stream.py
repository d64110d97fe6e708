"""Noisy image features: one block of draws of one image through the encoder.

The encoder always gets ``BLOCK`` rows of one image on one thread, so a feature does not depend on how many images,
workers or draws a run has. On a CPU the work is spread over blocks, not within them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from titer.errors import PictureError, RunError
from titer.models.classifier import Classifier
from titer.models.encoder import Encoder
from titer.noise import NoiseStream, Purpose


def one_thread() -> None:
    """Let the calling thread compute alone: kernels split over threads may round differently."""
    torch.set_num_threads(1)


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
    image: Tensor, sample: str, sigma: float, stream: NoiseStream, block: int, channels: int = 3
) -> Tensor:
    """One block of copies of an image with Gaussian noise, in float32, unclipped.

    Args:
        image: (3, height, width) in [0, 1].
        sample: the sample's id.
        sigma: standard deviation of the noise, in [0, 1] pixel units.
        stream: the run's noise for one purpose.
        block: which block of draws.
        channels: 3 draws each channel; 1 draws once and replicates, so that an L2 radius is in grey levels.

    Returns:
        (BLOCK, 3, height, width).
    """
    noise = stream.block(sample, block, (channels, *image.shape[1:]))
    noise *= np.float32(sigma)
    noise += image[:channels].numpy()
    return torch.from_numpy(noise).expand(-1, 3, -1, -1)


@dataclass(frozen=True, eq=False)
class Voter:
    """The votes of several classifiers on one encoder: K prompt sets cost one encoder pass, on the same noise.

    Args:
        encoder: the frozen dual encoder.
        classifiers: classifiers on this encoder.
        seed: the run's seed.
        channels: 3, or 1 for noise drawn once and replicated.
    """

    encoder: Encoder
    classifiers: Sequence[Classifier]
    seed: int
    channels: int = 3

    def __call__(self, image: Tensor, sample: str, sigma: float, purpose: Purpose, block: int) -> NDArray[np.int64]:
        """Class indices (classifiers, BLOCK) for one block of draws of an image (3, height, width)."""
        images = noisy_images(image, sample, sigma, NoiseStream(self.seed, purpose), block, self.channels)
        with torch.inference_mode():
            features = self.encoder.encode_image(images.to(self.encoder.device))
            if not torch.isfinite(features).all():
                raise RunError(
                    f"{self.encoder.name} gave nan or infinity for {sample} at sigma {sigma:g}; nothing can be certified"
                )
            votes = [classifier.head(features).argmax(dim=1) for classifier in self.classifiers]
            return torch.stack(votes).cpu().numpy()
