"""Described sets on made-up files of the true layout, and descriptions of one's own."""

import csv
import gzip
import io
import json
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.making import picture, pictures, words
from titer.data import Data, load_all, load_data
from titer.data.described import Description, description, known_sets
from titer.errors import InputError, PictureError

SKIN = list(description("skincancer").classes)


def refusal(name: str) -> str:
    with pytest.raises(InputError) as caught:
        load_all(name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def table(file: Path, columns: str, *rows: Sequence[object]) -> Path:
    """A CSV file, packed where its name says so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text).writerows([columns.split(), *rows])
    content = text.getvalue().encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def of(data: Data) -> dict[str, tuple[str, str | None, str | None]]:
    """path -> (split, label, group)."""
    labels = [text.label for text in data.classes]
    return {
        each.path: (each.split, None if each.label is None else labels[each.label], each.group)
        for each in data.examples
    }


@pytest.mark.parametrize("name", sorted(known_sets()))
def test_every_description_says_where_under_what_and_beware(name: str) -> None:
    about = description(name)
    assert all(len(text.strip()) > 5 for text in (about.title, about.source, about.hazards))
    assert about.licence
    assert "{}" in about.template
    row = f"| `set:{name}@ROOT` | {about.title} | {about.source} | {about.licence} | {about.hazards} |"
    assert row in (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8").splitlines()


def test_kather(tmp_path: Path) -> None:
    folders = {"NCT-CRC-HE-100K": "train", "CRC-VAL-HE-7K": "test"}
    labels = ["ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"]
    pictures(tmp_path, [f"{folder}/{label}/{label}-AAA.tif" for folder in folders for label in labels])
    data = load_all(f"set:kather@{tmp_path}")
    assert data.name == "set:kather"
    assert of(data) == {
        f"{folder}/{label}/{label}-AAA.tif": (split, label, None)
        for folder, split in folders.items()
        for label in labels
    }
    assert data.classes[8].texts == ("an H&E image patch of colorectal adenocarcinoma epithelium",)
    assert data.read(data.examples[0]).pixels.shape == (3, 4, 1)


def test_covid_qu_ex_without_its_masks(tmp_path: Path) -> None:
    base = "Lung Segmentation Data/Lung Segmentation Data"
    names = [
        f"{base}/{split}/{label}/{kind}/1.png"
        for split in ("Train", "Val", "Test")
        for label in ("COVID-19", "Non-COVID", "Normal")
        for kind in ("images", "lung masks")
    ]
    found = of(load_all(f"set:covid-qu-ex@{pictures(tmp_path, names)}"))
    assert set(found) == {name for name in names if "/images/" in name}
    assert Counter(split for split, _, _ in found.values()) == {"train": 3, "val": 3, "test": 3}


@pytest.mark.parametrize(("name", "classes"), [("covid", 2), ("covid19-radiography", 4)])
def test_covid_radiography_in_parts(tmp_path: Path, name: str, classes: int) -> None:
    labels = ["COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"]
    for label in labels:
        for place in range(40):
            picture(tmp_path / label / "images" / f"{label}-{place}.png")
            picture(tmp_path / label / "masks" / f"{label}-{place}.png")
    found = of(load_all(f"set:{name}@{tmp_path}"))
    assert len(found) == 40 * classes
    counts = Counter(split for split, _, _ in found.values())
    assert set(counts) == {"train", "test"}
    assert 0.3 < counts["train"] / len(found) < 0.7
    assert found == of(load_all(f"set:{name}@{tmp_path}"))


RSNA = [
    ("p1", "Normal", 0),
    ("p2", "Lung Opacity", 1),
    ("p2", "Lung Opacity", 1),
    ("p3", "No Lung Opacity / Not Normal", 0),
]


def rsna(root: Path, rows: Sequence[tuple[str, str, int]] = RSNA) -> Path:
    table(root / "stage_2_detailed_class_info.csv", "patientId class", *[(who, label) for who, label, _ in rows])
    columns = "patientId x y width height Target"
    table(root / "stage_2_train_labels.csv", columns, *[(who, "", "", "", "", target) for who, _, target in rows])
    return root


def test_rsna_has_a_row_for_each_finding_and_an_example_for_each_picture(tmp_path: Path) -> None:
    many = [*RSNA, *((f"q{place}", "Normal", 0) for place in range(60))]
    data = load_all(f"set:rsna18@{rsna(tmp_path, many)}")
    found = of(data)
    assert len(found) == 63
    assert found["stage_2_train_images/p2.dcm"][1:] == ("Lung Opacity", "p2")
    assert {split for split, _, _ in found.values()} == {"train", "val", "test"}
    binary = load_all(f"set:rsna18-pneumonia@{tmp_path}")
    assert [text.label for text in binary.classes] == ["0", "1"]
    assert of(binary)["stage_2_train_images/p2.dcm"] == (found["stage_2_train_images/p2.dcm"][0], "1", "p2")
    assert binary.classes[1].texts == ("a chest X-ray image of pneumonia",)


def test_rsna_pictures_are_read_from_dicom(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from data.test_dicom import written

    data = load_all(f"set:rsna18@{rsna(tmp_path)}")
    written(tmp_path / data.examples[0].path, np.full((6, 5), 51, np.uint8))
    np.testing.assert_allclose(data.read(data.examples[0]).pixels, 0.2, rtol=1e-6)


def test_a_picture_with_two_labels(tmp_path: Path) -> None:
    root = rsna(tmp_path, [*RSNA, ("p1", "Lung Opacity", 1)])
    assert "has the labels 'Normal' and 'Lung Opacity'" in refusal(f"set:rsna18@{root}")


def pannuke(root: Path, images: Any = None, types: Any = None) -> Path:
    random = np.random.default_rng(0)
    for fold in (1, 2, 3):
        inner = root / f"Fold {fold}" / "images" / f"fold{fold}"
        inner.mkdir(parents=True, exist_ok=True)
        np.save(
            inner / "images.npy", random.integers(0, 256, (4, 8, 8, 3)).astype(np.float64) if images is None else images
        )
        np.save(
            inner / "types.npy", np.array(["Breast", "HeadNeck", "Bile-duct", "Breast"]) if types is None else types
        )
    return root


def test_pannuke(tmp_path: Path) -> None:
    data = load_all(f"set:pannuke@{pannuke(tmp_path)}")
    assert [text.label for text in data.classes] == ["Bile-duct", "Breast", "HeadNeck"]
    assert data.classes[0].texts == ("an H&E image of Bile-duct tissue",)
    assert of(data)["val/2"] == ("val", "Bile-duct", None)
    stored = np.load(tmp_path / "Fold 2/images/fold2/images.npy")
    example = next(each for each in data.examples if each.id == "val/2")
    np.testing.assert_allclose(data.read(example).pixels, stored[2] / 255, rtol=1e-6)
    assert data.read(example).sha256 == data.digest(example)
    assert len({data.digest(each) for each in data.examples}) == 12


def test_arrays_that_are_wrong(tmp_path: Path) -> None:
    assert "is missing; PanNuke, its three folds by tissue is to be had from warwick" in refusal(
        f"set:pannuke@{tmp_path}"
    )
    assert "and n labels, got (4, 8, 8, 2)" in refusal(f"set:pannuke@{pannuke(tmp_path, np.zeros((4, 8, 8, 2)))}")
    assert "got (5, 8, 8, 3) and (4,)" in refusal(f"set:pannuke@{pannuke(tmp_path, np.zeros((5, 8, 8, 3)))}")
    objects = np.array(["a", 1, None, "b"], dtype=object)
    assert "is not a readable npy file" in refusal(f"set:pannuke@{pannuke(tmp_path, types=objects)}")
    data = load_all(f"set:pannuke@{pannuke(tmp_path, np.full((4, 8, 8, 3), 256.0))}")
    with pytest.raises(PictureError, match="expected 0 to 255"):
        data.read(data.examples[0])


SICAP = {
    "Train": [
        ("16B1_Block_1.jpg", 1, 0, 0, 0, 0),
        ("16B1_Block_2.jpg", 0, 1, 0, 0, 0),
        ("17C_Block_1.jpg", 0, 0, 1, 0, 1),
    ],
    "Test": [("18D_Block_1.jpg", 0, 0, 0, 1, 0), ("18D_Block_2.jpg", 0, 1, 1, 0, 0)],
}


def sicap(root: Path, suffix: str) -> Path:
    files: dict[str, tuple[str, Sequence[Sequence[object]]]] = {
        "wsi_labels": ("slide_id patient_id", [("16B1", "p1"), ("17C", "p1"), ("18D", "p2")])
    }
    files |= {f"partition/Test/{part}": ("image_name NC G3 G4 G5 G4C", rows) for part, rows in SICAP.items()}
    for name, (columns, rows) in files.items():
        if suffix == ".csv":
            table(root / f"{name}.csv", columns, *rows)
        else:
            sheet(root / f"{name}.xlsx", columns, rows)
    return root


def sheet(file: Path, columns: str, rows: Sequence[Sequence[object]]) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    file.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in (columns.split(), *rows):
        book.active.append(list(row))
    book.save(file)


@pytest.mark.parametrize("suffix", [".xlsx", ".csv"])
def test_sicapv2(tmp_path: Path, suffix: str) -> None:
    data = load_all(f"set:sicapv2@{sicap(tmp_path, suffix)}")
    assert of(data) == {
        "images/16B1_Block_1.jpg": ("train", "NC", "p1"),
        "images/16B1_Block_2.jpg": ("train", "G3", "p1"),
        "images/17C_Block_1.jpg": ("train", "G4", "p1"),
        "images/18D_Block_1.jpg": ("test", "G5", "p2"),
        "images/18D_Block_2.jpg": ("test", None, "p2"),
    }
    assert data.classes[3].texts == (
        "a histopathology slide showing isolated nest cells without lumen roseting patterns",
    )


def test_sheets_without_openpyxl_and_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    file = tmp_path / "partition/Test/Train.xlsx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK\x03\x04 no sheet")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "openpyxl", None)
        assert "pip install 'titer[xlsx]', or save it as Train.csv beside it" in refusal(f"set:sicapv2@{tmp_path}")
    pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    assert "is not a readable Excel sheet" in refusal(f"set:sicapv2@{tmp_path}")


def test_skincancer(tmp_path: Path) -> None:
    rows = [
        (f"data/tiles/{label}/{label}_ws_{place}_7.jpg", label, part, "x")
        for place, (label, part) in enumerate(zip(SKIN, ["Train", "Validation", "Test", "Test"] * 4, strict=True))
    ]
    data = load_all(
        f"set:skincancer@{table(tmp_path / 'data/tiles-v2.csv', 'file class set malignicy', *rows).parents[1]}"
    )
    assert [text.label for text in data.classes] == SKIN
    assert of(data)[rows[1][0]] == ("val", SKIN[1], "1")
    assert data.classes[12].texts == ("a histopathology slide showing squamous-cell carcinoma",)


def test_roco_and_rocov2(tmp_path: Path) -> None:
    for folder in ("train", "validation", "test"):
        file = tmp_path / folder / "radiology" / "captions.txt"
        file.parent.mkdir(parents=True)
        file.write_text(f'ROCO_1\t a {folder} "CT\tscan\n\nROCO_2\t b\n')
    data = load_all(f"set:roco@{tmp_path}")
    captions = {each.path: (each.split, each.caption) for each in data.examples}
    assert captions["validation/radiology/images/ROCO_1.jpg"] == ("val", 'a validation "CT scan')
    assert (len(captions), data.classes) == (6, ())
    for folder in ("train", "valid", "test"):
        table(tmp_path / f"{folder}_captions.csv", "ID Caption", (f"v2_{folder}", f"new, {folder}"))
    assert [(each.path, each.split, each.caption) for each in load_all(f"set:rocov2@{tmp_path}").examples] == [
        ("train/v2_train.jpg", "train", "new, train"),
        ("valid/v2_valid.jpg", "val", "new, valid"),
        ("test/v2_test.jpg", "test", "new, test"),
    ]


def test_openi_joins_pictures_and_reports(tmp_path: Path) -> None:
    table(
        tmp_path / "indiana_projections.csv", "uid filename projection",
        (1, "1_a.png", "Frontal"), (1, "1_b.png", "Lateral"), (2, "2_a.png", "Frontal"),
    )  # fmt: skip
    columns = "uid MeSH Problems image indication comparison findings impression"
    table(
        tmp_path / "indiana_reports.csv", columns,
        (1, "", "normal", "", "", "", "Clear lungs.\n No effusion.", "Normal."), (2, "", "", "", "", "", "", ""),
    )  # fmt: skip
    first, second, third = load_all(f"set:openi@{tmp_path}").examples
    assert (first.path, first.caption, first.group) == (
        "images/images_normalized/1_a.png",
        "Clear lungs. No effusion. Normal.",
        "1",
    )
    assert (second.caption, second.split) == (first.caption, first.split)
    assert second.attributes == {"projection": "Lateral", "Problems": "normal"}
    assert third.caption is None


def test_mimic_cxr(tmp_path: Path) -> None:
    rows = [("d1", 50414267, 10000032, "train"), ("d2", 50414267, 10000032, "train"), ("d3", 53, 11, "validate")]
    table(tmp_path / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id study_id subject_id split", *rows)
    table(tmp_path / "mimic_cxr_sectioned.csv", "study impression findings", ("s50414267", "No acute process.", "x"))
    first, second, third = load_all(f"set:mimic-cxr@{tmp_path}").examples
    assert first.path == "files/p10/p10000032/s50414267/d1.jpg"
    assert (first.caption, first.group, second.caption) == ("No acute process.", "10000032", "No acute process.")
    assert (third.path, third.split, third.caption) == ("files/p11/p11/s53/d3.jpg", "val", None)


def test_vqa_rad(tmp_path: Path) -> None:
    base = {"answer_type": "CLOSED", "question_type": "PRES", "image_name": "synpic1.jpg"}
    rows = [
        {**base, "question": "Is it big?", "answer": "Yes", "phrase_type": "freeform"},
        {**base, "question": "How many?", "answer": 2, "phrase_type": "test_para"},
    ]
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    first, second = load_all(f"set:vqa-rad@{tmp_path}").examples
    assert (first.path, first.split, first.group) == ("VQA_RAD Image Folder/synpic1.jpg", "train", "synpic1.jpg")
    assert (second.id, second.split) == ("VQA_RAD Image Folder/synpic1.jpg#2", "test")
    assert (second.attributes["question"], second.attributes["answer"]) == ("How many?", "2")


def test_slake_in_english(tmp_path: Path) -> None:
    for name in ("train", "validate", "test"):
        base = {"img_id": 7, "img_name": f"xmlab{name}/source.jpg", "answer_type": "OPEN", "content_type": "Organ"}
        rows = [
            {**base, "question": "Which organ?", "answer": "Liver", "q_lang": "en"},
            {**base, "question": "哪个器官?", "answer": "肝", "q_lang": "zh"},
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    data = load_all(f"set:slake@{tmp_path}")
    assert [(each.path, each.split, each.attributes["answer"]) for each in data.examples] == [
        ("imgs/xmlabtrain/source.jpg", "train", "Liver"),
        ("imgs/xmlabvalidate/source.jpg", "val", "Liver"),
        ("imgs/xmlabtest/source.jpg", "test", "Liver"),
    ]


class _Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harmed"),))


def test_pathvqa_and_a_pickle_that_would_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val", "test"):
        file = tmp_path / "qas" / split / f"{split}_qa.pkl"
        file.parent.mkdir(parents=True)
        file.write_bytes(pickle.dumps([{"image": f"{split}_0422", "question": "where?", "answer": "liver"}]))
    data = load_all(f"set:pathvqa@{tmp_path}")
    assert [(each.path, each.split) for each in data.examples] == [
        (f"images/{split}/{split}_0422.jpg", split) for split in ("train", "val", "test")
    ]
    file.write_bytes(pickle.dumps([_Harm()]))
    assert "only plain values are read" in refusal(f"set:pathvqa@{tmp_path}")
    assert not (tmp_path / "harmed").exists()


HEAD = 'title = "Mine"\nsource = "my disk"\nlicence = "mine"\nhazards = "none known"\n'


def mine(root: Path, text: str) -> str:
    (root / "mine.toml").write_text(HEAD + text)
    return f"set:{root / 'mine.toml'}@{root}"


def test_a_new_set_needs_one_toml_and_no_python(tmp_path: Path) -> None:
    pictures(tmp_path, ["Training/glioma/1.png", "Training/none/2.png", "Testing/glioma/3.png", "Testing/none/4.png"])
    text = """
        template = "an MRI of {}"
        [folders]
        train = "Training"
        test = "Testing"
        [classes]
        none = "no tumour"
        glioma = ["glioma", "a glial tumour"]
    """
    name = mine(tmp_path, text)
    data = load_data(name)
    assert (data.name, data.counts) == ("set:mine", {"none": 1, "glioma": 1})
    assert data.classes[1].texts == ("an MRI of glioma", "an MRI of a glial tumour")
    words(tmp_path, {"glioma": "a tumour", "none": "nothing"})
    assert [text.texts for text in load_data(name).classes] == [("a tumour",), ("nothing",)]


def test_classes_of_a_description_choose_among_folders(tmp_path: Path) -> None:
    pictures(tmp_path, ["a/1.png", "b/2.png", "c/3.png"])
    assert len(load_all(mine(tmp_path, '[folders]\ntest = "."')).classes) == 3
    chosen = '[folders]\ntest = "."\n[classes]\nc = "x"\na = "y"'
    assert load_all(mine(tmp_path, chosen)).counts == {"c": 1, "a": 1}
    assert "class 'd' of Mine has no images" in refusal(mine(tmp_path, f'{chosen}\nd = "z"'))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected one of folders, tables and arrays"),
        ('[folders]\ntest = "."\n[arrays.test]\nimages = "x"', "expected one of folders, tables and arrays"),
        ("folder = 3", "mine.toml: unknown key 'folder'; did you mean 'folders'?"),
        ("folders = 3", "folders: got 3, which is of another type"),
        ("[folders]\ntest = 3", "folders: got {'test': 3}, which is of another type"),
        ("tables = 3", "expected TOML tables, got 3"),
        ("[[tables]]\nfile = 't.csv'\npath = ['x']", "path: got ('x',), which is of another type"),
        ("[[tables]]\nfile = 't.csv'\npath = '{file}'\nonce = 'yes'", "once: got 'yes'"),
        (
            "[[tables]]\nfile = 't.csv'\npath = '{file}'\nderived = { a = { column = 'file', match = '(' } }",
            "not a regular",
        ),
        (
            "[[tables]]\nfile = 't.csv'\npath = '{file}'\nderived = { a = { column = 'file', match = 'x' } }",
            "a group in",
        ),
        ("[arrays.test]\nimages = 'x.npy'", "arrays.test: expected images and labels"),
        ("template = 'an MRI'\n[folders]\ntest = '.'", "template: expected a text with {}"),
        ("[folders]\ntest = '.'\n[classes]\na = 'x'", "expected at least two"),
        ("[folders]\ntest = '.'\n[classes]\na = 3\nb = 'x'", "class 'a' needs a text or a list of texts, got 3"),
        ("[[tables]]\nfile = 't.csv'", "the key 'path' is missing"),
        ("[[tables]]\nfile = 't.csv'\npaht = 'x'", "did you mean 'path'?"),
        ("[[tables]", "is not valid TOML"),
        ("parts = { train = 0.5, test = 0.6 }\n[folders]\nall = '.'", "whose sum is 1"),
        ("[folders]\ntest = 'none'", "Mine is to be had from my disk"),
        ("[[tables]]\nfile = 'u.csv'\npath = '{file}'", "u.csv is missing; Mine is to be had from my disk"),
        ("[[tables]]\nfile = 't.csv'\npath = '{fiel}'", "unknown column of"),
        ("[[tables]]\nfile = 't.csv'\npath = '{file}'\nkeep = ['sxe']", "did you mean 'sex'?"),
        ("[[tables]]\nfile = 't.csv'\npath = '../{file}'", "is outside the data"),
        ("[[tables]]\nfile = 't.csv'\npath = '{sex}'", "row 2: no value"),
        ("[[tables]]\nfile = 't.csv'\npath = '{file}'\nlabel = '{kind}'\n[classes]\na = 'x'\nc = 'y'", "unknown label"),
        ("[[tables]]\nfile = 't.csv'\npath = '{file}'\nonly = { kind = 'z' }", "no rows of Mine"),
        ("[[tables]]\nfile = 't.csv'\npath = '{file}'\none_hot = ['kind', 'sex']", "expected numbers"),
    ],
)
def test_descriptions_that_are_wrong(tmp_path: Path, text: str, expected: str) -> None:
    table(tmp_path / "t.csv", "file kind sex", ("1.png", "a", "f"), ("2.png", "b", ""))
    assert expected in refusal(mine(tmp_path, text))


def test_names_and_places_that_are_wrong(tmp_path: Path) -> None:
    assert "did you mean 'kather'?" in refusal(f"set:kahter@{tmp_path}")
    assert "expected set:NAME@ROOT" in refusal("set:kather")
    assert "zenodo.org" in refusal(f"set:kather@{tmp_path / 'none'}")
    assert "zenodo.org" in refusal(f"set:kather@{tmp_path}")
    assert "cannot be read" in refusal(f"set:{tmp_path / 'none.toml'}@{tmp_path}")


def test_parts_are_by_group_and_near_their_shares() -> None:
    from titer.data.described import _part

    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    counts = Counter(_part(f"patient {place}", shares) for place in range(4000))
    for split, share in shares.items():
        assert abs(counts[split] / 4000 - share) < 0.03
    assert Description("t", "s", "l", "h", parts=shares, folders={"all": "."}).parts == shares
