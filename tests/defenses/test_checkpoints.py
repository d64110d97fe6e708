"""Other people's checkpoints: what they hold is read, what they would run is not."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from titer.defenses.checkpoints import Checkpoint, read_checkpoint
from titer.errors import InputError


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """Dassl's scheduler, in a module that is there while a checkpoint is written."""

    class ConstantWarmupScheduler(torch.optim.lr_scheduler.LRScheduler):
        def __init__(self, optimizer: torch.optim.Optimizer, successor: Any) -> None:
            self.successor = successor
            super().__init__(optimizer)

        def get_lr(self) -> list[float | Tensor]:
            return [1e-5]

    module = types.ModuleType("dassl_optim_lr_scheduler")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("__module__", "__qualname__"):
        setattr(ConstantWarmupScheduler, name, module.__name__ if name == "__module__" else "ConstantWarmupScheduler")
    module.ConstantWarmupScheduler = ConstantWarmupScheduler  # type: ignore[attr-defined]
    return ConstantWarmupScheduler


def written(path: Path, context: Tensor, scheduler: object = None, **others: object) -> Path:
    state = {"token_prefix": torch.zeros(9, 1, context.shape[-1]), "ctx": context, "token_suffix": torch.zeros(9, 3, 4)}
    torch.save({"state_dict": state, "epoch": 50, "scheduler": scheduler, **others}, path)
    return path


def test_a_checkpoint_as_dassl_writes_it_is_read(
    foreign: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = torch.nn.Parameter(torch.arange(20.0).reshape(5, 4))
    optimizer = torch.optim.SGD([context], lr=0.002, momentum=0.9)
    context.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    scheduler = foreign(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50))
    path = written(
        tmp_path / "model.pth.tar-50", context.detach().half(), {"scheduler": scheduler},
        optimizer=optimizer.state_dict(), val_result=np.float64(81.5),
    )  # fmt: skip
    monkeypatch.delitem(sys.modules, foreign.__module__)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    read = read_checkpoint(path)
    assert read.context.dtype == torch.float32
    assert torch.equal(read.context, context.detach().half().float())
    assert (read.epoch, read.sha256) == (50, hashlib.sha256(path.read_bytes()).hexdigest())
    assert foreign.__module__ not in sys.modules


class Calls:
    """A pickle of it calls a function when it is read by an ordinary reader."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


@pytest.mark.parametrize(
    "kind", ["os.system", "subprocess.call", "builtins.eval", "builtins.exec", "pathlib.Path.touch"]
)
@pytest.mark.parametrize("place", ["scheduler", "ctx"])
def test_a_malicious_pickle_does_not_run(kind: str, place: str, tmp_path: Path) -> None:
    """Read by ordinary pickle each of them leaves a mark, so the attacks themselves are live."""
    mark = tmp_path / "mark"
    open_it = f"open({str(mark)!r}, 'w')"
    attack = {
        "os.system": Calls(os.system, f"touch {mark}"),
        "subprocess.call": Calls(subprocess.call, ["touch", str(mark)]),
        "builtins.eval": Calls(eval, open_it),
        "builtins.exec": Calls(exec, open_it),
        "pathlib.Path.touch": Calls(Path.touch, mark),
    }[kind]
    pickle.loads(pickle.dumps(attack))
    assert mark.exists()
    mark.unlink()

    path = tmp_path / "model.pth.tar"
    if place == "scheduler":
        written(path, torch.ones(5, 4), attack)
    else:
        torch.save({"state_dict": {"ctx": attack}}, path)
    if place == "scheduler" and kind in ("subprocess.call", "builtins.eval", "builtins.exec"):
        assert torch.equal(read_checkpoint(path).context, torch.ones(5, 4))
    else:
        with pytest.raises(InputError, match=r"refused|expected a CoOp checkpoint"):
            read_checkpoint(path)
    assert not mark.exists()


def test_what_no_stand_in_can_be_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Listed([1])}, tmp_path / "model.pth.tar")
    with pytest.raises(InputError, match="is refused, as it could execute code: Can only append to lists"):
        read_checkpoint(tmp_path / "model.pth.tar")


class Listed(list):  # type: ignore[type-arg]
    """A list of another kind."""


def test_class_specific_contexts_and_keys_with_a_prefix_are_read(tmp_path: Path) -> None:
    context = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    torch.save({"state_dict": {"prompt_learner.ctx": context}}, tmp_path / "model.pth.tar")
    read = read_checkpoint(tmp_path / "model.pth.tar")
    assert torch.equal(read.context, context)
    assert read.epoch is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": 1}, "expected a CoOp checkpoint .*; it has a$"),
        ({"state_dict": {"ctx": torch.ones(4)}}, "of two or three dimensions"),
        ({"state_dict": {"a.ctx": torch.ones(2, 4), "b.ctx": torch.ones(2, 4)}}, "it has a.ctx, b.ctx"),
        ({"state_dict": {"ctx": [1.0]}}, "expected a CoOp checkpoint"),
        ({"state_dict": {"ctx": torch.full((2, 4), torch.nan)}}, "ctx holds nan or infinity"),
        ([1, 2], "it has NoneType"),
    ],
)
def test_what_is_no_checkpoint(content: object, says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pth.tar")
    with pytest.raises(InputError, match=says):
        read_checkpoint(tmp_path / "model.pth.tar")


@pytest.mark.parametrize("content", [b"", b"some text", pickle.dumps({"ctx": 1}), b"PK\x03\x04 and no more"])
def test_a_damaged_file_says_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pth.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"expected a CoOp checkpoint .*; it cannot be read"):
        read_checkpoint(tmp_path / "model.pth.tar")


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_checkpoint(tmp_path / "model.pth.tar")


@pytest.mark.parametrize(
    ("shape", "classes", "says"),
    [
        ((5, 16), None, None),
        ((3, 5, 16), 3, None),
        ((5, 8), None, "its tokens are 8 wide, those of this model's text tower 16"),
        ((4, 16), None, "holds 4 learned tokens, there are places for 5; expected context=4"),
        ((3, 5, 16), None, "holds a context for each class; expected class_specific=true"),
        ((5, 16), 3, "holds one context for all classes; expected class_specific=false"),
        ((2, 5, 16), 3, "holds contexts of 2 classes, the data set has 3"),
    ],
)
def test_a_context_must_have_the_shape_that_the_model_has_places_for(
    shape: tuple[int, ...], classes: int | None, says: str | None
) -> None:
    checkpoint = Checkpoint(Path("c"), torch.zeros(shape), None, "")
    if says is None:
        checkpoint.check(5, 16, classes)
        return
    with pytest.raises(InputError, match=says):
        checkpoint.check(5, 16, classes)
