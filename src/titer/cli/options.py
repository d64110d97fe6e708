"""The options that verbs share, and what certify and predict say at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from titer.cli.output import document, note, table
from titer.cli.values import whole

Model = Annotated[str, typer.Option("--model", help="titer:tiny, a directory in Hugging Face layout, or a hub id.")]
DataName = Annotated[
    str, typer.Option("--data", help="titer:phantoms, a directory, a table, or what titer list data says.")
]
Out = Annotated[Path, typer.Option("--out", help="Run directory; the same command goes on where it stopped.")]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompts", help="zero-shot (default), or a directory that fit wrote; repeatable.")
]
Template = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help="One more zero-shot set: a text with {} for the class's words, or several with | between; repeatable.",
    ),
]
Sigma = Annotated[str, typer.Option("--sigma", help="Standard deviation of the noise in [0, 1] pixels; comma list.")]
Alpha = Annotated[str, typer.Option("--alpha", help="Error probability per image.")]
Split = Annotated[str, typer.Option("--split", help="Which split of the data set.")]
Limit = Annotated[
    int | None,
    typer.Option("--limit", parser=whole("--limit"), metavar="INTEGER", help="Take this many images, class-balanced."),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        parser=whole("--seed"),
        metavar="INTEGER",
        help="Of the noise; a fresh one unless given, the recorded on resume.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", parser=whole("--workers"), metavar="INTEGER", help="Threads; one per core unless given."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        parser=whole("--batch-size"),
        metavar="INTEGER",
        help="Most draws in flight; found by itself unless given.",
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda; found by itself unless given.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32 or bfloat16.")]
Images = Annotated[
    bool | None,
    typer.Option(
        "--images/--no-images", help="Keep small thumbnails for the report; all but those of DICOM files unless given."
    ),
]
By = Annotated[
    list[str] | None, typer.Option("--by", help="Carry this column of the table (site, sex, ...); repeatable.")
]
Channels = Annotated[
    int,
    typer.Option(
        "--noise-channels",
        parser=whole("--noise-channels"),
        metavar="INTEGER",
        help="1 draws once and replicates, for one-channel pictures.",
    ),
]
NewClasses = Annotated[
    bool, typer.Option("--new-classes", help="Let learned prompts move to classes they were not fitted on.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", help="Lift a refusal: upstream, overlap, outside-paths; repeatable, and recorded."),
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting of the method, key=value; repeatable.")]
Estimate = Annotated[bool, typer.Option("--estimate", help="Say draws, time and memory to expect, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

_UNUSED = "Taken by every verb; nothing here depends on it."
UnusedSeed = Annotated[int | None, typer.Option("--seed", help=_UNUSED)]
UnusedDevice = Annotated[str | None, typer.Option("--device", help=_UNUSED)]


def with_unused(verb: Callable[..., None], **unused: Any) -> Callable[..., None]:
    """The verb with options beside its own that scripts may give to every verb; what is given there is dropped."""

    @wraps(verb)
    def taking(**given: Any) -> None:
        verb(**{name: value for name, value in given.items() if name not in unused})

    own = signature(verb, eval_str=True)
    more = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, kind in unused.items()]
    taking.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    taking.__annotations__ = {name: parameter.annotation for name, parameter in taking.__signature__.parameters.items()}  # type: ignore[attr-defined]
    return taking


def given(**options: Any) -> dict[str, Any]:
    """Options that were typed; the others keep the default of the method's constructor."""
    return {name: value for name, value in options.items() if value is not None}


def shared(
    prompts: list[str] | None,
    templates: list[str] | None,
    split: str,
    limit: int | None,
    seed: int | None,
    device: str | None,
    dtype: str,
    by: list[str] | None,
    new_classes: bool,
    allow: list[str] | None,
) -> dict[str, Any]:
    """The options that name who is judged and on what, by the names that the package gives them."""
    return {
        "prompts": tuple(prompts or ("zero-shot",)),
        "templates": tuple(templates or ()),
        "split": split,
        "limit": limit,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "by": tuple(by or ()),
        "new_classes": new_classes,
        "allow": tuple(allow or ()),
    }


def command() -> str:
    return shlex.join(["titer", *sys.argv[1:]])


@contextmanager
def told(out: Path) -> Iterator[None]:
    """On Ctrl-C, say how to go on; what was finished is on the disk."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"titer: interrupted; finished images are kept in {out}. Go on with: {command()}")
        raise


def summary(finished: Any, json: bool) -> None:
    from titer.results.summary import overview

    rows = overview(finished)
    if json:
        document([vars(row) for row in rows])
        return
    overview_table(rows)
    counted(finished)


def overview_table(rows: Sequence[Any]) -> None:
    """Rows of one dataclass as a table whose columns are its fields."""
    columns = list(vars(rows[0])) if rows else []
    table([name.replace("_", " ") for name in columns], [list(vars(row).values()) for row in rows])


def checks_table(checks: Sequence[Mapping[str, str]]) -> None:
    """Self-checks of an attack, where any were made."""
    if checks:
        table(
            ("prompts", "self-check", "verdict", "figures"),
            [(check["prompts"], check["check"], check["verdict"], check["detail"]) for check in checks],
        )


def ran(settings: Mapping[str, Any]) -> None:
    """Say with which settings an attack was run: of one name there are several attacks in the literature."""
    members = settings.get("ran", [])
    own = {name: value for name, value in settings.items() if name not in ("attack", "ran", "by")}
    note(f"{settings['attack']}: {_listed(own)}")
    for member in members:
        note(f"  {member['name']}: {_listed(member['settings'])}")


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_said(value)}" for name, value in settings.items())


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_listed(value)})"
    if isinstance(value, list):
        return "/".join(map(_said, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def counted(finished: Any, images: str = "images") -> None:
    """Say how many images are done and failed, and where the records are."""
    samples = finished.info["samples"]
    note(
        f"{samples['done']} of {samples['expected']} {images} done, {samples['failed']} failed; records in {finished.path}"
    )
