"""A dual encoder as a value, and `wrap` for anyone's own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titer.errors import InputError
from titer.models.pixels import Preprocess, Triple
from titer.models.weights import fingerprint_of

ImageTower = Callable[[Tensor], Tensor]
Front = Callable[[Tensor], Tensor]
"""Images (batch, 3, size, size) in [0, 1] -> images of that shape; a row's answer is a function of that row alone."""
TextTower = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, eq=False)
class Encoder:
    """Images and texts to unit features in one space.

    Args:
        name: as the user gave it.
        image_tower: normalised images (batch, 3, size, size) -> features (batch, dim), not necessarily unit.
        text_tower: texts -> features (texts, dim), not necessarily unit.
        preprocess: resizing and normalisation.
        dim: number of features.
        logit_scale: multiplies the cosine of image and text.
        fingerprint: SHA-256 of weights, configuration and preprocessing.
        parameters: number of weights; 0 where not known.
        device, dtype: of the weights.
        upstream: SHA-256 of the pictures it was trained on, where the model's directory lists them.
        front: what images pass before normalisation, such as a denoiser; the fingerprint covers its weights.
        architecture: what it is made of, in words, where known.
    """

    name: str
    image_tower: ImageTower
    text_tower: TextTower
    preprocess: Preprocess
    dim: int
    logit_scale: float
    fingerprint: str
    parameters: int
    device: torch.device
    dtype: torch.dtype
    upstream: frozenset[str] = frozenset()
    front: Front | None = None
    architecture: str = ""

    @property
    def size(self) -> int:
        """Height and width of the input, in pixels."""
        return self.preprocess.size

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit features (batch, dim) in float32 of images (batch, 3, size, size) in [0, 1]; differentiable."""
        return F.normalize(self.image_features(images), dim=-1)

    def image_features(self, images: Tensor) -> Tensor:
        """The same before they are made unit."""
        return self.image_tower(self.normalised(images)).float()

    def normalised(self, images: Tensor) -> Tensor:
        """What the image tower is shown of images (batch, 3, size, size) in [0, 1]."""
        shown = images.to(self.device) if self.front is None else self.front(images.to(self.device))
        return self.preprocess.normalise(shown).to(self.dtype)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit features (texts, dim) in float32."""
        return F.normalize(self.text_tower(list(texts)).float(), dim=-1)


def wrap(
    encode_image: ImageTower,
    encode_text: TextTower,
    size: int,
    mean: Triple,
    std: Triple,
    *,
    name: str = "wrapped",
    logit_scale: float = 100.0,
    fingerprint: str | None = None,
) -> Encoder:
    """An encoder from any PyTorch code.

    Args:
        encode_image: normalised images (batch, 3, size, size) -> features (batch, dim).
        encode_text: list of texts -> features (texts, dim).
        size: height and width of the input, in pixels.
        mean, std: normalisation per channel.
        name: what runs call it.
        logit_scale: multiplies the cosine.
        fingerprint: identifies the weights; taken from the modules behind the two callables unless given.

    Raises:
        InputError: if no module is found and no fingerprint given, or a probe shows wrong shapes.
    """
    modules = list(dict.fromkeys([*_modules(encode_image), *_modules(encode_text)]))
    if not modules and fingerprint is None:
        raise InputError(
            "no torch module found behind encode_image and encode_text, so the weights cannot be fingerprinted; "
            "pass fingerprint='...', a text that changes whenever the weights do"
        )
    for module in modules:
        module.eval()
    weights = [parameter for module in modules for parameter in module.parameters()]
    device = weights[0].device if weights else torch.device("cpu")
    dtype = weights[0].dtype if weights else torch.float32
    preprocess = Preprocess(size=size, mean=mean, std=std)
    states = {
        f"{place}.{key}": value for place, module in enumerate(modules) for key, value in module.state_dict().items()
    }
    return Encoder(
        name=name,
        image_tower=encode_image,
        text_tower=encode_text,
        preprocess=preprocess,
        dim=_probe(encode_image, encode_text, size, device, dtype),
        logit_scale=logit_scale,
        fingerprint=fingerprint_of(
            states, name if fingerprint is None else fingerprint, preprocess, dtype, logit_scale
        ),
        parameters=sum(weight.numel() for weight in weights),
        device=device,
        dtype=dtype,
    )


def _probe(
    encode_image: ImageTower, encode_text: TextTower, size: int, device: torch.device, dtype: torch.dtype
) -> int:
    with torch.inference_mode():
        images = encode_image(torch.zeros(2, 3, size, size, device=device, dtype=dtype))
        texts = encode_text(["one", "two", "three"])
    for what, features, rows in (("encode_image", images, 2), ("encode_text", texts, 3)):
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != rows:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise InputError(f"{what}: expected features ({rows}, dim) for {rows} inputs, got {shape}")
        if not torch.isfinite(features).all():
            raise InputError(f"{what}: expected finite features, got nan or infinity")
    if images.shape[1] != texts.shape[1]:
        raise InputError(
            f"image features have {images.shape[1]} entries, text features {texts.shape[1]}; expected one space"
        )
    return int(images.shape[1])


def _modules(function: object) -> Iterator[nn.Module]:
    """The modules that a callable is, is bound to, or closes over."""
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, functools.partial):
        for part in (function.func, *function.args, *function.keywords.values()):
            yield from _modules(part)
    elif isinstance(owner := getattr(function, "__self__", None), nn.Module):
        yield owner
    else:
        for cell in getattr(function, "__closure__", None) or ():
            if isinstance(cell.cell_contents, nn.Module) or callable(cell.cell_contents):
                yield from _modules(cell.cell_contents)
        names = getattr(getattr(function, "__code__", None), "co_names", ())
        scope = getattr(function, "__globals__", {})
        for name in names:
            if isinstance(scope.get(name), nn.Module):
                yield scope[name]
