"""Features of pictures without noise: one pass, read and encoded side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titer.ahead import ahead
from titer.data.example import Data, Example
from titer.errors import PictureError
from titer.features.stream import one_thread
from titer.models.encoder import Encoder
from titer.noise import BLOCK


def clean_features(encoder: Encoder, data: Data, workers: int) -> tuple[Tensor, list[Example]]:
    """Unit features of every picture that can be read.

    Each worker reads a block of pictures and encodes it on one thread, so that all cores are busy whatever reading and
    encoding cost; no more than a few blocks of pictures are held at a time.

    Args:
        encoder: whose features.
        data: the pictures.
        workers: threads.

    Returns:
        Features (pictures, dim) on the CPU, and the example of each.
    """

    def block(examples: Sequence[Example]) -> tuple[Tensor, list[Example]]:
        images, read = [], []
        for example in examples:
            try:
                images.append(encoder.preprocess(data.read(example).pixels))
            except PictureError:
                continue
            read.append(example)
        if not images:
            return torch.empty(0, encoder.dim), read
        with torch.no_grad():
            return encoder.encode_image(torch.stack(images)).cpu(), read

    blocks = (data.examples[start : start + BLOCK] for start in range(0, len(data), BLOCK))
    # made at once: small tensors kept between large ones that come and go would hold the memory of those
    features = torch.empty(len(data), encoder.dim)
    seen: list[Example] = []
    for part, read in ahead(block, blocks, workers, one_thread):
        features[len(seen) : len(seen) + len(read)] = part
        seen += read
    return features[: len(seen)], seen
