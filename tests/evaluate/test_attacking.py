"""Runs of an attack: what is recorded, who judges, and that nothing but the settings changes it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor

import titer
from images import brightness_encoder, folder, timeless
from titer.attacks import Attack, Model, Norm, Random, Threat
from titer.attacks.pgd import Pgd
from titer.errors import InputError, RunError
from titer.evaluate.attacking import AttackPlan, attack, execute, plan_attack
from titer.models import Classifier
from titer.results.store import Run

GREY = 1 / 255
DISTANCES = {
    **{f"test/bright/{place}.png": 2.5 + 3 * place for place in range(4)},
    **{f"test/dark/{place}.png": 1.5 + 3 * place for place in range(4)},
}
"""Of the pictures of ``folder`` from the boundary, in grey levels and linf."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return folder(tmp_path / "data")


def run(data: Path, out: Path, name: str = "pgd", **options: Any) -> Run:
    settings = options.pop("settings", {"steps": 5, "step": 0.5} if name == "pgd" else None)
    return attack(brightness_encoder(), data, name, out=out, settings=settings, **{"checks": False, **options})


def test_records_hold_what_the_contract_says(data: Path, tmp_path: Path) -> None:
    found = run(data, tmp_path / "run", eps=5 * GREY, by=["sex"], seed=3)
    assert found.info["status"] == "done"
    assert found.info["verb"] == "attack"
    assert found.info["seed"] == 3
    assert found.info["settings"]["attack"] == "pgd"
    assert found.info["settings"]["steps"] == 5
    assert found.info["settings"]["restarts"] == 1
    record = found.records[0]
    assert record["sample_id"] == record["path"] == "test/bright/0.png"
    assert record["group"] == "patient 0"
    assert record["attributes"] == {"sex": "m"}
    assert (record["attack"], record["norm"], record["eps"]) == ("pgd", "linf", 5 * GREY)
    assert record["clean_prediction"] == record["label"] == 1
    assert record["prediction"] == 0
    assert record["broken_by"] == "pgd"
    assert record["linf"] <= 5 * GREY + 1e-6
    assert set(record) >= {"l2", "l1", "seconds", "rounded_prediction", "rounded_linf", "sha256", "prompts"}


def test_what_holds_is_what_is_farther_than_epsilon(data: Path, tmp_path: Path) -> None:
    found = run(data, tmp_path / "run", eps=[2 * GREY, 5 * GREY, 9 * GREY])
    for record in found.records:
        holds = DISTANCES[record["sample_id"]] * GREY > record["eps"]
        assert (record["prediction"] == record["label"]) == holds


def test_an_image_broken_at_one_budget_is_broken_at_every_larger_one(data: Path, tmp_path: Path) -> None:
    found = run(data, tmp_path / "run", eps=[5 * GREY, 2 * GREY, 9 * GREY])
    one = {record["eps"]: record for record in found.records if record["sample_id"] == "test/dark/0.png"}
    first = one[2 * GREY]
    for budget in (5 * GREY, 9 * GREY):
        assert one[budget]["broken_at"] == 2 * GREY
        assert one[budget]["prediction"] == first["prediction"] != first["label"]
        assert one[budget]["linf"] == first["linf"] <= 2 * GREY + 1e-6
    assert "broken_at" not in first


def test_records_do_not_depend_on_workers(data: Path, tmp_path: Path) -> None:
    budgets = [2 * GREY, 5 * GREY]
    runs = [
        run(data, tmp_path / str(workers), eps=budgets, workers=workers, templates=["no {} here"]) for workers in (1, 2)
    ]
    assert timeless(runs[0]) == timeless(runs[1])
    assert len(runs[0].records) == 8 * 2 * 2


def test_a_run_goes_on_where_it_stopped(data: Path, tmp_path: Path) -> None:
    budgets = [2 * GREY, 5 * GREY, 9 * GREY]
    whole = run(data, tmp_path / "whole", eps=budgets)
    run(data, tmp_path / "part", eps=budgets)
    file = tmp_path / "part" / "samples.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:13]) + lines[13][:20])
    assert timeless(run(data, tmp_path / "part", eps=budgets)) == timeless(whole)


