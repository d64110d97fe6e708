"""Encoders of TeCoA's, PMG-AFT's and RobustVLM's files, made here under their keys: the features of a forward pass by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from by_hand import assert_same_features, gelu
from defenses.tiny import CLASSES, data, images, judged
from models.open_clip.test_towers import clip_image
from published_files import PIXELS, Weights, biomed_directory, clip_weights, open_clip_directory
from tiny_models import siglip_directory
from titer.data import Data
from titer.defenses import DEFENSES, Task
from titer.defenses.adapter import load_classifier
from titer.errors import InputError
from titer.evaluate.fitting import fit
from titer.models import Encoder, load_model

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(open_clip_directory(tmp_path_factory.mktemp("open_clip")))


def tuned() -> Weights:
    """Another image tower of the same shapes, under CLIP's whole names."""
    return {name: tensor for name, tensor in clip_weights(seed=7).items() if name.startswith("visual.")}


def bare(prefix: str = "") -> Weights:
    return {prefix + name.removeprefix("visual."): tensor for name, tensor in tuned().items()}


def tecoa_file(path: Path, encoder: Any = None, **others: object) -> str:
    """As TeCoA's and PMG-AFT's code saves it: prompters without numbers, and an optimizer."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    content = {
        "epoch": 10, "state_dict": {}, "add_prompter": {"module.prompt": torch.zeros(1, 0, 768)},
        "vision_encoder_state_dict": bare() if encoder is None else encoder, "best_acc1": torch.tensor(31.5),
        "optimizer": optimizer.state_dict(), **others,
    }  # fmt: skip
    torch.save(content, path)
    return str(path)


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def task_on(encoder: Encoder) -> Task:
    return Task(encoder, CLASSES, (), None, lambda _: torch.zeros(3, 32, 32), 0)


def features_of(encoder: Encoder, name: str, shown: Tensor, **settings: Any) -> Tensor:
    method = DEFENSES.build(name, **settings)
    assert not method.needs_labels
    fitted = method.fit(task_on(encoder))
    with torch.no_grad():
        return method.classifier(encoder, CLASSES, fitted.weights, "theirs").encoder.image_features(shown)


def by_hand(shown: Tensor, constants: dict[str, list[float]], weights: Weights | None = None) -> Tensor:
    mean, std = (torch.tensor(constants[key]).view(3, 1, 1) for key in ("mean", "std"))
    return clip_image(weights or tuned(), (shown - mean) / std, gelu)


@pytest.mark.parametrize("name", ["tecoa", "fare"])
@pytest.mark.parametrize("layout", ["tecoa", "bare", "prefixed", "parallel"])
def test_features_are_those_of_the_files_own_forward_pass(
    name: str, layout: str, encoder: Encoder, tmp_path: Path
) -> None:
    file = {
        "tecoa": lambda path: tecoa_file(path),
        "bare": lambda path: saved(path, bare()),
        "prefixed": lambda path: saved(path, tuned()),
        "parallel": lambda path: saved(path, {"state_dict": bare("module.")}),
    }[layout](tmp_path / "file.pt")
    shown = images(encoder, 3)
    found = features_of(encoder, name, shown, checkpoint=file)
    assert_same_features(found, by_hand(shown, PIXELS))
    assert (found - encoder.image_features(shown)).abs().max() > 0.1


def test_an_encoder_for_other_pixels_gets_the_models_own(encoder: Encoder, tmp_path: Path) -> None:
    """PMG-AFT's code normalises as ImageNet's classifiers do; without the exchange the features are others."""
    file, shown = tecoa_file(tmp_path / "checkpoint.pth.tar"), images(encoder, 3)
    assert_same_features(features_of(encoder, "pmg-aft", shown, checkpoint=file), by_hand(shown, IMAGENET))
    assert_same_features(
        features_of(encoder, "pmg-aft", shown, checkpoint=file, constants="model"), by_hand(shown, PIXELS)
    )
    assert_same_features(
        features_of(encoder, "fare", shown, checkpoint=file, constants="imagenet"), by_hand(shown, IMAGENET)
    )
    assert (by_hand(shown, IMAGENET) - by_hand(shown, PIXELS)).abs().max() > 0.1


def test_half_precision_is_widened(encoder: Encoder, tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in bare().items()}
    shown = images(encoder, 2)
    rounded = {f"visual.{name}": tensor.float() for name, tensor in halves.items()}
    found = features_of(encoder, "tecoa", shown, checkpoint=saved(tmp_path / "half.pt", halves))
    assert_same_features(found, by_hand(shown, PIXELS, rounded))


@pytest.mark.parametrize("name", ["tecoa", "pmg-aft", "fare"])
def test_an_adapter_is_written_without_a_look_at_images(name: str, encoder: Encoder, tmp_path: Path) -> None:
    def unread(*_: object) -> Any:
        raise AssertionError("an image was read")

    colours = data()
    hidden = Data(colours.name, "all", None, colours.classes, colours.examples, (), unread, unread)
    file = tecoa_file(tmp_path / "checkpoint.pth.tar")
    done = fit(name, encoder, hidden, out=tmp_path / "prompts", settings={"checkpoint": file})
    assert (done.images, done.loss) == (0, None)
    facts = json.loads((tmp_path / "prompts" / "adapter_config.json").read_text())["titer"]
    assert facts["notes"]["imported"]["epoch"] == 10
    assert facts["shots"] is None
    shown = images(encoder, 2)
    classifier = load_classifier(tmp_path / "prompts", encoder, judged(data()))
    with torch.no_grad():
        found = classifier.encoder.image_features(shown)
    assert_same_features(found, by_hand(shown, IMAGENET if name == "pmg-aft" else PIXELS))


def without(name: str) -> Weights:
    return {key: tensor for key, tensor in bare().items() if key != name}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"weight": torch.ones(2)}, "expected a tuned encoder of TeCoA's .*; it has weight"),
        ([1], "expected a tuned encoder of TeCoA's .*; it has NoneType"),
        (clip_weights(), r"holds a whole model, with ln_final\.bias; .* --model open_clip:"),
        (without("proj"), r"1 tensors are missing, such as visual\.proj; expected the image tower of the model given"),
        ({**bare(), "prompt_pos_embedding": torch.ones(5, 32)}, r"do not belong .* visual\.prompt_pos_embedding"),
        ({**bare(), "proj": torch.ones(32, 9)}, r"visual\.proj has shape \(32, 9\), expected \(32, 8\)"),
        ({**bare(), "proj": torch.full((32, 8), torch.nan)}, r"visual\.proj holds nan or infinity"),
    ],
)
def test_what_is_no_encoder_of_this_model(content: object, says: str, encoder: Encoder, tmp_path: Path) -> None:
    file = saved(tmp_path / "file.pt", content)
    with pytest.raises(InputError, match=says) as caught:
        DEFENSES.build("fare", checkpoint=file).fit(task_on(encoder))
    assert "\n" not in str(caught.value)


def test_an_encoder_that_was_tuned_with_prompts_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    file = tecoa_file(tmp_path / "file", state_dict={"module.pad_up": torch.ones(1, 3, 4, 32)})
    with pytest.raises(InputError, match=r"holds learned prompts \(state_dict: pad_up\) beside its tuned encoder"):
        DEFENSES.build("tecoa", checkpoint=file).fit(task_on(encoder))


@pytest.mark.parametrize("make", [siglip_directory, biomed_directory])
def test_towers_of_other_kinds_are_refused(make: Any, tmp_path: Path) -> None:
    other = load_model(make(tmp_path / "model"))
    with pytest.raises(InputError, match="expected the image tower of the model given"):
        DEFENSES.build("tecoa", checkpoint=tecoa_file(tmp_path / "file")).fit(task_on(other))


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="constants"):
        DEFENSES.build("tecoa", constants="openai")
    assert DEFENSES.build("tecoa").needs_labels
