"""Tables of a comparison's attacks: methods under attack side by side, paired tests, beside certificates, costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from titer.report.arms import (
    CONSTANT,
    Pair,
    certified_share,
    chance,
    clean_share,
    difference_text,
    family,
    fits_of,
    matched,
    name_of,
    number_text,
    p_text,
    pair_of,
    radii_of,
    standing,
)
from titer.report.tables import MISSING, Share, Table, Value, radius_text
from titer.results.arms import Arm, AttackArm, Fits, side_by_side
from titer.results.robustness import length_text
from titer.results.study import StudyCell
from titer.statistics.comparisons import holm
from titer.statistics.ranking import balanced_mean


def robust_share(arm: AttackArm, epsilon: float) -> Share:
    """Class-balanced share of images right without attack and under it, mean over the seeds of the fit."""
    return Share(balanced_mean(arm.robust(epsilon), arm.labels, arm.groups), len(arm.ids))


def label_of(arm: AttackArm) -> str:
    """The attack, or that it is the worst case of several."""
    return arm.attacks[0] if len(arm.attacks) == 1 else f"worst case of {', '.join(arm.attacks)}"


def method_of(arm: Fits) -> str:
    """The method, with the noise level where it was fitted for one alone."""
    return name_of(arm) + ("" if arm.fitted_for is None else f", fitted for sigma {arm.fitted_for:g}")


def robust_table(cell: StudyCell, norm: str) -> Table:
    """Clean accuracy, and accuracy under each attack of a norm at each budget."""
    arms = [arm for arm in cell.attacked if arm.norm == norm]
    budgets = _budgets(arms)
    constant = chance(cell)
    return Table(
        title=f"Accuracy under attack, {norm}",
        caption=f"Class-balanced share of {_images(arms)} images that are right without attack and under it, mean over fits, "
        "with 95 % intervals. An image broken at one epsilon counts as broken at every larger one. A stronger attack may find "
        "more: every number is an upper bound.",
        columns=("method", "fitted on", "attack", "clean", *(length_text(at, norm) for at in budgets), "self-checks"),
        rows=(
            *(_row(arm, budgets) for arm in arms),
            (CONSTANT, MISSING, MISSING, constant, *(constant for _ in budgets), MISSING),
        ),
    )


def _row(arm: AttackArm, budgets: Sequence[float]) -> tuple[Value, ...]:
    shares = (robust_share(arm, at) if at in arm.budgets else MISSING for at in budgets)
    return method_of(arm), fits_of(arm), label_of(arm), clean_share(arm), *shares, arm.verdict


def _budgets(arms: Sequence[AttackArm]) -> list[float]:
    return sorted({at for arm in arms for at in arm.budgets})


def _images(arms: Sequence[Fits]) -> str:
    counts = sorted({len(arm.ids) for arm in arms})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def pairs_under_attack(cell: StudyCell, norm: str, epsilon: float) -> list[Pair[AttackArm]]:
    """Every method against zero-shot, and every one that is no baseline against the best baseline, under the strongest attack."""
    arms = [arm for arm in cell.strongest(norm) if epsilon in arm.budgets]
    return [
        pair_of(arm, other, lambda one: one.robust(epsilon), lambda one: one.of_seed(0, epsilon))
        for arm, other in matched(arms, lambda arm: robust_share(arm, epsilon))
    ]


def attack_paired_table(cell: StudyCell, norm: str) -> Table | None:
    """Paired tests under the strongest attack of a norm; None where there is nothing to compare."""
    arms = cell.strongest(norm)
    found = [(at, pair) for at in _budgets(arms) for pair in pairs_under_attack(cell, norm, at)]
    if not found:
        return None
    adjusted = holm([pair.comparison.p for _, pair in found])
    return Table(
        title=f"Paired differences under attack, {norm}",
        caption=f"Differences of class-balanced accuracy under {label_of(arms[0])} in points, on the same images: mean over "
        "fits per image, then a paired bootstrap that draws groups, with 95 % intervals. Of each method with the most shots. "
        f"{family(len(found))} McNemar's exact test is within the first fit of both, uncorrected, and left out where images "
        "share groups. The best baseline is chosen on these images, which favours it.",
        columns=("method", "against", "epsilon", "robust", "the other", "difference", "p (Holm)", "p (McNemar)"),
        rows=tuple(
            (
                method_of(pair.arm),
                method_of(pair.other),
                length_text(at, norm),
                robust_share(pair.arm, at).text,
                robust_share(pair.other, at).text,
                difference_text(pair.comparison),
                p_text(p),
                MISSING if pair.mcnemar is None else p_text(pair.mcnemar),
            )
            for (at, pair), p in zip(found, adjusted, strict=True)
        ),
    )


def attack_verdict(cell: StudyCell, norm: str) -> str:
    """How methods stand at the smallest budget of the strongest attack, for someone who reads nothing else."""
    arms = cell.strongest(norm)
    at = arms[0].budgets[0]
    start = f"Right under {label_of(arms[0])}, {norm} {length_text(at, norm)}: a constant answer {chance(cell)}"
    return standing(start, arms, lambda arm: robust_share(arm, at), "method")


def beside_table(certified: StudyCell, attacked: StudyCell, norm: str) -> Table | None:
    """Clean, attacked and certified accuracy of the same prompt sets on the same images; None where no cell has both."""
    both = list(_both(certified, attacked, norm))
    if not both:
        return None
    budgets = _budgets([under for _, under in both])
    radii = sorted({at for arm, _ in both for at in _radii(certified, arm)})
    return Table(
        title=f"Attacked ({attacked.name}, {norm}) and certified ({certified.name})",
        caption=f"Class-balanced shares of the {_images([arm for arm, _ in both])} images that both have, mean over the fits "
        f"that both have, with 95 % intervals: right without attack; right under {label_of(both[0][1])} at epsilon; right and "
        "certified at L2 radius r. Self-checks are those of the attack.",
        columns=(
            "method",
            "fitted on",
            "guarantee",
            "self-checks",
            "sigma",
            "clean",
            *(f"attacked, {length_text(at, norm)}" for at in budgets),
            *(f"certified, r ≥ {radius_text(at)}" for at in radii),
        ),
        rows=tuple(
            (
                method_of(under),
                fits_of(under),
                arm.guarantee,
                under.verdict,
                f"{arm.sigma:g}",
                clean_share(under),
                *(robust_share(under, at) for at in budgets),
                *(certified_share(arm, at) if at in _radii(certified, arm) else MISSING for at in radii),
            )
            for arm, under in both
        ),
    )


def _radii(cell: StudyCell, arm: Arm) -> list[float]:
    return [radius for radius in radii_of(cell, arm.sigma) if radius > 0]


def _both(certified: StudyCell, attacked: StudyCell, norm: str) -> Iterator[tuple[Arm, AttackArm]]:
    """Of each method and sigma those with the most shots that both have."""
    found: dict[tuple[str, float], tuple[Arm, AttackArm]] = {}
    for arm in certified.arms:
        for under in attacked.under_strongest(norm):
            pair = side_by_side(arm, under)
            if pair is not None:
                found[arm.entry, arm.sigma] = pair
    return iter(found.values())


def attack_cost_table(cells: Sequence[StudyCell], with_fits: bool) -> Table:
    """Seconds of attacking an image; of fitting and bytes to keep, too, where no other table has them."""
    single = [arm for cell in cells for arm in cell.attacked if len(arm.attacks) == 1]
    last = {(arm.entry, arm.attacks[0]): arm for arm in single}
    attacks = list(dict.fromkeys(arm.attacks[0] for arm in single))
    return Table(
        title="Costs of attacks",
        caption="Medians over images that were right before, at one epsilon; of each method with the most shots."
        + (" Fitting and bytes are of one fit." if with_fits else ""),
        columns=(
            "method",
            *(("fit (s)", "bytes") if with_fits else ()),
            *(f"{attack} (s per image)" for attack in attacks),
        ),
        rows=tuple(_cost_row(entry, attacks, last, with_fits) for entry in dict.fromkeys(arm.entry for arm in single)),
    )


def _cost_row(
    entry: str, attacks: Sequence[str], last: dict[tuple[str, str], AttackArm], with_fits: bool
) -> tuple[Value, ...]:
    own = [last[entry, attack] for attack in attacks if (entry, attack) in last]
    fits = (
        number_text(own[0].median_of_sets("fit_seconds"), "{:.1f}"),
        number_text(own[0].median_of_sets("bytes"), "{:,.0f}"),
    )
    seconds = (number_text(last[entry, a].seconds, "{:.3f}") if (entry, a) in last else MISSING for a in attacks)
    return entry, *(fits if with_fits else ()), *seconds
