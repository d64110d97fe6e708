"""APT's evaluation.yaml, as its evaluator dumps it: read, put beside a run, and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from results.test_robustness import made
from titer.errors import InputError
from titer.results.foreign import export_run
from titer.results.published import Published, beside, read_published

GREY = 1 / 255


def written(path: Path, content: Any) -> Path:
    """As ``yaml.dump`` of nested dictionaries, which is what the evaluator calls."""
    path.write_text(content if isinstance(content, str) else yaml.dump(content))
    return path


def test_both_layouts_are_read(tmp_path: Path) -> None:
    own = {"a photo of a {}": {"clean": 61.91, "pgd": 4.26}, "prompter": {"aa": 12.5, "clean": 50}}
    assert set(read_published(written(tmp_path / "evaluation.yaml", own))) == {
        Published("", "a photo of a {}", "clean", 0.6191), Published("", "a photo of a {}", "pgd", 0.0426),
        Published("", "prompter", "aa", 0.125), Published("", "prompter", "clean", 0.5),
    }  # fmt: skip
    shifted = {"ImageNetV2": {"prompter": {"pgd": 30.0}}, "prompter": {"pgd": 40.0}}
    assert read_published(written(tmp_path / "dist_shift.yaml", shifted)) == [
        Published("ImageNetV2", "prompter", "pgd", 0.3), Published("", "prompter", "pgd", 0.4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "it holds no accuracy"),
        ([1, 2], "expected APT's .*; at the file it has"),
        ({"prompter": 3.0}, "at 'prompter' it has '3.0'"),
        ({"prompter": {"pgd": "x"}}, "at 'prompter' 'pgd' it has 'x'"),
        ({"prompter": {"pgd": 101.0}}, "at 'prompter' 'pgd' it has '101.0'"),
        ({"prompter": {"pgd": float("nan")}}, "at 'prompter' 'pgd' it has 'nan'"),
        ({"a": {"b": {"c": {"d": 1.0}}}}, "at 'a' 'b' 'c' it has"),
        ("!!python/object/apply:os.system ['false']", "cannot be read as YAML"),
        ("a: [", "cannot be read as YAML"),
        ("2001-99-99", "cannot be read as YAML"),
    ],
)
def test_other_files_are_refused(content: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_published(written(tmp_path / "x.yaml", content))
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_other_text_is_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError) as caught:
        read_published(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_stands_beside_what_is_of_the_same_attack() -> None:
    """Ten images: 9 are right, 7 hold at 1/255 and 4 at 4/255; exact intervals hold 0.8 and not 0.1."""
    run = made("pgd", {GREY: {1, 2}, 4 * GREY: {1, 2, 3, 4, 5}}, wrong=frozenset({0}))
    rows = beside(run, [Published("", "prompter", "clean", 0.8), Published("V2", "prompter", "pgd", 0.1)])
    assert [(row.theirs, row.at, row.share[:5], row.published, row.within) for row in rows] == [
        ("prompter", "clean", "0.900", "0.800", "yes"),
        ("V2 prompter", "pgd 1/255", "0.700", "0.100", "no"),
        ("V2 prompter", "pgd 4/255", "0.400", "0.100", "no"),
    ]
    with pytest.raises(InputError, match="accuracies of aa, and pgd was attacked with pgd"):
        beside(run, [Published("", "prompter", "clean", 0.8), Published("", "prompter", "aa", 0.1)])


def test_a_run_is_written_as_their_evaluator_does(tmp_path: Path) -> None:
    run = made("autoattack", {GREY: {1, 2}}, wrong=frozenset({0}), prompts="apt-16")
    assert export_run(run, "apt", tmp_path / "evaluation.yaml") == [tmp_path / "evaluation.yaml"]
    content = yaml.safe_load((tmp_path / "evaluation.yaml").read_text())
    assert content == {"apt-16": {"clean": pytest.approx(90.0), "aa": pytest.approx(70.0)}}
    assert read_published(tmp_path / "evaluation.yaml")[1].accuracy == pytest.approx(0.7)


def test_each_epsilon_has_a_file(tmp_path: Path) -> None:
    run = made("pgd", {GREY: {1}, 4 * GREY: {1, 2}})
    names = [path.name for path in export_run(run, "apt", tmp_path / "evaluation.yaml")]
    assert names == ["evaluation.eps_1-255.yaml", "evaluation.eps_4-255.yaml"]
    assert read_published(tmp_path / names[1])[1].accuracy == pytest.approx(0.8)
