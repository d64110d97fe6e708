"""``coop:NAME@ROOT``: sets as CoOp and its followers keep them, all below one ROOT (Zhou et al., IJCV 2022).

Classes are in order of CoOp's numbers, so that ``classes:base@coop:NAME@ROOT`` is the base half of its papers. Their few-shot
pickles are not read.
"""

from __future__ import annotations

import json
import posixpath
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from titer.data.classes import Wording
from titer.data.example import Data
from titer.data.files import from_rows
from titer.data.pictures import SUFFIXES
from titer.data.table import Row
from titer.errors import InputError, unknown

_SPLITS = ("train", "val", "test")
_GUIDES = {
    "split_zhou": "github.com/KaiyangZhou/CoOp (DATASETS.md)",
    "split_": "github.com/HealthX-Lab/BiomedCoOp (assets/DATASETS.md)",
}


def coop(rest: str) -> Data:
    """All splits of a set by its name.

    Args:
        rest: ``NAME@ROOT``. NAME as in CoOp's registry or configs, in any spelling (``OxfordPets``, ``oxford_pets``);
            ROOT is what CoOp calls ``$DATA``. Ids and paths are relative to the set's folder below it.

    Raises:
        InputError: for an unknown name, a missing file (saying where to get it and where to put it), and for what
            CoOp's reader would take without a word: pictures outside the set, a class with two names.
    """
    name, at, root = rest.partition("@")
    if not (at and root):
        raise InputError(f"data set {f'coop:{rest}'!r}: expected coop:NAME@ROOT, such as coop:EuroSAT@/data")
    name, known = _named(name)
    folder = Path(root) / known["folder"]
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; {name} in CoOp's layout: {_GUIDES['split_zhou']}")
    read = _from_json if "split" in known else _from_lists if "lists" in known else _from_wnids
    rows, labels, words = read(folder, known)
    if not rows:
        raise InputError(f"there are no pictures of {name} in {folder}")
    texts = Wording(
        {label: " ".join(word.replace("_", " ").split()) for label, word in zip(labels, words, strict=True)},
        known["template"],
    )
    return from_rows(f"coop:{name}", folder, rows, (), texts.classes(()))


@cache
def known_sets() -> Mapping[str, Mapping[str, Any]]:
    """What ``coop.toml`` says of each set."""
    return tomllib.loads(resources.files("titer.data").joinpath("coop.toml").read_text(encoding="utf-8"))


def _named(name: str) -> tuple[str, Mapping[str, Any]]:
    sets = known_sets()
    spellings = {_plain(spelling): own for own, known in sets.items() for spelling in (own, known.get("also", own))}
    if _plain(name) not in spellings:
        raise unknown("set in CoOp's layout", name, sets)
    own = spellings[_plain(name)]
    return own, sets[own]


def _plain(name: str) -> str:
    return re.sub("[-_ ]", "", name).lower()


Key = TypeVar("Key")
Found = tuple[list[Row], Sequence[str], Sequence[str]]  # rows, labels in order of their numbers, their words


def _from_json(folder: Path, known: Mapping[str, Any]) -> Found:
    """``{"train": [[path, number, name], ...], "val": ..., "test": ...}``, paths below the folder of pictures."""
    file = folder / known["split"]
    try:
        splits = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(splits, dict) or not set(splits) <= set(_SPLITS) or not all(map(_is_list, splits.values())):
        raise InputError(f"{file}: expected an object with lists train, val and test")
    names: dict[int, str] = {}
    for split, entries in splits.items():
        for place, entry in enumerate(entries):
            if not (_is_list(entry) and list(map(type, entry)) == [str, int, str] and entry[2].strip()):
                raise InputError(
                    f"{file}: {split}, entry {place + 1}: expected [path, number, class name], got {json.dumps(entry)[:80]}"
                )
            if names.setdefault(entry[1], entry[2]) != entry[2]:
                raise InputError(f"{file}: the class {entry[1]} is called {names[entry[1]]!r} and {entry[2]!r}")
    labels = _labels(names)
    rows = [
        Row(_below(file, known["pictures"], path), labels[number], split)
        for split, entries in splits.items()
        for path, number, _ in entries
    ]
    return rows, [labels[number] for number in sorted(names)], [names[number] for number in sorted(names)]


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _from_lists(folder: Path, known: Mapping[str, Any]) -> Found:
    """FGVC-Aircraft: lines of a picture's number and its variant; variants.txt has all of them in order."""
    labels = [line.strip() for line in _text(folder / "variants.txt").splitlines() if line.strip()]
    rows = []
    for split, name in known["lists"].items():
        for line in _text(folder / name).splitlines():
            picture, _, label = line.strip().partition(" ")
            if label.strip() in labels:
                rows.append(Row(_below(folder / name, known["pictures"], f"{picture}.jpg"), label.strip(), split))
            elif line.strip():
                raise unknown(f"variant in {folder / name} (it is not in variants.txt):", label, labels)
    return rows, labels, labels


def _from_wnids(folder: Path, known: Mapping[str, Any]) -> Found:
    """ImageNet and its variants: class folders by WordNet id, or by number (V2); classnames.txt has all thousand in order.

    The classes are those that have a folder, which is 200 for ImageNet-A and -R. A split without its folder is left out: whoever
    only judges needs no training images.
    """
    file = folder / "classnames.txt"
    if not file.exists() and (folder.parent / "imagenet" / "classnames.txt").exists():
        file = folder.parent / "imagenet" / "classnames.txt"
    names = dict(line.strip().partition(" ")[::2] for line in _text(file).splitlines() if line.strip())
    ids = list(names)
    labels = _labels(names)
    rows, present = [], set()
    bases = {split: base for split, base in known["wnids"].items() if (folder / base).is_dir()}
    if not bases:
        raise InputError(f"there is no folder {folder / known['wnids']['test']}; see {_GUIDES['split_zhou']}")
    for split, base in bases.items():
        for inner in sorted((folder / base).iterdir()):
            if inner.name.startswith(".") or not inner.is_dir():
                continue
            wnid = ids[int(inner.name)] if inner.name.isdecimal() and int(inner.name) < len(ids) else inner.name
            if wnid not in labels:
                raise unknown(f"class folder in {folder / base} (it is not in {file}):", inner.name, ids)
            present.add(wnid)
            rows += [
                Row(path.relative_to(folder).as_posix(), labels[wnid], split)
                for path in sorted(inner.iterdir())
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
            ]
    kept = [wnid for wnid in ids if wnid in present]
    return rows, [labels[wnid] for wnid in kept], [names[wnid] for wnid in kept]


def _text(file: Path) -> str:
    if not file.is_file():
        guide = next((guide for start, guide in _GUIDES.items() if file.name.startswith(start)), _GUIDES["split_zhou"])
        raise InputError(f"{file.name} is missing: get it from {guide} and put it into {file.parent}")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not in UTF-8: {error}") from error


def _below(file: Path, pictures: str, path: str) -> str:
    found = posixpath.normpath(f"{pictures}/{path}".replace("\\", "/"))
    if path.startswith("/") or found.startswith("../"):
        raise InputError(f"{file}: {path!r} is outside the data; expected a path below {file.parent / pictures}")
    return found


def _labels(names: Mapping[Key, str]) -> dict[Key, str]:
    """A label for each class: its name, with its number behind it where two classes have one name (their texts stay alike)."""
    repeated = {name for name, count in Counter(names.values()).items() if count > 1}
    return {key: f"{name} ({key})" if name in repeated else name for key, name in names.items()}
