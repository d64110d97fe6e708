"""What a report says in words: verdicts, warnings, and how to read the numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from scipy.special import ndtri

from titer.report.tables import Line, Share, columns_carried, radius_text
from titer.results.foreign import NOT_RECORDED
from titer.results.store import Record, Run
from titer.results.summary import Cell, groups, radii, radii_shown, run_certifies, share_at
from titer.statistics.intervals import clustered

GUARANTEES = {
    "fixed": "Weights and prompts were fixed before the image was seen: the standard statement of randomized smoothing.",
    "per-draw": "Adaptation runs inside the base classifier on each single noisy draw, so the standard statement holds for it.",
    "bank": "One of finitely many fixed prompts was chosen by a certified vote; the radius is the smaller of the two.",
    "product": "Each vote used extra draws for adaptation; the radius is divided by the square root of their number plus one.",
    "conditional": "Holds only for the prompt adapted to this very image. A deployed pipeline adapts again to a changed image, "
    "and nothing is proven for it. Not comparable with the other guarantees.",
    NOT_RECORDED: "The file does not say which pipeline its radii hold for, nor how many draws they rest on.",
}


def verdict(line: Line) -> str:
    """One paragraph for someone who reads nothing else."""
    cell = line.cell
    model, data = (cell.run.info.get(name, {}).get("name") for name in ("model", "data"))
    sigma = "a sigma not recorded" if math.isnan(cell.sigma) else f"sigma {cell.sigma_text}"
    subject = f"{model} with {line.name} prompts, smoothed with noise of {sigma},"
    images = f"{len(cell.counted):,} images of {data}"
    above = [radius for radius in radii_shown(cell) if radius > 0][:3] if run_certifies(cell.run) else []
    good = "right" if cell.labelled else "given"
    proven = f"he answer is {good} and proven not to change "
    parts = [f"within radius {radius_text(radius)} for {_said(cell, radius)}" for radius in above]
    if cell.asks_one_radius:
        return f"{subject} on {images}: t{proven}{parts[0] if parts else 'within none'}."
    answers = f"{subject} answers {_said(cell, None)} of {images}{' rightly' if cell.labelled else ''}."
    return f"{answers} T{proven}{', '.join(parts)}." if parts else answers


def _said(cell: Cell, radius: float | None) -> str:
    if radius is None:
        share = Share(clustered(cell.good.astype(float), groups(cell.counted)), len(cell.counted))
        return f"{share.text} (95 % interval {share.range} %)"
    share = Share(share_at(cell, radius), len(cell.counted))
    return f"{share.text} ({share.range} %)"


def certainty(runs: Sequence[Run]) -> Iterator[str]:
    """How often a statement of these runs may be wrong."""
    alone: Counter[tuple[str, float]] = Counter()
    for run in runs:
        settings, what = run.info.get("settings", {}), "certificate" if run_certifies(run) else "answer"
        if settings.get("alpha") is None:
            yield f"The error probability of a {what} is not recorded in {run.path.name}."
        elif settings.get("joint"):
            sure = f"{1 - settings['alpha']:g}"
            yield f"All {len(run.records):,} statements of {run.path.name} hold together with probability at least {sure}."
        else:
            alone[what, settings["alpha"]] += len(run.records)
    for (what, alpha), statements in alone.items():
        yield (
            f"Each {what} is wrong with probability at most {alpha:g}, over the noise drawn for it; "
            f"on average at most {alpha * statements:.2g} of these {statements:,} are."
        )


def alarms(run: Run) -> Iterator[str]:
    """What a reader must not miss."""
    samples = run.info.get("samples", {})
    if run.info.get("status") != "done":
        yield f"The run is {run.info.get('status')}: {samples.get('done')} of {samples.get('expected')} images are here."
    if run.failures:
        yield f"{len(run.failures)} of {samples.get('expected')} images failed and are in no number below."
    impossible = [record["sample_id"] for record in run.records if is_impossible(record)]
    if impossible:
        yield (
            f"{len(impossible)} radii are larger than their draws can prove, such as that of {impossible[0]}: "
            "do not trust this run."
        )
    kinds = {record["guarantee"] for record in run.records if "guarantee" in record}
    if "conditional" in kinds:
        yield (
            "Radii marked conditional do not hold for a deployed pipeline that adapts to its input. "
            "Do not compare them with the others."
        )
    yield from run.info.get("warnings", ())
    for text, times in Counter(text for record in run.records for text in record.get("warnings") or ()).items():
        yield f"{text} ({times} records)"


def is_impossible(record: Record) -> bool:
    """Whether a radius is above sigma * Phi^-1(alpha^(1/draws)), what unanimous votes would prove."""
    if not record.get("radius") or not record.get("draws"):
        return False
    return bool(record["radius"] > record["sigma"] * ndtri(record["alpha"] ** (1 / record["draws"])) + 1e-9)


def notes(parts: Sequence[Line], by: str | None) -> Iterator[str]:
    """How to read the numbers of a section."""
    if any(_tied(line.cell) for line in parts):
        yield "Some images share a group, such as a patient or a slide; all intervals count for that."
    unlabelled = {line.cell.run.path: len(line.cell.records) - len(line.cell.labelled) for line in parts}
    if any(unlabelled.values()):
        yield f"{max(unlabelled.values())} images have no label; they are in no accuracy."
    for sigma, beyond in sorted(_beyond(parts).items()):
        yield (
            f"At sigma {sigma:g} the number of draws can prove no radius of {', '.join(map(radius_text, beyond))}: not shown."
        )
    differing = _differing([line.cell.run.info.get("settings", {}) for line in parts])
    if differing:
        yield f"The runs differ in {', '.join(differing)}; see their settings before comparing them."
    foreign = [line.cell for line in parts if line.cell.records[0].get("guarantee") == NOT_RECORDED]
    if foreign:
        yield "Radii of per-image files are as printed there, some rounded up in the third digit."
        yield _conventions(foreign)
    carried = columns_carried([record for line in parts for record in line.cell.records])
    if carried and by is None:
        yield f"The records carry {', '.join(carried)}: titer report --by {carried[0]} breaks the results down by it."


def _conventions(parts: Sequence[Cell]) -> str:
    """Which convention of certified accuracy is used, and where the other one would say something else."""
    on = Counter(
        float(radius)
        for cell in parts
        for radius, good in zip(radii(cell.counted), cell.good, strict=True)
        if good and radius > 0 and radius in radii_shown(cell)
    )
    lost = ", ".join(f"{count} of these images at r = {radius_text(radius)}" for radius, count in sorted(on.items()))
    other = f"counts {lost} as not certified" if lost else "gives the same here"
    return f"Shares of per-image files are of R ≥ r (Cohen's convention); R > r (PromptSmooth's) {other}."


def _tied(cell: Cell) -> bool:
    tied = [group for group in groups(cell.records) if group is not None]
    return len(set(tied)) < len(tied)


def _beyond(parts: Sequence[Line]) -> dict[float, list[float]]:
    """Radii asked for that the draws cannot prove, by sigma."""
    found: dict[float, list[float]] = {}
    for line in parts:
        settings = line.cell.run.info.get("settings", {})
        asked = settings.get("radii") if not settings.get("tolerance") else None
        beyond = [radius for radius in asked or () if radius not in radii_shown(line.cell)]
        if beyond and run_certifies(line.cell.run):
            found[line.cell.sigma] = beyond
    return found


def _differing(settings: Sequence[Mapping[str, object]]) -> list[str]:
    """Names of the settings that change what a certificate says and are not the same everywhere."""
    named = ("certifier", "n", "n0", "alpha", "joint", "bound", "guarantee")
    return [name for name in named if len({str(one[name]) for one in settings if name in one}) > 1]
