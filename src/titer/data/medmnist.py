"""MedMNIST's files: ``train_images``, ``train_labels`` and so on in one npz (Yang et al., Scientific Data 2023)."""

from __future__ import annotations

import hashlib
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from titer.data.classes import Wording, class_texts
from titer.data.example import ClassText, Data, Example, Picture
from titer.data.splits import ALL
from titer.errors import InputError, PictureError

_SPLITS = ("train", "val", "test")
_NOT_READABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def medmnist(name: str) -> Data:
    """All splits of a MedMNIST file, or of one of its layout.

    Labels are read at once, the pictures of a split when the first of them is asked for: an npz cannot be read piecemeal, so a
    split is then held in memory, once, for all that read it. Ids are ``split/index``; a picture's SHA-256 is that of its
    pixels. Where a picture has several labels (ChestMNIST) they are findings.

    Args:
        name: the file. ``pathmnist.npz``, ``pathmnist_224.npz`` and the like have their classes from ``medmnist.toml``; of
            another file they are those of ``classes.json`` beside it, whose keys are the numbers, else the numbers.

    Raises:
        InputError: for a file that is none or lacks arrays, and for volumes.
    """
    file = Path(name)
    if not file.is_file():
        raise InputError(f"there is no file {file}; expected medmnist:FILE.npz, from https://medmnist.com")
    labels = _labels(file)
    exclusive = {of_split.ndim for of_split in labels.values()} == {1}
    classes, told = (_classes if exclusive else _findings)(file, labels)
    pictures = {split: _held(file, f"{split}_images") for split in labels}
    examples = tuple(
        Example(f"{split}/{index}", f"{split}/{index}", None, None, None, split, {}, tuple(map(bool, label)))
        if told is None
        else Example(f"{split}/{index}", f"{split}/{index}", told[label], None, None, split, {})
        for split, of_split in labels.items()
        for index, label in enumerate(of_split.tolist())
    )

    def stored(example: Example) -> NDArray[np.uint8]:
        return np.ascontiguousarray(pictures[example.split]()[int(example.id.rpartition("/")[2])])

    def digest(example: Example) -> str:
        return hashlib.sha256(stored(example).tobytes()).hexdigest()

    def read(example: Example) -> Picture:
        pixels = stored(example).astype(np.float32) / np.float32(255)
        return Picture(pixels if pixels.ndim == 3 else pixels[..., None], digest(example))

    return Data(f"medmnist:{file.name}", ALL, None, classes, examples, (), read, digest, exclusive=exclusive)


def _labels(file: Path) -> dict[str, NDArray[np.integer[Any]]]:
    """Of each split that is there, its labels (pictures,) or findings (pictures, findings).

    What the arrays are is checked here, without unpacking a picture.
    """
    try:
        with zipfile.ZipFile(file) as packed:
            names = {member.removesuffix(".npy") for member in packed.namelist()}
            splits = [split for split in _SPLITS if f"{split}_images" in names]
            if not splits:
                raise InputError(
                    f"{file} is not of MedMNIST's layout: expected arrays such as test_images and test_labels, got "
                    f"{', '.join(sorted(names)) or 'none'}"
                )
            return {split: _of_split(file, packed, split, names) for split in splits}
    except _NOT_READABLE as error:
        raise InputError(f"{file} is not a readable npz file: {error}") from error


def _of_split(file: Path, packed: zipfile.ZipFile, split: str, names: set[str]) -> NDArray[np.integer[Any]]:
    if f"{split}_labels" not in names:
        raise InputError(f"{file} has {split}_images but no {split}_labels")
    with packed.open(f"{split}_images.npy") as member:
        shape, dtype = _header(member)
    grey, colour = len(shape) == 3, len(shape) == 4 and shape[-1] == 3
    if dtype != np.uint8 or not (grey or colour) or 0 in shape[1:]:
        raise InputError(
            f"{file}: {split}_images: expected 8-bit pictures (n, height, width) or (n, height, width, 3), got {dtype} {shape}"
            f"{': volumes are not read' if len(shape) >= 4 and not colour else ''}"
        )
    with packed.open(f"{split}_labels.npy") as member:
        labels = np.lib.format.read_array(member, allow_pickle=False)
    several = labels.ndim == 2 and labels.shape[1] > 1
    if several and (len(labels) != shape[0] or not np.isin(labels, (0, 1)).all()):
        raise InputError(f"{file}: {split}_labels: expected 0 or 1 for each of {labels.shape[1]} labels of a picture")
    if several:
        return labels.astype(np.int64)
    if labels.shape not in ((shape[0],), (shape[0], 1)) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{file}: {split}_labels: expected {shape[0]} whole numbers, got {labels.dtype} {labels.shape}"
        )
    return labels.reshape(-1)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return shape, dtype


def _held(file: Path, array: str) -> Callable[[], NDArray[np.uint8]]:
    """The array, unpacked when first asked for; several threads ask."""
    lock = Lock()
    held: list[NDArray[np.uint8]] = []

    def get() -> NDArray[np.uint8]:
        with lock:
            if not held:
                try:
                    with np.load(file, allow_pickle=False) as arrays:
                        held.append(arrays[array])
                except _NOT_READABLE as error:
                    raise PictureError(f"{array} cannot be read: {error}") from error
        return held[0]

    return get


def _findings(file: Path, labels: Mapping[str, NDArray[np.integer[Any]]]) -> tuple[tuple[ClassText, ...], None]:
    """What each column of the labels is called: by file name, by ``classes.json`` in its order, else by number."""
    counts = {of_split.shape[1] if of_split.ndim == 2 else 1 for of_split in labels.values()}
    known = _known().get(file.stem.lower().partition("_")[0])
    numbers = map(str, range(max(counts)))
    classes = class_texts(file.parent / "classes.json", numbers) if known is None else known.classes(())
    if counts != {len(classes)}:
        found = " and ".join(map(str, sorted(counts)))
        raise InputError(f"{file}: expected {len(classes)} labels for each picture in every split, got {found}")
    return classes, None


def _classes(
    file: Path, labels: Mapping[str, NDArray[np.integer[Any]]]
) -> tuple[tuple[ClassText, ...], Mapping[int, int]]:
    """The classes, and of each number its place among them."""
    present = {label for of_split in labels.values() for label in of_split.tolist()}
    known = _known().get(file.stem.lower().partition("_")[0])
    if known is None:
        classes = class_texts(file.parent / "classes.json", map(str, present))
        return classes, {int(text.label): place for place, text in enumerate(classes) if text.label.isdecimal()}
    classes = known.classes(())
    strange = sorted(present - set(range(len(classes))))
    if strange:
        raise InputError(
            f"{file}: the label {strange[0]} is none of the {len(classes)} classes that a file of this name has"
        )
    return classes, {place: place for place in range(len(classes))}


def _known() -> dict[str, Wording]:
    sets = tomllib.loads(resources.files("titer.data").joinpath("medmnist.toml").read_text(encoding="utf-8"))
    return {name: Wording(sets[known.get("same", name)]["classes"], known["template"]) for name, known in sets.items()}
