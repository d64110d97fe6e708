"""A directory with what a fit has learned: ``adapter_model.safetensors``, ``adapter_config.json`` (PEFT's names), a card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from titer.data.example import ClassText, Data, source_of
from titer.defenses import DEFENSES, QUESTION_DEFENSES
from titer.defenses.card import CARD, card
from titer.defenses.defense import Defense, QuestionDefense
from titer.defenses.task import Weights
from titer.errors import InputError, PictureError, unknown
from titer.models.classifier import Classifier, reordered
from titer.models.encoder import Encoder
from titer.models.fusion import Answerer
from titer.registry import settings_of

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SEVERAL_LABELS = "several_labels"
"""A fact that is there where an image may have several of the classes: a sigmoid of each logit is its score."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a fit has learned, and from what.

    Args:
        path: its directory.
        defense: the method with all settings.
        weights: tensors by name.
        facts: what ``adapter_config.json`` says under ``titer``.
    """

    path: Path
    defense: Defense | QuestionDefense
    weights: Weights
    facts: Mapping[str, Any]

    @property
    def classes(self) -> tuple[ClassText, ...]:
        """The classes it was learned on."""
        return tuple(ClassText(entry["label"], tuple(entry["texts"])) for entry in self.facts["classes"])

    @property
    def encoder(self) -> tuple[str, str]:
        """Name and fingerprint of the encoder it was learned on."""
        return self.facts["encoder"]["name"], self.facts["encoder"]["fingerprint"]


def write_adapter(
    path: Path, weights: Weights, facts: Mapping[str, Any], foreign: Mapping[str, object] | None = None
) -> None:
    """Write an adapter; the directory must be new or empty, or hold one already.

    Args:
        path: the directory.
        weights: tensors by name.
        facts: what stands under ``titer`` in the configuration.
        foreign: entries of the configuration beside that, for another library.

    Raises:
        InputError: if the directory holds anything else, or cannot be written.
    """
    check_directory(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, path / WEIGHTS)
        content = json.dumps({**(foreign or {}), "titer": facts}, indent=1, ensure_ascii=False)
        (path / CARD).write_text(card(facts), encoding="utf-8")
        (path / CONFIG).write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from error


def check_directory(path: Path) -> None:
    """Refuse a place that is a file, or a directory with something else in it.

    Raises:
        InputError: naming it.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; --out needs a directory")
    if path.is_dir() and any(path.iterdir()) and not (path / CONFIG).exists():
        raise InputError(f"{path} is not empty and holds no adapter; choose another --out")


def read_config(path: Path) -> dict[str, Any]:
    """All of an adapter's configuration: ours under ``titer``, and another library's beside it."""
    content: dict[str, Any] = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    return content


def read_adapter(path: Path) -> Adapter:
    """Read a directory written by ``titer fit``.

    Raises:
        InputError: if it is none, or is damaged.
    """
    try:
        facts = read_config(path)["titer"]
        adapter = Adapter(path, _method(facts), dict(load_file(path / WEIGHTS)), facts)
        _ = adapter.classes, adapter.encoder  # what is missing is told here
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = WEIGHTS if (path / CONFIG).is_file() else CONFIG
        raise InputError(
            f"--prompts {path}: expected 'zero-shot' or a directory written by titer fit; {missing} is missing"
        ) from error
    except KeyError as error:
        raise InputError(f"{path / CONFIG} was not written by titer: there is no key {error}") from error
    except (ValueError, TypeError, AttributeError, SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    for name, tensor in adapter.weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} holds nan or infinity")
    return adapter


def _method(facts: Mapping[str, Any]) -> Defense | QuestionDefense:
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in facts["settings"].items()}
    return build_defense(facts["defense"], settings)


def build_defense(name: str, settings: Mapping[str, Any]) -> Defense | QuestionDefense:
    """A defense by its registered name, of images or of questions.

    Raises:
        InputError: for an unknown name or setting.
    """
    if name in QUESTION_DEFENSES:
        return QUESTION_DEFENSES.build(name, **settings)
    if name not in DEFENSES:
        raise unknown("defense", name, [*DEFENSES, *QUESTION_DEFENSES])
    return DEFENSES.build(name, **settings)


def load_classifier(
    path: Path, encoder: Encoder, data: Data, *, new_classes: bool = False, allow: Sequence[str] = ()
) -> Classifier:
    """The classifier that an adapter makes on an encoder, for the classes of a data set.

    Raises:
        InputError: if encoder, classes or shapes do not match, or the data hold images or groups that it was fitted on.
    """
    adapter = read_adapter(path)
    defense = _of_images(adapter)
    _check_encoder(adapter, encoder)
    if data.exclusive == bool(adapter.facts.get(SEVERAL_LABELS, False)):
        kinds = "one class for an image", "several labels for an image, as multilabel:DATA"
        learned, here = kinds if data.exclusive is False else kinds[::-1]
        raise InputError(f"{path} has learned {learned}, and {data.name} has {here}; expected the same")
    wanted = [text.label for text in data.classes]
    fitted = [text.label for text in adapter.classes]
    known = sorted(fitted) == sorted(wanted)
    if not known:
        _check_move(adapter, data, new_classes, bound=defense.class_bound)
    if "overlap" not in allow:
        _unseen(adapter, data)
    if known:
        return reordered(classifier_of(adapter, encoder), [fitted.index(label) for label in wanted])
    classifier = _made(adapter, defense, encoder, data.classes)
    return dataclasses.replace(
        classifier, warnings=(*classifier.warnings, "moved to other classes than it was fitted on")
    )


