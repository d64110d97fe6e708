from pathlib import Path
from typing import Any

import pytest

from report.synthetic import write_run
from titer.report.tables import lines
from titer.report.words import GUARANTEES, alarms, certainty, is_impossible, notes, verdict
from titer.results.foreign import read_foreign
from titer.results.store import Record


def test_verdict_of_a_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", certifier="anytime")
    share = run.certified_accuracy(0.25)
    said = verdict(lines([run])[0])
    assert said.startswith(
        "titer:tiny with zero-shot prompts, smoothed with noise of sigma 0.25, answers 88 % (95 % interval 77 to 95 %) "
        "of 60 images of lesions rightly. The answer is right and proven not to change within radius 0.1 for "
    )
    assert f"within radius 0.25 for {100 * share.estimate:.0f} %" in said


def test_verdict_of_one_radius_claims_no_accuracy(tmp_path: Path) -> None:
    said = verdict(lines([write_run(tmp_path / "run", certifier="anytime", radii=(0.25,))])[0])
    assert "rightly" not in said
    assert "on 60 images of lesions: the answer is right and proven not to change within radius 0.25" in said


def test_verdict_without_labels_and_without_radii(tmp_path: Path) -> None:
    said = verdict(lines([write_run(tmp_path / "bare", change=lambda _, r: {**r, "label": None})])[0])
    assert "right" not in said
    assert "The answer is given and proven not to change" in said
    assert "proven" not in verdict(lines([write_run(tmp_path / "predict", verb="predict")])[0])


def test_certainty(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert list(certainty([run, write_run(tmp_path / "more", images=40)])) == [
        "Each certificate is wrong with probability at most 0.001, over the noise drawn for it; "
        "on average at most 0.1 of these 100 are."
    ]
    joint = write_run(tmp_path / "joint", settings={"alpha": 0.001, "joint": True, "n": 1000})
    assert list(certainty([joint])) == ["All 60 statements of joint hold together with probability at least 0.999."]
    (said,) = certainty([write_run(tmp_path / "predict", verb="predict")])
    assert said.startswith("Each answer is wrong")
    (said,) = certainty([write_run(tmp_path / "foreign", settings={})])
    assert said == "The error probability of a certificate is not recorded in foreign."


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": "interrupted"}, "The run is interrupted: 60 of 60 images are here."),
        ({"failures": 2}, "2 of 62 images failed and are in no number below."),
        (
            {"change": lambda _, r: {**r, "radius": 0.62}},
            "60 radii are larger than their draws can prove, such as that of test/000.png",
        ),
        ({"change": lambda _, r: {**r, "guarantee": "conditional"}}, "do not hold for a deployed pipeline"),
        (
            {"change": lambda k, r: {**r, "warnings": ["a unified context"]} if k < 3 else r},
            "a unified context (3 records)",
        ),
    ],
)
def test_alarms(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    (said,) = alarms(write_run(tmp_path / "run", **changes))
    assert says in said


def test_nothing_to_be_alarmed_about(tmp_path: Path) -> None:
    assert list(alarms(write_run(tmp_path / "run"))) == []
    assert list(alarms(write_run(tmp_path / "predict", verb="predict"))) == []


def test_the_largest_radius_that_draws_can_prove() -> None:
    """Reference: n = 10,000 and 100,000 at alpha 0.001 reach 3.1985 and 3.8114 sigma; a published file says 3.91."""
    record: Record = {"sigma": 0.25, "alpha": 0.001, "draws": 100_000}
    assert not is_impossible({**record, "radius": 3.81145 * 0.25})
    assert is_impossible({**record, "radius": 0.978})
    assert not is_impossible({**record, "draws": 10_000, "radius": 3.19857 * 0.25})
    assert is_impossible({**record, "draws": 10_000, "radius": 3.1987 * 0.25})
    assert not is_impossible({**record, "draws": 1, "radius": 0.0})


def test_notes(tmp_path: Path) -> None:
    def change(place: int, record: Record) -> Record:
        label = None if place < 4 else record["label"]
        return {**record, "group": f"patient {place // 2}", "attributes": {"sex": "f"}, "label": label}

    parts = lines([write_run(tmp_path / "run", certifier="anytime", radii=(0, 0.25, 1.0), change=change)])
    assert list(notes(parts, None)) == [
        "Some images share a group, such as a patient or a slide; all intervals count for that.",
        "4 images have no label; they are in no accuracy.",
        "At sigma 0.25 the number of draws can prove no radius of 1: not shown.",
        "The records carry sex: titer report --by sex breaks the results down by it.",
    ]
    assert len(list(notes(parts, "sex"))) == 3


def test_notes_on_runs_that_differ_and_on_foreign_files(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", settings={"n": 1000, "alpha": 0.01})]
    assert list(notes(lines(runs), None)) == ["The runs differ in alpha; see their settings before comparing them."]
    path = tmp_path / "sigma_0.25"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t1.0\n")
    assert any("as printed there" in note for note in notes(lines([read_foreign(path)]), None))


def test_the_convention_of_certified_accuracy_is_named_and_where_the_other_differs(tmp_path: Path) -> None:
    path = tmp_path / "sigma_0.25"
    head = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
    path.write_text(head + "".join(f"{k}\t1\t1\t{radius}\t1\t1.0\n" for k, radius in enumerate((0.25, 0.25, 0.5, 0.3))))
    said = "Shares of per-image files are of R ≥ r (Cohen's convention); R > r (PromptSmooth's) "
    lost = "counts 2 of these images at r = 0.25, 1 of these images at r = 0.5 as not certified."
    assert said + lost in list(notes(lines([read_foreign(path)]), None))
    path.write_text(head + "0\t1\t1\t0.3\t1\t1.0\n1\t0\t1\t0.25\t0\t1.0\n")
    assert said + "gives the same here." in list(notes(lines([read_foreign(path)]), None))


def test_every_guarantee_has_its_words() -> None:
    assert {"fixed", "per-draw", "bank", "product", "conditional", "not recorded"} == set(GUARANTEES)
