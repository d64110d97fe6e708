"""Imports go one way: a package imports only from layers below its own (ARCHITECTURE.md)."""

import ast
import sys
from pathlib import Path

import pytest

import titer

SOURCE = Path(titer.__file__).parent
LAYERS = (
    {"errors"},
    {"statistics", "registry", "noise", "progress", "ahead", "typed"},
    {"results", "models", "data"},
    {"features", "attacks"},
    {"certify", "defenses"},
    {"evaluate", "report"},
    {"upstream"},
    {"config"},
    {"cli", "serve"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Top-level parts of titer that a file imports, inside functions too."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "titer":
            modules |= {f"titer.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    return {name.split(".")[1] for name in modules if name.startswith("titer.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for name in imported(path) & set(RANK):
        assert name == own or RANK[name] < RANK[own], (
            f"{own} (layer {RANK[own] + 1}) imports {name} (layer {RANK[name] + 1})"
        )


def test_every_part_has_a_layer() -> None:
    parts = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES}
    assert parts <= set(RANK), parts - set(RANK)


@pytest.mark.parametrize("part", ["results", "report", "statistics", "noise"])
def test_no_torch_where_results_are_read(part: str) -> None:
    for path in FILES:
        if path.relative_to(SOURCE).parts[0].removesuffix(".py") == part:
            assert "torch" not in path.read_text(encoding="utf-8").replace("torch.randn", ""), path


def test_certify_knows_neither_defenses_nor_attacks() -> None:
    for path in (SOURCE / "certify").rglob("*.py"):
        assert not imported(path) & {"defenses", "attacks"}


def test_nothing_needs_torchvision() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"torchvision", "timm", "open_clip"}, path


def test_public_names_are_sorted_and_exist() -> None:
    assert titer.__all__ == sorted(titer.__all__)
    for name in titer.__all__:
        assert getattr(titer, name) is not None


def test_functions_win_over_packages_of_the_same_name() -> None:
    import titer.certify.gaussian
    import titer.report.page

    assert callable(titer.certify)
    assert callable(titer.report)


def test_importing_titer_is_cheap() -> None:
    """`titer --help` must not wait for torch: heavy parts load when they are first used."""
    import subprocess

    code = "import sys, titer, titer.cli.main; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
