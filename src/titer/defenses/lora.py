"""LoRA: low-rank changes of the image encoder, trained on noisy copies (Hu et al., ICLR 2022, arXiv 2106.09685).

What a user would try instead of prompts: the image tower itself learns to see through the noise (as in PEFTSmoothing,
arXiv 2404.05350), class features stay the frozen text features of the class words. Made of the library ``peft``, and
saved as it saves; the low-rank weights are merged into a copy of the tower, so a vote costs what it costs without them.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from titer.defenses.fit import minimise
from titer.defenses.objectives import cross_entropy
from titer.defenses.task import Fitted, Task, Weights, check_sigmas
from titer.errors import InputError, unknown
from titer.features.stream import noisy_images
from titer.models.classifier import Classifier, Named, zero_shot
from titer.models.encoder import Encoder
from titer.models.towers import VisionTower, vision_tower
from titer.models.weights import fingerprint_of
from titer.noise import BLOCK, NoiseStream

Images = Literal["noisy", "clean"]

_STEPS = 10  # in an epoch; each on one block of copies


@dataclass(frozen=True)
class Lora:
    """Low-rank changes of the image encoder's layers, one set of them for all noise levels.

    Args:
        rank: of each change.
        alpha: a change is multiplied by alpha / rank.
        targets: names of the linear layers that are changed, wherever they stand in the image tower.
        images: noisy, or clean for the same training without noise.
        sigmas: noise of the training copies, in [0, 1] pixel units.
        epochs: of ten steps, each on 50 copies; the images take turns, so the cost does not depend on the shots.
        learning_rate: Adam's, at the start.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    images: Images = "noisy"
    sigmas: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    epochs: int = 15
    learning_rate: float = 1e-3  # chosen on val splits, with the epochs: docs/methods/lora.md

    needs_labels: ClassVar[bool] = True
    class_bound: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.images not in get_args(Images):
            raise unknown("images", str(self.images), get_args(Images))
        if not (self.targets and isinstance(self.targets, tuple)):
            raise InputError(f"targets: expected a list of layers, such as ['q_proj', 'v_proj'], got {self.targets!r}")
        check_sigmas(self.sigmas)
        for name in ("rank", "epochs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("alpha", "learning_rate"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}: expected above 0, got {getattr(self, name):g}")

    @property
    def noise(self) -> tuple[float, ...]:
        """Standard deviations of the noise in training."""
        return self.sigmas if self.images == "noisy" else ()

    def fit(self, task: Task) -> Fitted:
        """Cross-entropy of noisy copies of labelled images with the frozen text features.

        Raises:
            InputError: if the image tower hides its layers or has none of the targets, or peft is not installed.
        """
        tower, model = self._opened(task.encoder)
        peft = _peft()
        _load(model, _start(peft.get_peft_model_state_dict(model), task.seed))
        encoder = replace(task.encoder, image_tower=tower)
        head = zero_shot(encoder, task.classes).head
        copies = noisy_copies(task, self.noise or (0.0,))

        def loss(step: int) -> Tensor:
            images, labels = copies(step)
            return cross_entropy(head(encoder.encode_image(images)), labels.to(encoder.device))

        def losses(epoch: int) -> list[Callable[[], Tensor]]:
            return [lambda step=step: loss(step) for step in range(epoch * _STEPS, (epoch + 1) * _STEPS)]  # type: ignore[misc]

        history = minimise(
            [weight for weight in model.parameters() if weight.requires_grad], losses, self.epochs, self.learning_rate
        )
        with torch.no_grad():
            predictions = head(encoder.encode_image(copies(self.epochs * _STEPS)[0])).argmax(dim=1).cpu()
        weights = {name: tensor.detach().cpu() for name, tensor in peft.get_peft_model_state_dict(model).items()}
        return Fitted(weights, history, predictions, {"objective": "cross-entropy"}, _config(model))

    def classifier(self, encoder: Encoder, classes: Sequence[Named], weights: Weights, name: str) -> Classifier:
        """The class whose text is nearest to the image features of the tuned tower."""
        return zero_shot(self._tuned(encoder, weights), classes, name=name)

    def _tuned(self, encoder: Encoder, weights: Weights) -> Encoder:
        """The encoder with a tower of its own, into which the weights are merged."""
        tower, model = self._opened(encoder)
        _load(model, weights)
        tower.vision = model.merge_and_unload().eval()
        fingerprint = fingerprint_of(weights, encoder.fingerprint, "lora", self.rank, self.alpha, self.targets)
        return replace(encoder, image_tower=tower, fingerprint=fingerprint)

    def _opened(self, encoder: Encoder) -> tuple[VisionTower, Any]:
        """A copy of the image tower with low-rank weights beside its layers, and the PEFT model that holds them."""
        tower = copy.deepcopy(vision_tower(encoder))
        linear = {
            name.rpartition(".")[2] for name, module in tower.vision.named_modules() if isinstance(module, nn.Linear)
        }
        for target in self.targets:
            if target not in linear:
                raise unknown("layer of the image tower", target, linear)
        peft = _peft()
        config = peft.LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=list(self.targets), lora_dropout=0.0
        )
        with _quiet():
            model = peft.get_peft_model(tower.vision, config).eval()
        tower.vision = model
        return tower, model


