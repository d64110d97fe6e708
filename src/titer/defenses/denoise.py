"""Denoised smoothing: a denoiser in front of the frozen model (Salman et al., NeurIPS 2020, arXiv 2003.01908).

dncnn       a small network of convolutions, trained here on the fit's images, without labels.
dncnn-file  a DnCNN from a file in KAIR's layout.
diffusion   one step of a diffusion model at the matching noise level (Carlini et al., ICLR 2023, arXiv 2206.10550).

A denoiser is fixed before any image is seen and part of the classifier that votes: the guarantee is ``fixed``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from titer.defenses.fit import Loss, minimise
from titer.defenses.objectives import cross_entropy
from titer.defenses.task import Fitted, Task, Weights
from titer.errors import InputError, unknown
from titer.models.classifier import Classifier, Named, zero_shot
from titer.models.denoisers import FastDenoiser, OneStep, Schedule, dncnn_of, read_diffusion, unet_of, unfilled
from titer.models.encoder import Encoder, Front
from titer.models.weights import fingerprint_of, load_strictly, read_tensors
from titer.noise import BLOCK

Kind = Literal["dncnn", "dncnn-file", "diffusion"]
Objective = Literal["mse", "stability"]

_MIX = (0.1, 0.25, 0.5, 1.0)
_ROUND = 20  # steps of which the history keeps the mean loss
_FINE = 0.1  # of the learning rate, once the loss passes through the encoder
_PATCH = 96  # largest side of what the mean squared error is taken on, in pixels
_CONFIG, _ALPHAS = "config.json", "alphas"


@dataclass(frozen=True)
class Denoise:
    """A denoiser in front of the frozen encoder, and the words of the classes as they are.

    Args:
        kind: dncnn, dncnn-file or diffusion.
        source: dncnn-file: the file; diffusion: a directory in diffusers' layout.
        sigmas: noise it is for, in [0, 1] pixel units. dncnn: of the training copies, one network for all of them.
            diffusion: exactly one.
        depth: dncnn: convolutions.
        width: dncnn: channels between them.
        factor: dncnn: pixels are unshuffled into channels by it.
        objective: dncnn: ``mse`` to the clean image, or ``stability``: after half of the steps, cross-entropy with what
            the frozen model says of the clean image.
        steps: dncnn: of Adam.
        learning_rate: dncnn: Adam's, at the start.
        batch: dncnn: images in a step.
    """

    kind: Kind = "dncnn"
    source: str | None = None
    sigmas: tuple[float, ...] | None = None
    depth: int = 6
    width: int = 64
    factor: int = 4
    objective: Objective = "stability"
    steps: int = 400
    learning_rate: float = 3e-3
    batch: int = 16

    needs_labels: ClassVar[bool] = False
    class_bound: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, kinds in (("kind", Kind), ("objective", Objective)):
            if getattr(self, name) not in get_args(kinds):
                raise unknown(name, str(getattr(self, name)), get_args(kinds))
        if (self.source is None) != (self.kind == "dncnn"):
            got = "none" if self.source is None else self.source
            raise InputError(
                f"source: dncnn-file and diffusion are read from one, dncnn is trained; {self.kind} got {got}"
            )
        if self.sigmas is not None and not (self.sigmas and all(0 < sigma < math.inf for sigma in self.sigmas)):
            raise InputError(f"sigmas: expected one or more numbers above 0, got {list(self.sigmas)}")
        for name, least in (("depth", 2), ("width", 1), ("factor", 1), ("steps", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate: expected above 0, got {self.learning_rate:g}")

    @property
    def noise(self) -> tuple[float, ...]:
        """Standard deviations of the noise it is for; empty for a file of which nothing is said."""
        if self.sigmas is not None:
            return self.sigmas
        return _MIX if self.kind == "dncnn" else ()

    def fit(self, task: Task) -> Fitted:
        """Train the network, or read it.

        Raises:
            InputError: for a file that holds no such network, and for noise that a diffusion model has no step for.
        """
        fitted = self._trained(task) if self.kind == "dncnn" else Fitted(self._read(), ())
        classifier = self.classifier(task.encoder, task.classes, fitted.weights, self.kind)
        said = _answers(classifier, _Copies.of(task, self.noise)) if self.noise else None
        return replace(fitted, predictions=said)

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The class whose text is nearest to the features of the denoised image."""
        network = {key: tensor for key, tensor in weights.items() if key not in (_CONFIG, _ALPHAS)}
        hardened = replace(
            encoder,
            front=self._front(weights, network, encoder),
            fingerprint=fingerprint_of(weights, "denoise", self.kind, self.factor, self.noise, encoder.fingerprint),
            parameters=encoder.parameters + sum(tensor.numel() for tensor in network.values()),
        )
        return zero_shot(hardened, classes, name=name)

    def _front(self, weights: Weights, network: Weights, encoder: Encoder) -> Front:
        """The denoiser, on the encoder's device."""
        source = Path(self.source or "the adapter")
        if self.kind == "dncnn":
            fast = self._unfilled()
            load_strictly(fast, network, source)
            return fast.to(encoder.device)
        if self.kind == "dncnn-file":
            return dncnn_of(network, source).to(encoder.device)
        return self._one_step(weights, network, encoder)

    def _unfilled(self) -> FastDenoiser:
        return unfilled(lambda: FastDenoiser(self.depth, self.width, self.factor))

    def _one_step(self, weights: Weights, network: Weights, encoder: Encoder) -> OneStep:
        source = Path(str(self.source))
        if len(self.noise) != 1:
            raise InputError(f"diffusion: expected one noise level, such as sigmas=[0.25], got {list(self.noise)}")
        unet = unet_of(json.loads(bytes(weights[_CONFIG].flatten().tolist())), network, source).to(encoder.device)
        if encoder.size % unet.config.factor:
            raise InputError(
                f"{source}: this U-Net halves images {len(unet.config.block_out_channels) - 1} times, so it needs a "
                f"multiple of {unet.config.factor} pixels; {encoder.name} takes {encoder.size}"
            )
        schedule = Schedule(weights[_ALPHAS])
        step = schedule.step(self.noise[0])
        return OneStep(unet, step, float(schedule.levels[step]), unet.config.in_channels)

    def _read(self) -> Weights:
        """The tensors of the source, with what else a diffusion model needs beside them."""
        source = Path(str(self.source))
        if self.kind == "dncnn-file":
            return read_tensors(source)
        content, weights, schedule = read_diffusion(source)
        config = torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)
        return {**weights, _CONFIG: config, _ALPHAS: schedule.alphas}

    def _trained(self, task: Task) -> Fitted:
        """A network trained on noisy copies of the task's images."""
        copies = _Copies.of(task, self.noise)
        network = self._unfilled()
        network.start(copies.chance)
        network.requires_grad_().to(task.encoder.device)
        parameters = list(network.parameters())

        def error() -> Tensor:
            clean, noisy = copies.patches(self.batch)
            return F.mse_loss(network(noisy), clean)

        first = self.steps if self.objective == "mse" else self.steps // 2
        history = minimise(parameters, _rounds(error, first), -(-first // _ROUND), self.learning_rate)
        if self.objective == "stability":
            rest, objective = self.steps - first, _agreement(task, network, copies, self.batch)
            rate = self.learning_rate * _FINE
            history += minimise(parameters, _rounds(objective, rest), -(-rest // _ROUND), rate)
        weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
        return Fitted(weights, history, notes={"objective": self.objective})


@dataclass(frozen=True, eq=False)
class _Copies:
    """Noisy copies of images (images, 3, size, size), as many as are asked for."""

    images: Tensor
    sigmas: Tensor
    chance: torch.Generator
    device: torch.device

    @staticmethod
    def of(task: Task, sigmas: Sequence[float]) -> _Copies:
        images = torch.stack([task.image(place) for place in range(len(task.ids))])
        return _Copies(images, torch.tensor(sigmas), torch.Generator().manual_seed(task.seed), task.encoder.device)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Places (count,) of images at random, and noisy copies of these."""
        places = self._whole(len(self.images), count)
        return places, self.noisy(self.images[places]).to(self.device)

    def patches(self, count: int) -> tuple[Tensor, Tensor]:
        """Patches (count, 3, side, side) of images at random, half of them mirrored, and noisy copies of these."""
        size = self.images.shape[-1]
        side = min(size, _PATCH)
        top, left = self._whole(size - side + 1, 2).tolist()
        clean = self.images[self._whole(len(self.images), count), :, top : top + side, left : left + side]
        mirrored = self._whole(2, count).bool()[:, None, None, None]
        clean = torch.where(mirrored, clean.flip(-1), clean)
        return clean.to(self.device), self.noisy(clean).to(self.device)

    def noisy(self, images: Tensor) -> Tensor:
        """Copies of images (batch, 3, height, width), each with noise of one of the levels."""
        sigmas = self.sigmas[self._whole(len(self.sigmas), len(images))]
        return images + sigmas[:, None, None, None] * torch.randn(images.shape, generator=self.chance)

    def _whole(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self.chance)


def _rounds(loss: Callable[[], Tensor], steps: int) -> Loss:
    """So many steps on one loss, in rounds."""
    return lambda done: [loss] * min(_ROUND, steps - done * _ROUND)


def _agreement(task: Task, network: FastDenoiser, copies: _Copies, batch: int) -> Callable[[], Tensor]:
    """The stability objective: noisy copies, denoised, should say what the frozen model says of the clean image."""
    frozen = zero_shot(task.encoder, task.classes)
    shown = replace(task.encoder, front=network)
    with torch.no_grad():
        said = frozen.head(task.clean.to(copies.device)).argmax(dim=1)

    def objective() -> Tensor:
        places, noisy = copies.draw(batch)
        return cross_entropy(frozen.head(shown.encode_image(noisy)), said[places.to(said.device)])

    return objective


def _answers(classifier: Classifier, copies: _Copies) -> Tensor:
    """What a classifier says of a block of noisy copies; more would be dear where the denoiser is a large file."""
    with torch.no_grad():
        return classifier(copies.draw(BLOCK)[1]).argmax(dim=1).cpu()
