"""FAP's and APT's protocols as recipes: they say what papers and code say, and run on made-up files of CoOp's layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from published_files import (
    RESNET,
    biomed_directory,
    conch_directory,
    medclip_directory,
    open_clip_directory,
    resnet_weights,
)
from tiny_models import clip_directory
from titer.attacks.pgd import Pgd
from titer.cli.main import run
from titer.config import read_recipe
from titer.data.coop import known_sets
from titer.defenses import Capt
from titer.errors import InputError
from titer.evaluate.study import Study, all_sets
from titer.features.stream import threads
from titer.results.store import read_run

PAPER = Path(__file__).parents[1] / "recipes" / "adversarial" / "paper"
PROTOCOLS = ("few_shot", "base_to_new", "cross_dataset", "robust_backbone", "text_only")
FAMILY = {"zero-shot", "advvp", "advmaple", "advvlp", "fap", "capt"}
TEN = (
    "Caltech101", "DescribableTextures", "EuroSAT", "OxfordPets", "FGVCAircraft", "Food101", "OxfordFlowers", "StanfordCars",
    "SUN397", "UCF101",
)  # fmt: skip
TUNED = ("eps", "steps", "step", "epochs", "batch", "learning_rate", "text", "image", "coupling")


def read(name: str, data: str = "coop:ImageNet@/root", **changes: Any) -> Study:
    return read_recipe(PAPER / f"{name}.toml", model="openai/clip-vit-base-patch32", data=data, changes=changes)


def settings(study: Study, name: str) -> dict[str, Any]:
    return asdict(study.entries[name].defense)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_model_and_data_are_open_and_asked_for_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"\[model\] names no model; .* --model on the command line$"):
        read_recipe(PAPER / f"{name}.toml", data="coop:EuroSAT@/root")
    with pytest.raises(InputError, match=r"--data on the command line\. Sets in CoOp's layout .* coop:NAME@ROOT$"):
        read_recipe(PAPER / f"{name}.toml", model="m")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_says_which_paper_and_that_capt_is_reconstructed(name: str) -> None:
    comment = " ".join(line[2:] for line in (PAPER / f"{name}.toml").read_text().splitlines() if line.startswith("# "))
    assert "CAPT-R, a reconstruction of CAPT (arXiv 2405.11154)" in comment
    assert ("arXiv 2403.01849" if name == "robust_backbone" else "arXiv 2403.14774") in comment
    assert read(name).title.endswith("with CAPT-R")


@pytest.mark.parametrize(("name", "epochs"), [("few_shot", 10), ("base_to_new", 10), ("cross_dataset", 5)])
def test_constants_are_those_of_faps_tables(name: str, epochs: int) -> None:
    study = read(name)
    assert set(study.entries) == FAMILY | ({"advtp"} if name == "few_shot" else set())
    deep = (1 / 255, 2, 1.0, epochs, 4, 0.0035, 2, 2)
    for method, coupling in (("advmaple", "text-to-image"), ("advvlp", "independent"), ("fap", "image-to-text")):
        found = settings(study, method)
        assert tuple(found[key] for key in TUNED) == (*deep, coupling)
        assert (found["depth"], found["optimiser"], found["warmup_rate"]) == (None, "sgd", 1e-5)  # nine layers, or all
    assert (settings(study, "fap")["inner"], settings(study, "fap")["weight"]) == ("kl", 1.5)
    capt = settings(study, "capt")
    assert tuple(capt[key] for key in TUNED) == (1 / 255, 3, 2 / 3, epochs, 4, 0.0035, 2, 2, "image-to-text")
    frame = settings(study, "advvp")
    assert (frame["frame"], frame["image"], frame["text"], frame["epochs"]) == (30 / 224, 5, 0, epochs)
    assert frame["learning_rate"] == (30.0 if name == "cross_dataset" else 40.0)
    attack = study.attacks["pgd-100"]
    assert attack.attack == Pgd(steps=100, step=1.0, restarts=1, start="uniform", keep="last")
    assert (attack.norm, attack.eps) == ("linf", (1 / 255,))


def test_faps_few_shot_grid() -> None:
    published = next(cell for cell in read("few_shot").cells if cell.name == "published")
    assert (published.shots, published.seeds, published.limit) == ((1, 2, 4, 8, 16), (1, 2, 3), None)
    assert (published.attacks, published.sigmas) == (("pgd-100",), ())
    text = settings(read("few_shot"), "advtp")
    assert tuple(text[key] for key in TUNED) == (1 / 255, 2, 1.0, 200, 32, 0.002, 16, 0, "independent")


def test_faps_base_to_new_protocol() -> None:
    study = read("base_to_new", "coop:EuroSAT@/root")
    assert study.data == "classes:base@coop:EuroSAT@/root"
    parts = [cell for cell in study.cells if cell.of == "published"]
    assert [cell.part.data for cell in parts if cell.part] == [
        f"classes:{half}@coop:EuroSAT@/root" for half in ("base", "new")
    ]
    assert {(cell.shots, cell.seeds) for cell in parts} == {((16,), (1, 2, 3))}


def test_faps_cross_dataset_protocol() -> None:
    study = read("cross_dataset")
    parts = [cell for cell in study.cells if cell.of == "published"]
    assert [cell.part.data for cell in parts if cell.part] == [f"coop:{name}@/root" for name in ("ImageNet", *TEN)]
    assert set(TEN) <= set(known_sets())
    assert [cell.moved for cell in parts] == [False] + 10 * [True]
    assert all(cell.attacks == ("pgd-100", "apgd-ce", "apgd-dlr") for cell in parts)
    assert study.attacks["apgd-dlr"].eps == (1 / 255, 2 / 255, 4 / 255)


def test_apts_set_up_on_a_robust_encoder() -> None:
    """CoOp's rule of epochs; the attack's step is a quarter of its budget."""
    study = read("robust_backbone")
    for shots, epochs in ((1, 50), (4, 100), (16, 200)):
        entry, found = study.entries[f"apt-{shots}"], settings(study, f"apt-{shots}")
        assert entry.shots == (shots,)
        assert tuple(found[key] for key in TUNED) == (4 / 255, 3, 2 / 3, epochs, 32, 0.002, 16, 0, "independent")
        assert found["prompting"] == "on-the-fly"
    assert settings(study, "capt")["eps"] == 4 / 255
    attack = study.attacks["pgd-100"]
    assert (attack.attack, attack.eps) == (Pgd(steps=100, step=0.25, keep="last"), (4 / 255,))


def coop_sets(root: Path, names: tuple[str, ...], classes: int = 4) -> Path:
    """Made-up pictures of so many classes in the layout of each set: split_zhou_NAME.json and a folder of pictures."""
    chance = np.random.default_rng(0)
    for name in names:
        known = known_sets()[name]
        splits: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
        for split, entries in splits.items():
            for label in range(classes):
                path = root / known["folder"] / known["pictures"] / f"{split}_{label}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(chance.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
                entries.append([path.name, label, f"{name} {label}"])
        (root / known["folder"] / known["split"]).write_text(json.dumps(splits))
    return root


def test_the_base_to_new_protocol_runs_on_made_up_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = coop_sets(tmp_path / "data", ("OxfordPets",)), tmp_path / "out"
    model = clip_directory(tmp_path / "clip", length=96)
    told = ["run", str(PAPER / "base_to_new.toml"), "--model", str(model), "--data", f"coop:OxfordPets@{root}"]
    small = ["size=quick", *(f"defenses.{name}.epochs=1" for name in FAMILY - {"zero-shot"}), "attacks.pgd-100.steps=2"]
    with threads(1):
        assert run([*told, "--out", str(out), *(part for text in small for part in ("--set", text))]) == 0
    assert capsys.readouterr().err
    assert (out / "report.html").exists()
    for half, labels in (("base", ["OxfordPets 0", "OxfordPets 1"]), ("new", ["OxfordPets 2", "OxfordPets 3"])):
        found = read_run(out / "runs" / f"published-{half}-pgd-100")
        assert [entry["label"] for entry in found.info["classes"]] == labels
        assert found.info["classes"][0]["texts"] == [f"a photo of a {labels[0]}, a type of pet."]
        assert {record["prompts"].removesuffix("-1-s1") for record in found.records} == FAMILY
        assert {record["eps"] for record in found.records} == {1 / 255}
        assert len(found.records) == 2 * len(FAMILY)


def folders(root: Path) -> Path:
    """A few made-up X-rays in a folder for each split and class."""
    chance = np.random.default_rng(3)
    for split, count in (("train", 2), ("test", 1)):
        for label in ("dark", "bright"):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(chance.integers(0, 256, (40, 40, 3), np.uint8)).save(
                    root / split / label / f"{index}.png"
                )
    return root


@pytest.mark.parametrize(
    ("kind", "recipe", "methods"),
    [
        ("biomedclip", "few_shot", ("advvp", "fap", "capt")),
        ("conch", "few_shot", ("advvp", "fap", "capt")),
        ("medclip", "text_only", ("advvp", "advtp", "capt")),
        ("resnet", "text_only", ("advvp", "advtp", "capt")),
    ],
)
def test_a_first_cell_runs_on_each_kind_of_model(
    kind: str, recipe: str, methods: tuple[str, ...], tmp_path: Path
) -> None:
    makers: dict[str, Callable[[Path], object]] = {
        "biomedclip": biomed_directory,
        "conch": conch_directory,
        "medclip": lambda path: f"medclip:{medclip_directory(path)}",
        "resnet": lambda path: open_clip_directory(path, RESNET, resnet_weights()),
    }
    told = ["run", str(PAPER / f"{recipe}.toml"), "--model", str(makers[kind](tmp_path / "model"))]
    chosen = ", ".join(map(repr, ("zero-shot", *methods)))
    small = [
        "size=quick", "data.limit=2", "attacks.pgd-100.steps=1", "grid.shots=[1]", "grid.seeds=[1]", "defenses.advtp.text=2",
        *(f"defenses.{name}.epochs=1" for name in methods), f"cells.published.defenses=[{chosen}]",
    ]  # fmt: skip
    line = [*told, "--data", str(folders(tmp_path / "data")), "--out", str(tmp_path / "out")]
    with threads(1):
        assert run([*line, *(part for text in small for part in ("--set", text))]) == 0
    found = read_run(tmp_path / "out" / "runs" / "published-pgd-100")
    assert {record["prompts"] for record in found.records} == {"zero-shot", *(f"{name}-1-s1" for name in methods)}


def test_towers_without_tokens_are_told_which_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["run", str(PAPER / "few_shot.toml"), "--model", f"medclip:{medclip_directory(tmp_path / 'model')}"]
    line = [*told, "--data", str(folders(tmp_path / "data")), "--out", str(tmp_path / "out"), "--set", "size=quick"]
    with threads(1):
        assert run([*line, "--set", 'cells.published.defenses=["capt"]']) != 0
    assert "is a Swin Transformer, whose windows have no place for tokens" in capsys.readouterr().err


def test_the_cross_dataset_protocol_moves_to_sets_below_the_same_root(tmp_path: Path) -> None:
    root, out = coop_sets(tmp_path / "data", ("OxfordPets", "EuroSAT"), classes=2), tmp_path / "out"
    model = clip_directory(tmp_path / "clip", length=96)
    told = ["run", str(PAPER / "cross_dataset.toml"), "--model", str(model), "--data", f"coop:OxfordPets@{root}"]
    small = [
        "size=quick", 'benchmark.on=["coop:EuroSAT"]', 'cells.published.defenses=["zero-shot", "fap", "advvp"]',
        'cells.published.attacks=["pgd-100"]', "defenses.fap.epochs=1", "defenses.advvp.epochs=1", "attacks.pgd-100.steps=2",
    ]  # fmt: skip
    with threads(1):
        assert run([*told, "--out", str(out), *(part for text in small for part in ("--set", text))]) == 0
    moved = read_run(out / "runs" / "published-EuroSAT-data-pgd-100")
    assert [entry["label"] for entry in moved.info["classes"]] == ["EuroSAT 0", "EuroSAT 1"]
    assert {record["prompts"] for record in moved.records} == {"zero-shot", "fap-1-s1", "advvp-1-s1"}


GRID = Path(__file__).parents[1] / "recipes" / "adversarial"


def test_side_by_side_are_the_same_fits_of_all_methods_and_those_of_the_grid() -> None:
    study, grid = (read_recipe(GRID / f"{name}.toml", data="titer:phantoms") for name in ("side_by_side", "grid"))
    judged, certified = study.cells
    assert judged.entries == certified.entries == tuple(study.entries)
    assert (judged.shots, judged.seeds) == (certified.shots, certified.seeds) == ((16,), (1,))
    assert study.attacks["autoattack"].checks
    assert study.entries == grid.entries
    assert not {cell.name for cell in study.cells} & {cell.name for cell in grid.cells}
    assert {one.name for one in all_sets(study, study.cells)} <= {one.name for one in all_sets(grid, grid.cells)}


def test_the_grid_on_all_shots_fits_each_method_once() -> None:
    study = read_recipe(GRID / "all_shots.toml", data="titer:phantoms")
    (cell,) = study.cells
    sets = all_sets(study, study.cells)
    assert {prompts.shots for prompts in sets} == {"all", None}
    assert {prompts.seed for prompts in sets if prompts.defense is not None} == {1}
    assert len(sets) == len(study.entries) == len(cell.entries)


def test_ablations_of_capt_change_one_thing_each() -> None:
    study = read_recipe(GRID / "ablations.toml", data="titer:phantoms")
    fitted = {name: asdict(entry.defense) for name, entry in study.entries.items() if entry.defense is not None}  # type: ignore[call-overload]
    own = fitted.pop("capt")
    assert own == asdict(Capt())
    changes = {name: {key for key in own if settings[key] != own[key]} for name, settings in fitted.items()}
    assert all(changed in ({"teacher", "share"}, {"teacher"}) or len(changed) == 1 for changed in changes.values())
    moved = {key for changed in changes.values() for key in changed}
    assert moved == {"teacher", "share", "weight", "ramp", "depth", "coupling", "direction", "supervision", "detach"}
