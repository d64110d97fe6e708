"""The page of attacks: numbers from the records, doubts where they must be read, certificates beside."""

from dataclasses import replace
from pathlib import Path

import pytest

from report.attacking import FIRST, GREY, write_attack, write_challenge, write_pictures
from report.synthetic import CLASSES, write_run
from report.test_page import Page
from titer.errors import InputError
from titer.report.attacked import Section, section
from titer.report.page import report
from titer.report.tables import Share, Table, lines

OTHER = "cd" * 32


def tables(part: Section, title: str) -> list[Table]:
    return [table for one in part.parts for table in (*one.tables, *one.folded) if table.title == title]


def shares(part: Section, title: str) -> list[list[str]]:
    (table,) = tables(part, title)
    return [[value.count or value.text for value in row if isinstance(value, Share)] for row in table.rows]


def heads(part: Section, title: str) -> list[tuple[str, str]]:
    """The first two columns, which name a row."""
    (table,) = tables(part, title)
    return [(str(row[0]), str(row[1])) for row in table.rows]


def test_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 3, 2 * GREY: 11})
    part = section([run])
    assert shares(part, "Robust accuracy") == [["11 of 12", "8 of 12", "0 of 12"]]
    assert shares(part, "Success rate") == [["11 of 12", "3 of 11", "11 of 11"]]
    assert part.alarms == ()
    assert "still does for 67 % (" in part.verdicts[0]
    assert "at 1/255; 0 % (" in part.verdicts[0]
    told = Page(report([run], tmp_path / "page.html").read_text())
    assert "lesions under attack" in told.words
    assert {"1/255", "2/255"} <= {word.strip() for word in told.words}


def test_several_attacks_get_a_worst_case(tmp_path: Path) -> None:
    runs = [write_attack(tmp_path / "pgd", {GREY: 3}), write_attack(tmp_path / "square", {GREY: 5}, attack="square")]
    part = section(runs)
    assert [row[1:] for row in shares(part, "Robust accuracy")] == [["8 of 12"], ["6 of 12"], ["6 of 12"]]
    assert "Under pgd+square, linf" in part.verdicts[0]


@pytest.mark.parametrize(
    ("checks", "words"), [("failed", "masking suspected: it hides. Do not trust"), (None, "no self-checks were made")]
)
def test_doubts_are_alarms(checks: str | None, words: str, tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 3}, checks=checks)
    assert words in section([run]).alarms[0]
    assert words in report([run], tmp_path / "page.html").read_text()


def test_certificates_stand_beside_an_l2_attack_on_the_same_model(tmp_path: Path) -> None:
    certificates = write_run(tmp_path / "certify")
    attacked = write_attack(tmp_path / "l2", {0.1: 3, 0.25: 11, 9.0: 11}, norm="l2")
    part = section([attacked], lines([certificates]))
    (table,) = (table for one in part.parts for table in one.tables if table.title == "Side by side")
    assert [row[3] for row in table.rows] == ["0.1", "0.25"]  # 9 is beyond what the draws can prove
    assert [row[-1] for row in table.rows] == ["no", "no"]
    assert "In 2 of 2 rows of the table, certified accuracy lies above" in " ".join(one.text for one in part.parts)
    text = report([certificates, attacked], tmp_path / "page.html").read_text()
    assert "a certified line above an attacked one is no contradiction" in " ".join(text.split())
    assert not any(one.title.startswith("Certified") for one in section([attacked]).parts)
    linf = write_attack(tmp_path / "linf", {GREY: 3})
    assert not any(one.title.startswith("Certified") for one in section([linf], lines([certificates])).parts)


def test_a_second_run_of_an_attack_has_a_row_of_its_own(tmp_path: Path) -> None:
    runs = [write_attack(tmp_path / name, {GREY: count}) for name, count in (("few", 2), ("many", 5))]
    part = section(runs)
    assert heads(part, "Robust accuracy") == [
        ("zero-shot", "pgd (few)"),
        ("zero-shot", "pgd (many)"),
        ("zero-shot", "pgd (few)+pgd (many)"),
    ]
    assert [row[1] for row in shares(part, "Robust accuracy")] == ["9 of 12", "6 of 12", "6 of 12"]
    words = Page(report(runs, tmp_path / "page.html").read_text()).text
    assert "75 %" in words  # of the first run
    assert "50 %" in words


