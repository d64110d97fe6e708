"""Few-shot contexts of CoOp's code base and its descendants (Dassl: ``model.pth.tar-50``), read without their code.

Such a file is a pickled dictionary. Its ``state_dict`` holds ``ctx``; beside it stand an optimizer and a learning-rate
scheduler, and the scheduler is an object of their code, which a safe reader refuses. Here every name that the pickle asks
for and that is no tensor's is answered by a stand-in: nothing is imported, nothing of theirs is called.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from titer.errors import InputError

_EXPECTED = "expected a CoOp checkpoint such as prompt_learner/model.pth.tar-50, whose state_dict holds 'ctx'"


@dataclass(frozen=True, eq=False)
class Opened:
    """What someone else's file holds; nothing of it was run.

    Args:
        path: the file.
        content: its dictionary; None where it holds something else.
        sha256: of the file's bytes.
    """

    path: Path
    content: Mapping[Any, Any] | None
    sha256: str

    @property
    def state(self) -> Any:
        """The model's dictionary: that of a training checkpoint, else the whole."""
        return None if self.content is None else self.content.get("state_dict", self.content)

    @property
    def epoch(self) -> int | None:
        """After which it was saved, where the file says it."""
        epoch = (self.content or {}).get("epoch")
        return epoch if isinstance(epoch, int) else None


def open_foreign(path: Path, expected: str) -> Opened:
    """Open a pickled dictionary of tensors, whatever stands beside them.

    Args:
        path: the file.
        expected: what it should be, for errors.

    Raises:
        InputError: for a file that is none, is damaged, or asks for something that a stand-in cannot be.
    """
    content = _inert(path, expected)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Opened(path, content if isinstance(content, dict) else None, digest)


def tensors_of(state: object) -> dict[str, Tensor]:
    """The tensors of a dictionary, without the ``module.`` that a parallel run puts before their names."""
    items = state.items() if isinstance(state, Mapping) else ()
    return {str(key).removeprefix("module."): value for key, value in items if isinstance(value, Tensor)}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A learned context in someone else's file.

    Args:
        path: the file.
        context: token embeddings (tokens, width), or (classes, tokens, width), in float32.
        epoch: after which it was saved, where the file says it.
        sha256: of the file's bytes.
    """

    path: Path
    context: Tensor
    epoch: int | None
    sha256: str

    def check(self, tokens: int, width: int, classes: int | None) -> None:
        """Refuse a context of another shape.

        Args:
            tokens: learned tokens that there are places for.
            width: of the text tower's embeddings.
            classes: number of classes where each has a context of its own, else None.

        Raises:
            InputError: saying which setting or model would fit.
        """
        *own, found, wide = self.context.shape
        if wide != width:
            raise InputError(f"{self.path}: its tokens are {wide} wide, those of this model's text tower {width}")
        if bool(own) != (classes is not None):
            kind = "a context for each class" if own else "one context for all classes"
            raise InputError(f"{self.path} holds {kind}; expected class_specific={str(bool(own)).lower()}")
        if own and own[0] != classes:
            raise InputError(f"{self.path} holds contexts of {own[0]} classes, the data set has {classes}")
        if found != tokens:
            raise InputError(
                f"{self.path} holds {found} learned tokens, there are places for {tokens}; expected context={found}"
            )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the context of a checkpoint; ``token_prefix`` and ``token_suffix`` are not used.

    Raises:
        InputError: for a file that is none, is damaged, or asks for something that a stand-in cannot be.
    """
    opened = open_foreign(path, _EXPECTED)
    state = opened.state
    found = [value for key, value in state.items() if _is_context(key)] if isinstance(state, dict) else []
    if len(found) != 1 or not isinstance(found[0], Tensor) or found[0].dim() not in (2, 3):
        raise InputError(f"{path}: {_EXPECTED} of two or three dimensions; it has {listed(state)}")
    context = found[0].detach().float()
    _check_finite(path, {"ctx": context})
    return Checkpoint(path, context, opened.epoch, opened.sha256)


_RENAMED = (
    (r"prompt_learner\.ctx|ctx", "text.0"),
    (r"prompt_learner\.proj\.(weight|bias)", r"map.0.\1"),
    (r"prompt_learner\.compound_prompts_(text|image)\.(\d+)", r"\1.+\2"),
    (r"prompt_learner\.compound_prompt_projections\.(\d+)\.(weight|bias)", r"map.+\1.\2"),
    (r"(text|image)_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow", r"\1.\2"),
    (r"image_encoder\.VPT", "image.0"),
)
"""Keys of MaPLe's, FAP's and IVLP's code, and ours; ``+`` counts from the second layer on."""


@dataclass(frozen=True, eq=False)
class TokenCheckpoint:
    """Learned tokens of both towers, and a frame of pixels, in someone else's file.

    Args:
        path: the file.
        weights: tensors in float32 under our names.
        suffix: token embeddings (classes, rest, width) behind the context, where the file has them.
        epoch: after which it was saved, where the file says it.
        sha256: of the file's bytes.
    """

    path: Path
    weights: dict[str, Tensor]
    suffix: Tensor | None
    epoch: int | None
    sha256: str


