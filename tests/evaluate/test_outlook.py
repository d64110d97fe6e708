"""What a comparison still has to do: counted exactly, and a time that is of the right size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluate.test_fitting import two_splits
from tiny_models import clip_directory
from titer.attacks.ensemble import AutoAttack
from titer.attacks.pgd import Fgsm, Pgd
from titer.attacks.square import Square
from titer.certify import Gaussian
from titer.defenses import Capt, Coop
from titer.evaluate.outlook import Outlook, outlook, passes
from titer.evaluate.running import Deadline, TimeIsUpError
from titer.evaluate.study import AttackEntry, Cell, Entry, Study, open_study, run_study
from titer.features.stream import threads


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("made")
    entries = {
        "zero-shot": Entry("zero-shot"),
        "coop": Entry("coop", Coop(epochs=2, context=2)),
        "capt": Entry("capt", Capt(epochs=3)),
    }
    shared: dict[str, Any] = {"certifier": Gaussian(n0=50, n=50), "shots": (1, 2), "seeds": (1,), "limit": 4}
    cells = (
        Cell("attacked", tuple(entries), sigmas=(), attacks=("pgd",), **shared),
        Cell("certified", ("zero-shot", "coop"), sigmas=(0.1, 0.2), **shared),
    )
    attacks = {"pgd": AttackEntry("pgd", Pgd(steps=3), "linf", (1 / 255, 2 / 255), checks=False)}
    places = str(clip_directory(root / "clip")), str(two_splits(root / "data"))
    return Study("A study", *places, "test", entries, cells, attacks=attacks)


def of(study: Study, out: Path) -> Outlook:
    return outlook(study, open_study(study, out), out, 1)


def counts(seen: Outlook) -> dict[str, tuple[int, int]]:
    return {share.work: (share.whole, share.left) for share in seen.shares}


def test_before_the_first_fit_methods_and_attacks_are_tried(study: Study, tmp_path: Path) -> None:
    seen = of(study, tmp_path / "out")
    assert counts(seen) == {"fits": (4, 4), "attacked": (4 * 5 * 2, 40), "certified": (4 * 3 * 2, 24)}
    assert seen.tried == ("coop", "capt", "pgd")
    assert all(share.seconds > 0 for share in seen.shares)
    assert not (tmp_path / "out").exists()


def test_a_method_whose_epochs_are_a_preset_s_is_tried_whole(study: Study, tmp_path: Path) -> None:
    assert Coop().epochs is None
    preset = replace(
        study, entries={"coop": Entry("coop", Coop(context=2))}, cells=(replace(study.cells[1], entries=("coop",)),)
    )
    seen = of(preset, tmp_path / "out")
    assert counts(seen)["fits"] == (2, 2)
    assert seen.seconds > 0


def test_what_is_done_is_neither_left_nor_tried(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_study(replace(study, cells=(replace(study.cells[0], shots=(2,)),)), out, seed=1)
    grown = replace(study, cells=(replace(study.cells[0], name="more"), study.cells[1]))
    seen = of(grown, out)
    assert counts(seen) == {"fits": (4, 2), "attacked": (40, 40), "certified": (24, 24)}
    assert seen.tried == ("pgd",)  # of this cell nothing is done
    again = of(replace(study, cells=(replace(study.cells[0], shots=(2,)),)), out)
    assert counts(again) == {"fits": (2, 0), "attacked": (24, 0), "certified": (0, 0)}
    assert (again.seconds, again.tried) == (0.0, ())


def test_pieces_end_between_fits_and_come_to_the_same(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TimeIsUpError):
        run_study(study, out, seed=1, deadline=Deadline(0))
    assert counts(of(study, out))["fits"] == (4, 4)
    run_study(study, out)
    assert [share.left for share in of(study, out).shares] == [0, 0, 0]


def entry(attack: object) -> AttackEntry:
    return AttackEntry("an attack", attack, "linf", (1 / 255,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (Pgd(steps=20), (20, 1)),
        (Pgd(steps=5, restarts=3), (15, 3)),
        (Fgsm(), (1, 0)),
    ],
)
def test_passes_of_simple_attacks_are_known(attack: object, expected: tuple[int, int]) -> None:
    assert passes(entry(attack), 4) == expected


def test_an_ensemble_costs_what_its_members_cost_and_looks_between_them() -> None:
    ensemble = AutoAttack(steps=5, queries=20)
    members = [passes(entry(member), 4) for _, member in ensemble.members(4, "linf")]
    gradients, plain = passes(entry(ensemble), 4)
    assert gradients == sum(member[0] for member in members)
    # what fab looks at depends a little on its random starts
    assert plain == pytest.approx(1 + sum(member[1] for member in members) + len(members), abs=1)
    assert passes(entry(Square(20)), 4)[1] >= 20