def test_two_models_have_a_row_and_a_verdict_each(tmp_path: Path) -> None:
    models = (("small", "01" * 32), ("large", "02" * 32))
    runs = [write_attack(tmp_path / model[0], {GREY: 5 if model[0] == "small" else 2}, model=model) for model in models]
    part = section(runs)
    assert heads(part, "Robust accuracy") == [("zero-shot · small", "pgd"), ("zero-shot · large", "pgd")]
    assert [row[1] for row in shares(part, "Robust accuracy")] == ["6 of 12", "9 of 12"]
    small, large = part.verdicts
    assert small.startswith("small with zero-shot")
    assert "50 % (" in small
    assert "75 % (" not in small
    assert large.startswith("large with zero-shot")
    assert "75 % (" in large


def test_a_verdict_is_of_the_strongest_attack_where_there_is_no_worst_case(tmp_path: Path) -> None:
    runs = [
        write_attack(tmp_path / "pgd", {GREY: 5}, prompts={"zero-shot": FIRST, "coop": OTHER}),
        write_attack(tmp_path / "square", {GREY: 1}, attack="square"),
    ]
    assert "Under pgd, linf, it still does for 50 %" in section(runs).verdicts[0]


def test_both_accuracies_are_of_exactly_the_same_images(tmp_path: Path) -> None:
    """Sixty images are certified; the twelve that are attacked are all certified wrongly or not at all."""
    attacked = write_attack(tmp_path / "l2", {0.1: 0}, norm="l2")
    certificates = write_run(
        tmp_path / "certify",
        change=lambda place, record: {**record, "prediction": record["label"] if place >= 12 else -1, "radius": 0.2},
    )
    part = section([attacked], lines([certificates]))
    assert shares(part, "Side by side") == [["0 %", "92 %"]]
    (table,) = tables(part, "Side by side")
    assert [dict(zip(table.columns, row, strict=True))["images"] for row in table.rows] == ["12"]
    assert "on the 12 images that both have" in table.caption
    elsewhere = write_attack(tmp_path / "elsewhere", {0.1: 0}, norm="l2", images=range(60, 72))
    assert not tables(section([elsewhere], lines([certificates])), "Side by side")


def test_every_pair_has_its_own_images(tmp_path: Path) -> None:
    runs = [
        write_attack(tmp_path / "many", {0.1: 1}, norm="l2"),
        write_attack(tmp_path / "few", {0.1: 1}, norm="l2", images=range(5)),
        write_attack(tmp_path / "none", {0.1: 1}, norm="l2", images=range(100, 105)),
    ]
    (table,) = tables(section(runs, lines([write_run(tmp_path / "certify")])), "Side by side")
    assert [row[4] for row in table.rows] == ["12", "5"]
    assert "on the 5 to 12 images" in table.caption


@pytest.mark.parametrize("change", [{"prompts": {"zero-shot": OTHER}}, {"model": ("titer:tiny", OTHER)}])
def test_what_only_shares_a_name_is_not_drawn_beside_each_other(change: dict[str, object], tmp_path: Path) -> None:
    certified = lines([write_run(tmp_path / "certify")])
    same = write_attack(tmp_path / "same", {0.1: 3}, norm="l2")
    other = write_attack(tmp_path / "other", {0.1: 5}, norm="l2", **change)  # type: ignore[arg-type]
    assert not tables(section([other], certified), "Side by side")
    assert len(shares(section([same, other], certified), "Side by side")) == 1


def test_prompt_sets_that_share_a_name_have_rows_of_their_own(tmp_path: Path) -> None:
    runs = [write_attack(tmp_path / name, {GREY: 3}, prompts={"coop": fp}) for name, fp in (("a", FIRST), ("b", OTHER))]
    part = section(runs)
    assert heads(part, "Robust accuracy") == [("coop (a)", "pgd"), ("coop (b)", "pgd")]
    assert ["coop (a)" in part.verdicts[0], "coop (b)" in part.verdicts[1]] == [True, True]


def test_runs_with_other_classes_share_a_page(tmp_path: Path) -> None:
    runs = [
        write_attack(tmp_path / "three", {GREY: 3}),
        write_attack(tmp_path / "others", {GREY: 5}, attack="square", classes=("benign", "malignant", "cyst")),
    ]
    part = section(runs)
    assert [row[1] for row in shares(part, "Robust accuracy")] == ["8 of 12", "6 of 12"]
    report(runs, tmp_path / "page.html")


def test_what_certificates_imply_in_linf_stands_beside_a_linf_attack(tmp_path: Path) -> None:
    """sigma 0.25, 1,000 draws, alpha 0.001: at most 0.6154 in L2; over the root of 3 x 80 x 80 times 255 it is 1.132."""
    attacked = write_attack(tmp_path / "pgd", {GREY: 3})
    (text,) = {one.text for one in section([attacked], lines([write_run(tmp_path / "certify")])).parts if one.figures}
    assert "r / √(3 × 80 × 80) = r / 138.6" in text
    assert "at most 1.13/255 at sigma 0.25" in text
    grey = write_run(tmp_path / "grey", change=lambda _, record: {**record, "channels": 1})
    foreign = write_run(tmp_path / "foreign", model={"name": "other", "fingerprint": OTHER, "size": 80})
    for certified in ((), lines([grey]), lines([foreign])):
        assert all("implies" not in one.text for one in section([attacked], certified).parts)


