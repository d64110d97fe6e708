"""titer attack sga: mistakes are one line, and what is listed can be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from titer.cli.main import run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "titer:phantoms"), "has no captions"),
        (("--data", "titer:phantoms", "--eps", "4"), "4/255"),
        (("--data", "titer:phantoms", "--prompts", "zero-shot"), "images and their captions"),
        (("--data", "titer:phantoms", "--set", "swap.source.name=masked-language-model",
          "--set", "swap.source.path=nowhere"), "swap.source=synonyms"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["attack", "sga", "--model", "titer:tiny", "--out", str(tmp_path / "run"), *arguments]) == 2
    told = capfd.readouterr().err.strip()
    assert words in told
    assert "\n" not in told


@pytest.mark.parametrize("name", ["sep", "co-attack", "sga"])
def test_pair_attacks_are_listed_and_shown(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "attack", name, "--json"]) == 0
    assert '"swap.meaning": "preserving"' in capfd.readouterr().out
    assert run(["list", "attacks"]) == 0
    assert name in capfd.readouterr().out
