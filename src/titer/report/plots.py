"""Figures of a report, as SVG that takes its colours from the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from titer.report.ladders import Ladder
from titer.report.tables import Line, radius_text, votes
from titer.results.arms import Arm
from titer.results.robustness import length_text
from titer.results.summary import Cell, groups, largest_provable, radii, radii_shown
from titer.statistics import curves
from titer.statistics.intervals import Interval

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette, told apart without colour vision; strokes and marks differ as well."""

# stand-ins that the SVG's text is searched for, so that one figure serves light and dark pages
_INK, _SOFT, _GRID = "#010203", "#040506", "#070809"
_VARIABLES = {_INK: "var(--ink)", _SOFT: "var(--soft)", _GRID: "var(--line)"} | {
    colour: f"var(--line-{place})" for place, colour in enumerate(LINES)
}
_STROKES = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.6, 1.4, 1.6)))
_MARKS = ("o", "s", "^", "D", "v", "P")
_MOST_POINTS = 150
_MOST_MARKS = 400
_CONSTANT = "constant answer"
_PANELS_A_ROW = 3
_LOOK = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _SOFT,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "ytick.left": False,
    "xtick.direction": "out",
}


def curve_figure(parts: Sequence[Line]) -> str:
    """Certified accuracy against radius: a panel for each sigma, a line for each prompt set, pointwise 95 % bands.

    Where only a grid of radii was decided, points are joined by steps: between two of them the lower value is proven.
    """
    sigmas = list(dict.fromkeys(line.cell.sigma_text for line in parts))
    names = list(dict.fromkeys(line.name for line in parts))
    with rc_context(_LOOK):
        figure, panels = _panels(len(sigmas), 3.4)
        for sigma, axes in zip(sigmas, panels, strict=True):
            own = [line for line in parts if line.cell.sigma_text == sigma]
            for line in own:
                _draw_curve(axes, line, names.index(line.name), line.name)
            _limit(axes, [line.cell for line in own])
            axes.set(title=f"sigma {sigma}", xlabel="L2 radius")
            _share_axis(axes)
            decided = sorted({at for line in own if on_grid(line.cell) for at in radii_drawn(line.cell)})
            if decided and all(on_grid(line.cell) for line in own):
                axes.set_xticks(decided, [radius_text(at) for at in decided])
        panels[0].set_ylabel("certified accuracy" if any(line.cell.labelled for line in parts) else "share certified")
        _legend(figure, names)
        return _svg(figure, "curve")


def arm_figure(arms: Sequence[Arm], order: Sequence[str]) -> str:
    """Certified accuracy of compared methods against radius: a panel for each sigma, a line for each method.

    Of each method the arm with the most shots is drawn, mean over fits. Where only a grid of radii was decided, points are
    joined by steps: between two of them the lower value is proven.

    Args:
        arms: the methods.
        order: names of all methods of the page; a name looks the same in every figure.
    """
    sigmas, names = _panels_and_names(arms)
    with rc_context(_LOOK):
        figure, panels = _panels(len(sigmas), 3.4)
        for sigma, axes in zip(sigmas, panels, strict=True):
            last = {arm.entry: arm for arm in arms if arm.sigma == sigma}
            cell = next(iter(last.values())).parts[0]
            at = radii_drawn(cell) if on_grid(cell) else np.linspace(0, largest_provable(cell), _MOST_POINTS).tolist()
            for arm in last.values():
                _line(axes, at, _balanced(arm, at), order.index(arm.entry), arm.entry, steps=True, marks=on_grid(cell))
            _constant(axes, cell)
            _limit(axes, [cell])
            axes.set(title=f"sigma {sigma:g}", xlabel="L2 radius")
            _share_axis(axes)
        panels[0].set_ylabel("certified accuracy")
        _legend(figure, [*names, _CONSTANT])
        return _svg(figure, "arms")


def _balanced(arm: Arm, at: Sequence[float]) -> list[float]:
    """Class-balanced certified accuracy at some radii, mean over fits."""
    classes = np.unique(arm.labels)
    shares = (arm.certified(radius) for radius in at)
    return [float(np.mean([share[arm.labels == label].mean() for label in classes])) for share in shares]