def test_a_certificate_that_breaks_is_an_alarm(tmp_path: Path) -> None:
    holds, breaks = (write_challenge(tmp_path / f"{broken}", broken) for broken in (0, 8))
    assert section([holds]).alarms == ()
    (alarm,) = section([breaks]).alarms
    assert "zero-shot, sigma 0.25, fixed: 8 of 12 attacks inside the certified radius" in alarm
    assert "Do not trust these certificates" in alarm
    assert "Do not trust these certificates" in Page(report([breaks], tmp_path / "page.html").read_text()).text


def test_challenges_of_two_models_are_not_pooled(tmp_path: Path) -> None:
    """What one model's certificates break must not drown in another one's that hold."""
    models = (("small", "01" * 32), ("large", "02" * 32))
    runs = [write_challenge(tmp_path / name, 8 if name == "small" else 0, model=(name, fp)) for name, fp in models]
    (table,) = tables(section(runs), "Challenges")
    assert [row[0] for row in table.rows] == ["zero-shot · small", "zero-shot · large"]
    (alarm,) = section(runs).alarms
    assert alarm.startswith("zero-shot · small")
    again = write_challenge(tmp_path / "again", 0)
    (pooled,) = tables(section([write_challenge(tmp_path / "once", 0), again]), "Challenges")
    assert [row[4] for row in pooled.rows] == ["24"]


def test_self_checks_are_explained_where_they_stand(tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 3}, checks="failed")
    skipped = {"prompts": "zero-shot", "check": "it transfers", "verdict": "skipped", "detail": "no other model"}
    with_skipped = replace(run, info={**run.info, "checks": [*run.info["checks"], skipped]})
    (part,) = (one for one in section([with_skipped]).parts if not one.figures)
    assert "more steps, more restarts and a larger epsilon break no fewer images" in part.text
    assert "1 of 1 came out the other way" in part.text


def test_the_strip_shows_what_broke_and_when(tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 1, 2 * GREY: 11})
    write_pictures(run, "test/000.png", "zero-shot", GREY)
    (strip,) = section([run]).strips
    (image,) = strip.images
    assert (image.why, image.truth, image.before, image.after) == (
        "broken at 1/255",
        CLASSES[0],
        CLASSES[0],
        CLASSES[1],
    )
    assert image.change.startswith("data:image/png;base64,")


def test_every_prompt_set_has_a_strip(tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 1}, prompts={"zero-shot": FIRST, "coop": OTHER, "unseen": OTHER})
    for prompts in ("zero-shot", "coop"):
        write_pictures(run, "test/000.png", prompts, GREY)
    assert [strip.title for strip in section([run]).strips] == ["zero-shot, pgd, linf", "coop, pgd, linf"]
    words = Page(report([run], tmp_path / "page.html").read_text()).text
    assert words.count("Left: what the model sees. Middle:") == 1


def test_budgets_are_ordered_as_numbers(tmp_path: Path) -> None:
    """The store orders lines by text, where 10 stands before 2."""
    run = write_attack(tmp_path / "l2", {2.0: 1, 10.0: 1}, norm="l2")
    for epsilon in (2.0, 10.0):
        write_pictures(run, "test/000.png", "zero-shot", epsilon)
        write_pictures(run, "test/005.png", "zero-shot", epsilon)
    (strip,) = section([run]).strips
    assert [image.why for image in strip.images] == ["broken at 2", "holds at 10"]


def test_members_of_an_ensemble_are_read_line_by_line(tmp_path: Path) -> None:
    ran = [
        {"name": "apgd-ce", "settings": {"steps": 100, "restarts": 1}},
        {"name": "square", "settings": {"queries": 5000}},
    ]
    (table,) = section([write_attack(tmp_path / "aa", {2 * GREY: 3}, attack="autoattack", ran=ran)]).settings
    said = {str(row[0]): str(row[1]) for row in table.rows}
    assert said["member apgd-ce"] == "steps 100, restarts 1"
    assert said["member square"] == "queries 5000"
    assert said["eps"] == "2/255"
    assert "ran" not in said


def test_attacks_are_not_broken_down(tmp_path: Path) -> None:
    run = write_attack(tmp_path / "pgd", {GREY: 3})
    with pytest.raises(InputError, match="runs of attack are not broken down"):
        report([run], tmp_path / "page.html", by="sex")
