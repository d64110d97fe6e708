"""titer audit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.cli.values import settings, whole
from titer.typed import number

if TYPE_CHECKING:
    from titer.results.audited import Filter
    from titer.results.store import Run

_TOP = 20


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("audit")(audit)


def audit(
    model: Annotated[
        list[str],
        typer.Option("--model", help="As for other verbs; given twice, where two models disagree counts, too."),
    ],
    data: o.DataName,
    out: o.Out,
    trusted: Annotated[
        str | None,
        typer.Option(
            "--trusted", help="Pairs believed to be clean, which say what is usual where many of --data are not."
        ),
    ] = None,
    trusted_split: Annotated[str, typer.Option("--trusted-split", help="Which split of the trusted set.")] = "all",
    drop: Annotated[
        str | None, typer.Option("--drop", help="Write kept.csv without this share of the pairs, such as 0.05.")
    ] = None,
    drop_below: Annotated[
        str | None,
        typer.Option("--drop-below", help="Write kept.csv without pairs whose trust, 1 - score, is below this."),
    ] = None,
    set_: o.Settings = None,
    split: Annotated[str, typer.Option("--split", help="Which split of the data set.")] = "train",
    limit: o.Limit = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", parser=whole("--seed"), metavar="INTEGER", help="Of canaries and comparisons (0)."),
    ] = None,
    workers: o.Workers = None,
    device: o.Device = None,
    dtype: o.Dtype = "float32",
    by: o.By = None,
    images: o.Images = None,
    json: o.Json = False,
) -> None:
    """Rank image-caption pairs by how suspicious they are, and say how many planted bad ones that ranking finds.

    Example: titer audit --model titer:tiny --data path/to/pairs --out runs/audit
    """
    from titer.report.audited import write_audit
    from titer.results.audited import Filter
    from titer.upstream.audit.keeping import check_keeps, keep
    from titer.upstream.audit.session import audit as run

    below, share = (
        None if text is None else number(text, name) for text, name in ((drop_below, "--drop-below"), (drop, "--drop"))
    )
    chosen = None if below is None and share is None else Filter(below, share)
    if chosen is not None:
        check_keeps(data, limit)
    with o.told(out):
        finished = run(
            model, data, out=out, seed=seed, workers=workers, images=images, command=o.command(),
            trusted=trusted, trusted_split=trusted_split, split=split, limit=limit, by=tuple(by or ()),
            settings=settings(set_ or ()), device=device, dtype=dtype,
        )  # fmt: skip
    page = write_audit(finished, chosen)
    _summary(finished, chosen, json)
    if chosen is not None:
        kept = keep(finished, data, chosen.taken(finished))
        note(f"wrote {kept.path}: {kept.rows} rows of all splits, {kept.unjudged} of the audited one without a verdict")
    note(f"wrote {page}")


def _summary(finished: Run, chosen: Filter | None, json: bool) -> None:
    from titer.results import audited

    removed = None if chosen is None else audited.removals(finished, chosen.taken(finished))
    if json:
        document({
            "queue": audited.queue_table(finished, _TOP),
            "power": [_plain(row) for row in audited.power(finished)],
            "flagged": [_plain(row) for row in audited.flagged(finished)],
            "reviewed": [_plain(row) for row in audited.reviewed(finished)],
            "auroc": [_plain(row) for row in audited.areas(finished)],
            "base_rates": [_plain(row) for row in audited.base_rates(finished)],
            "removed": None if removed is None else [_plain(row) for row in removed],
            "warnings": audited.warnings(finished),
        })  # fmt: skip
        return
    for rows in (
        audited.queue_table(finished, _TOP),
        audited.power_table(finished),
        audited.flagged_table(finished),
        audited.base_rate_table(finished),
        audited.removal_table(removed or ()),
    ):
        if rows:
            table(list(rows[0]), [list(row.values()) for row in rows])
    for text in (*audited.warnings(finished), *audited.reasons(finished), audited.NOTHING_DELETED):
        note(text)
    o.counted(finished, "pairs")


def _plain(row: Any) -> Any:
    """A row as JSON takes it: an interval is a dictionary, and nan is null."""
    if dataclasses.is_dataclass(row):
        return {field.name: _plain(getattr(row, field.name)) for field in dataclasses.fields(row)}
    if isinstance(row, tuple):
        return [_plain(part) for part in row]
    return None if row != row else row
