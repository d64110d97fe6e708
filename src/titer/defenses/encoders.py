"""Whole image encoders that others have tuned, read without their code.

TeCoA, PMG-AFT  ``checkpoint.pth.tar``: the encoder is ``vision_encoder_state_dict``; prompters and an optimizer stand beside it.
RobustVLM       ``final.pt`` of FARE and its TeCoA: the bare state dictionary of open_clip's ``model.visual``.

Both use the names of OpenAI's CLIP. The text tower is not in such a file: it stays the model's own.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from titer.defenses.checkpoints import Opened, listed, open_foreign, source, tensors_of
from titer.defenses.learners import tower_module
from titer.defenses.task import Fitted, Weights
from titer.errors import InputError
from titer.models.encoder import Encoder
from titer.models.open_clip.keys import vision_origin
from titer.models.pixels import Triple
from titer.models.weights import load_strictly

Constants = Literal["model", "imagenet"]
"""Pixels of an encoder: normalised as the model given says, or as ImageNet's classifiers do (PMG-AFT's code)."""

_IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_EXPECTED = (
    "expected a tuned encoder of TeCoA's or PMG-AFT's code (vision_encoder_state_dict) or of RobustVLM's (a .pt of "
    "CLIP's visual tower)"
)
_PATCHES, _POSITIONS = "vision.embeddings.patch_embedding.weight", "vision.embeddings.position_embedding.weight"


def take_encoder(path: Path, encoder: Encoder, constants: Constants = "model") -> Fitted:
    """Someone else's tuned image tower in the place of the encoder's own.

    Args:
        path: their file.
        encoder: the model that was tuned; its text tower and preprocessing stay.
        constants: how the file's encoder expects its pixels.

    Returns:
        Weights under the names of the encoder's tower, for pixels as the encoder normalises them.

    Raises:
        InputError: for a file that is none, holds more than an encoder, or an encoder of other names or shapes.
    """
    opened = open_foreign(path, _EXPECTED)
    visual = {f"visual.{name}": tensor.detach().float() for name, tensor in _visual(opened).items()}
    tower = copy.deepcopy(tower_module(encoder))
    try:
        load_strictly(tower, visual, path, vision_origin)
    except InputError as error:
        raise InputError(f"{error}; expected the image tower of the model given ({encoder.name}), tuned") from error
    weights = {name: parameter.detach().clone() for name, parameter in tower.named_parameters()}
    if constants == "imagenet":
        weights |= _for_pixels_of(encoder, weights, *_IMAGENET)
    return Fitted({name: tensor.cpu() for name, tensor in weights.items()}, (), notes={"imported": source(opened)})


def _visual(opened: Opened) -> dict[str, Tensor]:
    """The tensors of the image tower, under CLIP's names without ``visual.``."""
    content = opened.content or {}
    if "vision_encoder_state_dict" not in content:
        return _bare(opened)
    beside = {name: tensors_of(content.get(name)) for name in ("state_dict", "add_prompter")}
    for name, tensors in beside.items():
        if any(tensor.numel() for tensor in tensors.values()):
            raise InputError(
                f"{opened.path} holds learned prompts ({name}: {listed(tensors)}) beside its tuned encoder, and its features are "
                "those of both; expected an encoder tuned without them"
            )
    return tensors_of(content["vision_encoder_state_dict"])


def _bare(opened: Opened) -> dict[str, Tensor]:
    tensors = tensors_of(opened.state)
    if any(name.startswith("visual.") for name in tensors):
        if others := [name for name in tensors if not name.startswith("visual.")]:
            raise InputError(
                f"{opened.path} holds a whole model, with {min(others)}; give it as one: --model open_clip:ARCHITECTURE/FILE"
            )
        tensors = {name.removeprefix("visual."): tensor for name, tensor in tensors.items()}
    if not {"conv1.weight", "class_embedding"} & tensors.keys():
        raise InputError(f"{opened.path}: {_EXPECTED}; it has {listed(opened.state)}")
    return tensors


def _for_pixels_of(encoder: Encoder, weights: Weights, mean: Triple, std: Triple) -> Weights:
    """The first tensors of a tower for pixels that the encoder normalises, of one for pixels of another normalisation.

    Both are affine in the image, and patches do not overlap: the factor goes into the patches' weights, the shift, the same
    for each patch, into the positions behind the class's.
    """
    patches, positions = weights[_PATCHES], weights[_POSITIONS]
    own_mean, own_std, mean_, std_ = (
        patches.new_tensor(values).view(1, 3, 1, 1)
        for values in (encoder.preprocess.mean, encoder.preprocess.std, mean, std)
    )
    shift = (patches * ((own_mean - mean_) / std_)).sum(dim=(1, 2, 3))
    moved = torch.cat([positions[:1], positions[1:] + shift])
    return {_PATCHES: patches * (own_std / std_), _POSITIONS: moved}