def read_tokens(path: Path) -> TokenCheckpoint:
    """Learned tokens of a checkpoint of CoOp's, APT's, MaPLe's, FAP's, AdvMaPLe's, IVLP's, AdvVLP's or AdvVP's code.

    Frozen weights beside them are left out; half precision is widened.

    Raises:
        InputError: for a file that is none, is damaged, or holds a number that is not finite.
    """
    opened = open_foreign(path, _EXPECTED)
    tensors = tensors_of(opened.state)
    weights = {ours: value.detach().float() for key, value in tensors.items() if (ours := _ours(key)) is not None}
    if opened.content is not None and "add_prompter" in opened.content:
        weights = _visual_prompts(opened)
    if not weights.keys() & {"text.0", "image.0", "frame"}:
        raise InputError(
            f"{path}: expected learned tokens under the keys of CoOp's, MaPLe's, FAP's, IVLP's or AdvVP's code; it has "
            f"{listed(opened.state)}"
        )
    _check_finite(path, weights)
    suffix = next((value.float() for key, value in tensors.items() if key.rpartition(".")[2] == "token_suffix"), None)
    return TokenCheckpoint(path, weights, suffix, opened.epoch, opened.sha256)


def source(found: Checkpoint | TokenCheckpoint | Opened) -> dict[str, object]:
    """What an adapter says of the file that its tensors are from."""
    return {"file": found.path.name, "sha256": found.sha256, "epoch": found.epoch}


class TakesCheckpoint:
    """A defense that learns nothing where it is given someone else's file."""

    checkpoint: str | None

    @property
    def needs_labels(self) -> bool:
        """Whether the fit uses the labels of its images."""
        return self.checkpoint is None

    @property
    def needs_images(self) -> bool:
        """Whether the fit looks at images at all."""
        return self.checkpoint is None


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} holds nan or infinity")


SIDES = ("pad_up", "pad_right", "pad_down", "pad_left")
"""Strips of AdvVP's frame."""


def _visual_prompts(opened: Opened) -> dict[str, Tensor]:
    """The frame (``state_dict``) and the tokens (``add_prompter``) of AdvVP's code."""
    if "vision_encoder_state_dict" in (opened.content or {}):
        raise InputError(f"{opened.path} holds a tuned encoder; titer fit tecoa --set checkpoint= takes it over")
    sides, tokens = tensors_of(opened.state), tensors_of((opened.content or {})["add_prompter"])
    strange = (sides.keys() - set(SIDES)) | (tokens.keys() - {"prompt"})
    if strange or (sides and len(sides) < len(SIDES)):
        raise InputError(
            f"{opened.path}: expected a frame ({', '.join(SIDES)}) and tokens (prompt), got {', '.join([*sides, *tokens])}; "
            "patches of pixels, and tokens that a network makes, are not read"
        )
    found = {"frame": _framed(opened.path, {name: sides[name].detach().float() for name in SIDES})} if sides else {}
    if "prompt" in tokens and tokens["prompt"].numel():
        if tokens["prompt"].dim() != 3 or len(tokens["prompt"]) != 1:
            raise InputError(f"{opened.path}: prompt: expected (1, tokens, width), got {tuple(tokens['prompt'].shape)}")
        found["image.0"] = tokens["prompt"][0].detach().float()
    return found


def _framed(path: Path, sides: Mapping[str, Tensor]) -> Tensor:
    """Strips above and below over the whole width, left and right between them, as four that go round like a windmill's.

    Args:
        path: the file, for errors.
        sides: (1, 3, wide, size) above and below, (1, 3, size - 2 wide, wide) left and right.

    Returns:
        (4, 3, wide, size - wide).
    """
    *_, wide, size = 0, 0, *sides["pad_up"].shape
    flat, upright = (1, 3, wide, size), (1, 3, size - 2 * wide, wide)
    for name, expected in zip(SIDES, (flat, upright, flat, upright), strict=True):
        if sides[name].shape != expected:
            raise InputError(f"{path}: {name}: expected shape {expected}, got {tuple(sides[name].shape)}")
    middle = torch.cat(
        [sides["pad_left"], torch.zeros(1, 3, size - 2 * wide, size - 2 * wide), sides["pad_right"]], dim=3
    )
    whole = torch.cat([sides["pad_up"], middle, sides["pad_down"]], dim=2)[0]
    return torch.stack([torch.rot90(whole, -turn, (1, 2))[:, :wide, : size - wide] for turn in range(4)])


def _ours(key: str) -> str | None:
    """Our name for a key of theirs; None for what is frozen."""
    for pattern, name in _RENAMED:
        if found := re.fullmatch(pattern, key):
            return re.sub(r"\+(\d+)", lambda place: str(int(place[1]) + 1), found.expand(name))
    return None


def _is_context(key: object) -> bool:
    return isinstance(key, str) and key.rpartition(".")[2] == "ctx"


def listed(state: object) -> str:
    """The first few keys of a dictionary, for an error."""
    return ", ".join(sorted(map(str, state))[:5]) or "nothing" if isinstance(state, Mapping) else type(state).__name__


class _StandIn:
    """In the place of anything that a pickle names: takes what it is given and keeps nothing."""

    def __new__(cls, *_: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Nothing is kept."""

    def __setstate__(self, _: object) -> None:
        """Nothing is kept."""


def _dictionary(*_: object) -> dict[Any, Any]:
    """In the place of a dictionary with defaults, whose items follow in the pickle."""
    return {}


def _inert(path: Path, expected: str) -> Any:
    """What a checkpoint holds, with stand-ins for everything that torch does not call a weight.

    torch's own restricted reader does the work: it calls only what it is told to, and stand-ins are all that it is told.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stand_ins: list[tuple[Callable[..., Any], str]] = [
            (_dictionary if name == "collections.defaultdict" else _StandIn, name) for name in names
        ]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.simplefilter("ignore")  # of other pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"checkpoint: {path} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is refused, as it could execute code: {_reason(str(error))}") from error
    except (RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {expected}; it cannot be read: {str(error).splitlines()[0]}") from error


def _reason(said: str) -> str:
    """What torch objects to: it stands in the last paragraph but one of its message."""
    paragraphs = [line.strip() for line in said.splitlines() if line.strip()]
    return paragraphs[-2:][0].partition(". ")[0] if paragraphs else "nothing is said"
