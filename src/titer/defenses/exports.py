"""Adapters in the layouts of other people's code: the reverse of what ``checkpoint`` takes over.

Their code puts a full stop behind the class words and reads CLIP's names; what was learned otherwise would give other
answers there without a word, so it is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from titer.defenses.adapter import CONFIG, Adapter, read_adapter
from titer.defenses.checkpoints import SIDES
from titer.defenses.coop import Coop, recipe_of
from titer.defenses.learners import Coupling, Layout
from titer.defenses.pretrained import publish
from titer.defenses.prompted import PromptTuning
from titer.defenses.promptsmooth import PromptSmooth
from titer.defenses.tecoa import Published
from titer.errors import InputError, unknown
from titer.models.open_clip.keys import vision_origin

State = dict[str, Tensor]
_HUB = "hub"


def is_adapter(path: Path) -> bool:
    """Whether a directory was written by ``titer fit``."""
    return (path / CONFIG).is_file()


def export_adapter(path: Path, to: str, out: Path) -> Path:
    """Write an adapter as other people's code saves it.

    Args:
        path: the adapter's directory.
        to: ``coop`` (and ``apt``, the same), ``maple``, ``fap``, ``ivlp``, ``advvp``, ``tecoa`` or ``robustvlm``; ``hub`` for a
            copy that can be shared.
        out: the file to write; for ``hub`` a directory.

    Raises:
        InputError: for an unknown layout, an adapter that it has no place for, or that would mean something else there.
    """
    if to == _HUB:
        return publish(path, out)
    if to not in LAYOUTS:
        raise unknown("layout of an adapter", to, [*LAYOUTS, _HUB])
    adapter = read_adapter(path)
    content = LAYOUTS[to](adapter)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("wb") as stream:
            torch.save(content, stream)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    return out


def _coop(adapter: Adapter) -> dict[str, Any]:
    defense = adapter.defense
    if isinstance(defense, Coop | PromptSmooth):
        if adapter.weights.keys() != {"context"} or getattr(defense, "mode", "few-shot") not in ("few-shot", "offline"):
            raise _no_place(adapter, "CoOp's", "more than one context that stays as it is")
        _check_sentences(adapter, recipe_of(defense).template)
        return _trained(adapter, {"ctx": adapter.weights["context"]})
    layout = _layout(adapter, "CoOp's")
    if adapter.weights.keys() != {"text.0"} or layout.position != "end":
        raise _no_place(adapter, "CoOp's", "tokens elsewhere than in front of the class words, in the first layer")
    return _trained(adapter, {"ctx": adapter.weights["text.0"]})


def _deep(code: str, coupling: Coupling) -> Callable[[Adapter], dict[str, Any]]:
    """The layout of deep prompts of MaPLe's kind."""

    def content(adapter: Adapter) -> dict[str, Any]:
        layout = _layout(adapter, code)
        if layout.coupling != coupling:
            raise _no_place(adapter, code, f"coupling {layout.coupling}, not {coupling}")
        if layout.shared_map or layout.frame or not (layout.text and layout.image):
            raise _no_place(adapter, code, "a shared map, a frame, or tokens in one tower alone")
        key = _independent if coupling == "independent" else _coupled
        return _trained(adapter, {key(name): tensor for name, tensor in adapter.weights.items()})

    return content


def _coupled(name: str) -> str:
    """The key of a tensor in MaPLe's and FAP's code, which counts deeper layers from 0."""
    kind, layer, *part = name.split(".")
    if layer == "0":
        return f"prompt_learner.proj.{part[0]}" if kind == "map" else "prompt_learner.ctx"
    place = {"map": "prompt_learner.compound_prompt_projections"}.get(kind, f"prompt_learner.compound_prompts_{kind}")
    return ".".join([place, str(int(layer) - 1), *part])


def _independent(name: str) -> str:
    """The key of a tensor in IVLP's and AdvVLP's code."""
    kind, layer = name.split(".")
    first = {"text.0": "prompt_learner.ctx", "image.0": "image_encoder.VPT"}
    return first.get(name, f"{kind}_encoder.transformer.resblocks.{layer}.VPT_shallow")


