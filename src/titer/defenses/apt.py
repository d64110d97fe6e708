"""APT: text tokens against attacked images (Li et al., CVPR 2024, arXiv 2403.01849), and two relatives.

apt    tokens in front of the class words, unified or class-specific; three ways to attack while they are learned.
advtp  the same as FAP's baseline: 16 tokens, the attack of its family.
advvp  a frame of pixels and tokens beside the patches, while the text stays (Mao et al., ICLR 2023, arXiv 2212.07016).

On an encoder that is not robust itself, text tokens alone give almost no robustness: APT's published figures rest on a
robust encoder (see ``tecoa``).
"""

from __future__ import annotations

from dataclasses import dataclass

from titer.defenses.maple import AdvVlp


@dataclass(frozen=True, kw_only=True)
class AdvTp(AdvVlp):
    """Text tokens learned on attacked images, with the attack of FAP's family."""

    text: int = 16
    image: int = 0
    depth: int | None = 1
    epochs: int = 200
    batch: int | None = 32
    learning_rate: float = 0.002


@dataclass(frozen=True, kw_only=True)
class Apt(AdvTp):
    """Text tokens learned on attacked images; the public code's recipe (vitb32, 50 epochs)."""

    eps: float = 4 / 255
    steps: int = 3
    step: float = 2 / 3
    epochs: int = 50


@dataclass(frozen=True, kw_only=True)
class AdvVp(AdvVlp):
    """A frame of pixels and tokens beside the patches, learned on attacked images.

    The frame starts empty; public code starts it from standard normal noise, which first has to be unlearned.
    """

    text: int = 0
    image: int = 5
    depth: int | None = 1
    frame: float = 30 / 224
    learning_rate: float = 40.0
    weight_decay: float | None = 0.0
