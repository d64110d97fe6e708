"""The loop of adversarial tuning: its step against the formulas, its attack, its sign of collapse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses.tiny import CLASSES, images
from tiny_models import clip_directory
from titer.attacks.attack import Random
from titer.attacks.losses import divergence
from titer.attacks.threat import Threat
from titer.defenses import DEFENSES, AdvPt, Capt, CaptSmooth, Fap, Fare, Maple, Task
from titer.defenses.fit import collapse
from titer.defenses.learners import Tokens
from titer.defenses.prompted import Attacked
from titer.defenses.tuning import CollapseError, Inner, Step, Watch
from titer.errors import InputError
from titer.models import Encoder, load_model
from titer.models.classifier import class_features, zero_shot

EPS = 8 / 255


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


def task_on(encoder: Encoder, count: int = 6, seed: int = 3) -> Task:
    shown = images(encoder, count)
    return Task(
        encoder=encoder,
        classes=CLASSES,
        ids=[f"image {place}" for place in range(count)],
        labels=[place % 3 for place in range(count)],
        image=lambda place: shown[place],
        seed=seed,
    )


def step_on(encoder: Encoder, method: Any, **inner: Any) -> Step:
    """A step of a method with random tokens that are not near zero."""
    task, layout = task_on(encoder), method.layout()
    weights = layout.start(encoder, CLASSES, "{}", 1)
    weights = {
        name: (30 * tensor if "map" not in name else tensor).requires_grad_() for name, tensor in weights.items()
    }
    return Step(
        learner=Tokens(layout, encoder, CLASSES, "{}", weights),
        encoder=encoder,
        words=class_features(encoder, CLASSES),
        images=images(encoder, 6),
        labels=task.targets,
        known=task.features,
        inner=Inner(**{"eps": EPS, "steps": 2, "step": 1.0} | inner),
        random=Random(0, "fit 0", task.ids),
    )


def total(method: Any, step: Step) -> Tensor:
    fitting, term = method.objective(step)
    whole: Tensor = fitting if term is None else fitting + method.weight * term
    return whole


def test_without_its_weight_capt_is_maple_on_clean_images(encoder: Encoder) -> None:
    layout: dict[str, Any] = {"coupling": "text-to-image"}
    first = total(Capt(weight=0.0, **layout), step_on(encoder, Capt(**layout)))
    assert float(first.detach()) == pytest.approx(float(total(Maple(), step_on(encoder, Maple())).detach()), abs=1e-6)
    both = total(Capt(weight=0.0, supervision="both", **layout), step_on(encoder, Capt(**layout)))
    assert float(both.detach()) != pytest.approx(float(first.detach()), abs=1e-3)


def test_without_a_budget_attacked_is_clean_and_only_the_teacher_is_left(encoder: Encoder) -> None:
    step = step_on(encoder, Capt(), eps=0.0)
    assert torch.equal(step.clean, step.attacked)
    own = Capt(teacher="const", share=0.0).objective(step)[1]
    assert float(own.detach()) == 0.0
    frozen = Capt(teacher="const", share=1.0).objective(step)[1]
    expected = torch.nn.functional.kl_div(
        step.clean.log_softmax(1), step.frozen.softmax(1), reduction="batchmean"
    )  # KL(p_f || p_c)
    assert float(frozen.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_with_the_teacher_alone_the_clean_answer_gets_the_cross_entropys_gradient_alone(encoder: Encoder) -> None:
    method = Capt(teacher="const", share=1.0)
    step = step_on(encoder, method)
    (whole,) = torch.autograd.grad(total(method, step), step.clean, retain_graph=True)
    (alone,) = torch.autograd.grad(method.objective(step)[0], step.clean)
    assert torch.equal(whole, alone)


def test_frozen_answers_are_those_of_the_zero_shot_classifier(encoder: Encoder) -> None:
    step = step_on(encoder, Capt())
    with torch.no_grad():
        expected = zero_shot(encoder, CLASSES)(step.images)
        attacked = zero_shot(encoder, CLASSES)(step.attacked_images)
    assert torch.allclose(step.frozen, expected, atol=1e-4)
    assert torch.allclose(step.frozen_attacked, attacked, atol=1e-4)
    assert not step.frozen.requires_grad


@pytest.mark.parametrize("loss", ["cross-entropy", "kl", "distance", "embedding"])
@pytest.mark.parametrize("prompting", ["on-the-fly", "constant", "perturbed"])
def test_the_attack_stays_in_its_budget_and_raises_its_loss(encoder: Encoder, loss: str, prompting: str) -> None:
    if prompting == "perturbed" and loss in ("distance", "embedding"):
        with pytest.raises(InputError, match=f"{loss} is one of features"):
            Capt(inner=loss, prompting="perturbed")  # type: ignore[arg-type]
        return
    step = step_on(encoder, Capt(), loss=loss, prompting=prompting, steps=10, step=0.3)
    change = (step.attacked_images - step.images).abs()
    assert float(change.max()) <= EPS + 1e-6
    assert float(step.attacked_images.min()) >= 0
    assert float(step.attacked_images.max()) <= 1
    assert not step.attacked_images.requires_grad
    start = Random(0, "fit 0", [f"image {place}" for place in range(6)])
    chance = step.images + start.uniform(*step.images.shape[1:], low=-EPS, high=EPS)
    raised = step._loss()
    with torch.no_grad():
        features = step.learner.image_features(step.learner.weights, step.attacked_images)
        at_chance = step.learner.image_features(step.learner.weights, chance.clamp(0, 1))
        words = step.words if prompting == "constant" else step.class_features
        assert float(raised(features, words).mean()) > float(raised(at_chance, words).mean())


def test_the_attack_is_the_loop_written_out(encoder: Encoder) -> None:
    step = step_on(encoder, Fap(), loss="cross-entropy", steps=2, step=0.5, random=False)
    current = step.images.clone()
    for _ in range(2):
        shown = current.clone().requires_grad_()
        features = torch.nn.functional.normalize(step.learner.image_features(step.learner.weights, shown), dim=1)
        answer = encoder.logit_scale * features @ step.class_features.detach().T
        (gradient,) = torch.autograd.grad(
            torch.nn.functional.cross_entropy(answer, step.labels, reduction="sum"), shown
        )
        moved = current + EPS / 2 * gradient.sign()
        current = torch.minimum(torch.maximum(moved, step.images - EPS), step.images + EPS).clamp(0, 1)
    assert torch.allclose(step.attacked_images, current, atol=1e-6)


def test_a_noisy_copy_differs_from_the_clean_image_and_follows_its_stream(encoder: Encoder) -> None:
    first, again = (step_on(encoder, CaptSmooth()).noisy_features((0.25,)) for _ in range(2))
    clean = step_on(encoder, CaptSmooth()).clean_features
    assert torch.equal(first, again)
    assert not torch.allclose(first, clean)
    assert torch.allclose(step_on(encoder, CaptSmooth()).noisy_features((0.0,)), clean, atol=1e-5)


def test_collapse_is_several_steps_in_a_row_of_guessing_without_inconsistency() -> None:
    watch, guess = Watch(4, steps=40), math.log(4)
    for _ in range(10 + 7):
        watch.see(guess, 1e-4)
    watch.see(guess, 1.0)
    for _ in range(7):
        watch.see(guess, 1e-4)
    with pytest.raises(CollapseError):
        watch.see(0.99 * guess, 1e-4)


class Sunken(Capt):
    """Says that it has collapsed, whatever its weight."""

    def objective(self, step: Step) -> tuple[Tensor, Tensor]:
        return step.clean.sum() * 0 + math.log(3), step.clean.sum() * 0


def test_a_fit_that_collapses_twice_is_kept_and_says_so(encoder: Encoder) -> None:
    fitted = Sunken(epochs=4, batch=1).fit(task_on(encoder))
    assert "begun again with weight 0.375" in str(fitted.notes["restarted"])
    assert "also at a smaller weight" in str(collapse(fitted, 3))


def test_a_restart_begins_where_the_first_try_began_and_is_told(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import titer.defenses.prompted as prompted

    tried: list[tuple[float, float]] = []

    def tune(_: Task, learner: Tokens, *how: Any) -> tuple[float, ...]:
        tried.append((float(sum(weight.double().sum() for weight in learner.weights.values())), how[4]))
        if len(tried) == 1:
            learner.weights["text.0"] += 1
            raise CollapseError
        return (0.5,)

    monkeypatch.setattr(prompted, "tune", tune)
    fitted = Capt(weight=2.0).fit(task_on(encoder))
    assert tried[0][0] == tried[1][0]
    assert [weight for _, weight in tried] == [2.0, 0.5]
    assert "weight 0.5" in str(fitted.notes["restarted"])


def test_a_ramp_lets_the_weight_grow_from_nothing(encoder: Encoder) -> None:
    first, second = (
        Capt(epochs=1, batch=None, ramp=ramp, warmup_rate=None).fit(task_on(encoder)).losses[0] for ramp in (0.0, 1.0)
    )
    plain = Capt(epochs=1, batch=None, weight=0.0, warmup_rate=None).fit(task_on(encoder)).losses[0]
    assert second == pytest.approx(plain, abs=1e-6)
    assert first > second


def test_a_teacher_that_guesses_is_named(encoder: Encoder) -> None:
    """A constant share of it gets the advice to follow each image; one that is right gets no word."""
    task = task_on(encoder)
    with torch.no_grad():
        known = zero_shot(encoder, CLASSES)(images(encoder, 6)).argmax(dim=1).tolist()
    wrong = replace(task, labels=[(answer + 1) % 3 for answer in known])
    fitted = Capt(epochs=1).fit(wrong)
    assert fitted.notes["teacher"] == 0.0
    assert "right on 0 of 6 training images" in fitted.warnings[0]
    assert "teacher-correct" not in fitted.warnings[0]
    assert "teacher-correct" in Capt(epochs=1, teacher="const").fit(wrong).warnings[0]
    assert Capt(epochs=1).fit(replace(task, labels=known)).warnings == ()


def test_seeds_differ_and_a_seed_repeats_itself(encoder: Encoder) -> None:
    method = Capt(epochs=2)
    zero, again, one = (method.fit(task_on(encoder, seed=seed)).weights["text.0"] for seed in (0, 0, 1))
    assert torch.equal(zero, again)
    assert not torch.equal(zero, one)


@pytest.mark.parametrize("name", ["capt", "fap", "maple", "tecoa", "fare"])
def test_the_frozen_model_does_not_change_by_a_bit(encoder: Encoder, name: str) -> None:
    before = {key: value.clone() for key, value in encoder.image_tower.state_dict().items()}  # type: ignore[attr-defined]
    DEFENSES.build(name, epochs=2).fit(task_on(encoder))
    after = encoder.image_tower.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(weight.requires_grad for weight in encoder.image_tower.parameters())  # type: ignore[attr-defined]


RATES = {"advmaple": 0.02, "advvlp": 0.02, "fap": 0.02, "capt": 0.02, "tecoa": 0.02, "pmg-aft": 1e-3, "fare": 1e-4}


@pytest.mark.parametrize("name", RATES)
def test_training_lowers_what_it_minimises(encoder: Encoder, name: str) -> None:
    method = DEFENSES.build(name, eps=32 / 255, epochs=10, batch=None, learning_rate=RATES[name], warmup_rate=None)
    losses = method.fit(task_on(encoder)).losses
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": 4.0}, "probably 4/255"),
        ({"eps": -0.1}, "eps: expected at least 0"),
        ({"steps": 0}, "steps"),
        ({"inner": "margin"}, "loss"),
        ({"weight": -1.0}, "weight"),
        ({"ramp": 2.0}, "ramp"),
        ({"teacher": "median"}, "teacher"),
        ({"share": 2.0}, "share"),
        ({"text": 3}, "as many text as image tokens"),
        ({"depth": 0}, "depth"),
        ({"batch": 0}, "batch"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Capt(**settings)


def test_methods_that_use_no_labels_take_no_labelled_attack() -> None:
    with pytest.raises(InputError, match="fare uses no labels"):
        Fare(inner="cross-entropy")


def test_advpts_bank_is_attacked_once_without_words_or_labels(encoder: Encoder) -> None:
    """Features of a bank diverge from the clean ones further than those at random; labels change nothing."""
    method, task = AdvPt(text=2, eps=EPS), task_on(encoder)
    learner = Tokens(method.layout(), encoder, CLASSES, "{}", method.layout().start(encoder, CLASSES, "{}", 1))
    bank, other = (method.bank(one, learner) for one in (task, replace(task, labels=[0] * 6)))
    assert torch.equal(bank, other)
    clean = task.clean
    chance = Random(0, "chance", task.ids).within(images(encoder, 6), Threat("linf", EPS))
    with torch.no_grad():
        assert divergence(bank, clean).mean() > divergence(encoder.encode_image(chance), clean).mean()


def test_every_method_of_the_family_is_one_of_the_two_kinds() -> None:
    tokens = "advmaple advpt advtp advvlp advvp apt capt capt-smooth fap ivlp maple"
    towers = "anchor fare pmg-aft tecoa"
    assert {name for name in DEFENSES if issubclass(DEFENSES[name], Attacked)} == {*tokens.split(), *towers.split()}
