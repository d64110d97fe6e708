"""Whether an audit finds what was really done to a data set, and whether the power that it promises is the true one.

    python benchmarks/audit_crafted.py --data ../shared/data/blood_smears_captions --out runs/audit-crafted

For each kind of noise and ratio: `titer craft`, `titer audit` on what came out (which never reads `noise.jsonl`), then the
truth from that file beside the audit: AUROC of its rank, the share of noised pairs above the threshold that flags 1 % of the
clean ones, the share of canaries above that same threshold, and the power that the audit states at 1 % of all pairs, which
cannot know how many are bad. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from titer.results import audited
from titer.results.store import read_run
from titer.statistics.intervals import Interval, proportion
from titer.upstream.audit.session import audit
from titer.upstream.craft import craft

# kind of noise here -> the family of canaries that is meant for it
FAMILIES = {
    "joint": ("sga", {}, 2 / 255, "sga-2/255"),
    "image-only": ("sga", {"halves": "image"}, 8 / 255, "image-8/255"),
    "text-only": ("sga", {"halves": "text"}, 2 / 255, "text"),
    "wrong-caption": ("wrong-caption", {}, 2 / 255, "wrong-caption"),
}
FALSE_ALARMS = 0.01


def main() -> None:
    """Print a row for each kind of noise and ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="titer:tiny")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.05, 0.2])
    args = parser.parse_args()
    print(
        "noise\tratio\tpairs\tnoised\tAUROC\tfound at 1 % of clean pairs\tcanaries at that threshold\tstated at 1 % of all",
        flush=True,
    )
    for name, (attack, settings, eps, family) in FAMILIES.items():
        for ratio in args.ratios:
            crafted, run = args.out / f"{name}-{ratio:g}", args.out / f"{name}-{ratio:g}-audit"
            craft(args.model, args.data, out=crafted, ratio=ratio, attack=attack, eps=eps, settings=settings, workers=1)
            audit([args.model], str(crafted), out=run, seed=0, workers=1, images=False, settings={})
            print(row(name, ratio, crafted, run, family), flush=True)


def row(name: str, ratio: float, crafted: Path, path: Path, family: str) -> str:
    """The truth beside what the audit said."""
    noised = {json.loads(line)["sample_id"] for line in (crafted / "noise.jsonl").read_text().splitlines()}
    run = read_run(path)
    scores = np.array([record["score"] for record in run.records])
    bad = np.array([record["sample_id"] in noised for record in run.records])
    clean = np.sort(scores[~bad])
    threshold = clean[-max(1, round(FALSE_ALARMS * len(clean)))]
    found = int((scores[bad] > threshold).sum())
    true = proportion(found, int(bad.sum()))
    flagged = (found + round(FALSE_ALARMS * len(clean))) / len(scores)
    planted = audited.canaries(run)[family]
    told = "\t".join(_power(audited.power_of(family, planted, share)) for share in (flagged, FALSE_ALARMS))
    area = roc_auc_score(bad, scores)
    return f"{name}\t{ratio:g}\t{len(scores)}\t{bad.sum()}\t{area:.3f}\t{_said(true)}\t{told}"


def _power(row: audited.PowerRow) -> str:
    return row.unknown if row.power is None else _said(row.power)


def _said(share: Interval) -> str:
    return f"{share.estimate:.2f} ({share.low:.2f} to {share.high:.2f})"


if __name__ == "__main__":
    main()
