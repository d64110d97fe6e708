import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from report.synthetic import write_run
from titer.report.plots import LINES, curve_figure, curve_in_words, radii_drawn, reliability_figure, stroke
from titer.report.tables import lines
from titer.results.foreign import read_foreign
from titer.results.summary import one_cell
from titer.statistics import curves


def texts(svg: str) -> list[str]:
    return [text for node in ElementTree.fromstring(svg).iter() if (text := (node.text or "").strip())]


def test_a_panel_for_each_sigma_and_a_line_for_each_prompt_set(tmp_path: Path) -> None:
    parts = lines([write_run(tmp_path / "run", sigmas=(0.1, 0.25), prompts=("zero-shot", "learned"))])
    svg = curve_figure(parts)
    shown = texts(svg)
    assert [text for text in shown if text.startswith("sigma")] == ["sigma 0.1", "sigma 0.25"]
    assert {"zero-shot", "learned"} <= set(shown)
    assert shown.count("most that 1,000 draws prove") == 2
    assert svg.count("fill: var(--line-0)") >= 2  # a band in each panel


def test_colours_and_font_come_from_the_page_and_nothing_from_outside(tmp_path: Path) -> None:
    svg = curve_figure(lines([write_run(tmp_path / "run")]))
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert "font-family" not in svg
    assert "<style" not in svg
    for address in re.findall(r"https?://[^\"]+", svg):
        assert address in ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")


@pytest.mark.parametrize("images", [3, 60])
def test_the_same_records_make_the_same_figure(images: int, tmp_path: Path) -> None:
    first, second = (curve_figure(lines([write_run(tmp_path / n / "run", images=images)])) for n in ("a", "b"))
    assert first == second


def test_the_drawn_curve_falls_at_every_radius(tmp_path: Path) -> None:
    """Drawn at the radii where it falls, the steps are the curve itself, between them too."""
    cell = one_cell(write_run(tmp_path / "run", images=40))
    at = radii_drawn(cell)
    reach = np.array([record["radius"] for record in cell.records])
    drawn = curves.curve(cell.good, reach, at)
    for radius in np.linspace(0, max(at), 97):
        place = int(np.searchsorted(at, radius))
        assert drawn.intervals[place] == curves.certified_accuracy(cell.good, reach, float(radius))


def test_a_grid_is_drawn_at_its_radii(tmp_path: Path) -> None:
    assert radii_drawn(one_cell(write_run(tmp_path / "grid", certifier="anytime"))) == [0.0, 0.1, 0.25, 0.5]
    assert radii_drawn(one_cell(write_run(tmp_path / "one", certifier="anytime", radii=(0.25,)))) == [0.0, 0.25]


def test_many_images_keep_the_figure_small(tmp_path: Path) -> None:
    assert len(curve_figure(lines([write_run(tmp_path / "run", images=1500)]))) < 100_000


def test_the_figure_in_words(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", certifier="anytime")
    shares = ", ".join(f"{100 * run.certified_accuracy(at).estimate:.0f} % at {at:g}" for at in (0, 0.1, 0.25, 0.5))
    assert f"zero-shot, sigma 0.25: {shares}." in curve_in_words(lines([run]))


def test_calibration_needs_votes_and_labels(tmp_path: Path) -> None:
    assert reliability_figure(lines([write_run(tmp_path / "run")])) is not None
    path = tmp_path / "log"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t1.0\n")
    foreign = lines([read_foreign(path)])
    assert reliability_figure(foreign) is None
    assert "sigma not recorded" in texts(curve_figure(foreign))


def test_no_two_lines_look_alike() -> None:
    looks = {(LINES[place % len(LINES)], str(stroke(place))) for place in range(24)}
    assert len(looks) == 24