def classifier_of(adapter: Adapter, encoder: Encoder) -> Classifier:
    """The classifier that an adapter makes on an encoder, for the classes that it was fitted on.

    Raises:
        InputError: if encoder or shapes do not match, or it answers questions.
    """
    defense = _of_images(adapter)
    _check_encoder(adapter, encoder)
    return _made(adapter, defense, encoder, adapter.classes)


def _of_images(adapter: Adapter) -> Defense:
    if isinstance(adapter.defense, QuestionDefense):
        raise InputError(f"{adapter.path} answers questions: it needs data with questions, and titer attack")
    return adapter.defense


def load_answerer(path: Path, encoder: Encoder, data: Data, *, allow: Sequence[str] = ()) -> Answerer:
    """What an adapter answers to questions about images; its answers are those of its fit.

    Raises:
        InputError: if it is none of questions, the encoder or its shapes do not match, or the data hold images or groups
            that it was fitted on.
    """
    adapter = read_adapter(path)
    defense = adapter.defense
    if not isinstance(defense, QuestionDefense):
        raise InputError(f"{path} answers no questions: expected what titer fit fusion has written")
    _check_encoder(adapter, encoder)
    if "overlap" not in allow:
        _unseen(adapter, data)
    with _fitting(adapter, encoder):
        found = defense.answerer(
            encoder, adapter.classes, adapter.weights, adapter.path.resolve().name, adapter.facts["notes"]
        )
        with torch.no_grad():
            logits = found.asking(["?"])(torch.zeros(1, 3, encoder.size, encoder.size, device=encoder.device))
    _check_logits(adapter, logits, len(adapter.classes))
    return dataclasses.replace(found, warnings=tuple(adapter.facts.get("warnings", ())))


def answers_questions(path: Path) -> bool:
    """Whether a directory holds an adapter that answers questions; False for whatever else it is."""
    return _facts(path).get("defense") in QUESTION_DEFENSES


def tells_findings(path: Path) -> bool:
    """Whether a directory holds an adapter that gives an image several labels; False for whatever else it is."""
    return bool(_facts(path).get(SEVERAL_LABELS, False))


def _facts(path: Path) -> Mapping[str, Any]:
    try:
        facts = read_config(path)["titer"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _check_encoder(adapter: Adapter, encoder: Encoder) -> None:
    name, fingerprint = adapter.encoder
    if fingerprint != encoder.fingerprint:
        raise InputError(
            f"{adapter.path} was fitted on another encoder ({name}, {fingerprint[:12]}) than "
            f"{encoder.name} ({encoder.fingerprint[:12]}); fit it on this one"
        )


@contextmanager
def _fitting(adapter: Adapter, encoder: Encoder) -> Iterator[None]:
    """Tensors of wrong shapes are told in one line, with the adapter's name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{adapter.path}: {error}") from error
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        reason = f"there is no tensor {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise InputError(f"{adapter.path}: its tensors do not fit {encoder.name}: {reason}") from error


def _check_logits(adapter: Adapter, logits: Tensor, classes: int) -> None:
    if logits.shape != (1, classes):
        raise InputError(f"{adapter.path}: its tensors give {logits.shape[-1]} logits for {classes} classes")


def _made(adapter: Adapter, defense: Defense, encoder: Encoder, classes: Sequence[ClassText]) -> Classifier:
    """The classifier with what its fit says of it, tried once: wrong shapes are found here and not in the middle of a run."""
    with _fitting(adapter, encoder):
        classifier = defense.classifier(encoder, classes, adapter.weights, adapter.path.resolve().name)
        with torch.no_grad():
            logits = classifier.head(torch.zeros(1, classifier.encoder.dim, device=encoder.device))
    _check_logits(adapter, logits, len(classes))
    noise = defense.noise
    return dataclasses.replace(
        classifier,
        sigmas=(min(noise), max(noise)) if noise else None,
        warnings=tuple(adapter.facts.get("warnings", ())),
    )


def _check_move(adapter: Adapter, data: Data, new_classes: bool, *, bound: bool) -> None:
    """Refuse other classes than those of the fit, unless asked for and possible."""
    fitted, wanted = ([text.label for text in classes] for classes in (adapter.classes, data.classes))
    if bound:
        raise InputError(f"{adapter.path} is bound to the classes {fitted}, {data.name} has {wanted}")
    if not new_classes:
        raise InputError(
            f"{adapter.path} was fitted on the classes {fitted}, {data.name} has {wanted}; --new-classes moves it there"
        )


def _unseen(adapter: Adapter, data: Data) -> None:
    """Refuse to judge a fit on its own images, or on others of the same patients or slides."""
    # a group's name means nothing in another set
    if source_of(str(adapter.facts.get("data", {}).get("name"))) == data.source:
        shared = {example.group for example in data.examples if example.group is not None} & {
            *adapter.facts.get("groups", ())
        }
        if shared:
            raise InputError(
                f"{adapter.path} was fitted on images of {len(shared)} of these groups (patients, slides), such as "
                f"{min(shared)!r}; --allow overlap accepts that"
            )
    used = set(adapter.facts.get("sha256", ())) - {""}
    seen = []
    for example in data.examples if used else ():
        try:
            seen += [example.id] if data.digest(example) in used else []
        except PictureError:
            continue  # it will be recorded as failed when it is read
    if seen:
        raise InputError(
            f"{adapter.path} was fitted on {len(seen)} of these images, such as {seen[0]}; --allow overlap accepts that"
        )


def facts_of(
    name: str, defense: Defense | QuestionDefense, encoder: Encoder, classes: Sequence[ClassText]
) -> dict[str, Any]:
    """What identifies a fit: method, encoder and classes."""
    return {
        "defense": name,
        "settings": settings_of(defense),
        "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint, "size": encoder.size},
        "classes": [{"label": text.label, "texts": list(text.texts)} for text in classes],
    }
