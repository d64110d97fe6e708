from html.parser import HTMLParser
from pathlib import Path

import pytest

from report.synthetic import write_run
from titer.errors import InputError
from titer.report.page import by_data, report, section
from titer.results.store import Record

_VOID = {"meta", "img", "br", "link", "input", "hr"}
_FETCHING = {"script", "link", "iframe", "object", "embed", "base", "audio", "video", "source", "form"}


class Page(HTMLParser):
    """A page's tags and text, its nesting checked on the way."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def attributes(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in tags]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_one_page_that_needs_nothing_from_outside(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", certifier="anytime", sigmas=(0.1, 0.25), thumbnails=True, failures=1)
    found = page(report([run], tmp_path / "new" / "page.html"))
    assert not {tag for tag, _ in found.tags} & _FETCHING
    for attributes in (attributes for _, attributes in found.tags):
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert "@import" not in found.text
    assert "url(" not in found.text


def test_what_the_page_says(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", thumbnails=True, failures=1)
    text = page(report([run], tmp_path / "page.html")).text
    share = run.certified_accuracy(0.25)
    for said in (
        "smoothed classifier",
        "claims no compliance",
        "Bands are pointwise 95 % intervals",
        f"within radius 0.25 for {100 * share.estimate:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f} %)",
        "sensitivity",
        "specificity",
        "balanced accuracy",
        "AUROC",
        "calibration error",
        "no answer",
        "the standard statement of randomized smoothing",
        "1 of 61 images failed",
        "bad/0.png",
        "the file is cut",
        "titer certify --model titer:tiny --data lesions",
        "4ecb57d6" * 8,
        "Right: the same with one draw of noise.",
    ):
        assert said in text, said


def test_pictures_tables_and_figures_have_words(tmp_path: Path) -> None:
    found = page(report([write_run(tmp_path / "run", thumbnails=True)], tmp_path / "page.html"))
    assert found.attributes("img")
    assert all(attributes.get("alt") for attributes in found.attributes("img"))
    assert len(found.attributes("caption")) == len(found.attributes("table")) >= 4
    assert all(attributes["scope"] in ("col", "row") for attributes in found.attributes("th"))
    figures = [attributes for attributes in found.attributes("figure") if attributes.get("class") == "figure"]
    assert len(figures) == 2
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)
    headings = [tag for tag, _ in found.tags if tag in ("h1", "h2", "h3")]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_ids_are_unique_but_for_shared_definitions(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, data={"name": name, "split": "test", "limit": None}) for name in ("a", "b")]
    found = page(report(runs, tmp_path / "page.html"))
    own = [value for _, attributes in found.tags if (value := attributes.get("id")) and "-" in value]
    assert len(own) == len(set(own)) == 4


def test_names_cannot_write_html(tmp_path: Path) -> None:
    bad = '<script>alert("x")</script>'
    run = write_run(
        tmp_path / "run",
        prompts=(bad,),
        classes=[{"label": f"{bad}{k}", "texts": [bad]} for k in range(3)],
        data={"name": bad, "split": "test", "limit": None},
        change=lambda _, record: {**record, "warnings": [bad], "guarantee": bad},
        thumbnails=True,
    )
    assert "script" not in {tag for tag, _ in page(report([run], tmp_path / "page.html")).tags}


def test_runs_on_one_data_set_share_a_section(tmp_path: Path) -> None:
    low, high = write_run(tmp_path / "low", sigmas=(0.1,)), write_run(tmp_path / "high")
    other = write_run(tmp_path / "other", data={"name": "smears", "split": "test", "limit": None})
    assert [[run.path.name for run in runs] for runs in by_data([low, other, high])] == [["low", "high"], ["other"]]
    found = section([low, high])
    assert found.facts == ("titer:tiny", "test split", "60 images", "sigma 0.1, 0.25")
    assert [table.title for table in found.settings] == ["Settings of low", "Settings of high"]
    assert "smears" in page(report([low, other, high], tmp_path / "page.html")).text


def test_radii_of_one_and_of_three_channels_share_no_curve_and_no_table(tmp_path: Path) -> None:
    colour = write_run(tmp_path / "colour")
    grey = write_run(tmp_path / "grey", change=lambda _, record: {**record, "channels": 1})
    assert by_data([colour, grey]) == [[colour], [grey]]
    text = report([colour, grey], tmp_path / "page.html").read_text(encoding="utf-8")
    sections = text.split("<section ")[1:]
    assert ["lesions, one-channel noise" in part for part in sections] == [False, True]
    for part, own, other in zip(sections, ("colour", "grey"), ("grey", "colour"), strict=True):
        assert part.count('aria-label="Certified accuracy') == 1
        assert f"Settings of {own}" in part
        assert f"Settings of {other}" not in part


def test_many_parts_leave_verdicts_to_the_table(tmp_path: Path) -> None:
    found = section([write_run(tmp_path / "run", images=6, prompts=("a", "b"), sigmas=(0.1, 0.25))])
    assert (len(found.verdicts), found.more) == (3, 1)
    assert [("with a " in said, "sigma 0.1," in said) for said in found.verdicts] == [
        (True, True),
        (False, True),
        (True, False),
    ]


def test_conditional_radii_are_marked_wherever_they_stand(tmp_path: Path) -> None:
    fixed = write_run(tmp_path / "fixed")
    adapted = write_run(tmp_path / "adapted", change=lambda _, record: {**record, "guarantee": "conditional"})
    found = section([fixed, adapted])
    assert any("conditional" in alarm for alarm in found.alarms)
    assert [row[0] for row in found.tables[0].rows] == ["zero-shot", "zero-shot (conditional)"]
    assert "zero-shot (conditional)" in str(found.curve)
    assert [name for name, _ in found.guarantees] == ["conditional", "fixed"]


def test_one_radius_has_no_abstention_rate(tmp_path: Path) -> None:
    text = page(report([write_run(tmp_path / "run", certifier="anytime", radii=(0.25,))], tmp_path / "page.html")).text
    assert "not certified at r" in text
    assert "no answer" not in text


def test_breakdown_by_a_column(tmp_path: Path) -> None:
    def change(place: int, record: Record) -> Record:
        return {**record, "attributes": {"site": "north" if place % 2 else "south"}}

    run = write_run(tmp_path / "run", change=change)
    text = page(report([run], tmp_path / "page.html", by="site")).text
    assert "By site" in text
    assert "north" in text
    with pytest.raises(InputError, match="certify with --by age"):
        report([run], tmp_path / "page.html", by="age")


def test_images_without_labels_show_radii_only(tmp_path: Path) -> None:
    found = section([write_run(tmp_path / "run", change=lambda _, record: {**record, "label": None})])
    assert found.curve is not None
    assert "share certified" in found.curve
    assert found.classes == ()
    assert "right or not" in found.tables[0].caption


def test_predictions_have_no_curve(tmp_path: Path) -> None:
    found = section([write_run(tmp_path / "run", verb="predict")])
    assert found.curve is None
    assert [table.title for table in found.tables] == ["Answers"]
    assert found.guarantees == ()
    assert len(found.classes) == 1


def test_a_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "sigma_0.50"
    rows = "".join(f"{k}\t{k % 10}\t{k % 7}\t0.{k % 9}\t0\t0:00:01\n" for k in range(50))
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n" + rows + "Total accuracy is 1 against radii 0\n")
    text = page(report([path], tmp_path / "page.html")).text
    for said in ("sigma 0.5", "not recorded", "Sigma is taken from the file's name", "50 images"):
        assert said in text


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", status="interrupted", samples={"expected": 90, "done": 60, "failed": 0})
    assert "The run is interrupted: 60 of 90 images are here." in page(report([run], tmp_path / "page.html")).text


def test_the_same_runs_write_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", thumbnails=True)
    first, second = (report([run.path], tmp_path / name).read_bytes() for name in ("one.html", "two.html"))
    assert first == second


def test_what_cannot_be_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to report"):
        report([], tmp_path / "page.html")
    with pytest.raises(InputError, match="no finished samples"):
        report([write_run(tmp_path / "empty", images=0, failures=1)], tmp_path / "page.html")
    with pytest.raises(InputError, match="is no run"):
        report([tmp_path / "missing"], tmp_path / "page.html")
    with pytest.raises(InputError, match="cannot write"):
        report([write_run(tmp_path / "run", images=2)], tmp_path)
