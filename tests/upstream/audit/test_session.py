"""Whole audits: noised pairs are found, canaries stay apart, nothing but the settings changes a record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attacks.test_words import bert  # noqa: F401
from images import timeless
from titer.attacks.words import MaskedLanguageModel
from titer.errors import InputError, RunError
from titer.results import audited
from titer.results.store import Run, read_lines
from titer.upstream.audit.keeping import keep
from titer.upstream.audit.session import audit
from titer.upstream.craft import craft
from upstream.audit.making import changed, folder, toy

FEW = {"canaries": 8, "steps": 2, "captions": 50}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("audit") / "data")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return audit(toy(), data, out=tmp_path_factory.mktemp("runs") / "whole", settings={"steps": 2}, by=["site"])


def test_records_hold_what_the_docs_say(whole: Run) -> None:
    assert (whole.info["verb"], whole.info["status"], whole.info["seed"]) == ("audit", "done", 0)
    ordered = audited.queue(whole)
    assert [record["rank"] for record in ordered] == list(range(1, 121))
    scores = [record["score"] for record in ordered]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] <= scores[0] <= 1
    one = ordered[0]
    assert set(one) == {"sample_id", "path", "label", "group", "attributes", "sha256", "caption", "rank", "score",
                        "signals", "percentiles"}  # fmt: skip
    assert list(one["signals"]) == [
        "pair",
        "own-rank",
        "transform",
        "k-distance",
        "slof",
        "dao",
        "residual",
        "surprisal",
        "near-duplicate",
    ]
    assert one["score"] == pytest.approx(np.mean(list(one["percentiles"].values())), abs=1e-6)
    assert len(list((whole.path / "images").iterdir())) == 50
    assert audited.warnings(whole) == []


def test_canaries_are_apart_and_enough(whole: Run) -> None:
    found = audited.canaries(whole)
    assert set(found) == set(whole.info["families"])
    for family, records in found.items():
        assert len(records) >= 100, family
        assert all(record["real"] in (117, 118) for record in records)
        assert len({record["canary"] for record in records}) == len(records)
    ids = {record["sample_id"] for record in whole.records}
    assert len(ids) == len(whole.records) == 120
    assert not any("canary" in record or "family" in record for record in whole.records)


def test_power_is_high_for_strong_noise_and_that_of_false_alarms_for_none(whole: Run) -> None:
    at = {row.family: row.power for row in audited.power(whole) if row.false_alarms == 0.01}
    areas = {row.family: row.area for row in audited.areas(whole) if row.by == "score"}
    assert all(power is not None for power in at.values())
    for family in ("sga-8/255", "wrong-caption"):
        assert areas[family].low > 0.8, family
    assert areas["untouched"].low <= 0.5 <= areas["untouched"].high
    control, strong = at["untouched"], at["sga-8/255"]
    assert control is not None
    assert control.low <= 0.01 <= control.high
    assert strong is not None
    assert strong.estimate > 0.3
    pair = {(row.family, row.by): row.area.estimate for row in audited.areas(whole)}
    assert pair["wrong-caption", "pair"] > 0.95
    assert pair["wrong-caption", "transform"] == pytest.approx(0.5, abs=0.1)
    assert pair["image-8/255", "surprisal"] == pytest.approx(0.5, abs=0.1)


def test_pairs_that_were_crafted_are_on_top(data: Path, tmp_path: Path) -> None:
    """Noised by another verb; what was done is read by this test only."""
    made = craft(toy(), data, out=tmp_path / "noised", ratio=0.05, attack="sga", eps=8 / 255, settings={"steps": 4})
    noised = {record["sample_id"] for record in read_lines(tmp_path / "noised" / "noise.jsonl")}
    assert made.noised == len(noised) == 6
    found = audit(toy(), tmp_path / "noised", out=tmp_path / "run", settings=FEW, images=False)
    ranks = sorted(record["rank"] for record in found.records if record["sample_id"] in noised)
    assert np.median(ranks) <= 10, ranks
    (tmp_path / "noised" / "noise.jsonl").write_text("what is here is not read")
    again = audit(toy(), tmp_path / "noised", out=tmp_path / "again", settings=FEW, images=False)
    assert timeless(again) == timeless(found)
    assert not (tmp_path / "again" / "images").exists()


def test_a_trusted_set_says_what_is_usual(data: Path, tmp_path: Path) -> None:
    """Half of the pairs noised: among themselves they are usual, among trusted ones they are not."""
    craft(toy(), data, out=tmp_path / "noised", ratio=0.5, attack="sga", eps=8 / 255, settings={"steps": 4})
    noised = {record["sample_id"] for record in read_lines(tmp_path / "noised" / "noise.jsonl")}
    believed = folder(tmp_path / "trusted", seed=7)

    def area(found: Run) -> float:
        bad = [record["score"] for record in found.records if record["sample_id"] in noised]
        good = [record["score"] for record in found.records if record["sample_id"] not in noised]
        return float(np.mean(np.array(bad)[:, None] > np.array(good)))

    few = {**FEW, "families": ("text",)}
    alone = audit(toy(), tmp_path / "noised", out=tmp_path / "alone", settings=few, images=False)
    found = audit(
        toy(),
        tmp_path / "noised",
        trusted=believed,
        trusted_split="train",
        out=tmp_path / "run",
        settings=few,
        images=False,
    )
    assert area(found) > area(alone)
    assert (found.info["trusted"]["pairs"], found.info["trusted"]["groups"]) == (120, 60)
    assert sorted(record["rank"] for record in found.records) == list(range(1, 121))
    assert len(audited.trusted(found)) == 120
    assert not audited.trusted(alone)
    assert not audited.flagged(alone)
    first = audited.flagged(found)[0]
    assert (first.false_alarms, first.pairs) == (0.01, 120)
    assert first.expected == pytest.approx(1.2)
    assert first.flagged == sum(record["ahead"] <= 1 for record in found.records)
    clean = audit(toy(), folder(tmp_path / "clean", seed=8), trusted=believed, trusted_split="train",
                  out=tmp_path / "other", settings=few, images=False)  # fmt: skip
    at = {row.false_alarms: row.share for row in audited.flagged(clean)}
    assert at[0.2].low <= 0.2 <= at[0.2].high
    with pytest.raises(InputError, match="130 pictures of data are audited, too, such as"):
        audit(toy(), data, split="all", trusted=data, out=tmp_path / "same")
    with pytest.raises(InputError, match="belongs to"):
        audit(toy(), tmp_path / "noised", out=tmp_path / "run", settings=few)


def test_a_trusted_picture_that_cannot_be_read_ends_the_run(data: Path, tmp_path: Path) -> None:
    believed = folder(tmp_path / "trusted", seed=7)
    (believed / "scans" / "003.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"--trusted: scans/003.png cannot be used"):
        audit(toy(), data, trusted=believed, out=tmp_path / "run", settings=FEW)


def test_two_encoders_have_signals_each_and_disagree(data: Path, tmp_path: Path) -> None:
    found = audit([toy(), toy("other")], data, out=tmp_path / "run", settings=FEW)
    names = set(found.records[0]["signals"])
    assert {"pair/2", "own-rank/2", "transform/2", "slof/2", "disagreement"} <= names
    assert found.info["second"]["name"] == "other"
    with pytest.raises(InputError, match="given twice"):
        audit([toy(), toy()], data, out=tmp_path / "same")
    with pytest.raises(InputError, match="one or two models, got 3"):
        audit([toy(), toy("other"), toy("third")], data, out=tmp_path / "three")


def test_a_masked_language_model_judges_words(data: Path, tmp_path: Path, bert: Path) -> None:  # noqa: F811
    few = {**FEW, "surprisal": {"path": str(bert)}}
    found = audit(toy(), data, out=tmp_path / "run", settings=few)
    source = MaskedLanguageModel(str(bert))
    for record in found.records[:3]:
        assert record["signals"]["surprisal"] == pytest.approx(max(source.surprisals(record["caption"])), abs=1e-5)
    assert found.info["settings"]["surprisal"]["fingerprint"] == source.fingerprint()
    with pytest.raises(InputError, match=r"settings.surprisal was"):
        audit(toy(), data, out=tmp_path / "run", settings=FEW)


def test_grey_pictures_are_noised_in_one_channel(tmp_path: Path) -> None:
    found = audit(toy(), folder(tmp_path / "grey", kind="L"), out=tmp_path / "run", settings=FEW)
    assert len(audited.canaries(found)["image-8/255"]) >= 8


def test_pairs_without_a_word_to_swap_are_no_canaries(data: Path, tmp_path: Path) -> None:
    found = audit(toy(), changed(data, tmp_path / "data", ["qq aa", "qq bb"]), out=tmp_path / "run", settings=FEW)
    planted = audited.canaries(found)
    assert (len(planted["text"]), len(planted["sga-8/255"]), len(planted["wrong-caption"])) == (0, 8, 8)
    tried = [record for record in read_lines(found.path / "planted.jsonl") if record["family"] == "text"]
    assert len(tried) >= 3 * 8
    assert not any(record["changed"] for record in tried)


def test_too_few_canaries_are_said_to_be_too_few(data: Path, tmp_path: Path) -> None:
    found = audit(toy(), data, out=tmp_path / "run", settings=FEW)
    assert all(row.power is None for row in audited.power(found))
    (said,) = {row.unknown.partition(";")[2] for row in audited.power(found)}
    assert said == " at least 100 are needed"
    none = audit(toy(), data, out=tmp_path / "none", settings={**FEW, "canaries": 0})
    assert audited.areas(none) == []
    assert all(row.unknown.startswith("0 canaries") for row in audited.power(none))


def test_what_is_kept_can_be_read_and_trained_on(whole: Run, data: Path) -> None:
    import titer

    taken = audited.Filter(share=0.1).taken(whole)
    kept = keep(whole, str(data), taken)
    assert (kept.rows, kept.unjudged) == (118, 0)
    before, after = (titer.load_data(source, split="all") for source in (data, kept.path))
    gone = {record["sample_id"] for record in taken}
    assert {row.id for row in before.examples} - {row.id for row in after.examples} == gone
    assert after.classes == before.classes
    by_id = {row.id: row for row in before.examples}
    for row in after.examples:
        old = by_id[row.id]
        assert (row.caption, row.label, row.group, row.split, row.attributes) == (
            old.caption, old.label, old.group, old.split, old.attributes
        )  # fmt: skip
        assert after.digest(row) == before.digest(old)
    again = keep(whole, str(data / "metadata.csv"), [])
    assert again.rows == 130


def test_what_has_no_files_is_not_kept(whole: Run) -> None:
    with pytest.raises(InputError, match="has no table of its own"):
        keep(whole, "captioned:titer:phantoms", [])
