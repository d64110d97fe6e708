from pathlib import Path

import pytest

from report.attacking import FIRST, GREY, TINY, write_attack
from report.synthetic import write_run
from titer.report.ladders import Ladder, image_of, ladders, prompt_names, strongest
from titer.results.store import Run
from titer.results.summary import one_cell

OTHER = "cd" * 32


def told(parts: list[Ladder]) -> list[tuple[str, str, list[int]]]:
    return [(one.prompts, one.attack, [int(stand.holds.sum()) for stand in one.stands]) for one in parts]


def test_one_run_is_called_by_its_own_names(tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 3, 2 * GREY: 7}, prompts={"zero-shot": FIRST, "learned": OTHER})
    assert told(ladders([run])) == [("zero-shot", "pgd", [8, 4]), ("learned", "pgd", [8, 4])]


def test_two_runs_of_one_attack_are_two_ladders_and_their_worst_case(tmp_path: Path) -> None:
    runs = [write_attack(tmp_path / name, {GREY: count}) for name, count in (("few", 2), ("many", 5))]
    assert told(ladders(runs)) == [
        ("zero-shot", "pgd (few)", [9]),
        ("zero-shot", "pgd (many)", [6]),
        ("zero-shot", "pgd (few)+pgd (many)", [6]),
    ]


def test_directories_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    runs = [write_attack(tmp_path / name / "run", {GREY: 2}) for name in ("a", "b")]
    assert [one.attack for one in ladders(runs)][:2] == [f"pgd ({tmp_path / name / 'run'})" for name in ("a", "b")]


def test_one_attack_under_two_norms_needs_no_more_names(tmp_path: Path) -> None:
    runs = [write_attack(tmp_path / norm, {0.1: 2}, norm=norm) for norm in ("linf", "l2")]
    assert [(one.attack, one.norm) for one in ladders(runs)] == [("pgd", "linf"), ("pgd", "l2")]


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ((("small", "01" * 32), ("large", "02" * 32)), ["zero-shot · small", "zero-shot · large"]),
        ((("same", "01" * 32), ("same", "02" * 32)), ["zero-shot · same (run0)", "zero-shot · same (run1)"]),
    ],
)
def test_two_models_are_never_one_ladder(models: tuple[tuple[str, str], ...], names: list[str], tmp_path: Path) -> None:
    runs = [write_attack(tmp_path / f"run{place}", {GREY: place}, model=model) for place, model in enumerate(models)]
    assert told(ladders(runs)) == [(names[0], "pgd", [11]), (names[1], "pgd", [10])]


def test_prompt_sets_that_share_a_name_are_told_apart_and_those_that_are_one_are_not(tmp_path: Path) -> None:
    runs = [
        write_attack(tmp_path / name, {GREY: 1}, attack=attack, prompts={"coop": fitted})
        for name, attack, fitted in (("a", "pgd", FIRST), ("b", "square", FIRST), ("c", "pgd", OTHER))
    ]
    assert [(one.prompts, one.attack) for one in ladders(runs)] == [
        ("coop (a)", "pgd"),
        ("coop (a)", "square"),
        ("coop (c)", "pgd"),
        ("coop (a)", "pgd+square"),
    ]
    assert len(prompt_names(runs)) == 2


def test_there_is_no_worst_case_over_other_classes_images_or_budgets(tmp_path: Path) -> None:
    first = write_attack(tmp_path / "first", {GREY: 1})
    for other in (
        write_attack(tmp_path / "classes", {GREY: 1}, attack="square", classes=("benign", "malignant", "cyst")),
        write_attack(tmp_path / "images", {GREY: 1}, attack="square", images=range(20, 30)),
        write_attack(tmp_path / "budgets", {2 * GREY: 1}, attack="square"),
    ):
        assert [len(one.runs) for one in ladders([first, other])] == [1, 1], other.path


def test_the_strongest_is_the_worst_case_or_what_left_fewest(tmp_path: Path) -> None:
    runs = [write_attack(tmp_path / f"{count}", {GREY: count}, attack=f"a{count}") for count in (2, 5, 3)]
    parts = ladders(runs)
    assert strongest(parts).attack == "a2+a5+a3"
    assert strongest(parts[:3]).attack == "a5"


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"model": ("titer:tiny", "0f" * 32)}, False),
        ({"prompts": {"zero-shot": OTHER}}, False),
        ({"prompts": {"renamed": FIRST}}, True),
        ({"classes": ("malignant", "benign", "no finding")}, False),
    ],
)
def test_certificates_are_of_what_was_attacked_by_fingerprint(
    change: dict[str, object], fits: bool, tmp_path: Path
) -> None:
    (one,) = ladders([write_attack(tmp_path / "l2", {0.1: 3}, norm="l2", **change)])  # type: ignore[arg-type]
    certificates = write_run(tmp_path / "certify")
    assert certificates.info["model"]["fingerprint"] == TINY
    assert one.is_of(one_cell(certificates)) is fits


def test_only_the_images_asked_for_are_kept(tmp_path: Path) -> None:
    (one,) = ladders([write_attack(tmp_path / "l2", {0.1: 3, 0.25: 4}, norm="l2")])
    kept = one.on(frozenset({("test/000.png", None), ("test/011.png", None), ("elsewhere", None)}))
    assert kept.images == {("test/000.png", None), ("test/011.png", None)}
    assert [len(stand.records) for stand in kept.stands] == [2, 2]


def test_a_file_that_changed_is_another_image() -> None:
    assert image_of({"sample_id": "a.png", "sha256": "1"}) != image_of({"sample_id": "a.png", "sha256": "2"})


def test_no_runs_have_no_ladders() -> None:
    none: list[Run] = []
    assert ladders(none) == []