def _advvp(adapter: Adapter) -> dict[str, Any]:
    if not isinstance(adapter.defense, PromptTuning) or adapter.weights.keys() - {"frame", "image.0"}:
        raise _no_place(adapter, "AdvVP's", "more than a frame of pixels, and image tokens in the first layer")
    state: State = {}
    if "frame" in adapter.weights:
        *_, wide, rest = adapter.weights["frame"].shape
        whole = adapter.defense.layout().framed(adapter.weights, wide + rest)
        assert whole is not None  # noqa: S101 - there is a frame
        above, middle, below = torch.tensor_split(whole[None], [wide, rest], dim=2)
        left, _, right = torch.tensor_split(middle, [wide, rest], dim=3)
        state = dict(zip(SIDES, (above, right, below, left), strict=True))
    tokens = {"prompt": adapter.weights["image.0"][None]} if "image.0" in adapter.weights else {}
    return {**_trained(adapter, state), "add_prompter": _owned(tokens)}


def _tecoa(adapter: Adapter) -> dict[str, Any]:
    return {**_trained(adapter, {}), "add_prompter": {}, "vision_encoder_state_dict": _visual(adapter, "TeCoA's")}


def _robustvlm(adapter: Adapter) -> dict[str, Any]:
    return dict(_visual(adapter, "RobustVLM's"))


def _visual(adapter: Adapter, code: str) -> State:
    """CLIP's image tower under OpenAI's names, without ``visual.``."""
    if not isinstance(adapter.defense, Published):
        raise _no_place(adapter, code, "something else than a tuned image encoder")
    names = {"vision.embeddings.class_embedding", "vision.pre_layrnorm.weight", "projection.weight"}
    others = {"vision.embeddings.patch_embedding.bias", "pool.query"}
    if names - adapter.weights.keys() or others & adapter.weights.keys():
        raise _no_place(adapter, code, "an image tower other than CLIP's own transformer")
    thirds: dict[str, dict[int, Tensor]] = {}
    state: State = {}
    for name, tensor in adapter.weights.items():
        place = vision_origin(name)
        theirs = re.sub(r"^visual\.", "", place.name)
        if place.third is None:
            state[theirs] = tensor.T if place.transposed else tensor
        else:
            thirds.setdefault(theirs, {})[place.third] = tensor
    state |= {theirs: torch.cat([parts[third] for third in sorted(parts)]) for theirs, parts in thirds.items()}
    return _owned(state)


def _layout(adapter: Adapter, code: str) -> Layout:
    if not isinstance(adapter.defense, PromptTuning):
        raise _no_place(adapter, code, "no learned tokens of its kind")
    layout = adapter.defense.layout()
    if layout.text:
        _check_sentences(adapter, adapter.defense.template)
    return layout


def _check_sentences(adapter: Adapter, template: str) -> None:
    """Refuse a context of other sentences than ``context, class words, full stop``."""
    for text in adapter.classes:
        if not (said := template.replace("{}", text.texts[0])).endswith("."):
            raise InputError(
                f"{adapter.path} was learned in front of {said!r}, and code of CoOp's family puts a full stop behind the class's "
                "words; expected a fit with template '{}.' (of coop and promptsmooth: setting paper)"
            )


def _no_place(adapter: Adapter, code: str, what: str) -> InputError:
    return InputError(f"{adapter.path} ({adapter.facts['defense']}) has {what}; {code} layout has no place for it")


def _trained(adapter: Adapter, state: Mapping[str, Tensor]) -> dict[str, Any]:
    imported = adapter.facts.get("notes", {}).get("imported", {})
    epoch = imported.get("epoch") or len(adapter.facts.get("losses", ()))
    return {"state_dict": _owned(state), "epoch": epoch}


def _owned(state: Mapping[str, Tensor]) -> State:
    """Tensors with memory of their own: a part of another one would take all of it along."""
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}


LAYOUTS: Mapping[str, Callable[[Adapter], dict[str, Any]]] = {
    "coop": _coop,
    "apt": _coop,
    "maple": _deep("MaPLe's", "text-to-image"),
    "fap": _deep("FAP's", "image-to-text"),
    "ivlp": _deep("IVLP's", "independent"),
    "advvp": _advvp,
    "tecoa": _tecoa,
    "robustvlm": _robustvlm,
}
