"""titer predict."""

from __future__ import annotations

from typing import Annotated

import typer

from titer.cli import options as o
from titer.cli.values import numbers, whole
from titer.typed import number


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("predict")(predict)


def predict(
    model: o.Model,
    data: o.DataName,
    out: o.Out,
    sigma: o.Sigma,
    prompts: o.Prompts = None,
    template: o.Template = None,
    n: Annotated[int | None, typer.Option("--n", parser=whole("--n"), metavar="INTEGER", help="Draws (1000).")] = None,
    alpha: o.Alpha = "0.001",
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
    json: o.Json = False,
) -> None:
    """Answer for each image as a deployed smoothed classifier would, or abstain.

    Example: titer predict --model titer:tiny --data titer:phantoms --sigma 0.25 --n 1000 --limit 20 --out runs/answers
    """
    from titer.evaluate.smoothing import predict as run_predict

    with o.told(out):
        finished = run_predict(
            model, data, sigma=numbers(sigma, "--sigma"), out=out, workers=workers, batch_size=batch_size, images=images,
            command=o.command(), alpha=number(alpha, "--alpha"), noise_channels=noise_channels, **o.given(n=n),
            **o.shared(prompts, template, split, limit, seed, device, dtype, by, new_classes, allow),
        )  # fmt: skip
    o.summary(finished, json)
