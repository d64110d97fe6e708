"""What adversarial tuning minimises, against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from titer.defenses import objectives

CLASSES = 4


def logits(seed: int, batch: int = 6) -> Tensor:
    return 3 * torch.randn(batch, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def written_out(target: Tensor, answer: Tensor) -> list[float]:
    """KL(target || answer) in plain Python."""
    found = []
    for first, second in zip(target.softmax(1).tolist(), answer.softmax(1).tolist(), strict=True):
        found.append(sum(p * math.log(p / q) for p, q in zip(first, second, strict=True)))
    return found


def test_kl_is_the_sum_written_out() -> None:
    assert objectives.kl(logits(0), logits(1)).tolist() == pytest.approx(written_out(logits(0), logits(1)), abs=1e-12)


def test_the_direction_says_which_answer_comes_first() -> None:
    back = objectives.consistency(logits(0), logits(1), "from-attacked")
    assert back.tolist() == pytest.approx(written_out(logits(1), logits(0)), abs=1e-12)


def test_fap_is_one_plus_cosine_times_divergence() -> None:
    clean, attacked = (torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)).double() for seed in (2, 3))
    found = objectives.fap(logits(0), logits(1), clean, attacked)
    cosines = [float(a @ b / a.norm() / b.norm()) for a, b in zip(clean, attacked, strict=True)]
    terms = [(c + 1) * k for c, k in zip(cosines, written_out(logits(0), logits(1)), strict=True)]
    assert float(found) == pytest.approx(sum(terms) / 6, abs=1e-12)


def test_without_a_teacher_capt_is_fap_without_its_cosine() -> None:
    found = objectives.capt(logits(0), logits(1), logits(2), torch.zeros(6))
    assert float(found) == pytest.approx(sum(written_out(logits(0), logits(1))) / 6, abs=1e-6)


def test_with_the_teacher_alone_no_gradient_passes_the_clean_answer() -> None:
    clean, attacked = logits(0).requires_grad_(), logits(1).requires_grad_()
    objectives.capt(clean, attacked, logits(2), torch.ones(6)).backward()  # type: ignore[no-untyped-call]
    assert clean.grad is not None
    assert attacked.grad is not None
    assert not clean.grad.any()
    assert attacked.grad.any()


def test_a_detached_target_gets_no_gradient() -> None:
    clean = logits(0).requires_grad_()
    assert not objectives.capt(clean, logits(1), logits(2), torch.zeros(6), detach=True).requires_grad


def by_hand(rule: str) -> list[float]:
    clean, frozen = (logits(seed).softmax(1).tolist() for seed in (0, 2))
    drift, own = written_out(logits(2), logits(0)), written_out(logits(0), logits(1))
    found = []
    for place, label in enumerate(LABELS.tolist()):
        pc, pf = clean[place], frozen[place]
        hc, hf = (-sum(p * math.log(p) for p in answer) for answer in (pc, pf))
        found.append(
            {
                "const": 0.3,
                "teacher-conf": pf[label] / (pf[label] + pc[label]),
                "teacher-correct": float(max(pf) == pf[label]),
                "entropy": hc / (hc + hf),
                "gap": drift[place] / (drift[place] + own[place]),
            }[rule]
        )
    return found


@pytest.mark.parametrize("rule", ["const", "teacher-conf", "teacher-correct", "entropy", "gap"])
def test_the_teachers_weight_is_its_rule_and_carries_no_gradient(rule: objectives.AlphaRule) -> None:
    clean = logits(0).requires_grad_()
    found = objectives.alpha(rule, 0.3, clean, logits(1), logits(2), LABELS)
    assert not found.requires_grad
    assert found.tolist() == pytest.approx(by_hand(rule), abs=1e-9)
