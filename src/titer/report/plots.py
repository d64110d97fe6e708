"""Figures of a report, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from titer.results.summary import Cell, correct, groups, radii, radii_shown
from titer.statistics import curves

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
"""Okabe and Ito's palette, told apart without colour vision; line styles differ as well."""

_STYLES = ("-", "--", "-.", ":")
_LOOK = {
    "svg.fonttype": "none",
    "svg.hashsalt": "titer",
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#889",
    "axes.labelcolor": "#334",
    "xtick.color": "#556",
    "ytick.color": "#556",
    "grid.color": "#dde",
}


def curve_figure(cells: Sequence[Cell], title: str) -> str:
    """Certified accuracy against radius; a band is the pointwise 95 % interval.

    Where only a grid of radii was decided, points are joined by steps: between two of them the lower value is proven.
    """
    with rc_context(_LOOK):
        figure = Figure(figsize=(7.6, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for place, cell in enumerate(cells):
            records = cell.labelled
            at = _radii_drawn(cell)
            drawn = curves.curve(correct(records), radii(records), at, groups(records))
            colour, style = COLOURS[place % len(COLOURS)], _STYLES[place // 2 % len(_STYLES)]
            middle, low, high = (
                np.array([getattr(part, end) for part in drawn.intervals]) for end in ("estimate", "low", "high")
            )
            axes.fill_between(at, low, high, step="pre", color=colour, alpha=0.14, linewidth=0)
            axes.step(
                at,
                middle,
                where="pre",
                color=colour,
                linestyle=style,
                linewidth=1.8,
                label=f"{cell.prompts}, sigma {cell.sigma:g}",
            )
            if len(at) <= 12:
                axes.plot(at, middle, "o", color=colour, markersize=4)
        axes.set(
            xlabel="L2 radius ([0, 1] pixels at the model's input size)",
            ylabel="certified accuracy",
            ylim=(0, 1.02),
            title=title,
        )
        axes.set_xlim(left=0)
        axes.grid(visible=True, linewidth=0.6)
        axes.legend(frameon=False, loc="upper right")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return stream.getvalue()[stream.getvalue().index("<svg") :]


def _radii_drawn(cell: Cell) -> list[float]:
    """The decided grid, or a fine one where radii are continuous."""
    settings = cell.run.info.get("settings", {})
    if settings.get("certifier") == "anytime" and not settings.get("tolerance"):
        return radii_shown(cell)
    largest = float(radii(cell.records).max(initial=0.0))
    return [float(radius) for radius in np.linspace(0, max(largest * 1.02, 0.05), 120)]
