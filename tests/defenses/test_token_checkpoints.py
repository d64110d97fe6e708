"""Tokens of MaPLe's, FAP's, IVLP's and APT's files, made here under their keys: the same logits as a forward pass by hand."""

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
        ("fap", "maple", "expected another depth or coupling"),
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