def _constant(axes: Axes, cell: Cell) -> None:
    """What a constant answer reaches, at every radius."""
    classes = len({record["label"] for record in cell.labelled})
    axes.axhline(1 / classes, color=_SOFT, linewidth=1.2, linestyle=(0, (1, 2)), label=_CONSTANT)


def shots_figure(arms: Sequence[Arm], radius: float, order: Sequence[str]) -> str:
    """Certified accuracy at one radius against shots, mean over fits; methods that need no labels are level lines.

    Args:
        arms: the methods; fits on all images have no place on the axis, and are in the table alone.
        radius: L2.
        order: as for ``arm_figure``.
    """
    reached = [arm for arm in arms if largest_provable(arm.parts[0]) >= radius and arm.shots != math.inf]
    sigmas, names = _panels_and_names(reached)
    counts = sorted({arm.shots for arm in reached if arm.shots is not None and math.isfinite(arm.shots)})
    with rc_context(_LOOK):
        figure, panels = _panels(len(sigmas), 3.0)
        for sigma, axes in zip(sigmas, panels, strict=True):
            for name in names:
                own = [arm for arm in reached if (arm.entry, arm.sigma) == (name, sigma)]
                values = [value for arm in own for value in _balanced(arm, [radius])]
                level = len(own) == 1 and own[0].shots is None
                places = counts if level else [arm.shots or 0 for arm in own]
                if own:
                    _line(axes, places, values * len(counts) if level else values, order.index(name), name)
            _constant(axes, next(arm.parts[0] for arm in reached if arm.sigma == sigma))
            axes.set(title=f"sigma {sigma:g}", xlabel="shots", xscale="log")
            axes.set_xticks(counts, [f"{count:.0f}" for count in counts])
            axes.minorticks_off()
            _share_axis(axes)
        panels[0].set_ylabel(f"certified accuracy at r = {radius_text(radius)}")
        _legend(figure, [*names, _CONSTANT])
        return _svg(figure, "shots")


def robust_figure(parts: Sequence[Ladder]) -> str:
    """Accuracy against epsilon, that without attack at 0: a panel for each attack, a line for each prompt set.

    Args:
        parts: of one norm.
    """
    attacks = list(dict.fromkeys(one.attack for one in parts))
    names = list(dict.fromkeys(one.prompts for one in parts))
    with rc_context(_LOOK):
        figure, panels = _panels(len(attacks), 3.4)
        for attack, axes in zip(attacks, panels, strict=True):
            own = [one for one in parts if one.attack == attack]
            for one in own:
                _estimates(axes, *_drawn(one), names.index(one.prompts), one.prompts)
            budgets = sorted({stand.epsilon for one in own for stand in one.stands})
            axes.set(title=attack, xlabel=f"epsilon ({parts[0].norm})")
            axes.set_xticks([0, *budgets], ["0", *(length_text(budget, parts[0].norm) for budget in budgets)])
            axes.tick_params(axis="x", labelrotation=45)
            _share_axis(axes)
        panels[0].set_ylabel("accuracy")
        _legend(figure, names)
        return _svg(figure, "robust")


def levels_figure(panels_of: Mapping[str, Mapping[str, Sequence[tuple[float, Interval]]]], salt: str) -> str:
    """Accuracy against the share of noised pairs: a panel for each kind of noise, a line for each head.

    Args:
        panels_of: kind of noise -> head -> (share, accuracy), by rising share.
        salt: what tells the figure from others of its page.
    """
    names = list(dict.fromkeys(name for lines in panels_of.values() for name in lines))
    with rc_context(_LOOK):
        figure, panels = _panels(len(panels_of), 3.2)
        for (title, lines), axes in zip(panels_of.items(), panels, strict=True):
            shares = sorted({share for points in lines.values() for share, _ in points})
            for name, points in lines.items():
                place = names.index(name)
                # heads stand beside each other, so that no bar hides another
                aside = (place - (len(names) - 1) / 2) * 0.012 * (shares[-1] - shares[0] or 1)
                _estimates(axes, [share + aside for share, _ in points], [value for _, value in points], place, name)
            axes.set(title=title, xlabel="share of noised pairs")
            axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
            _share_axis(axes)
        panels[0].set_ylabel("accuracy")
        _legend(figure, names)
        return _svg(figure, f"levels {salt}")


