"""Adapters written in other people's layouts: read back they are equal, and the keys and shapes are the published ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses.tiny import images
from published_files import biomed_directory, clip_weights, coca_directory, open_clip_directory
from tiny_models import clip_directory
from titer.cli.main import run
from titer.data import ClassText
from titer.defenses import DEFENSES, Task
from titer.defenses.adapter import facts_of, write_adapter
from titer.defenses.exports import LAYOUTS, export_adapter
from titer.defenses.learners import Tower
from titer.errors import InputError
from titer.models import Encoder, load_model

CLASSES = (ClassText("red", ("a scan",)), ClassText("green", ("lung tissue",)), ClassText("blue", ("blood cells",)))
BARE: dict[str, Any] = {"template": "{}."}
WIDE = 16


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def open_encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(open_clip_directory(tmp_path_factory.mktemp("open_clip")))


def task_on(encoder: Encoder) -> Task:
    return Task(encoder, CLASSES, (), None, lambda _: torch.zeros(3, 32, 32), 0)


def written(path: Path, encoder: Encoder, name: str, weights: Mapping[str, Tensor], **settings: Any) -> Path:
    facts = facts_of(name, DEFENSES.build(name, **settings), encoder, CLASSES)
    write_adapter(path, dict(weights), {**facts, "losses": [1.0] * 10, "notes": {}})
    return path


def tokens_of(encoder: Encoder, name: str, **settings: Any) -> dict[str, Tensor]:
    """Random tensors in the places that a method has."""
    method: Any = DEFENSES.build(name, **settings)
    chance = torch.Generator().manual_seed(5)
    shapes = method.layout().shapes(encoder, len(CLASSES))
    return {key: torch.randn(shape, generator=chance) for key, shape in shapes.items()}


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("apt", "coop", {"text": 2}),
    ("apt", "apt", {"text": 2, "class_specific": True}),
    ("advtp", "coop", {"text": 2}),
    ("maple", "maple", {}),
    ("advmaple", "maple", {}),
    ("fap", "fap", {}),
    ("capt", "fap", {}),
    ("capt-smooth", "fap", {}),
    ("ivlp", "ivlp", {}),
    ("advvlp", "ivlp", {}),
    ("advvp", "advvp", {}),
    ("advvp", "advvp", {"frame": 0.0}),
    ("advvp", "advvp", {"image": 0}),
]


@pytest.mark.parametrize(("name", "to", "settings"), CASES)
def test_what_is_written_is_read_back_as_it_was(
    name: str, to: str, settings: dict[str, Any], encoder: Encoder, tmp_path: Path
) -> None:
    weights = tokens_of(encoder, name, **BARE, **settings)
    adapter = written(tmp_path / "prompts", encoder, name, weights, **BARE, **settings)
    file = export_adapter(adapter, to, tmp_path / "theirs" / "model.pth.tar-10")
    assert torch.load(file, weights_only=True)["epoch"] == 10
    again = DEFENSES.build(name, checkpoint=str(file), **BARE, **settings).fit(task_on(encoder))
    assert again.weights.keys() == weights.keys()
    assert all(torch.equal(again.weights[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", ["coop", "promptsmooth"])
@pytest.mark.parametrize("shape", [(5, WIDE), (3, 5, WIDE)])
def test_a_context_is_read_back_as_it_was(name: str, shape: tuple[int, ...], encoder: Encoder, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"setting": "paper", "class_specific": len(shape) == 3, "context": 5}
    context = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    adapter = written(tmp_path / "prompts", encoder, name, {"context": context}, **settings)
    file = export_adapter(adapter, "coop", tmp_path / "model.pth.tar-10")
    assert torch.load(file, weights_only=True)["state_dict"].keys() == {"ctx"}
    again = DEFENSES.build(name, checkpoint=str(file), **settings).fit(task_on(encoder))
    assert torch.equal(again.weights["context"], context)


def test_keys_and_shapes_are_the_published_ones(encoder: Encoder, tmp_path: Path) -> None:
    """Those of CoOp's, MaPLe's, FAP's, IVLP's and AdvVP's code, in two layers of this small model."""
    found = {}
    for name in ("maple", "fap", "ivlp", "advvp"):
        adapter = written(tmp_path / name, encoder, name, tokens_of(encoder, name, **BARE), **BARE)
        found[name] = torch.load(export_adapter(adapter, name, tmp_path / f"{name}.pth.tar"), weights_only=True)
    shapes = {
        to: {key: tuple(tensor.shape) for key, tensor in content["state_dict"].items()} for to, content in found.items()
    }
    maps = {
        "prompt_learner.ctx": (2, WIDE), "prompt_learner.proj.weight": (WIDE, WIDE), "prompt_learner.proj.bias": (WIDE,),
        "prompt_learner.compound_prompt_projections.0.weight": (WIDE, WIDE),
        "prompt_learner.compound_prompt_projections.0.bias": (WIDE,),
    }  # fmt: skip
    assert shapes["maple"] == maps | {"prompt_learner.compound_prompts_text.0": (2, WIDE)}
    assert shapes["fap"] == maps | {"prompt_learner.compound_prompts_image.0": (2, WIDE)}
    assert shapes["ivlp"] == {
        "prompt_learner.ctx": (2, WIDE), "image_encoder.VPT": (2, WIDE),
        "image_encoder.transformer.resblocks.1.VPT_shallow": (2, WIDE),
        "text_encoder.transformer.resblocks.1.VPT_shallow": (2, WIDE),
    }  # fmt: skip
    assert shapes["advvp"] == {
        "pad_up": (1, 3, 4, 32), "pad_down": (1, 3, 4, 32), "pad_left": (1, 3, 24, 4), "pad_right": (1, 3, 24, 4),
    }  # fmt: skip
    assert found["advvp"]["add_prompter"]["prompt"].shape == (1, 5, WIDE)


