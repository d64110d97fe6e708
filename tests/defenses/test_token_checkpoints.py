"""Tokens of MaPLe's, FAP's, IVLP's, APT's and AdvVP's files, made here under their keys: logits as by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from defenses.test_learners import image_features_by_hand
from defenses.tiny import CLASSES, images
from tiny_models import clip_directory
from titer.defenses import DEFENSES, Task
from titer.errors import InputError
from titer.models import Encoder, load_model
from titer.models.prompts import sentences

DEEP, WIDE = 2, 16


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


def task_on(encoder: Encoder, classes: Any = CLASSES) -> Task:
    return Task(encoder, classes, (), None, lambda _: torch.zeros(3, 32, 32), 0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def suffix(encoder: Encoder, tokens: int = 2) -> Tensor:
    """What follows the context, padded to one length, as their prompt learners keep it."""
    made = sentences(encoder, [named.texts[0] for named in CLASSES], tokens)
    ids = [list(row[made.tower.start + tokens :]) for row in made.ids]
    longest = max(map(len, ids)) + 3
    return made.tower.embedding.weight[torch.tensor([row + [0] * (longest - len(row)) for row in ids])].detach()


def projection(place: str) -> dict[str, Tensor]:
    return {f"prompt_learner.{place}.weight": random(WIDE, WIDE), f"prompt_learner.{place}.bias": random(WIDE)}


def files(encoder: Encoder) -> dict[str, dict[str, Tensor]]:
    prefix = {"prompt_learner.ctx": random(2, WIDE), "prompt_learner.token_suffix": suffix(encoder)}
    coupled = prefix | projection("proj") | projection("compound_prompt_projections.0")
    frozen = {"image_encoder.conv1.weight": random(2, 2), "logit_scale": random(1)}
    return {
        "maple": coupled | {"prompt_learner.compound_prompts_text.0": random(2, WIDE) + 1} | frozen,
        "fap": coupled | {"prompt_learner.compound_prompts_image.0": random(2, WIDE) + 1} | frozen,
        "advvlp": prefix
        | {
            "image_encoder.VPT": random(2, WIDE) - 1,
            "image_encoder.transformer.resblocks.1.VPT_shallow": random(2, WIDE) + 1,
            "text_encoder.transformer.resblocks.1.VPT_shallow": random(2, WIDE) + 2,
        },
    }


def saved(path: Path, state: dict[str, Tensor]) -> str:
    torch.save({"state_dict": state, "epoch": 10}, path)
    return str(path)


def by_hand(encoder: Encoder, name: str, state: dict[str, Tensor], shown: Tensor) -> Tensor:
    """Their forward pass, written straight from the tensors of their file."""
    get, linear = {key.removeprefix("prompt_learner."): value for key, value in state.items()}.__getitem__, F.linear
    text = [get("ctx")]
    if name == "advvlp":
        text.append(state["text_encoder.transformer.resblocks.1.VPT_shallow"])
        image = [state["image_encoder.VPT"], state["image_encoder.transformer.resblocks.1.VPT_shallow"]]
    else:
        image = [linear(text[0], get("proj.weight"), get("proj.bias"))]
        own = get("compound_prompts_text.0" if name == "maple" else "compound_prompts_image.0")
        made = linear(own, get("compound_prompt_projections.0.weight"), get("compound_prompt_projections.0.bias"))
        text.append(own if name == "maple" else made)
        image.append(made if name == "maple" else own)
    places = sentences(encoder, [named.texts[0] for named in CLASSES], 2)
    features = F.normalize(image_features_by_hand(encoder, shown, image), dim=-1)
    return encoder.logit_scale * features @ places.features(text[0], text[1:]).T


@pytest.mark.parametrize("name", ["maple", "fap", "advvlp"])
def test_imported_tokens_give_the_logits_of_their_own_forward_pass(encoder: Encoder, name: str, tmp_path: Path) -> None:
    state, shown = files(encoder)[name], images(encoder, 3)
    method = DEFENSES.build(name, checkpoint=saved(tmp_path / "model.pth.tar-10", state))
    fitted = method.fit(task_on(encoder))
    with torch.no_grad():
        found = method.classifier(encoder, CLASSES, fitted.weights, "imported")(shown)
        assert torch.allclose(found, by_hand(encoder, name, state, shown), atol=1e-4)
    imported: Any = fitted.notes["imported"]
    assert imported["epoch"] == 10


def test_half_precision_and_class_specific_contexts_are_taken(encoder: Encoder, tmp_path: Path) -> None:
    file = saved(tmp_path / "apt", {"ctx": random(3, 2, WIDE).half(), "token_suffix": suffix(encoder).half()})
    fitted = DEFENSES.build("apt", text=2, class_specific=True, checkpoint=file).fit(task_on(encoder))
    assert fitted.weights["text.0"].dtype == torch.float32


def test_other_classes_or_another_order_are_noticed(encoder: Encoder, tmp_path: Path) -> None:
    file = saved(tmp_path / "file", files(encoder)["maple"])
    for classes, words in ((CLASSES[::-1], "another order of classes"), (CLASSES[:2], "made for 3 classes")):
        with pytest.raises(InputError, match=words):
            DEFENSES.build("maple", checkpoint=file).fit(task_on(encoder, classes))


@pytest.mark.parametrize(
    ("name", "as_", "words"),
    [
        ("maple", "fap", "text.1|has no place"),
        ("fap", "maple", "expected another depth, coupling or frame"),
        ("advvlp", "maple", "has no"),
    ],
)
def test_a_file_of_another_method_is_refused(encoder: Encoder, name: str, as_: str, words: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "file", files(encoder)[name])
    with pytest.raises(InputError, match=words):
        DEFENSES.build(as_, checkpoint=file).fit(task_on(encoder))


def test_other_shapes_and_other_files_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    state = files(encoder)["maple"]
    narrow = saved(tmp_path / "narrow", state | {"prompt_learner.proj.bias": random(4)})
    with pytest.raises(InputError, match=r"map.0.bias: expected shape \(16,\), got \(4,\)"):
        DEFENSES.build("maple", checkpoint=narrow).fit(task_on(encoder))
    broken = saved(tmp_path / "broken", state | {"prompt_learner.ctx": torch.full((2, WIDE), torch.nan)})
    with pytest.raises(InputError, match="nan or infinity"):
        DEFENSES.build("maple", checkpoint=broken).fit(task_on(encoder))
    with pytest.raises(InputError, match="keys of CoOp's"):
        DEFENSES.build("maple", checkpoint=saved(tmp_path / "other", {"weight": random(2)})).fit(task_on(encoder))


def advvp_file(path: Path, wide: int = 4, size: int = 32, tokens: int = 5, **others: object) -> str:
    """As AdvVP's code and FAP's version of it save them: strips around the picture, tokens in a dictionary of their own."""
    inner = size - 2 * wide
    frame = {
        "module.pad_up": random(1, 3, wide, size), "module.pad_down": random(1, 3, wide, size) + 1,
        "module.pad_left": random(1, 3, inner, wide), "module.pad_right": random(1, 3, inner, wide) - 1,
    }  # fmt: skip
    content = {"epoch": 10, "state_dict": frame, "add_prompter": {"module.prompt": random(1, tokens, WIDE)}, **others}
    torch.save(content, path)
    return str(path)


def test_a_frame_and_tokens_are_where_advvps_code_puts_them(encoder: Encoder, tmp_path: Path) -> None:
    """Its forward pass: strips left and right beside nothing, then above and below, added to the normalised image."""
    file, shown = advvp_file(tmp_path / "model.pth.tar-10"), images(encoder, 3)
    method = DEFENSES.build("advvp", checkpoint=file)
    fitted = method.fit(task_on(encoder))
    content = torch.load(file, weights_only=True)
    sides = {key.removeprefix("module.pad_"): value for key, value in content["state_dict"].items()}
    rows = torch.cat([sides["left"], torch.zeros(1, 3, 24, 24), sides["right"]], dim=3)
    frame = torch.cat([sides["up"], rows, sides["down"]], dim=2)
    moved = shown + frame * torch.tensor(encoder.preprocess.std).view(1, 3, 1, 1)
    with torch.no_grad():
        found = method.classifier(encoder, CLASSES, fitted.weights, "imported").encoder.image_features(shown)
        expected = image_features_by_hand(encoder, moved, [content["add_prompter"]["module.prompt"][0]])
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found - encoder.image_features(shown)).abs().max() > 0.1


def test_advvps_tokens_alone_and_its_frame_alone(encoder: Encoder, tmp_path: Path) -> None:
    alone = advvp_file(tmp_path / "tokens", state_dict={})
    fitted = DEFENSES.build("advvp", frame=0, checkpoint=alone).fit(task_on(encoder))
    assert fitted.weights.keys() == {"image.0"}
    framed = advvp_file(tmp_path / "frame", tokens=0)
    fitted = DEFENSES.build("advvp", image=0, checkpoint=framed).fit(task_on(encoder))
    assert fitted.weights.keys() == {"frame"}
    with pytest.raises(InputError, match=r"has no 'frame'; .* expected another depth, coupling or frame"):
        DEFENSES.build("advvp", checkpoint=alone).fit(task_on(encoder))


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"wide": 5}, r"frame: expected shape \(4, 3, 4, 28\), got \(4, 3, 5, 27\)"),
        ({"tokens": 3}, r"image.0: expected shape \(5, 16\), got \(3, 16\)"),
        ({"state_dict": {"patch": torch.ones(1, 3, 4, 4)}}, "expected a frame .* got patch, prompt; patches of pixels"),
        ({"state_dict": {"pad_up": torch.ones(1, 3, 4, 32)}}, "expected a frame .* got pad_up, prompt"),
        ({"add_prompter": {"prompt": torch.ones(1, 5, WIDE), "pos_embedding": torch.ones(1, 5, 1)}}, "tokens that a network"),
        ({"add_prompter": {"prompt": torch.ones(5, WIDE)}}, r"prompt: expected \(1, tokens, width\), got \(5, 16\)"),
        ({"vision_encoder_state_dict": {}}, "holds a tuned encoder; titer fit tecoa"),
    ],
)  # fmt: skip
def test_visual_prompts_of_other_kinds_and_sizes_are_refused(
    others: dict[str, Any], says: str, encoder: Encoder, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        DEFENSES.build("advvp", checkpoint=advvp_file(tmp_path / "file", **others)).fit(task_on(encoder))


def test_strips_that_do_not_go_round_a_picture_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    content = torch.load(advvp_file(tmp_path / "file"), weights_only=True)
    for side, shape, says in (
        ("left", (1, 3, 25, 4), r"pad_left: expected shape \(1, 3, 24, 4\), got \(1, 3, 25, 4\)"),
        ("up", (7,), r"pad_up: expected shape \(1, 3, 0, 7\), got \(7,\)"),
    ):
        torch.save(
            {**content, "state_dict": {**content["state_dict"], f"module.pad_{side}": torch.ones(shape)}},
            tmp_path / "file",
        )
        with pytest.raises(InputError, match=says):
            DEFENSES.build("advvp", checkpoint=str(tmp_path / "file")).fit(task_on(encoder))