@pytest.mark.parametrize("name", ["fab-t", "autoattack"])
@pytest.mark.parametrize("kept", [3, 13, 18])
def test_what_is_known_from_smaller_budgets_is_found_again_after_a_stop(
    name: str, kept: int, data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "eps": [2 * GREY, 5 * GREY, 9 * GREY], "settings": {"steps": 5} | ({"queries": 5} if name == "autoattack" else {}),
    }  # fmt: skip
    whole = run(data, tmp_path / "whole", name, **options)
    run(data, tmp_path / "part", name, **options)
    file = tmp_path / "part" / "samples.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:kept]))
    assert timeless(run(data, tmp_path / "part", name, **options)) == timeless(whole)


def test_a_finished_run_does_nothing(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", eps=GREY, checks=True)
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    again = run(data, tmp_path / "run", eps=GREY, checks=True)
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before
    assert again.info["status"] == "done"


def test_other_settings_are_refused(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", eps=GREY)
    with pytest.raises(InputError, match=r"settings\.steps was 5, now 6"):
        run(data, tmp_path / "run", eps=GREY, settings={"steps": 6, "step": 0.5})


def test_images_already_wrong_are_not_attacked(data: Path, tmp_path: Path) -> None:
    found = run(data, tmp_path / "run", eps=GREY, templates=["{}"], prompts={"wrong": _always_bright()})
    wrong = [record for record in found.records if record["label"] == 0]
    assert wrong
    for record in wrong:
        assert record["prediction"] == record["clean_prediction"] == 1
        assert record["linf"] == 0
        assert record["broken_by"] is None


def _always_bright() -> Classifier:
    plain = titer.zero_shot(brightness_encoder(), titer.load_data("titer:phantoms", limit=1).classes[:2])
    return Classifier(
        "wrong", plain.encoder, lambda features: features * 0 + torch.tensor([0.0, 1.0]), ("dark", "bright"), "constant"
    )


@dataclass(frozen=True)
class Cheat:
    """Goes beyond its budget, or outside of the pixels' range."""

    how: str

    needs_gradient: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        del model, labels, random
        far = {"too far": 1.5 * threat.epsilon, "nan": float("nan"), "shape": 0.0}[self.how]
        return images[:, :, 1:] if self.how == "shape" else images + far


def planned(data: Path, method: Attack, **options: Any) -> AttackPlan:
    chosen = plan_attack(brightness_encoder(), data, "pgd", seed=0, **options)
    return AttackPlan(**{**vars(chosen), "name": "planted", "attack": method})


@pytest.mark.parametrize("how", ["too far", "nan", "shape"])
def test_an_attack_that_leaves_its_budget_ends_the_run(how: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="left its budget"):
        execute(planned(data, Cheat(how), eps=GREY), tmp_path / "run", checks=False)


@dataclass(frozen=True)
class Two:
    """An ensemble of a member that does nothing and one that is strong."""

    needs_gradient: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        return list(self.stages(model, images, labels, threat, random))[-1][1]

    def ladder(self, classes: int, norm: Norm) -> Attack:
        return self if norm == "linf" and classes == 2 else Pgd()

    def members(self, classes: int, norm: Norm) -> list[tuple[str, Attack]]:
        assert (classes, norm) == (2, "linf")
        return [("idle", Pgd(steps=1)), ("strong", Pgd(steps=5, step=0.5))]

    def stages(
        self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Iterator[tuple[str, Tensor]]:
        yield "idle", images
        yield "strong", Pgd(steps=5, step=0.5)(model, images, labels, threat, random)


def test_the_member_that_broke_an_image_is_named(data: Path, tmp_path: Path) -> None:
    found = execute(planned(data, Two(), eps=5 * GREY), tmp_path / "run", checks=False)
    assert {record["broken_by"] for record in found.records if record["prediction"] != record["label"]} == {"strong"}
    assert [member["name"] for member in found.info["settings"]["ran"]] == ["idle", "strong"]


def test_pictures_of_what_was_shown_are_kept(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "with", eps=5 * GREY)
    assert len(list((tmp_path / "with" / "images" / "attacked").iterdir())) == 8
    assert len(list((tmp_path / "with" / "images" / "change").iterdir())) == 8
    run(data, tmp_path / "without", eps=5 * GREY, images=False)
    assert not (tmp_path / "without" / "images").exists()


def test_a_picture_that_cannot_be_read_is_recorded_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    (data / "test" / "dark" / "1.png").write_bytes(b"no picture")
    found = run(data, tmp_path / "run", eps=GREY)
    assert found.info["samples"] == {"expected": 8, "done": 7, "failed": 1}
    assert [failure["sample_id"] for failure in found.failures] == ["test/dark/1.png"]


def test_wrong_inputs_are_one_line_each(data: Path, tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "unknown norm 'linff'": {"norm": "linff"},
        "eps: expected a length above 0": {"eps": 0.0},
        "eps: expected one or more": {"eps": []},
        "workers: expected at least 1": {"workers": 0},
        "unknown setting of attack 'pgd': 'stepps'": {"settings": {"stepps": 3}},
    }
    for match, options in wrong.items():
        with pytest.raises(InputError, match=match):
            run(data, tmp_path / "run", **options)
    with pytest.raises(InputError, match="unknown attack 'pgdd'; did you mean 'pgd'"):
        run(data, tmp_path / "run", "pgdd")
    assert not (tmp_path / "run").exists()


def test_unlabelled_images_are_refused(data: Path, tmp_path: Path) -> None:
    table = data / "metadata.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text(
        "\n".join([head, *(",".join([row.split(",")[0], "", *row.split(",")[2:]]) for row in rows)]) + "\n"
    )
    with pytest.raises(InputError, match="no labels"):
        run(data, tmp_path / "run")


def test_one_class_is_refused(data: Path, tmp_path: Path) -> None:
    (data / "classes.json").write_text('{"bright": "a bright picture"}')
    table = data / "metadata.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if ",dark," not in line) + "\n")
    with pytest.raises(InputError, match="one class"):
        run(data, tmp_path / "run")


def test_a_model_without_gradients_is_offered_attacks_that_need_none(data: Path, tmp_path: Path) -> None:
    encoder = brightness_encoder()
    plain = titer.zero_shot(encoder, titer.load_data(data).classes)
    blind = Classifier("blind", encoder, lambda features: plain.head(features.detach()), plain.classes, "blind")
    with pytest.raises(InputError, match=r"gives no gradient.*attacks without gradients"):
        attack(encoder, data, "pgd", out=tmp_path / "run", prompts={"blind": blind})


def test_what_adapts_to_its_input_is_not_attacked_before_it_does(data: Path, tmp_path: Path) -> None:
    encoder = brightness_encoder()
    plain = titer.zero_shot(encoder, titer.load_data(data).classes)
    adapting = replace(plain, adaptation=cast("Any", object()))
    with pytest.raises(InputError, match=r"'adapting' adapts .* a classifier that nobody deploys.*titer challenge"):
        attack(encoder, data, "pgd", out=tmp_path / "run", prompts={"plain": plain, "adapting": adapting})


def test_kill_9_and_resume_give_the_same_records(tmp_path: Path) -> None:
    """With a real transformer and two workers."""
    command = [
        *(sys.executable, "-c", "import sys; from titer.cli.main import main; main()", "attack", "pgd"),
        *("--model", "titer:tiny", "--data", "titer:phantoms", "--limit", "24", "--eps", "1/255,2/255,4/255"),
        *("--set", "steps=15", "--no-checks", "--out"),
    ]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    lines = tmp_path / "killed" / "samples.jsonl"
    deadline = time.monotonic() + 60
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    options: dict[str, Any] = {
        "eps": [1 / 255, 2 / 255, 4 / 255], "settings": {"steps": 15}, "limit": 24, "checks": False
    }  # fmt: skip
    resumed = attack("titer:tiny", "titer:phantoms", "pgd", out=tmp_path / "killed", **options)
    whole = attack("titer:tiny", "titer:phantoms", "pgd", out=tmp_path / "whole", workers=1, **options)
    assert timeless(resumed) == timeless(whole)


def test_a_setting_that_came_later_is_no_other_identity_where_it_is_off(data: Path) -> None:
    def settings(**own: Any) -> dict[str, Any]:
        planned = plan_attack(brightness_encoder(), data, "pgd", settings={"steps": 5, **own})
        found: dict[str, Any] = planned.identity()["settings"]
        return found

    assert "stop" not in settings() == settings(stop=False)
    assert settings(stop=True)["stop"] is True
