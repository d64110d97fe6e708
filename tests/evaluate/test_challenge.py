"""Challenges of certificates whose truth is known: sound ones hold, inflated and conditional ones are broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import titer
from evaluate.test_voting import Line, MeanSign, answer, pipeline, signed_bank
from images import brightness_encoder, folder, timeless, true_radius
from titer.attacks import Attack, Model, Norm, Random, Threat
from titer.data import ClassText, Data, Example
from titer.data.example import Picture
from titer.errors import GuaranteeError, InputError, RunError
from titer.evaluate.challenge import ChallengePlan, challenge, execute, plan_challenge
from titer.models import Encoder
from titer.models.classifier import Classifier
from titer.results.challenged import challenged
from titer.results.store import Record, Run

SIGMA = 0.1
QUICK: dict[str, Any] = {"steps": 6, "step": 0.3, "draws": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def certified(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("certified") / "run"
    titer.certify(brightness_encoder(), data, sigma=SIGMA, out=out, certifier="gaussian", n=1000, seed=0)
    return out


def run(certified: Path, data: Path | Data, out: Path, **options: Any) -> Run:
    settings = {"settings": QUICK, "seed": 1, "workers": 1, **options}
    return challenge(certified, brightness_encoder(), data, out=out, **settings)


def distances(data: Path) -> dict[str, float]:
    encoder, loaded = brightness_encoder(), titer.load_data(data)
    return {each.id: true_radius(encoder.preprocess(loaded.read(each).pixels)) for each in loaded.examples}


def planted(certified: Path, root: Path, change: Callable[[Record], Record]) -> Path:
    """A copy of a run whose records were changed."""
    root.mkdir()
    (root / "run.json").write_bytes((certified / "run.json").read_bytes())
    lines = (certified / "samples.jsonl").read_text().splitlines()
    (root / "samples.jsonl").write_text("".join(json.dumps(change(json.loads(line))) + "\n" for line in lines))
    return root


def test_sound_certificates_hold_inside_and_break_just_beyond_the_truth(
    certified: Path, data: Path, tmp_path: Path
) -> None:
    found = run(certified, data, tmp_path / "run")
    (part,) = challenged(found)
    claims = [record for record in titer.read_run(certified).records if record["radius"] > 0]
    assert part.certificates == len(claims) >= 6
    assert len(part.inside) == 3 * len(claims)
    assert part.breaks == 0
    assert part.verdict == "holds"
    truth = distances(data)
    for record in found.records:
        true = truth[record["sample_id"]]
        if record["broken"]:
            assert record["eps"] > true
        if record["eps"] > 1.4 * true:  # where a thousand draws can tell
            assert record["broken"]
    assert part.unbroken < len(part.first_breaks)


def test_records_hold_what_the_contract_says(certified: Path, data: Path, tmp_path: Path) -> None:
    found = run(certified, data, tmp_path / "run", inside=[0.5, 1.0], outside=[], by=["sex"])
    assert found.info["status"] == "done"
    assert (found.info["verb"], found.info["seed"]) == ("challenge", 1)
    assert found.info["settings"]["inside"] == [0.5, 1.0]
    assert (found.info["settings"]["steps"], found.info["settings"]["n"], found.info["settings"]["alpha_p"]) == (
        6,
        1000,
        1e-4,
    )
    claims = {record["sample_id"]: record for record in titer.read_run(certified).records}
    for record in found.records:
        claim = claims[record["sample_id"]]
        assert set(record) >= {
            "path", "label", "prompts", "attack", "norm", "prediction", "linf", "p_value", "seconds", "sha256", "attributes"
        }  # fmt: skip
        assert record["clean_prediction"] == claim["prediction"]
        assert record["radius"] == claim["radius"]
        assert record["eps"] == record["factor"] * claim["radius"]
        assert (record["guarantee"], record["alpha"], record["sigma"]) == ("fixed", 0.001, SIGMA)
        assert record["l2"] <= record["eps"]
        assert record["l2"] < record["radius"]
        assert record["l2"] > 0.99 * record["eps"]  # the budget is used
        assert record["inside"] is True
        assert sum(record["counts"]) == 1000
        assert record["broken"] == (record["prediction"] not in (-1, record["clean_prediction"]))


def test_an_inflated_radius_is_found_out(certified: Path, data: Path, tmp_path: Path) -> None:
    claimed = planted(certified, tmp_path / "planted", lambda record: {**record, "radius": 4 * record["radius"]})
    (part,) = challenged(run(claimed, data, tmp_path / "run", outside=[]))
    assert part.breaks > part.allowed
    assert part.broken_certificates > part.allowed_certificates
    assert not part.holds


def test_abstentions_and_radii_of_zero_are_not_challenged(certified: Path, data: Path, tmp_path: Path) -> None:
    def change(record: Record) -> Record:
        if record["label"] == 0:
            return {**record, "radius": 0.0}
        return record if record["sample_id"].endswith("3.png") else {**record, "prediction": -1, "radius": 0.0}

    claimed = planted(certified, tmp_path / "planted", change)
    found = run(claimed, data, tmp_path / "run", outside=[])
    assert {record["sample_id"] for record in found.records} == {"test/bright/3.png"}
    assert found.info["samples"] == {"expected": 1, "done": 1, "failed": 0}
    nothing = planted(certified, tmp_path / "nothing", lambda record: {**record, "prediction": -1, "radius": 0.0})
    with pytest.raises(InputError, match="nothing to challenge"):
        run(nothing, data, tmp_path / "none")


def test_an_abstention_at_the_attacked_image_is_no_break(certified: Path, data: Path, tmp_path: Path) -> None:
    """At the boundary PREDICT cannot tell."""
    truth = distances(data)
    claimed = planted(
        certified, tmp_path / "planted", lambda record: {**record, "radius": 1.0001 * truth[record["sample_id"]]}
    )
    found = run(claimed, data, tmp_path / "run", inside=[1.0], outside=[])
    assert sum(record["prediction"] == -1 for record in found.records) >= 6
    assert sum(record["broken"] for record in found.records) <= 1


def test_a_run_goes_on_where_it_stopped_whatever_the_workers(certified: Path, data: Path, tmp_path: Path) -> None:
    whole = run(certified, data, tmp_path / "whole", limit=2)
    run(certified, data, tmp_path / "part", limit=2)
    file = tmp_path / "part" / "samples.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5]) + lines[5][:20])
    resumed = run(certified, data, tmp_path / "part", limit=2, workers=2)
    assert timeless(resumed) == timeless(whole)
    before = file.read_bytes()
    assert run(certified, data, tmp_path / "part", limit=2, seed=None).info["status"] == "done"
    assert file.read_bytes() == before
    with pytest.raises(InputError, match=r"settings\.n was 1000, now 500"):
        run(certified, data, tmp_path / "part", limit=2, n=500)


def test_draws_are_fresh(certified: Path, data: Path, tmp_path: Path) -> None:
    """Neither another seed nor another challenge repeats votes, nor those of the certificate."""
    one, two = (run(certified, data, tmp_path / str(seed), seed=seed, limit=2, outside=[]) for seed in (1, 2))
    first, second = (record["counts"] for record in (one.records[0], two.records[0]))
    assert first != second
    assert run(certified, data, tmp_path / "fresh", seed=None, limit=2, outside=[]).info["seed"] not in (0, 1)


@pytest.mark.parametrize("attack", ["pgd", "square"])
def test_other_attacks_see_the_smoothed_classifier(attack: str, certified: Path, data: Path, tmp_path: Path) -> None:
    settings = {"pgd": {"steps": 5}, "square": {"queries": 20}}[attack]
    found = run(certified, data, tmp_path / "run", attack=attack, settings=settings, limit=2, outside=[2.0])
    assert {record["attack"] for record in found.records} == {attack}
    assert not any(record["broken"] for record in found.records if record["inside"])


@dataclass(frozen=True)
class Cheat:
    """Goes beyond its budget."""

    needs_gradient: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    def __call__(self, model: Model, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        del model, labels, random
        change = torch.ones_like(images) / np.sqrt(images[0].numel())
        moved: Tensor = (images + 1.01 * threat.epsilon * change).clamp(0, 1)
        return moved


def test_an_attack_that_leaves_its_budget_ends_the_run(certified: Path, data: Path, tmp_path: Path) -> None:
    method: Attack = Cheat()
    chosen = plan_challenge(certified, brightness_encoder(), data, seed=0)
    cheating = ChallengePlan(**{**vars(chosen), "attack": method})
    with pytest.raises(RunError, match="left its budget"):
        execute(cheating, tmp_path / "run", workers=1)


# the counter-example of tests/evaluate/test_voting.py, with its origin in the middle of the pixels' range

LINE_SIGMA = 0.25


def encoder() -> Encoder:
    return titer.wrap(Line(), lambda texts: torch.ones(len(texts), 2), 1, (0.5,) * 3, (1.0,) * 3, name="line")


def on_the_line(*positions: float) -> Data:
    """Pictures of one pixel at distances from the boundary."""

    def digest(example: Example) -> str:
        return example.id

    def read(example: Example) -> Picture:
        value = 0.5 + float(example.id) / np.sqrt(3)
        return Picture(np.full((1, 1, 3), value, np.float32), example.id)

    examples = tuple(Example(f"{at}", "", int(at > 0), None, None, "test", {}) for at in positions)
    return Data(
        "line", "test", None, (ClassText("left", ("l",)), ClassText("right", ("r",))), examples, (), read, digest
    )


def on(shown: Encoder, classifier: Classifier) -> Classifier:
    return replace(classifier, encoder=shown)


def of_counter_example(classifier: Classifier, guarantee: str | None, out: Path, **certified: Any) -> Run:
    shown, data = encoder(), on_the_line(-0.6, -0.2, 0.2, 0.6)
    options: dict[str, Any] = {"prompts": {"line": on(shown, classifier)}}
    claimed = titer.certify(
        shown,
        data,
        sigma=LINE_SIGMA,
        out=out / "certified",
        certifier="gaussian",
        n=2000,
        seed=0,
        guarantee=guarantee,
        **certified,
        **options,
    )
    return challenge(claimed, shown, data, out=out / "challenged", settings=QUICK, seed=1, workers=1, **options)


def test_the_conditional_radius_is_broken_inside(tmp_path: Path) -> None:
    """The frozen head is constant and gives no gradient: the attack goes through the state before adaptation instead."""
    found = of_counter_example(pipeline(), "conditional", tmp_path)
    (part,) = challenged(found)
    assert part.guarantee == "conditional"
    assert not part.holds
    assert {record["sample_id"] for record in found.records if record["broken"]} == {"-0.6", "-0.2", "0.2", "0.6"}
    for record in found.records:
        if record["broken"]:
            assert record["inside"]
            assert max(record["counts"]) == 1000  # unanimous: it is the prompt that turned, which was made anew
            assert (
                record["eps"] > abs(float(record["sample_id"])) - 0.1
            )  # the prompt of 100 copies is uncertain by 0.025


@pytest.mark.parametrize(
    ("classifier", "guarantee"), [(pipeline(1), "per-draw"), (pipeline(1), "product"), (signed_bank(), None)]
)
def test_sound_guarantees_are_not_broken_there(classifier: Classifier, guarantee: str | None, tmp_path: Path) -> None:
    found = of_counter_example(classifier, guarantee, tmp_path)
    (part,) = challenged(found)
    assert part.certificates >= 2
    assert part.breaks == 0
    assert part.guarantee == (guarantee or "bank")
    assert any(record["broken"] for record in found.records)  # outside, where it may


def test_what_was_not_certified_is_refused(certified: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match=r"certified something else: model was .*, now"):
        challenge(certified, titer.wrap(_Other(), _words, 8, (0.5,) * 3, (0.5,) * 3), data, out=out)
    plain = titer.zero_shot(brightness_encoder(), titer.load_data(data).classes)
    with pytest.raises(InputError, match="unknown prompt set 'zero-shoot'; did you mean 'zero-shot'"):
        run(certified, data, out, prompts={"zero-shoot": plain})
    with pytest.raises(InputError, match=r"prompts\.zero-shot was"):
        run(certified, data, out, prompts={"zero-shot": replace(plain, fingerprint="another")})
    renamed = replace(titer.load_data(data), classes=(ClassText("dim", ("dim",)), ClassText("bright", ("bright",))))
    with pytest.raises(InputError, match="classes was"):
        run(certified, renamed, out)
    with pytest.raises(GuaranteeError, match="changes with the image"):
        run(certified, data, out, prompts={"zero-shot": replace(plain, adaptation=MeanSign())})
    assert not out.exists()


class _Other(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        return answer(self.scale * images.mean(dim=(1, 2, 3)))


def _words(texts: Sequence[str]) -> Tensor:
    return torch.ones(len(texts), 2)


def test_another_picture_under_a_known_name_is_recorded_as_failed(certified: Path, data: Path, tmp_path: Path) -> None:
    claimed = planted(
        certified, tmp_path / "planted",
        lambda record: {**record, "sha256": "0" * 64} if record["sample_id"] == "test/dark/3.png" else record,
    )  # fmt: skip
    found = run(claimed, data, tmp_path / "run", inside=[1.0], outside=[])
    assert [failure["sample_id"] for failure in found.failures] == ["test/dark/3.png"]
    assert "not the picture that was certified" in found.failures[0]["error"]


def test_wrong_inputs_are_one_line_each(certified: Path, data: Path, tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "inside: expected shares of the radius above 0 and at most 1, got 1.5": {"inside": [1.5]},
        "outside: expected shares of the radius above 1, got 1": {"outside": [1.0]},
        "inside, outside: expected one or more": {"inside": [], "outside": []},
        "sigma: a challenge takes the certificate's": {"settings": {"sigma": 0.5}},
        "unknown attack 'pgdd'; did you mean 'pgd'": {"attack": "pgdd", "settings": {}},
        "attack 'embedding': a radius is an l2 distance": {"attack": "embedding", "settings": {}},
        "workers: expected at least 1": {"workers": 0},
        "at least 15 draws": {"n": 10},
    }
    for match, options in wrong.items():
        with pytest.raises(InputError, match=match):
            run(certified, data, tmp_path / "run", **options)
    attacked = titer.attack(
        brightness_encoder(), data, "pgd", out=tmp_path / "attack", settings={"steps": 1}, checks=False, limit=2
    )
    with pytest.raises(InputError, match="written by attack; expected a run of certify"):
        challenge(attacked, brightness_encoder(), data, out=tmp_path / "run")
    with pytest.raises(InputError, match="holds no run"):
        run(data, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("attack", ["smoothadv", "square"])
def test_one_channel_certificates_are_challenged_in_grey_levels(attack: str, data: Path, tmp_path: Path) -> None:
    """Of the grey picture the boundary is nearer by sqrt(3): certificates hold up to there, and no farther."""
    claimed = titer.certify(
        brightness_encoder(), data, sigma=SIGMA, out=tmp_path / "one", certifier="gaussian", n=1000, seed=0, noise_channels=1
    )  # fmt: skip
    settings = QUICK if attack == "smoothadv" else {"queries": 20}
    found = run(claimed.path, data, tmp_path / "run", attack=attack, settings=settings)
    truth = {sample: distance / 3**0.5 for sample, distance in distances(data).items()}
    assert len(challenged(found)[0].inside) >= 12
    assert challenged(found)[0].breaks == 0
    for record in found.records:
        assert record["channels"] == 1
        assert record["l2"] <= record["eps"]
        if record["broken"]:
            assert record["eps"] > truth[record["sample_id"]]
        if attack == "smoothadv" and record["eps"] > 1.4 * truth[record["sample_id"]]:
            assert record["broken"]


def test_what_adapts_is_adapted_to_the_attacked_grey_picture(tmp_path: Path) -> None:
    """The counter-example in one channel: the conditional radius is broken, that of a product holds."""
    conditional = of_counter_example(pipeline(), "conditional", tmp_path / "conditional", noise_channels=1)
    assert not challenged(conditional)[0].holds
    product = of_counter_example(pipeline(1), "product", tmp_path / "product", noise_channels=1)
    assert challenged(product)[0].breaks == 0
    assert {record["channels"] for record in product.records} == {1}


def test_an_attack_that_cannot_follow_is_refused(tmp_path: Path) -> None:
    shown, data = encoder(), on_the_line(0.2, 0.6)
    options: dict[str, Any] = {"prompts": {"line": on(shown, pipeline())}}
    claimed = titer.certify(
        shown,
        data,
        sigma=LINE_SIGMA,
        out=tmp_path / "certified",
        certifier="gaussian",
        n=500,
        guarantee="conditional",
        **options,
    )
    with pytest.raises(InputError, match="does not follow it; expected --attack smoothadv"):
        challenge(claimed, shown, data, out=tmp_path / "run", attack="pgd", **options)
