"""`craft`: from image-caption pairs to a data set of which a known share is noised.

A data directory comes out whose pictures are all stored the same way (8-bit PNG at the surrogate's input size), so that
the noised ones cannot be told by their files; what was done to them stands in ``noise.jsonl``, which no other verb reads.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor

from titer.attacks import Norm, Random, Threat
from titer.attacks.words import Swapped, cut
from titer.data.example import Data, Example
from titer.data.fingerprint import digest
from titer.data.load import load_all
from titer.errors import InputError, PictureError
from titer.evaluate.attacking import allowed, distances
from titer.evaluate.machine import default_workers, program, reuse_buffers, versions
from titer.evaluate.retrieval import Captioned, images_of
from titer.evaluate.running import Crew, running
from titer.features.stream import threads
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.progress import progress
from titer.results.store import SCHEMA, Record, RunWriter, key_of
from titer.upstream.nested import drawn_groups
from titer.upstream.noises import Noise, build_noise, check_norm, noise_settings
from titer.upstream.pairs import captioned_images, plain
from titer.upstream.similarity import ssim

NOISE_FILE = "noise.jsonl"
_TOGETHER = 8  # images noised together; fixed, so that no record depends on how the work was spread
_STORED = 64  # pictures that are stored as they are, in one task
_PROBED = 200  # captioned images that tell whether the surrogate knows the set
_CHANNELS: Mapping[str, float] = {"linf": 1.0, "l2": math.sqrt(3), "l1": 3.0}


@dataclass(frozen=True)
class Crafted:
    """What ``craft`` did.

    Args:
        path: the data directory.
        pairs: of the split.
        noised: of these.
        captions: noised pairs whose caption was changed.
        weak: noised pairs that lose less than half of the drop in cosine by being stored with 8 bits.
        failed: pictures that could not be read, and are left out.
        seconds: that the work took, earlier parts included.
        warnings: a surrogate at chance, for instance.
    """

    path: Path
    pairs: int
    noised: int
    captions: int
    weak: int
    failed: int
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class CraftPlan:
    """All that decides the data directory.

    Args:
        encoder: the surrogate.
        data: all splits.
        split: whose pairs are noised.
        ratio: share of them.
        name: of the noise.
        noise: with its settings.
        threat: norm and budget of images.
        seed: which pairs, and all that is drawn.
    """

    encoder: Encoder
    data: Data
    split: str
    ratio: float
    name: str
    noise: Noise
    threat: Threat
    seed: int

    def pairs(self) -> list[Captioned]:
        """The images of the split that have a caption."""
        return captioned_images(self.data, self.split)

    def chosen(self, pairs: Sequence[Captioned]) -> list[Captioned]:
        """Those to noise."""
        return noised_pairs(pairs, self.ratio, self.seed)

    def settings(self) -> dict[str, Any]:
        """All settings, defaults included."""
        return {
            "attack": self.name,
            **noise_settings(self.noise),
            "norm": self.threat.norm,
            "eps": self.threat.epsilon,
            "ratio": self.ratio,
            "split": self.split,
        }

    def identity(self) -> dict[str, Any]:
        """All that changes a file."""
        rows = [
            f"{row.id}\x00{row.path}\x00{row.split}\x00{row.group}\x00{row.label}\x00{row.caption}"
            for row in self.data.examples
        ]
        return {
            "verb": "craft",
            "settings": self.settings(),
            "seed": self.seed,
            "model": self.encoder.fingerprint,
            "rows": digest(rows),
            **({"altered": list(self.data.altered)} if self.data.altered else {}),
            "together": _TOGETHER,
            "program": program(self.encoder.device, self.encoder.dtype),
        }

    def info(self, command: str) -> dict[str, Any]:
        """What run.json says before the first picture."""
        return {
            "schema": SCHEMA,
            "status": "running",
            "verb": "craft",
            "command": command,
            "settings": self.settings(),
            "seed": self.seed,
            "versions": versions(),
            "device": self.encoder.device.type,
            "dtype": str(self.encoder.dtype).removeprefix("torch."),
            "model": {"name": self.encoder.name, "fingerprint": self.encoder.fingerprint, "size": self.encoder.size},
            "data": {"name": self.data.name, "split": self.split, "limit": None},
            "classes": [{"label": text.label, "texts": list(text.texts)} for text in self.data.classes],
            "samples": {"expected": 0, "done": 0, "failed": 0},
            "seconds": 0.0,
        }


def noised_pairs(pairs: Sequence[Captioned], ratio: float, seed: int) -> list[Captioned]:
    """Those of the pairs that are noised at a ratio, whole groups; those of a smaller ratio are among them.

    Raises:
        InputError: for a ratio that whole groups cannot give.
    """
    sizes: Counter[str] = Counter()
    for pair in pairs:
        sizes[_group(pair.example)] += len(pair.captions)
    groups = drawn_groups(sizes, ratio, seed)
    return [pair for pair in pairs if _group(pair.example) in groups]


def craft(
    model: str | Encoder,
    data: str | Path | Data,
    *,
    out: str | Path,
    ratio: float,
    attack: str = "sga",
    norm: Norm = "linf",
    eps: float = 2 / 255,
    settings: Mapping[str, Any] | None = None,
    split: str = "train",
    seed: int = 0,
    workers: int | None = None,
    device: str | None = None,
    command: str = "titer.craft",
) -> Crafted:
    """Write a data set of which a share of the pairs is noised.

    Args:
        model: the surrogate: a model's name, or an encoder.
        data: a data set's name or directory with captions, or a loaded one with all its splits.
        out: the data directory. The same call goes on where an earlier one stopped.
        ratio: share of the split's pairs; the pairs of a smaller ratio are among those of a larger one.
        attack: the noise's name: an attack on pairs, ``targeted``, or a control.
        norm: ``linf``, ``l2`` or ``l1``.
        eps: budget of the pictures in [0, 1] pixels, at the surrogate's input size.
        settings: of the noise.
        split: whose pairs are noised; the other splits are stored as they are.
        seed: which pairs, and all that is drawn.
        workers: threads; one per core unless given. Changes nothing in the files.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        command: what run.json says it was made by.

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no picture could be read, or the disk is full.
    """
    reuse_buffers()
    if seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed}")
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}")
    noise = build_noise(attack, **(settings or {}))
    check_norm(attack, noise, norm)
    encoder = model if isinstance(model, Encoder) else load_model(model, device=device)
    everything = data if isinstance(data, Data) else load_all(data)
    plan = CraftPlan(encoder, everything, split, float(ratio), attack, noise, Threat(norm, float(eps)), seed)
    pairs = plan.pairs()
    chosen = plan.chosen(pairs)
    with RunWriter(Path(out), plan.identity(), plan.info(command), NOISE_FILE) as writer:
        return _Session(plan, writer, pairs, chosen).run(workers or default_workers(encoder.device))


def at_chance(encoder: Encoder, images: Tensor, captions: Sequence[str], labels: Sequence[str]) -> str | None:
    """A warning where the encoder does not rank an image's own caption above others' better than a coin does.

    Args:
        encoder: the surrogate.
        images: (rows, 3, size, size) in [0, 1].
        captions: one for each.
        labels: captions of equal label are not compared, since they may be true as well.
    """
    with torch.no_grad():
        scores = (encoder.encode_image(images) @ encoder.encode_text(list(captions)).T).cpu()
    above, compared = 0, 0
    for row, own in enumerate(labels):
        others = [place for place, label in enumerate(labels) if label != own]
        if others:
            compared += 1
            above += bool(scores[row, row] > scores[row, others].median())
    if compared and binomtest(above, compared, alternative="greater").pvalue > 0.01:
        return (
            f"{encoder.name} is at chance on these pairs ({above} of {compared} images are nearer to their own caption "
            "than to the median other one): what it is the surrogate for will hardly differ from random noise"
        )
    return None


class _Session:
    """One process's work on a data directory: chunks of pictures out, files and records in."""

    def __init__(
        self, plan: CraftPlan, writer: RunWriter, pairs: Sequence[Captioned], chosen: Sequence[Captioned]
    ) -> None:
        self.plan = plan
        self.writer = writer
        self.pairs = pairs
        self.noised = {pair.example.path: pair for pair in chosen}
        self.others = _others(pairs, chosen, plan.seed)
        self.files = _files(plan.data.examples)
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()
        self.crew = Crew()
        stoppable = self.crew.stoppable(plan.encoder.image_tower)
        self.encoder = dataclasses.replace(plan.encoder, image_tower=stoppable)

    def run(self, workers: int) -> Crafted:
        images = images_of(self.plan.data.examples)
        clean = [image for image in images if image.example.path not in self.noised]
        noised = [pair for pair in images if pair.example.path in self.noised]
        waiting = [pair for pair in clean if not self._file(pair).exists()]
        missing = [part for part in _parts(noised, _TOGETHER) if not all(map(self._finished, part))]
        pairs = sum(len(pair.captions) for pair in noised)
        total = len(waiting) + sum(map(len, missing))
        with running(self.writer, pairs, self.failed), threads(1), progress("craft", max(total, 1)) as self.advance:
            warnings = [note] if (note := self._at_chance()) else []
            tasks = [partial(self._store, part) for part in _parts(waiting, _STORED)]
            self.crew.spread(workers, [*(partial(self._noise, part) for part in missing), *tasks])
            self._write_table()
            self.writer.save(warnings=warnings)
        return self._crafted(warnings)

    def _crafted(self, warnings: Sequence[str]) -> Crafted:
        records = list(self.writer.done.values())
        return Crafted(
            path=self.writer.path,
            pairs=sum(len(pair.captions) for pair in self.pairs),
            noised=len(records),
            captions=sum(bool(record["changes"]) for record in records),
            weak=sum(record["weak"] for record in records),
            failed=len(self.failed),
            seconds=float(self.writer.info["seconds"]),
            warnings=tuple(warnings),
        )

    def _file(self, image: Captioned) -> Path:
        return self.writer.path / self.files[image.example.path]

    def _finished(self, pair: Captioned) -> bool:
        keys = (key_of({"sample_id": sample, **self._labels()}) for sample, _ in pair.captions)
        return self._file(pair).exists() and all(key in self.writer.done for key in keys)

    def _labels(self) -> dict[str, Any]:
        return {"attack": self.plan.name, "norm": self.plan.threat.norm, "eps": self.plan.threat.epsilon}

    def _at_chance(self) -> str | None:
        """Whether the surrogate knows the set, by its first pairs in order of hash."""
        ordered = sorted(self.pairs, key=lambda pair: hashlib.sha256(pair.example.id.encode()).hexdigest())
        opened = list(self._opened(ordered[:_PROBED], told=False))
        if not opened:
            return None
        images = torch.stack([image.expand(3, -1, -1) for _, image in opened]).to(self.encoder.device)
        captions = [cut(self.encoder, pair.captions[0][1]) for pair, _ in opened]
        labels = [
            str(pair.example.label) if pair.example.label is not None else plain(text)
            for (pair, _), text in zip(opened, captions, strict=True)
        ]
        return at_chance(self.encoder, images, captions, labels)

    def _store(self, images: Sequence[Captioned]) -> None:
        for image, pixels in self._opened(images):
            _keep(pixels, self._file(image))
            self.advance()

    def _noise(self, pairs: Sequence[Captioned]) -> None:
        """One chunk. All of it is done even if some was: a batch's size may change the last bit."""
        opened = list(self._opened(pairs))
        for channels in (1, 3):
            alike = [(pair, pixels) for pair, pixels in opened if len(pixels) == channels]
            if alike:
                self._noise_alike(alike, channels)
        for _ in opened:
            self.advance()

    def _noise_alike(self, opened: Sequence[tuple[Captioned, Tensor]], channels: int) -> None:
        began = time.perf_counter()
        # one channel gets one change: no radiograph has three
        encoder = self.encoder if channels == 3 else dataclasses.replace(self.encoder, front=three_channels)
        norm, epsilon = self.plan.threat.norm, self.plan.threat.epsilon
        threat = Threat(norm, epsilon / (_CHANNELS[norm] if channels == 1 else 1))
        clean = torch.stack([pixels for _, pixels in opened]).to(encoder.device)
        pairs = [pair for pair, _ in opened]
        texts = [[cut(encoder, text) for _, text in pair.captions] for pair in pairs]
        others = [cut(encoder, self.others[pair.example.path]) for pair in pairs]
        random = Random(self.plan.seed, f"craft\x00{self.plan.name}", [pair.example.id for pair in pairs])
        found = self.plan.noise(encoder, clean, texts, others, threat, random)
        images = allowed(self.plan.name, found.images, clean, threat)
        rounded = stored(images, clean, threat)
        with torch.no_grad():
            sides = [encoder.encode_image(side) for side in (clean, images, rounded)]
        share = (time.perf_counter() - began) / len(opened)
        for row, pair in enumerate(pairs):
            _keep(rounded[row].cpu(), self._file(pair))
            measures = self._measures(rounded[row].expand(3, -1, -1), clean[row].expand(3, -1, -1))
            features = [side[row] for side in sides]
            with self.lock:
                for (sample, whole), text, swapped in zip(pair.captions, texts[row], found.texts[row], strict=True):
                    told = self._told(whole, text, swapped, features)
                    head = {"sample_id": sample, "path": self.files[pair.example.path], **self._labels()}
                    self.writer.append(
                        {**head, **told, **measures, "surrogate": encoder.fingerprint, "seconds": round(share, 4)}
                    )

    def _measures(self, noised: Tensor, clean: Tensor) -> Record:
        one, other = (side.cpu().numpy() for side in (noised, clean))
        return {**distances(noised, clean), "ssim": round(ssim(one, other), 6) if min(one.shape[1:]) > 10 else None}

    def _told(self, whole: str, text: str, swapped: Swapped, features: Sequence[Tensor]) -> Record:
        """What is known of a caption: before and after, and its cosine with the image, clean, noised and as stored."""
        with torch.no_grad():
            before, after = self.encoder.encode_text([text, swapped.text])
        clean, noised, stored = (
            round(float(side @ words), 6) for side, words in zip(features, (before, after, after), strict=True)
        )
        return {
            "caption": whole,
            "noised": noised_caption(whole, text, swapped),
            "changes": [dataclasses.asdict(change) for change in swapped.changes],
            "cosine": clean,
            "noised_cosine": noised,
            "stored_cosine": stored,
            "weak": bool(abs(clean - stored) < 0.5 * abs(clean - noised)),
        }

    def _opened(self, images: Sequence[Captioned], told: bool = True) -> Iterator[tuple[Captioned, Tensor]]:
        """Pictures as they are stored: (1 or 3, size, size), rounded to 8 bits."""
        for image in images:
            try:
                picture = self.plan.data.read(image.example)
            except PictureError as error:
                if told:
                    self._fail(image.example, str(error))
                continue
            pixels = self.plan.encoder.preprocess(picture.pixels)[: picture.pixels.shape[2]]
            yield image, (pixels * 255).round() / 255

    def _fail(self, example: Example, error: str) -> None:
        with self.lock:
            self.failed[example.id] = error
            self.writer.append({"sample_id": example.id, "path": example.path, "error": error})
            self.advance()

    def _write_table(self) -> None:
        """metadata.csv and classes.json, last: a directory without them is not finished."""
        noised = {record["sample_id"]: record["noised"] for record in self.writer.done.values()}
        unread = {example.path for example in self.plan.data.examples if example.id in self.failed}
        attributes = [name for name in self.plan.data.columns if name not in _OWN]
        digests = {row.path: self.plan.data.digest(row) for row in self.plan.data.examples if row.path not in unread}
        rows = [
            {
                "file_name": self.files[row.path],
                "id": row.id,
                "label": "" if row.label is None else self.plan.data.classes[row.label].label,
                "caption": noised.get(row.id, row.caption or ""),
                "split": row.split,
                "group": row.group or "",
                SOURCE_DIGEST: digests[row.path],
                **{name: row.attributes.get(name, "") for name in attributes},
            }
            for row in self.plan.data.examples
            if row.path not in unread
        ]
        partial_table = self.writer.path / "metadata.csv.partial"
        with partial_table.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, fieldnames=[*_OWN, *attributes])
            table.writeheader()
            table.writerows(rows)
        if self.plan.data.classes:
            words = {text.label: list(text.texts) for text in self.plan.data.classes}
            (self.writer.path / "classes.json").write_text(
                json.dumps(words, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )
        partial_table.replace(self.writer.path / "metadata.csv")


SOURCE_DIGEST = "source_sha256"
"""Column of the table: SHA-256 of the file that a picture was made of, by which shared pictures are found."""
_OWN = ("file_name", "id", "label", "caption", "split", "group", SOURCE_DIGEST)


def noised_caption(whole: str, text: str, swapped: Swapped) -> str:
    """The whole caption after the attack, which saw as much of it (``text``) as the text tower takes."""
    replaced = any(change.word == text for change in swapped.changes)
    return swapped.text + ("" if replaced else whole[len(text) :])


def _group(example: Example) -> str:
    """What ties pairs together; without a group an image stands alone."""
    return example.id if example.group is None else f"\x00{example.group}"


def _others(pairs: Sequence[Captioned], chosen: Sequence[Captioned], seed: int) -> dict[str, str]:
    """For each image to be noised (by path) a caption that is not true of it."""
    ordered = sorted(pairs, key=lambda pair: pair.example.id)
    found = {}
    for pair in chosen:
        label = f"{seed}\x00other\x00{pair.example.id}".encode()
        start = int.from_bytes(hashlib.sha256(label).digest()[:8], "big") % len(ordered)
        own = {plain(text) for _, text in pair.captions}
        turned = (ordered[(start + step) % len(ordered)] for step in range(len(ordered)))
        found[pair.example.path] = next(
            other.captions[0][1]
            for other in turned
            if plain(other.captions[0][1]) not in own
            and (None in (other.example.label, pair.example.label) or other.example.label != pair.example.label)
        )
    return found


def _files(examples: Sequence[Example]) -> dict[str, str]:
    """Of each picture's path the one it is stored under: the same, ending in .png; no two are one."""
    paths = dict.fromkeys(row.path for row in examples)
    shared = Counter(str(PurePosixPath(path).with_suffix(".png")) for path in paths)
    return {
        path: f"images/{path}.png" if shared[str(short)] > 1 else f"images/{short}"
        for path in paths
        for short in [PurePosixPath(path).with_suffix(".png")]
    }


def stored(images: Tensor, clean: Tensor, threat: Threat) -> Tensor:
    """With 8 bits, within an linf budget also after rounding."""
    levels = ((images - clean) * 255).round()
    if threat.norm == "linf":
        most = math.floor(threat.epsilon * 255 + 1e-6)
        levels = levels.clamp(-most, most)
    return (clean + levels / 255).clamp(0, 1)


def _keep(pixels: Tensor, file: Path) -> None:
    """A picture (1 or 3, height, width) in [0, 1] as PNG, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    partial_file = file.with_name(file.name + ".partial")
    Image.fromarray(np.squeeze(values, 2) if values.shape[2] == 1 else values).save(partial_file, format="PNG")
    partial_file.replace(file)


def three_channels(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1)


def _parts(images: Sequence[Captioned], size: int) -> list[Sequence[Captioned]]:
    return [images[first : first + size] for first in range(0, len(images), size)]