@pytest.mark.parametrize("to", ["tecoa", "robustvlm"])
def test_an_encoder_is_written_under_clips_names(to: str, open_encoder: Encoder, tmp_path: Path) -> None:
    weights = {name: tensor + 0.1 for name, tensor in Tower(open_encoder, CLASSES, "{}", {}).start(0).items()}
    file = export_adapter(written(tmp_path / "prompts", open_encoder, "fare", weights), to, tmp_path / "file.pt")
    content = torch.load(file, weights_only=True)
    state = content["vision_encoder_state_dict"] if to == "tecoa" else content
    own = {
        name.removeprefix("visual."): tensor for name, tensor in clip_weights().items() if name.startswith("visual.")
    }
    assert state.keys() == own.keys()
    assert all(torch.allclose(state[name], own[name] + 0.1) for name in own)
    again = DEFENSES.build("tecoa", checkpoint=str(file)).fit(task_on(open_encoder))
    assert all(torch.equal(again.weights[name], weights[name]) for name in weights)


def test_a_file_holds_no_more_than_it_says(encoder: Encoder, tmp_path: Path) -> None:
    """Views are saved with all of their memory unless they are copied."""
    weights = tokens_of(encoder, "advvp")
    file = export_adapter(written(tmp_path / "prompts", encoder, "advvp", weights), "advvp", tmp_path / "file")
    for tensor in torch.load(file, weights_only=True)["state_dict"].values():
        assert tensor.untyped_storage().nbytes() == 4 * tensor.numel()


@pytest.mark.parametrize(
    ("name", "to", "settings", "says"),
    [
        ("maple", "maple", {}, r"learned in front of 'a scan', .* expected a fit with template '\{\}\.'"),
        ("maple", "fap", BARE, "coupling text-to-image, not image-to-text; FAP's layout has no place for it"),
        ("maple", "coop", BARE, "tokens elsewhere than in front of the class words"),
        ("fap", "fap", {**BARE, "shared_map": True, "depth": 2}, "a shared map"),
        ("advvlp", "advvp", BARE, "more than a frame of pixels"),
        ("advvp", "ivlp", BARE, "tokens in one tower alone"),
        ("apt", "coop", {**BARE, "text": 2, "position": "front"}, "tokens elsewhere than in front of the class words"),
        ("apt", "tecoa", {**BARE, "text": 2}, "something else than a tuned image encoder"),
        ("apt", "mapel", {**BARE, "text": 2}, "unknown layout of an adapter 'mapel'; did you mean 'maple'"),
    ],
)
def test_what_would_mean_something_else_is_refused(
    name: str, to: str, settings: dict[str, Any], says: str, encoder: Encoder, tmp_path: Path
) -> None:
    adapter = written(tmp_path / "prompts", encoder, name, tokens_of(encoder, name, **settings), **settings)
    with pytest.raises(InputError, match=says) as caught:
        export_adapter(adapter, to, tmp_path / "file")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "file").exists()


def test_contexts_of_other_sentences_and_banks_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    context = {"context": torch.zeros(5, WIDE)}
    own = written(tmp_path / "own", encoder, "coop", context, context=5)
    with pytest.raises(InputError, match=r"full stop behind the class's words; .* setting paper"):
        export_adapter(own, "coop", tmp_path / "file")
    adapting = written(tmp_path / "adapting", encoder, "promptsmooth", context, mode="combined", setting="paper")
    with pytest.raises(InputError, match="more than one context that stays as it is"):
        export_adapter(adapting, "coop", tmp_path / "file")


@pytest.mark.parametrize("make", [biomed_directory, coca_directory])
def test_towers_of_other_kinds_are_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    other = load_model(make(tmp_path / "model"))
    adapter = written(tmp_path / "prompts", other, "tecoa", Tower(other, CLASSES, "{}", {}).start(0))
    with pytest.raises(InputError, match="an image tower other than CLIP's own transformer"):
        export_adapter(adapter, "robustvlm", tmp_path / "file")


def test_the_verb_tells_an_adapter_from_a_run(
    open_encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = written(tmp_path / "prompts", open_encoder, "fare", Tower(open_encoder, CLASSES, "{}", {}).start(0))
    assert run(["export", str(adapter), "--to", "robustvlm", "--out", str(tmp_path / "out" / "final.pt")]) == 0
    assert "wrote" in capsys.readouterr().err
    again = DEFENSES.build("fare", checkpoint=str(tmp_path / "out" / "final.pt"))
    fitted, shown = again.fit(task_on(open_encoder)), images(open_encoder, 2)
    with torch.no_grad():
        found = again.classifier(open_encoder, CLASSES, fitted.weights, "x").encoder.image_features(shown)
        assert torch.equal(found, open_encoder.image_features(shown))
    assert run(["export", str(adapter), "--to", "cohen", "--out", str(tmp_path / "x")]) == 2
    assert "unknown layout of an adapter 'cohen'" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "nothing"), "--to", "maple", "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert set(LAYOUTS) == {"coop", "apt", "maple", "fap", "ivlp", "advvp", "tecoa", "robustvlm"}
