"""The page of an audit says its power first, escapes what a table says, and shows no picture that was not kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from titer.errors import InputError
from titer.evaluate.subject import keep_picture
from titer.report.audited import section, write_audit
from titer.results.audited import Filter
from titer.results.store import Run


def run_of(path: Path, canaries: int = 100, pictures: int = 0) -> Run:
    random = np.random.default_rng(0)
    path.mkdir()
    signals = ("pair", "own-rank")
    records = [
        {
            "sample_id": f"{place:03}", "path": f"{place}.png", "label": place % 2, "caption": f"<b>caption {place}</b>",
            "rank": place + 1, "score": 1 - place / 120, "signals": dict.fromkeys(signals, 0.1),
            "percentiles": dict.fromkeys(signals, 1 - place / 119),
        }
        for place in range(120)
    ]  # fmt: skip
    planted = []
    for family, ahead in (("strong", 0), ("weak", 60), ("untouched", 60)):
        for place in range(canaries):
            share = 1 - ahead / 118
            planted.append({
                "family": family, "planting": place // 2, "ahead": ahead, "real": 118, "score": float(random.random()),
                "percentile": share, "percentiles": dict.fromkeys(signals, share),
            })  # fmt: skip
    (path / "canaries.jsonl").write_text("".join(json.dumps(record) + "\n" for record in planted))
    for record in records[:pictures]:
        keep_picture(torch.rand(3, 9, 9), path / "images", str(record["sample_id"]))
    info = {
        "verb": "audit", "status": "done", "command": "titer audit", "model": {"name": "toy", "fingerprint": "f"},
        "data": {"name": "pairs", "split": "train", "limit": None}, "without_caption": 3, "control": "untouched",
        "families": {"strong": "much", "weak": "little", "untouched": "nothing"}, "settings": {"k": 16},
        "signals": {"pair": "far apart", "own-rank": "others fit better", "dao": "not here"},
        "classes": [{"label": "common", "texts": []}, {"label": "rare", "texts": []}],
        "samples": {"done": 120, "failed": 0, "expected": 120},
    }  # fmt: skip
    return Run(path, info, tuple(records), ())


def test_power_is_said_first_and_weakness_with_it(tmp_path: Path) -> None:
    found = section(run_of(tmp_path / "run"))
    assert found.verdicts[0].startswith("At a threshold that flags 1 % of the real pairs it finds")
    assert "strong 100 % (93 to 100), weak 0 % (0 to 7)" in found.verdicts[0]
    assert "untouched" not in found.verdicts[0]
    assert found.verdicts[1].startswith("It finds fewer than half of weak")
    assert found.facts == ("toy", "train split", "120 pairs", "3 rows without caption left out")
    assert [part.title for part in found.parts] == ["What this audit would find", "What a flag is worth"]
    assert [name for name, _ in found.signals] == ["pair", "own-rank"]
    assert len(found.suspects) == 50


def test_a_trusted_set_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    records = [{**record, "real": 100, "ahead": place} for place, record in enumerate(run.records)]
    lines = [json.dumps({"sample_id": str(place), "path": str(place), "score": 0.5}) for place in range(100)]
    (run.path / "trusted.jsonl").write_text("\n".join(lines) + "\n")
    info = {**run.info, "trusted": {"name": "clean", "split": "all", "pairs": 100, "groups": 100}}
    found = section(Run(run.path, info, tuple(records), ()))
    assert "100 trusted pairs of clean, all split" in found.facts
    assert found.verdicts[0].startswith("At a threshold that flags 1 % of the trusted pairs")
    assert found.verdicts[-1].startswith("Of the audited pairs 2 of 120 are above it, 2 %")
    assert "about 1 would be" in found.verdicts[-1]
    assert [table.title for table in found.parts[0].tables] == [
        "Power", "If more is flagged", "Audited pairs above thresholds of trusted ones"
    ]  # fmt: skip


def test_unknown_power_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", canaries=99)
    found = section(run)
    assert found.verdicts == ("How much this audit would find is unknown. That it finds nothing would say nothing.",)
    assert "99 canaries; at least 100 are needed" in found.parts[0].text
    assert [part.title for part in found.parts] == ["What this audit would find"]
    (run.path / "canaries.jsonl").write_text("")
    assert section(run).parts[0].folded == ()
    assert "0 canaries" in write_audit(run).read_text()


def test_the_page(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", pictures=2)
    page = write_audit(run, Filter(share=0.1))
    text = page.read_text()
    assert page == run.path / "report.html"
    assert text.count("data:image/png") == 2
    assert "Nothing was deleted" in text
    assert "<b>caption" not in text
    assert "&lt;b&gt;caption 0" in text
    assert "Filter: the top 10 % of the queue, 12 of 120 pairs" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert write_audit(run, out=tmp_path / "other.html").read_text().count("caption 49") == 1


def test_what_is_no_audit_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a run of audit"):
        write_audit(Run(tmp_path, {"verb": "attack"}, (), ()))
