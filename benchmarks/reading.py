"""What reading pictures costs: in certification, in a single pass, and in memory over a table of many rows.

`python benchmarks/reading.py [--pictures 10000] [--rows 100000] [--rounds 10]` makes pictures of 224 pixels (half PNG, half
JPEG; 200 different ones, the others copies) in a temporary folder; `titer:tiny`.

* Certification: processor time of decoding and resizing against that of `titer predict` with 100 draws an image.
* Single passes: `clean_features` (read, resize, encode) and what `titer check --data` does (read, describe), in turns with bare
  loops that do the same work on the same pictures, one on each core: what the cores can do, on a machine that other jobs
  disturb alike.
* Memory: a table of many rows on small files, read by `titer check` and by `clean_features` with a model that costs nothing;
  bytes a row between a tenth of the rows and all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import titer
from titer.data import Data, Example, Picture, describe, load_data
from titer.evaluate.machine import cores, reuse_buffers
from titer.features.clean import clean_features
from titer.features.stream import one_thread, threads
from titer.models import Encoder
from titer.noise import BLOCK

SIDE, DIFFERENT, CERTIFIED, DRAWS = 224, 200, 40, 100


def pictures(folder: Path, count: int, side: int = SIDE) -> Path:
    """A table of so many files, smooth with some grain; PNG and JPEG take turns."""
    chance, rows = np.random.default_rng(0), ["path,label"]
    for place in range(count):
        name = f"{place}.{'png' if place % 2 else 'jpg'}"
        if place < DIFFERENT:
            rough = Image.fromarray(chance.integers(0, 256, (14, 14, 3), np.uint8)).resize((side, side))
            grain = np.asarray(rough) + chance.normal(0, 4, (side, side, 3))
            Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
        else:
            shutil.copyfile(folder / f"{place % DIFFERENT}{Path(name).suffix}", folder / name)
        rows.append(f"{name},{place % 4}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


def part_of(data: Data, count: int, start: int = 0) -> Data:
    return dataclasses.replace(data, examples=data.examples[start : start + count])


@contextmanager
def spent(found: list[float], clock: Callable[[], float]) -> Iterator[None]:
    began = clock()
    yield
    found.append(clock() - began)


def in_certification(encoder: Encoder, data: Data, folder: Path) -> None:
    part, reading, whole = part_of(data, CERTIFIED), [], []
    with spent(reading, time.process_time):
        for example in part.examples:
            encoder.preprocess(data.read(example).pixels)
    with spent(whole, time.process_time):
        titer.predict(encoder, part, sigma=0.25, n=DRAWS, out=folder / "run", seed=0, images=False)
    print(
        f"certification, {CERTIFIED} images of {SIDE} px, {DRAWS} draws each: reading {1000 * reading[0] / CERTIFIED:.1f} ms of "
        f"{1000 * whole[0] / CERTIFIED:.0f} ms an image ({100 * reading[0] / whole[0]:.1f} %)", flush=True,
    )  # fmt: skip


def bare_features(encoder: Encoder, data: Data) -> None:
    with torch.no_grad():
        for first in range(0, len(data), BLOCK):
            shown = [encoder.preprocess(data.read(one).pixels) for one in data.examples[first : first + BLOCK]]
            encoder.encode_image(torch.stack(shown))


def on_each_core(work: Callable[[Data], object], data: Data) -> None:
    own = len(data) // cores()
    with ThreadPoolExecutor(cores(), initializer=one_thread) as pool:
        list(pool.map(work, [part_of(data, own, own * place) for place in range(cores())]))


def single_passes(encoder: Encoder, data: Data, rounds: int) -> None:
    """Each round reads a part of its own, by the package and bare; which is first takes turns."""
    for title, package, bare in (
        ("features", lambda part: clean_features(encoder, part, cores()), lambda part: bare_features(encoder, part)),
        ("check", lambda part: describe(part, workers=cores()), describe),
    ):
        ratios, costs, size = [], [], len(data) // rounds
        works = {"package": package, "bare": partial(on_each_core, bare)}
        for turn in range(rounds):
            part = part_of(data, size, turn * size)
            clock: dict[str, list[float]] = {"package": [], "bare": []}
            processor: dict[str, list[float]] = {"package": [], "bare": []}
            for name in sorted(works, reverse=bool(turn % 2)):
                with spent(clock[name], time.perf_counter), spent(processor[name], time.process_time):
                    works[name](part)
            ratios.append(clock["bare"][0] / clock["package"][0])
            costs.append(processor["bare"][0] / processor["package"][0])
        print(
            f"{title}, {len(data)} pictures: rate over that of bare loops on all cores {_spread(ratios)}, by processor time "
            f"{_spread(costs)}; {1000 * processor['package'][0] / size:.1f} ms of processor time a picture", flush=True,
        )  # fmt: skip


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def resident() -> int:
    """Bytes that the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def watched(data: Data, held: list[int]) -> Data:
    """The same data, which write down how much memory is in use at each tenth of the pictures."""
    every = max(1, len(data) // 10)
    turns = {example.id for example in data.examples[::every]}

    def noted(example: Example) -> Picture:
        if example.id in turns:
            held.append(resident())
        return data.read(example)

    return dataclasses.replace(data, read=noted)


def memory(folder: Path, count: int) -> None:
    table = folder / "rows.csv"
    lines = (
        f"row {row},{row % DIFFERENT}.{'png' if row % 2 else 'jpg'},{row % 4},case {row // 3}" for row in range(count)
    )
    table.write_text("\n".join(["id,path,label,group", *lines]))
    before = resident()
    data = load_data(table)
    print(f"memory, {count} rows: the rows {(resident() - before) / count:.0f} bytes each", flush=True)
    encoder = titer.wrap(
        lambda images: images.mean(dim=(2, 3)),
        lambda texts: torch.ones(len(texts), 3),
        8,
        (0.0,) * 3,
        (1.0,) * 3,
        fingerprint="mean",
    )
    for title, work in (
        ("features", lambda some: clean_features(encoder, some, cores())),
        ("check", lambda some: describe(some, workers=cores())),
    ):
        held: list[int] = []
        work(watched(data, held))
        print(
            f"memory, {title}: {held[1] / 1e6:.0f} MB after a tenth, {held[-1] / 1e6:.0f} MB at the end, "
            f"{(held[-1] - held[1]) / (0.8 * count):.0f} bytes a row", flush=True,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=("memory", "passes"))
    args = parser.parse_args()
    reuse_buffers()
    with threads(1), tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large", Path(folder) / "small"
        large.mkdir()
        small.mkdir()
        if args.only != "passes":
            memory(pictures(small, DIFFERENT, side=8), args.rows)
        if args.only != "memory":
            data, encoder = load_data(pictures(large, args.pictures)), titer.load_model("titer:tiny")
            in_certification(encoder, data, Path(folder))
            single_passes(encoder, data, args.rounds)


if __name__ == "__main__":
    main()
