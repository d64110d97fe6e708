"""titer certify."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from titer.cli import options as o
from titer.cli.output import document, note, table
from titer.cli.values import numbers, whole
from titer.errors import InputError
from titer.typed import number


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("certify")(certify)


def certify(
    model: o.Model,
    data: o.DataName,
    out: o.Out,
    sigma: o.Sigma,
    prompts: o.Prompts = None,
    template: o.Template = None,
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
    alpha: o.Alpha = "0.001",
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
    split: o.Split = "test",
    limit: o.Limit = None,
    seed: o.Seed = None,
    workers: o.Workers = None,
    batch_size: o.BatchSize = None,
    device: o.Device = None,
    dtype: o.Dtype = "float32",
    noise_channels: o.Channels = 3,
    by: o.By = None,
    new_classes: o.NewClasses = False,
    allow: o.Allow = None,
    images: o.Images = None,
    estimate: o.Estimate = False,
    json: o.Json = False,
) -> None:
    """Certify each image: a prediction and an L2 radius by randomized smoothing.

    Example: titer certify --model titer:tiny --data titer:phantoms --sigma 0.25 --limit 20 --out runs/first
    """
    from titer.evaluate.forecast import forecast
    from titer.evaluate.plan import unreachable
    from titer.evaluate.session import execute
    from titer.evaluate.smoothing import plan_certify

    settings = o.given(n0=n0, n=n, bound=bound)
    settings["alpha"] = number(alpha, "--alpha")
    if radii is not None:
        settings["radii"] = tuple(sorted(set(numbers(radii, "--radii"))))
    if tolerance is not None:
        settings["tolerance"] = number(tolerance, "--tolerance")
    if radii is not None and tolerance is not None:
        raise InputError("--radii asks for a curve and --tolerance for the radius itself; give one of them")
    chosen = plan_certify(
        model, data, certifier=certifier, sigma=numbers(sigma, "--sigma"), out=out, joint=joint, guarantee=guarantee,
        noise_channels=noise_channels,
        **settings, **o.shared(prompts, template, split, limit, seed, device, dtype, by, new_classes, allow),
    )  # fmt: skip
    for level, beyond in unreachable(chosen).items():
        listed = ", ".join(f"{radius:g}" for radius in beyond)
        note(f"sigma {level:g}: no n = {chosen.method.n} draws can prove a radius of {listed}; left open")
    if estimate:
        _print_forecast(forecast(chosen, workers), json)
        return
    with o.told(out):
        finished = execute(chosen, out, workers=workers, batch_size=batch_size, images=images, command=o.command())
    o.summary(finished, json)


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
