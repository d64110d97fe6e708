"""Power, areas and base rates against hand counts; what a filter takes; what is unknown is said to be."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from titer.errors import InputError
from titer.results import audited
from titer.results.audited import Filter, area_of, power_of
from titer.results.store import Record, Run
from titer.statistics.intervals import clustered, proportion

LABELS = ("common", "rare")


def canary(place: int, ahead: int, real: int = 200, planting: int | None = None, family: str = "text") -> Record:
    share = 1 - ahead / real
    return {
        "sample_id": str(place), "family": family, "planting": place if planting is None else planting, "ahead": ahead,
        "real": real, "score": share, "percentile": share, "percentiles": {"pair": share},
    }  # fmt: skip


def pair(place: int, score: float, label: int | None = 0, **fields: object) -> Record:
    return {
        "sample_id": f"{place:03}", "path": f"{place}.png", "label": label, "caption": f"caption {place}", "rank": place + 1,
        "score": score, "signals": {"own-rank": 0.1}, "percentiles": {"pair": score, "own-rank": 0.2}, **fields,
    }  # fmt: skip


def run_of(path: Path, records: Sequence[Record], planted: Sequence[Record] = ()) -> Run:
    path.mkdir(exist_ok=True)
    (path / "canaries.jsonl").write_text("".join(json.dumps(record) + "\n" for record in planted))
    info = {
        "verb": "audit", "families": {"text": "words", "untouched": "nothing"}, "control": "untouched",
        "classes": [{"label": label, "texts": []} for label in LABELS], "model": {"name": "toy"},
    }  # fmt: skip
    return Run(path, info, tuple(records), ())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """200 pairs; 120 canaries of which 60 are above all, 30 below one or two pairs, 30 in the middle."""
    planted = [canary(place, 0 if place < 60 else 1 + place % 2 if place < 90 else 100) for place in range(120)]
    planted += [canary(place, place, family="untouched") for place in range(99)]
    return run_of(tmp_path / "run", [pair(place, 1 - place / 199) for place in range(200)], planted)


def test_power_by_counting(run: Run) -> None:
    rows = {(row.family, row.false_alarms): row for row in audited.power(run)}
    at, rare, first = (rows["text", share] for share in (0.01, 0.001, 0.0))
    assert at.power == proportion(90, 120)  # one percent of 200 flags two real pairs, so up to two may be ahead
    assert first.power == proportion(60, 120)
    assert rare.power is None
    assert rare.unknown == "0.1 % of 200 pairs is less than one"
    assert {row.unknown for (family, _), row in rows.items() if family == "untouched"} == {
        "99 canaries; at least 100 are needed"
    }
    assert rows["text", 0.01].canaries == 120


def test_a_thousandth_is_known_where_there_are_pairs_enough() -> None:
    found = [canary(place, place % 3, real=1000) for place in range(150)]
    assert power_of("text", found, 0.001).power == proportion(100, 150)
    assert power_of("text", found, 0.01).power == proportion(150, 150)
    below = [canary(place, 0, real=999) for place in range(150)]
    assert power_of("text", below, 0.001).power is None


def test_the_interval_counts_plantings() -> None:
    """Canaries that are found or missed together tell no more than one of them."""
    tied = [canary(place, 0 if place // 10 % 2 else 50, planting=place // 10) for place in range(200)]
    alone = [{**record, "planting": place} for place, record in enumerate(tied)]
    wide, narrow = (power_of("text", found, 0.01).power for found in (tied, alone))
    assert wide is not None
    assert narrow is not None
    assert wide.estimate == narrow.estimate == 0.5
    assert narrow == proportion(100, 200)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide == clustered([float(record["ahead"] == 0) for record in tied], [record["planting"] for record in tied])


def test_the_interval_covers_the_power_that_canaries_have() -> None:
    """300 audits whose canaries have a true power of 0.4, half of it shared within a planting of two."""
    random, covered = np.random.default_rng(0), 0
    for _ in range(300):
        chance = np.repeat(random.beta(0.8, 1.2, 50), 2)  # mean 0.4
        found = [
            canary(place, 0 if hit else 99, planting=place // 2)
            for place, hit in enumerate(random.random(100) < chance)
        ]
        power = power_of("text", found, 0.01).power
        covered += power is not None and power.low <= 0.4 <= power.high
    assert covered >= 0.93 * 300


def test_shuffled_canaries_are_at_chance() -> None:
    """Which pairs are canaries is drawn at random from one population: AUROC is 1/2, power the share of false alarms."""
    random, covered, hits = np.random.default_rng(1), 0, 0.0
    for _ in range(200):
        score = random.standard_normal(300)
        planted = []
        for planting in range(50):
            chosen = random.choice(300, 2, replace=False)
            others = np.delete(score, chosen)
            planted += [
                {**canary(int(row), int((others >= score[row]).sum()), 298, planting),
                 "percentile": float((others < score[row]).mean())} for row in chosen
            ]  # fmt: skip
        area = area_of("text", "score", planted, 300).area
        covered += area.low <= 0.5 <= area.high
        power = power_of("text", planted, 0.01).power
        assert power is not None
        hits += power.estimate / 200
    assert covered >= 0.94 * 200
    assert hits == pytest.approx(0.01, abs=0.003)


def test_area_is_the_mean_share_of_real_pairs_below() -> None:
    found = [canary(place, place) for place in range(100)]
    row = area_of("text", "pair", found, 200)
    assert row.area.estimate == pytest.approx(np.mean([1 - place / 200 for place in range(100)]))
    fewer = area_of("text", "pair", [{**record, "planting": 0} for record in found], 200)
    assert fewer.area.high - fewer.area.low > row.area.high - row.area.low


def test_what_trusted_pairs_flag_is_counted_and_their_scores_make_the_threshold(run: Run) -> None:
    assert not audited.flagged(run)
    assert not audited.flagged_table(run)
    records = [{**record, "real": 150, "ahead": place, "group": place // 2} for place, record in enumerate(run.records)]
    believed = [pair(place, 0.5 - place / 400) for place in range(150)]
    (run.path / "trusted.jsonl").write_text("".join(json.dumps(record) + "\n" for record in believed))
    against = Run(run.path, {**run.info, "trusted": {"name": "clean"}}, tuple(records), ())
    rows = {row.false_alarms: row for row in audited.flagged(against)}
    assert list(rows) == [0.01, 0.05, 0.1, 0.2, 0.3]  # a thousandth of 150 is less than one pair
    at = rows[0.01]
    assert (at.pairs, at.flagged) == (200, 2)
    assert at.expected == pytest.approx(2.0)
    assert at.share == clustered([float(place < 2) for place in range(200)], [place // 2 for place in range(200)])
    assert audited.threshold_score(against, 0.01) == pytest.approx(0.5 - 1 / 400)
    assert audited.threshold_score(run, 0.01) == pytest.approx(1 - 2 / 199)
    first = audited.flagged_table(against)[0]
    assert (first["of audited pairs"], first["if all were clean, at most about"]) == ("2 of 200", "2")


def test_base_rates_are_of_known_power_and_real_noise(run: Run) -> None:
    (row,) = audited.base_rates(run)
    assert (row.family, row.false_alarms) == ("text", 0.01)
    assert row.precision[2].estimate == pytest.approx(0.75 * 0.01 / (0.75 * 0.01 + 0.01 * 0.99))
    (told,) = audited.base_rate_table(run)
    assert told["1 % bad"].startswith("43 % (")


def test_what_is_unknown_is_said(run: Run) -> None:
    assert audited.reasons(run) == [
        "Power (0.1 % flagged) is unknown for text: 0.1 % of 200 pairs is less than one.",
        "Power (1 % flagged, 0.1 % flagged, above every real pair) is unknown for untouched: "
        "99 canaries; at least 100 are needed.",
    ]
    told = {row["canaries of"]: row for row in audited.power_table(run)}
    assert told["text"]["1 % flagged"] == "75 % (66 to 82)"
    assert told["untouched"]["1 % flagged"] == "unknown"


def test_the_queue_and_what_raised_a_pair(tmp_path: Path) -> None:
    high = {"a": 0.91, "b": 0.89, "c": 1.0, "d": 0.95, "e": 0.93}
    first, last = {**pair(0, 0.9), "percentiles": high}, {**pair(1, 0.2), "percentiles": dict.fromkeys(high, 0.3)}
    run = run_of(tmp_path / "run", [last, first])
    assert [record["rank"] for record in audited.queue(run)] == [1, 2]
    assert list(audited.raised(first)) == ["c", "d", "e"]
    assert audited.raised(last) == {}
    with audited.write_queue(run).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["sample_id"], row["label"], row["caption"]) for row in rows] == [
        ("1", "000", "common", "caption 0"), ("2", "001", "common", "caption 1")
    ]  # fmt: skip
    with pytest.raises(InputError, match="expected a run of audit"):
        audited.queue(Run(tmp_path, {"verb": "attack"}, (), ()))


def test_filters_take_from_the_top(run: Run) -> None:
    assert [record["rank"] for record in Filter(share=0.02).taken(run)] == [1, 2, 3, 4]
    assert len(Filter(below=0.5).taken(run)) == 100
    assert Filter(share=0.0).taken(run) == []
    assert len(Filter(share=1.0).taken(run)) == 200


@pytest.mark.parametrize(
    "wrong", [{}, {"below": 0.5, "share": 0.1}, {"below": 1.5}, {"share": -0.1}, {"share": float("nan")}]
)
def test_filters_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="--drop"):
        Filter(**wrong)


def test_a_filter_that_takes_a_rare_class_is_told(tmp_path: Path) -> None:
    labels = [1] * 9 + [0] * 90 + [None]
    sites = [{"site": "a" if place % 2 else None} for place in range(100)]
    records = [pair(place, 1 - place / 100, labels[place], attributes=sites[place]) for place in range(100)]
    run = run_of(tmp_path / "run", records)
    rows = {(row.column, row.value): row for row in audited.removals(run, Filter(share=0.1).taken(run))}
    assert [value for column, value in rows if column == "label"] == ["(none)", "common", "rare"]
    assert [key for key in rows if key[0] != "label"] == [("all", ""), ("site", "(empty)"), ("site", "a")]
    assert (rows["label", "rare"].removed, rows["label", "rare"].pairs, rows["label", "rare"].heavy) == (9, 9, True)
    assert (rows["label", "common"].removed, rows["label", "common"].heavy) == (1, False)
    assert rows["all", ""].share == proportion(10, 100)
    assert audited.removal_table([rows["label", "rare"]])[0]["note"] == "loses more than the others"


def test_a_model_at_chance_is_told(tmp_path: Path) -> None:
    good = [pair(place, 0.5) for place in range(9)]
    assert audited.warnings(run_of(tmp_path / "good", good)) == []
    bad = [{**record, "signals": {"own-rank": 0.48}} for record in good]
    (said,) = audited.warnings(run_of(tmp_path / "bad", bad))
    assert said.startswith("toy is near chance on these pairs: 48 %")


def test_a_review_of_more_pairs_finds_more_canaries(run: Run) -> None:
    """60 canaries are above all 200 pairs, 30 below one or two of them, 30 in the middle."""
    found = {row.false_alarms: row.power for row in audited.reviewed(run) if row.canaries == 120}
    shares = [found[share].estimate for share in audited.REVIEWED]  # type: ignore[union-attr]
    assert shares[0] == pytest.approx(90 / 120)
    assert shares == sorted(shares)