def answers_figure(panels_of: Mapping[str, Mapping[str, Sequence[tuple[str, Interval]]]], salt: str) -> str:
    """Accuracy of answers, without a look, without attack and under each attack: a panel for each kind of question.

    Args:
        panels_of: kind -> prompt set -> (what was done, accuracy); what was done to any of them is shown in all panels.
        salt: what tells the figure from others of its page.
    """
    names = list(dict.fromkeys(name for marks in panels_of.values() for name in marks))
    done = list(dict.fromkeys(what for marks in panels_of.values() for points in marks.values() for what, _ in points))
    with rc_context(_LOOK):
        figure, panels = _panels(len(panels_of), 3.6)
        for (title, marks), axes in zip(panels_of.items(), panels, strict=True):
            for name, points in marks.items():
                aside = (names.index(name) - (len(names) - 1) / 2) * 0.14
                at = [done.index(what) + aside for what, _ in points]
                _estimates(axes, at, [value for _, value in points], names.index(name), name, line=False)
            axes.set(title=title)
            axes.set_xticks(range(len(done)), done)
            axes.tick_params(axis="x", labelrotation=45)
            _share_axis(axes)
        panels[0].set_ylabel("accuracy")
        _legend(figure, names)
        return _svg(figure, f"answers {salt}")


def bounds_figure(pairs: Sequence[tuple[Line, Ladder]]) -> str:
    """Certified accuracy as lines and accuracy under attack as open marks against L2 distance: a panel for each sigma.

    Args:
        pairs: certificates, and the one ladder that is drawn beside them.
    """
    sigmas = list(dict.fromkeys(line.cell.sigma_text for line, _ in pairs))
    names = list(dict.fromkeys(line.name for line, _ in pairs))
    with rc_context(_LOOK):
        figure, panels = _panels(len(sigmas), 3.4)
        for sigma, axes in zip(sigmas, panels, strict=True):
            own = [pair for pair in pairs if pair[0].cell.sigma_text == sigma]
            for line, ladder in own:
                place = names.index(line.name)
                _draw_curve(axes, line, place, f"{line.name}, certified")
                _estimates(axes, *_drawn(ladder), place, f"{line.name}, under attack", joined=False)
            axes.set(title=f"sigma {sigma}", xlabel="L2 distance")
            ends = (end for line, ladder in own for end in (largest_provable(line.cell), ladder.stands[-1].epsilon))
            axes.set_xlim(0, 1.04 * max(ends))
            _share_axis(axes)
        panels[0].set_ylabel("accuracy")
        _legend(figure, [f"{name}, {of}" for name in names for of in ("certified", "under attack")])
        return _svg(figure, "bounds")


def _drawn(ladder: Ladder) -> tuple[list[float], list[Interval]]:
    """Budgets and accuracies, from that without attack on."""
    first = ladder.stands[0]
    return [0.0, *(stand.epsilon for stand in ladder.stands)], [first.clean, *(stand.robust for stand in ladder.stands)]


def _estimates(
    axes: Axes,
    at: Sequence[float],
    values: Sequence[Interval],
    place: int,
    name: str,
    *,
    joined: bool = True,
    line: bool = True,
) -> None:
    """Estimates with their intervals as bars; where they are not joined, in open marks that no line has.

    ``line`` is whether the marks of a line are connected: not where they stand beside each other in no order.
    """
    middle = np.array([value.estimate for value in values])
    ends = np.abs([middle - [value.low for value in values], [value.high for value in values] - middle])
    axes.errorbar(
        at,
        middle,
        yerr=ends,
        color=LINES[place % len(LINES)],
        linestyle=stroke(place) if joined and line else "none",
        marker=_MARKS[place % len(_MARKS)] if joined else "D",
        markerfacecolor=None if joined else "none",
        markersize=4.5 if joined else 6,
        linewidth=1.6,
        elinewidth=1.0,
        clip_on=False,
        label=name,
    )


