"""titer certify, titer predict."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from titer.cli.output import document, note, table
from titer.cli.values import number, numbers, whole
from titer.errors import InputError

Model = Annotated[str, typer.Option("--model", help="titer:tiny, a directory in Hugging Face layout, or a hub id.")]
DataName = Annotated[str, typer.Option("--data", help="titer:phantoms, a directory, or a table of images.")]
Out = Annotated[Path, typer.Option("--out", help="Run directory; the same command goes on where it stopped.")]
Prompts = Annotated[list[str] | None, typer.Option("--prompts", help="zero-shot (default); repeat for several.")]
Template = Annotated[
    list[str] | None,
    typer.Option("--template", help="One more zero-shot set: a text with {} for the class's words; repeatable."),
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
Images = Annotated[bool, typer.Option("--images/--no-images", help="Keep small thumbnails for the report.")]
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
Estimate = Annotated[bool, typer.Option("--estimate", help="Say draws, time and memory to expect, and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("certify")(certify)
    app.command("predict")(predict)


def certify(
    model: Model,
    data: DataName,
    out: Out,
    sigma: Sigma,
    prompts: Prompts = None,
    template: Template = None,
    certifier: Annotated[str, typer.Option("--certifier", help="anytime or gaussian.")] = "anytime",
    n0: Annotated[
        int | None, typer.Option("--n0", parser=whole("--n0"), metavar="INTEGER", help="Selection draws (100).")
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            parser=whole("--n"),
            metavar="INTEGER",
            help="Estimation draws: exactly (gaussian), at most (anytime) (10000).",
        ),
    ] = None,
    alpha: Alpha = "0.001",
    radii: Annotated[
        str | None,
        typer.Option("--radii", help="anytime: one radius to decide, or several for a curve (0,0.1,0.25,0.5,0.75,1)."),
    ] = None,
    tolerance: Annotated[
        str | None, typer.Option("--tolerance", help="anytime: the radius itself, within this share of it.")
    ] = None,
    bound: Annotated[
        str | None, typer.Option("--bound", help="runner-up: bound the second class where that helps.")
    ] = None,
    joint: Annotated[
        bool, typer.Option("--joint", help="Share alpha among all certificates, so that all hold together.")
    ] = False,
    guarantee: Annotated[str | None, typer.Option("--guarantee", help="What the certificates should say.")] = None,
    split: Split = "test",
    limit: Limit = None,
    seed: Seed = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Dtype = "float32",
    noise_channels: Channels = 3,
    by: By = None,
    images: Images = True,
    estimate: Estimate = False,
    json: Json = False,
) -> None:
    """Certify each image: a prediction and an L2 radius by randomized smoothing.

    Example: titer certify --model titer:tiny --data titer:phantoms --sigma 0.25 --limit 20 --out runs/first
    """
    from titer.evaluate.forecast import forecast
    from titer.evaluate.smoothing import execute, plan_certify, unreachable

    options = _given(n0=n0, n=n, bound=bound)
    options["alpha"] = number(alpha, "--alpha")
    if radii is not None:
        options["radii"] = tuple(sorted(set(numbers(radii, "--radii"))))
    if tolerance is not None:
        options["tolerance"] = number(tolerance, "--tolerance")
    if radii is not None and tolerance is not None:
        raise InputError("--radii asks for a curve and --tolerance for the radius itself; give one of them")
    chosen = plan_certify(
        model, data, certifier=certifier, sigma=numbers(sigma, "--sigma"), out=out, joint=joint, guarantee=guarantee,
        **options, **_shared(prompts, template, split, limit, seed, device, dtype, noise_channels, by),
    )  # fmt: skip
    for level, beyond in unreachable(chosen).items():
        listed = ", ".join(f"{radius:g}" for radius in beyond)
        note(f"sigma {level:g}: no n = {chosen.method.n} draws can prove a radius of {listed}; left open")
    if estimate:
        _print_forecast(forecast(chosen, workers), json)
        return
    with _told(out):
        finished = execute(chosen, out, workers=workers, batch_size=batch_size, images=images, command=_command())
    _summary(finished, json)


def predict(
    model: Model,
    data: DataName,
    out: Out,
    sigma: Sigma,
    prompts: Prompts = None,
    template: Template = None,
    n: Annotated[int | None, typer.Option("--n", parser=whole("--n"), metavar="INTEGER", help="Draws (1000).")] = None,
    alpha: Alpha = "0.001",
    split: Split = "test",
    limit: Limit = None,
    seed: Seed = None,
    workers: Workers = None,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Dtype = "float32",
    noise_channels: Channels = 3,
    by: By = None,
    images: Images = True,
    json: Json = False,
) -> None:
    """Answer for each image as a deployed smoothed classifier would, or abstain.

    Example: titer predict --model titer:tiny --data titer:phantoms --sigma 0.25 --n 1000 --limit 20 --out runs/answers
    """
    from titer.evaluate.smoothing import predict as run_predict

    with _told(out):
        finished = run_predict(
            model, data, sigma=numbers(sigma, "--sigma"), out=out, workers=workers, batch_size=batch_size, images=images,
            command=_command(), alpha=number(alpha, "--alpha"), **_given(n=n),
            **_shared(prompts, template, split, limit, seed, device, dtype, noise_channels, by),
        )  # fmt: skip
    _summary(finished, json)


def _given(**options: Any) -> dict[str, Any]:
    """Options that were typed; the others keep the default of the method's constructor."""
    return {name: value for name, value in options.items() if value is not None}


def _shared(
    prompts: list[str] | None,
    templates: list[str] | None,
    split: str,
    limit: int | None,
    seed: int | None,
    device: str | None,
    dtype: str,
    noise_channels: int,
    by: list[str] | None,
) -> dict[str, Any]:
    """The options that both verbs have, by the names that the package gives them."""
    return {
        "prompts": tuple(prompts or ("zero-shot",)),
        "templates": tuple(templates or ()),
        "split": split,
        "limit": limit,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "noise_channels": noise_channels,
        "by": tuple(by or ()),
    }


def _command() -> str:
    return shlex.join(["titer", *sys.argv[1:]])


@contextmanager
def _told(out: Path) -> Iterator[None]:
    """On Ctrl-C, say how to go on; what was finished is on the disk."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"titer: interrupted; finished images are kept in {out}. Go on with: {_command()}")
        raise


def _print_forecast(expected: Any, json: bool) -> None:
    if json:
        document(vars(expected))
        return
    table(
        ("draws expected", "at most", "seconds expected", "at most", "memory (MB)", "workers"),
        [(f"{expected.draws:.0f}", expected.most_draws, f"{expected.seconds:.0f}", f"{expected.most_seconds:.0f}",
          f"{expected.memory / 1e6:.0f}", expected.workers)],
    )  # fmt: skip
    note(f"measured on {expected.pilot} images and one block of draws; times vary with what else the machine does")


def _summary(finished: Any, json: bool) -> None:
    from titer.results.summary import overview

    rows = overview(finished)
    if json:
        document([vars(row) for row in rows])
        return
    samples = finished.info["samples"]
    columns = list(vars(rows[0])) if rows else []
    table([name.replace("_", " ") for name in columns], [list(vars(row).values()) for row in rows])
    note(
        f"{samples['done']} of {samples['expected']} images done, {samples['failed']} failed; records in {finished.path}"
    )
