from collections.abc import Callable
from pathlib import Path

import pytest

from report.synthetic import write_run
from titer.report.tables import lines
from titer.report.units import unit_tables
from titer.results.store import Record, Run


def sized(*sizes: list[int], stretch: float | None = 0.5) -> Callable[[int, Record], Record]:
    """Records that say how large their pictures were, in turn; each next one is stretched twice as much."""

    def change(place: int, record: Record) -> Record:
        turn = place % len(sizes)
        return record | {"size": sizes[turn]} | ({} if stretch is None else {"stretch": stretch * 2**turn})

    return change


def one_table(*runs: Run) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Caption, and the columns by name."""
    (table,) = unit_tables(lines(runs))
    columns = zip(*table.rows, strict=True)
    return table.caption, {name: tuple(map(str, column)) for name, column in zip(table.columns, columns, strict=True)}


def test_every_radius_of_the_table_in_grey_levels(tmp_path: Path) -> None:
    """255 * 0.25 / sqrt(80 * 80 * 3) = 0.4600..., 255 * 0.25 = 63.75."""
    caption, columns = one_table(write_run(tmp_path / "run", change=sized([40, 60, 3])))
    assert columns["r"][:3] == ("0.1", "0.25", "0.5")
    assert columns["all values by"][:3] == ("0.184", "0.46", "0.92")
    assert columns["a single value by"][:3] == ("25.5", "63.7", "127.5")
    assert columns["at own size, colour pictures"][:3] == ("0.2", "0.5", "1")
    assert "a grey picture, r / √3" not in columns
    assert "60 × 40 pixels" in caption


def test_of_a_grey_picture_less_is_covered(tmp_path: Path) -> None:
    caption, columns = one_table(write_run(tmp_path / "run", change=sized([40, 60, 1], [90, 90, 3])))
    assert columns["a grey picture, r / √3"][:3] == ("0.057", "0.144", "0.288")
    assert "30 of 60 pictures are grey" in caption
    assert columns["at own size, grey pictures"][0] == "0.2"
    assert columns["at own size, colour pictures"][0] == "0.1"
    assert "from 60 × 40 to 90 × 90 pixels" in caption


def test_pictures_of_different_sizes_give_a_range(tmp_path: Path) -> None:
    caption, columns = one_table(write_run(tmp_path / "run", change=sized([40, 60, 3], [90, 90, 3])))
    assert columns["at own size, colour pictures"][:2] == ("0.1 to 0.2", "0.25 to 0.5")
    assert "here 0.5 to 1." in caption


def test_noise_of_one_channel_is_of_the_grey_picture_already(tmp_path: Path) -> None:
    change = sized([40, 60, 1])
    run = write_run(tmp_path / "run", change=lambda place, record: change(place, record) | {"channels": 1})
    caption, columns = one_table(run)
    assert columns["all values by"][:2] == ("0.318", "0.796")  # 255 * 0.1 / 80
    assert "a grey picture, r / √3" not in columns
    assert "of the one-channel picture" in caption


@pytest.mark.parametrize(
    ("change", "info", "says"),
    [
        (lambda _, record: record, {}, "because some records do not say how large the pictures were."),
        (
            sized([9, 9, 3], stretch=None),
            {"identity": {"altered": ["jpeg/3"]}},
            "because pictures were altered between their files and resizing (jpeg/3), which need not be linear.",
        ),
        (sized([9, 9, 3], stretch=None), {}, "because the model's filter is not one whose weights are known here."),
    ],
)
def test_where_there_is_no_figure_it_is_said_why(
    tmp_path: Path, change: Callable[[int, Record], Record], info: Record, says: str
) -> None:
    caption, columns = one_table(write_run(tmp_path / "run", change=change, **info))
    assert not any("own size" in name for name in columns)
    assert f"No radius at the pictures' own size, {says}" in caption


def test_a_table_for_each_size_of_input_and_none_without_radii(tmp_path: Path) -> None:
    small, large = (
        write_run(tmp_path / str(size), model={"name": "m", "fingerprint": str(size), "size": size})
        for size in (64, 224)
    )
    assert len(unit_tables(lines([small, large, write_run(tmp_path / "again")]))) == 3
    assert unit_tables(lines([write_run(tmp_path / "nothing", certifier="anytime", radii=(0.0,))])) == []
    assert unit_tables(lines([write_run(tmp_path / "foreign", model={"name": "unknown"})])) == []
