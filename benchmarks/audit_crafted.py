"""Whether an audit finds what was really done to a data set, and whether the power that it promises is the true one.

    python benchmarks/audit_crafted.py --data ../shared/data/blood_smears_captions --out runs/audit-crafted

For each kind of noise and ratio: `titer craft`, `titer audit` on what came out (which never reads `noise.jsonl`), then the
truth from that file beside the audit: AUROC of its rank, the share of noised pairs above the threshold that flags 1 % of the
clean ones, the share of canaries above that same threshold, and the power that the audit states at 1 % of all pairs, which
cannot know how many are bad. Then a heavily noised corpus, of which half of the pairs are audited: by themselves, and against the
other half as it was before the noise (`--trusted`), where the threshold flags 1 % of the trusted pairs. Goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from titer.data import load_data
from titer.data.example import Data
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
    parser.add_argument("--ratios", type=float, nargs="*", default=[0.05, 0.2])
    parser.add_argument("--heavy", type=float, nargs="*", default=[0.4])
    parser.add_argument("--noises", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    args = parser.parse_args()
    print(
        "noise\tratio\tpairs\tnoised\tAUROC\tfound at 1 % of clean pairs\tcanaries at that threshold\tstated at 1 % of all",
        flush=True,
    )
    for name in args.noises:
        for ratio in args.ratios:
            crafted, run = corpus(args, name, ratio), args.out / f"{name}-{ratio:g}-audit"
            audited_by(args.model, str(crafted), run, name)
            print(row(name, ratio, crafted, run), flush=True)
    print("noise\tratio\tpairs\tnoised\treference\tAUROC\tfound\tcanaries\tclean pairs flagged", flush=True)
    believed = load_data(f"train:0.5@{args.data}", split="train")
    chosen = {example.id for example in believed.examples}
    for name in args.noises:
        for ratio in args.heavy:
            crafted = corpus(args, name, ratio)
            rest = without(load_data(str(crafted), split="train"), chosen)
            for reference, trusted in (("itself", None), ("trusted", believed)):
                run = args.out / f"{name}-{ratio:g}-{reference}-audit"
                audited_by(args.model, rest, run, name, trusted=trusted)
                print(heavy_row(name, ratio, crafted, run, reference), flush=True)


def corpus(args: argparse.Namespace, name: str, ratio: float) -> Path:
    """The data set with this noise."""
    attack, settings, eps, _ = FAMILIES[name]
    out: Path = args.out / f"{name}-{ratio:g}"
    craft(args.model, args.data, out=out, ratio=ratio, attack=attack, eps=eps, settings=settings, workers=1)
    return out


def audited_by(model: str, data: str | Data, run: Path, name: str, trusted: Data | None = None) -> None:
    """An audit with the canaries that are meant for this noise."""
    families = {"families": (FAMILIES[name][3],)}
    audit([model], data, trusted=trusted, out=run, seed=0, workers=1, images=False, settings=families)


def without(data: Data, ids: set[str]) -> Data:
    """The pairs that are not among these."""
    return dataclasses.replace(data, examples=tuple(example for example in data.examples if example.id not in ids))


def noised_ids(crafted: Path) -> set[str]:
    """Which pairs were noised, by the crafter's own record."""
    return {json.loads(line)["sample_id"] for line in (crafted / "noise.jsonl").read_text().splitlines()}


def heavy_row(name: str, ratio: float, crafted: Path, path: Path, reference: str) -> str:
    """What is above the audit's own threshold, of noised pairs, canaries and clean pairs."""
    run, noised = read_run(path), noised_ids(crafted)
    bad = np.array([record["sample_id"] in noised for record in run.records])
    scores = np.array([record["score"] for record in run.records])
    if "trusted" in run.info:
        flagged = np.array([record["ahead"] <= int(FALSE_ALARMS * record["real"] + 1e-9) for record in run.records])
    else:
        flagged = scores > (audited.threshold_score(run, FALSE_ALARMS) or 1.0)
    found, alarms = (proportion(int(flagged[of].sum()), int(of.sum())) for of in (bad, ~bad))
    planted = audited.canaries(run)[FAMILIES[name][3]]
    told = _power(audited.power_of(name, planted, FALSE_ALARMS))
    area = roc_auc_score(bad, scores)
    return f"{name}\t{ratio:g}\t{len(scores)}\t{bad.sum()}\t{reference}\t{area:.3f}\t{_said(found)}\t{told}\t{_said(alarms)}"


def row(name: str, ratio: float, crafted: Path, path: Path) -> str:
    """The truth beside what the audit said."""
    run, noised, family = read_run(path), noised_ids(crafted), FAMILIES[name][3]
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
