"""What an attack is: images out of images, and nothing about its own success."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from titer.attacks.threat import Norm, Threat
from titer.errors import InputError

Model = Callable[[Tensor], Tensor]
"""Images (batch, 3, size, size) in [0, 1] -> logits (batch, classes); a row's logits are a function of that row alone."""
Loss = Callable[[Tensor], Tensor]
"""Logits (batch, classes) -> loss (batch,), which an attack raises."""


class Attack(Protocol):
    """A frozen dataclass whose fields are the attack's settings."""

    needs_gradient: ClassVar[bool]
    norms: ClassVar[tuple[Norm, ...]]

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        """Images within the threat that the model should get wrong.

        Whoever calls measures distances and answers again: an attack never reports its own success.

        Args:
            model: images in [0, 1] -> logits.
            images: clean images (batch, 3, size, size) in [0, 1], float32.
            labels: the classes (batch,) to be left.
            threat: norm and budget.
            random: all randomness that the attack may use.

        Returns:
            Images (batch, 3, size, size) in [0, 1]; a row is a function of that row's image, label and stream alone.
        """


@runtime_checkable
class Laddered(Protocol):
    """An attack that learns something of an image at one budget which it can use at the next larger one."""

    def ladder(self, classes: int, norm: Norm) -> Attack:
        """The same attack for one batch at rising budgets; it tells images apart by ``random.samples``.

        Args:
            classes: how many there are.
            norm: of all budgets.
        """


class Random:
    """Random numbers for a batch of images, each from a stream of its own.

    So what is drawn for an image depends neither on its neighbours in the batch nor on a resume half-way.

    Args:
        seed: the run's seed.
        purpose: what the numbers are for, such as the attack's name; two purposes share none.
        samples: ids of the images.
    """

    def __init__(self, seed: int, purpose: str, samples: Sequence[str]) -> None:
        self.samples = tuple(samples)
        self._streams = [_stream(f"{seed}\x00attack\x00{purpose}\x00{sample}") for sample in samples]

    def __len__(self) -> int:
        return len(self._streams)

    def of(self, rows: Tensor) -> Random:
        """The streams of some rows (a mask or indices), which go on where they are."""
        places = (rows.nonzero().flatten() if rows.dtype == torch.bool else rows).tolist()
        part = Random(0, "", ())
        part.samples = tuple(self.samples[place] for place in places)
        part._streams = [self._streams[place] for place in places]
        return part

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Float32 (batch, *shape), uniform in [low, high)."""
        drawn = [stream.random(shape, np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(drawn)) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Float32 (batch, *shape), standard normal."""
        drawn = [stream.standard_normal(shape, np.float32) for stream in self._streams]
        return torch.from_numpy(np.stack(drawn))

    def signs(self, *shape: int) -> Tensor:
        """Float32 (batch, *shape) of -1 and 1."""
        return torch.where(self.uniform(*shape) < 0.5, -1.0, 1.0)

    def within(self, images: Tensor, threat: Threat) -> Tensor:
        """Images uniform in the ball around these, then projected into [0, 1]."""
        shape = images.shape[1:]
        if threat.norm == "linf":
            change = self.uniform(*shape, low=-threat.epsilon, high=threat.epsilon)
        else:
            change = self._in_ball(shape, threat)
        return threat.project(images + change.to(images.device), images)

    def _in_ball(self, shape: Sequence[int], threat: Threat) -> Tensor:
        """Uniform in an l2 or l1 ball: a direction, and a length whose share of the volume is uniform."""
        direction = self.normal(*shape)
        if threat.norm == "l1":  # differences of exponentials have the l1 ball's directions
            uniform = self.uniform(*shape).clamp_min(torch.finfo(torch.float32).tiny)
            direction = -uniform.log() * direction.sign()
        flat = direction.flatten(1)
        size: Tensor = torch.linalg.vector_norm(flat, 2 if threat.norm == "l2" else 1, dim=1)
        reach = threat.epsilon * self.uniform().pow(1 / flat.shape[1])
        return direction * (reach / size).view(-1, 1, 1, 1)


def _stream(label: str) -> np.random.Generator:
    return np.random.Generator(
        np.random.Philox(key=np.frombuffer(hashlib.sha256(label.encode()).digest()[:16], np.uint64))
    )


def ascend(model: Model, images: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient (batch, 3, size, size), loss (batch,) and logits (batch, classes) at images, in float32.

    Raises:
        InputError: if the model gives no gradient.
    """
    with torch.enable_grad():
        shown = images.detach().float().requires_grad_()
        logits = model(shown)
        losses = loss(logits.float())
        # weights that could be trained give the loss a graph that need not reach the images
        (gradient,) = torch.autograd.grad(losses.sum(), shown, allow_unused=True) if losses.requires_grad else (None,)
    if gradient is None:
        raise InputError("this model gives no gradient with respect to its images; an attack without gradients: square")
    return gradient, losses.detach(), logits.detach()


def answers(model: Model, images: Tensor) -> Tensor:
    """The model's logits (batch, classes) at images, without a graph."""
    with torch.no_grad():
        return model(images).float()