def _panels_and_names(arms: Sequence[Arm]) -> tuple[list[float], list[str]]:
    return list(dict.fromkeys(arm.sigma for arm in arms)), list(dict.fromkeys(arm.entry for arm in arms))


def _line(
    axes: Axes,
    at: Sequence[float],
    values: Sequence[float],
    place: int,
    name: str,
    *,
    steps: bool = False,
    marks: bool = True,
) -> None:
    axes.plot(
        at,
        values,
        drawstyle="steps-pre" if steps else "default",
        color=LINES[place % len(LINES)],
        linestyle=stroke(place),
        marker=_MARKS[place // len(LINES) % len(_MARKS)] if marks else None,
        markersize=4,
        linewidth=1.6,
        clip_on=False,
        label=name,
    )


def stroke(place: int) -> Any:
    """How a line is stroked: no two of the first 24 share both colour and stroke."""
    return _STROKES[(place + place // len(LINES)) % len(_STROKES)]


def reliability_figure(parts: Sequence[Line]) -> str | None:
    """Accuracy of the top class against its share of the votes; None where no image has both label and votes."""
    drawn = [(line, found) for line in parts if (found := votes(line.cell)) is not None]
    if not drawn:
        return None
    sigmas = list(dict.fromkeys(line.cell.sigma_text for line, _ in drawn))
    names = list(dict.fromkeys(line.name for line, _ in drawn))
    with rc_context(_LOOK):
        figure, panels = _panels(len(sigmas), 3.0)
        for sigma, axes in zip(sigmas, panels, strict=True):
            axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
            for line, found in drawn:
                if line.cell.sigma_text == sigma:
                    place = names.index(line.name)
                    bins = found.bins
                    middle = np.array([part.accuracy.estimate for part in bins])
                    ends = [
                        middle - [part.accuracy.low for part in bins],
                        [part.accuracy.high for part in bins] - middle,
                    ]
                    axes.errorbar(
                        [part.confidence for part in bins],
                        middle,
                        yerr=np.abs(ends),
                        color=LINES[place % len(LINES)],
                        marker=_MARKS[place % len(_MARKS)],
                        markersize=4.5,
                        linestyle="none",
                        elinewidth=1.2,
                        alpha=0.9,
                        label=line.name,
                    )
            axes.set(title=f"sigma {sigma}", xlabel="share of votes of the top class", xlim=(0, 1.02))
            _share_axis(axes)
        panels[0].set_ylabel("accuracy")
        _legend(figure, names)
        return _svg(figure, "reliability")


def scores_figure(rows: Sequence[tuple[str, Sequence[float]]], at: float | None) -> str:
    """Scores of real pairs and of canaries: a row of marks each, the first one apart from the others.

    Args:
        rows: name and scores in [0, 1].
        at: where a threshold is drawn.
    """
    with rc_context(_LOOK):
        figure = Figure(figsize=(8.6, 0.5 * len(rows) + 0.7), layout="constrained")
        axes = figure.subplots()
        for place, (_, scores) in enumerate(rows):
            shown = np.sort(scores)[np.unique(np.linspace(0, len(scores) - 1, _MOST_MARKS).astype(int))]
            # spread by golden steps, so that equal scores stay apart and the figure is the same every time
            height = place + 0.5 * (np.arange(len(shown)) * 0.618 % 1 - 0.5)
            axes.plot(shown, height, linestyle="none", marker="o", markersize=3, alpha=0.5, color=LINES[min(place, 1)])
        if at is not None:
            axes.axvline(at, color=_INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="score")
        return _svg(figure, "scores")


def curve_in_words(parts: Sequence[Line]) -> str:
    """What the figure shows, for those who do not see it."""
    said = []
    for line in parts:
        shown = radii_shown(line.cell)
        drawn = curves.curve(line.cell.good, radii(line.cell.counted), shown, groups(line.cell.counted))
        points = ", ".join(
            f"{100 * part.estimate:.0f} % at {at:g}" for at, part in zip(shown, drawn.intervals, strict=True)
        )
        said.append(f"{line.title}: {points}")
    return "Certified accuracy against radius. " + "; ".join(said) + "."


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = 2 if count == 4 else min(count, _PANELS_A_ROW)
    rows = -(-count // columns)
    width = 6.2 if columns == 1 else 9.6
    figure = Figure(figsize=(width, height * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    panels = list(grid.flat)
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


def _draw_curve(axes: Axes, line: Line, place: int, name: str) -> None:
    at = radii_drawn(line.cell)
    drawn = curves.curve(line.cell.good, radii(line.cell.counted), at, groups(line.cell.counted))
    middle, low, high = (
        np.array([getattr(part, end) for part in drawn.intervals]) for end in ("estimate", "low", "high")
    )
    colour = LINES[place % len(LINES)]
    axes.fill_between(at, low, high, step="pre", color=colour, alpha=0.15, linewidth=0)
    decided = on_grid(line.cell)
    axes.step(
        at,
        middle,
        where="pre",
        color=colour,
        linestyle=_STROKES[place % len(_STROKES)],
        linewidth=2.0,
        clip_on=False,
        marker=_MARKS[place % len(_MARKS)] if decided else None,
        markersize=5,
        label=name,
    )


def on_grid(cell: Cell) -> bool:
    """Whether only some radii were decided, rather than a radius for each image."""
    settings = cell.run.info.get("settings", {})
    return settings.get("certifier") == "anytime" and not settings.get("tolerance")


def radii_drawn(cell: Cell) -> list[float]:
    """The decided grid from 0 on, or every radius at which the curve falls, as far as can be seen."""
    if on_grid(cell):
        return sorted({0.0, *radii_shown(cell)})
    reached = np.unique([0.0, *radii(cell.counted)[cell.good], largest_provable(cell)])
    if len(reached) > _MOST_POINTS:
        reached = np.linspace(0, reached[-1], _MOST_POINTS)
    return [float(radius) for radius in reached]


def _limit(axes: Axes, cells: Sequence[Cell]) -> None:
    """Mark what unanimous votes would prove, and end the axis there."""
    known = [cell for cell in cells if cell.run.info.get("settings", {}).get("n")]
    limits = sorted({largest_provable(cell) for cell in known})
    for limit in limits:
        axes.axvline(limit, color=_SOFT, linewidth=0.9, linestyle=(0, (2, 3)))
    if len(limits) == 1:
        axes.annotate(
            f"most that {known[0].run.info['settings']['n']:,} draws prove",
            (limits[0], 0.98),
            xytext=(-3, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="top",
            fontsize=7.5,
            color=_SOFT,
        )
    end = max([*limits, *(float(radii(cell.records).max(initial=0.0)) for cell in cells), 0.05])
    axes.set_xlim(0, 1.04 * end)


def _share_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.03)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0], ["0", "20", "40", "60", "80", "100 %"])
    axes.tick_params(axis="y", labelleft=True)


def _legend(figure: Figure, names: Sequence[str]) -> None:
    if len(names) > 1:
        handles = {label: handle for handle, label in _handles(figure)}
        figure.legend(
            [handles[name] for name in names],
            names,
            loc="outside lower center",
            ncols=min(3, len(names)),
            frameon=False,
            handlelength=3,
        )


def _handles(figure: Figure) -> list[tuple[Artist, str]]:
    return [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]


def _svg(figure: Figure, salt: str) -> str:
    """The figure as inline SVG: the page's colours and font, and no ids but those that are referred to."""
    with rc_context({"svg.hashsalt": salt}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = stream.getvalue()[stream.getvalue().index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"font-family: [^;\"]*;? ?"):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    width = f'style="max-width: {100 * figure.get_figwidth():.0f}px" viewBox='
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" viewBox=', width, text, count=1)
    referred = set(re.findall(r"#([^\")]+)", text))
    return re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in referred else "", text)