def noisy_copies(task: Task, sigmas: Sequence[float]) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Step -> a block of noisy copies (BLOCK, 3, size, size) and their labels (BLOCK,).

    The images take turns, in a new order each time, and so do an image's sigmas. No draw is used twice.
    """
    image, stream, count = task.kept, NoiseStream(task.seed, "fit"), len(task.ids)

    def block(step: int) -> tuple[Tensor, Tensor]:
        turns = np.arange(step * BLOCK, (step + 1) * BLOCK) // count
        orders = [np.random.default_rng([task.seed, 3, turn]).permutation(count) for turn in np.unique(turns)]
        chosen = np.concatenate(orders)[step * BLOCK - int(turns[0]) * count :][:BLOCK]
        shown = torch.stack([image(place) for place in chosen.tolist()])
        sigma = torch.tensor(sigmas)[torch.from_numpy((turns + chosen) % len(sigmas))]
        noise = noisy_images(torch.zeros_like(shown[0]), "\x00lora", sigma, stream, step)
        return noise + shown, task.targets[torch.from_numpy(chosen)]

    return block


def _start(weights: Weights, seed: int) -> Weights:
    """PEFT's own start, from a generator of ours: A uniform in +-1/sqrt(width), B zero, so that nothing changes yet."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: nn.init.kaiming_uniform_(torch.empty(tensor.shape), a=math.sqrt(5), generator=generator)
        if "lora_A" in name
        else torch.zeros(tensor.shape)
        for name, tensor in sorted(weights.items())
    }


def _load(model: Any, weights: Weights) -> None:
    """Put low-rank weights into a PEFT model, each in its place.

    Raises:
        KeyError: for a tensor that is missing.
        RuntimeError: for one that has no place, or a wrong shape.
    """
    peft = _peft()
    expected = peft.get_peft_model_state_dict(model).keys()
    if expected - weights.keys():
        raise KeyError(min(expected - weights.keys()))
    if weights.keys() - expected:
        raise RuntimeError(f"{min(weights.keys() - expected)} has no place in the image tower")
    peft.set_peft_model_state_dict(model, weights)


def _config(model: Any) -> dict[str, object]:
    """What PEFT itself would write into ``adapter_config.json``."""
    config = model.peft_config["default"]
    found = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    return found | {"peft_type": config.peft_type.value, "inference_mode": True}


def _peft() -> Any:
    """The library, which is an extra.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError("lora needs the package peft, which is not installed; pip install 'titer[lora]'") from error
    return peft


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT draws a start that is replaced, from the global generator, and asks transformers for a name it deprecates."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
