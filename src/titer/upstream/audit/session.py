"""`audit`: from image-caption pairs to a queue of them, the most suspicious first, and to how many of known bad ones it finds.

What encoders make of pairs and of canaries is kept in ``features.jsonl`` and ``planted.jsonl`` as soon as it is known; all
else is arithmetic on these. Canaries are written to ``canaries.jsonl`` and never among the real pairs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from titer.attacks import Random, Threat
from titer.attacks.words import cut
from titer.data.example import Data, Example
from titer.errors import InputError, PictureError, RunError
from titer.evaluate.attacking import allowed
from titer.evaluate.machine import default_workers
from titer.evaluate.running import Crew, conclude, running
from titer.evaluate.smoothing import seed_for
from titer.evaluate.subject import keep_picture, kept
from titer.features.stream import threads
from titer.models.encoder import Encoder
from titer.progress import progress
from titer.results.audited import CANARIES, TRUSTED, write_queue
from titer.results.retrieval import packed
from titer.results.store import Lines, Record, Run, RunWriter, key_of, read_run, thumbnail_name
from titer.upstream.audit.canaries import CONTROL, FAMILIES, Canary, Family, fewest_together, plantings, wrong_caption
from titer.upstream.audit.plan import FEWEST_PAIRS, AuditPlan, plan_audit
from titer.upstream.audit.ranking import (
    order_of,
    pairs_of,
    placed,
    planted_together,
    ranked,
    ranked_among,
    visits,
)
from titer.upstream.audit.residual import residuals
from titer.upstream.audit.signals import Population, population
from titer.upstream.audit.transforms import shifts
from titer.upstream.craft import noised_caption, stored, three_channels
from titer.upstream.noises import Noise

FEATURES, PLANTED = "features.jsonl", "planted.jsonl"
TRUSTED_FEATURES = "trusted-features.jsonl"
_PICTURES = 50  # of the top of the queue, that the page shows
_PATIENCE = 3  # times as many pairs are tried as canaries are wanted, where some cannot be changed


def audit(
    models: str | Encoder | Sequence[str | Encoder],
    data: str | Path | Data,
    *,
    out: str | Path,
    seed: int | None = None,
    workers: int | None = None,
    images: bool | None = None,
    command: str | None = None,
    **options: Any,
) -> Run:
    """Rank image-caption pairs by how suspicious they are, and measure by canaries how many bad ones that finds.

    Args:
        models: a model's name or an encoder, or two.
        data: a data set's name or directory, or a loaded one, with captions.
        out: the run directory. The same call goes on where an earlier one stopped.
        seed: 0 unless given.
        workers: threads; one per core unless given. Changes no number.
        images: keep thumbnails of the top of the queue; unless given, not those of DICOM files.
        command: what run.json says the run was started by.
        options: what else ``plan_audit`` takes (``trusted``, ``split``, ``limit``, ``by``, ``settings``, ...).

    Returns:
        The run; ``titer.results.audited`` reads queue, power and base rates from it.

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if too few pictures can be read, or the disk is full.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}")
    given = [models] if isinstance(models, str | Encoder) else list(models)
    chosen = plan_audit(given, data, seed=seed_for(out, seed) or 0, **options)
    started = shlex.join(["python", *sys.argv]) if command is None else command
    with RunWriter(Path(out), chosen.identity(), chosen.info(started)) as writer:
        _Session(chosen, writer).run(workers or default_workers(chosen.encoder.device), images)
    found = read_run(out)
    write_queue(found)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Opened:
    """A pair ready to be encoded or attacked: its picture as it would be stored, and what a record of it starts with."""

    example: Example
    pixels: Tensor
    fields: Record


@dataclasses.dataclass(frozen=True, eq=False)
class _Known:
    """Pairs, and what encoders make of them.

    Args:
        data: where their pictures are.
        rows: those that can be used.
        records: of each what ``features.jsonl`` holds, by id.
    """

    data: Data
    rows: Sequence[Example]
    records: Mapping[str, Record]


class _Session:
    """One process's work on a run: features, canaries, then the ranking."""

    def __init__(self, plan: AuditPlan, writer: RunWriter) -> None:
        self.plan = plan
        self.writer = writer
        self.failed: dict[str, str] = {}
        self.lock = threading.Lock()
        self.crew = Crew()
        self.encoders = tuple(
            dataclasses.replace(encoder, image_tower=self.crew.stoppable(encoder.image_tower))
            for encoder in plan.encoders
        )

    def run(self, workers: int, images: bool | None) -> None:
        examples = self.plan.data.examples
        if all(key_of({"sample_id": example.id}) in self.writer.done for example in examples):
            conclude(self.writer, "done", len(examples), {})
            return
        with running(self.writer, len(examples), self.failed), threads(1):
            audited = self._known(self.plan.data, FEATURES, workers)
            usual = audited if self.plan.trusted is None else self._known(self.plan.usual, TRUSTED_FEATURES, workers)
            if len(usual.rows) < max(FEWEST_PAIRS, self.plan.rule.k + 1):
                raise RunError(
                    f"only {len(usual.rows)} of {len(self.plan.usual)} pairs can be used; the first error: "
                    f"{next(iter(self.failed.values()))}"
                )
            made = self._canaries(usual, workers)
            self._rank(audited, usual, made, images)

    # features of real pairs

    def _known(self, data: Data, file: str, workers: int) -> _Known:
        """What is known of each pair that can be read."""
        lines = Lines(self.writer.path / file)
        try:
            known = {record["sample_id"]: record for record in lines.found}
            missing = [part for part in self._parts(data.examples) if not all(one.id in known for one in part)]
            with progress("features", max(1, len(missing))) as advance:

                def encode(part: Sequence[Example]) -> None:
                    """One chunk. All of it, even if some is known: a batch's size may change the last bit."""
                    records = self._encoded(list(self._opened(part, data)))
                    with self.lock:
                        for record in records:
                            if record["sample_id"] not in known:
                                known[record["sample_id"]] = record
                                lines.append(record)
                        advance()

                self.crew.spread(workers, [partial(encode, part) for part in missing])
        finally:
            lines.close()
        return _Known(data, [example for example in data.examples if example.id in known], known)

    def _encoded(self, opened: Sequence[_Opened]) -> list[Record]:
        if not opened:
            return []
        images = torch.stack([one.pixels.expand(3, -1, -1) for one in opened])
        captions = [str(one.example.caption) for one in opened]
        ids = [one.example.id for one in opened]
        features, grain = self._features_of(images, ids, captions, "audit"), _residuals(images)
        return [
            {
                **one.fields,
                "caption": caption,
                "features": [{name: values[row] for name, values in found.items()} for found in features],
                "residual": grain[row],
                **self._told(caption),
            }
            for row, (one, caption) in enumerate(zip(opened, captions, strict=True))
        ]

    def _features_of(
        self, images: Tensor | None, ids: Sequence[str], captions: Sequence[str], purpose: str
    ) -> list[dict[str, list[Any]]]:
        """For each encoder ``text``, and of images ``image`` and ``shifts``, as lists of what a line holds."""
        found = []
        for place, encoder in enumerate(self.encoders):
            with torch.no_grad():
                texts = encoder.encode_text([cut(encoder, caption) for caption in captions])
            told: dict[str, list[Any]] = {"text": self._packed(texts, encoder)}
            if images is not None:
                shown = images if place == 0 else torch.stack([_resized(encoder, image) for image in images])
                shown = shown.to(encoder.device)
                with torch.no_grad():
                    told["image"] = self._packed(encoder.encode_image(shown), encoder)
                moved = shifts(encoder, shown, Random(self.plan.seed, purpose, ids))
                told["shifts"] = [[round(float(shift), 8) for shift in row] for row in moved.cpu()]
            found.append(told)
        return found

    def _packed(self, features: Tensor, encoder: Encoder) -> list[str]:
        if not bool(torch.isfinite(features).all()):
            raise RunError(f"{encoder.name} gave nan or infinity; nothing can be said of these pairs")
        return [packed(row) for row in features.cpu().numpy()]

    def _told(self, caption: str) -> Record:
        if self.plan.language is None:
            return {}
        return {"surprisal": round(max(self.plan.language.surprisals(caption), default=0.0), 6)}

    def _opened(self, examples: Sequence[Example], data: Data) -> Iterator[_Opened]:
        for example in examples:
            try:
                for encoder in self.encoders:
                    cut(encoder, str(example.caption))
                yield self._open(example, data)
            except PictureError as error:
                if data is self.plan.trusted:
                    raise RunError(f"--trusted: {example.id} cannot be used: {error}") from error
                with self.lock:
                    self.failed[example.id] = str(error)
                    self.writer.append({"sample_id": example.id, "path": example.path, "error": str(error)})

    def _open(self, example: Example, data: Data) -> _Opened:
        """Pixels (1 or 3, size, size) rounded to 8 bits: a canary must not be told by how it is stored."""
        picture = data.read(example)
        pixels = self.plan.encoder.preprocess(picture.pixels)[: picture.pixels.shape[2]]
        return _Opened(example, (pixels * 255).round() / 255, self.plan.fields(example, picture))

    def _parts(self, items: Sequence[Any]) -> list[Sequence[Any]]:
        return [items[first : first + self.plan.together] for first in range(0, len(items), self.plan.together)]

    # canaries

    def _canaries(self, usual: _Known, workers: int) -> dict[Canary, Record]:
        """Every canary, those that their family could not change included."""
        rows, wanted = usual.rows, self.plan.rule.canaries
        size = fewest_together(len(rows), wanted)
        ties = [self.plan.tie(example) for example in rows]
        endless = {name: plantings(ties, size, self.plan.seed, name) for name in self.plan.rule.planted}
        made: dict[Canary, Record] = {}
        lines = Lines(self.writer.path / PLANTED)
        try:
            earlier = {record["canary"]: record for record in lines.found}
            with progress("canaries", max(1, wanted * len(endless))) as advance:

                def noise(part: Sequence[Canary]) -> None:
                    names = [_name(canary, rows) for canary in part]
                    records = [earlier.get(name) for name in names]
                    if not all(records):
                        records = list(self._noised(part, usual))
                    with self.lock:
                        for canary, name, record in zip(part, names, records, strict=True):
                            made[canary] = {**(record or {}), "canary": name}
                            if name not in earlier:
                                lines.append(made[canary])
                            advance()

                while wave := self._wave(endless, made, wanted, size):
                    self.crew.spread(workers, [partial(noise, part) for part in wave])
        finally:
            lines.close()
        return {canary: made[canary] for canary in sorted(made, key=order_of)}

    def _wave(
        self,
        endless: Mapping[str, Iterator[tuple[Canary, ...]]],
        made: Mapping[Canary, Record],
        wanted: int,
        size: int,
    ) -> list[Sequence[Canary]]:
        """Chunks of the canaries that are still missing, if there is hope to make them."""
        chunks: list[Sequence[Canary]] = []
        for name, more in endless.items():
            own = [record for canary, record in made.items() if canary.family == name]
            missing = wanted - sum(record["changed"] for record in own)
            if missing > 0 and len(own) < _PATIENCE * wanted:
                chunks += self._parts([one for group in islice(more, math.ceil(missing / size)) for one in group])
        return chunks

    def _noised(self, part: Sequence[Canary], usual: _Known) -> Iterator[Record]:
        """Canaries of one family; what stays as it was is taken from the pair's own features."""
        rows, name = usual.rows, part[0].family
        family, examples = FAMILIES[name], [rows[canary.row] for canary in part]
        captions, pictures = [str(example.caption) for example in examples], None
        noise = family.noise(self.plan.rule.steps)
        if noise is not None:
            others = [wrong_caption(rows, canary, self.plan.seed) for canary in part]
            ids = [f"{canary.again}\x00{example.id}" for canary, example in zip(part, examples, strict=True)]
            captions, pictures = self._attacked(
                noise, family, usual.data, examples, others, Random(self.plan.seed, f"canary\x00{name}", ids)
            )
        features = self._features_of(pictures, [example.id for example in examples], captions, "audit")
        grain = None if pictures is None else _residuals(pictures)
        for row, (canary, example) in enumerate(zip(part, examples, strict=True)):
            own = usual.records[example.id]
            yield {
                "sample_id": example.id,
                "family": name,
                "planting": canary.planting,
                "again": canary.again,
                "caption": captions[row],
                "changed": name == CONTROL or family.epsilon is not None or captions[row] != example.caption,
                "features": [
                    {**before, **{key: values[row] for key, values in found.items()}}
                    for before, found in zip(own["features"], features, strict=True)
                ],
                "residual": own["residual"] if grain is None else grain[row],
                **self._told(captions[row]),
            }

    def _attacked(
        self,
        noise: Noise,
        family: Family,
        data: Data,
        examples: Sequence[Example],
        others: Sequence[str],
        random: Random,
    ) -> tuple[list[str], Tensor | None]:
        """Captions and, where the family changes them, pictures (examples, 3, size, size) after its noise."""
        encoder = self.encoders[0]
        try:
            opened = [self._open(example, data).pixels for example in examples]
        except PictureError as error:
            raise RunError(f"a picture could be read before and cannot any more: {error}") from error
        captions = [""] * len(examples)
        pictures: list[Tensor] = [torch.empty(0)] * len(examples)
        threat = Threat("linf", family.epsilon or 1 / 255)  # of captions alone it says nothing
        for channels in (1, 3):
            places = [place for place, pixels in enumerate(opened) if len(pixels) == channels]
            if not places:
                continue
            # one channel gets one change: no radiograph has three
            model = encoder if channels == 3 else dataclasses.replace(encoder, front=three_channels)
            clean = torch.stack([opened[place] for place in places]).to(encoder.device)
            whole = [str(examples[place].caption) for place in places]
            texts = [cut(encoder, caption) for caption in whole]
            own = [cut(encoder, others[place]) for place in places]
            found = noise(model, clean, [[text] for text in texts], own, threat, random.of(torch.tensor(places)))
            shown = stored(allowed(str(family.name), found.images, clean, threat), clean, threat).cpu()
            for row, place in enumerate(places):
                captions[place] = noised_caption(whole[row], texts[row], found.texts[row][0])
                pictures[place] = shown[row].expand(3, -1, -1)
        return captions, None if family.epsilon is None else torch.stack(pictures)

    # the ranking

    def _rank(self, audited: _Known, usual: _Known, made: Mapping[Canary, Record], images: bool | None) -> None:
        groups, rule, seed, trusted = planted_together(made), self.plan.rule, self.plan.seed, usual is not audited
        ties = [self.plan.tie(example) for example in usual.rows]
        size = fewest_together(len(ties), rule.canaries)
        guests = list(visits(len(audited.rows), ties, size, seed)) if trusted else []
        spare = max(map(len, [*groups, *(places for places, _ in guests)]), default=0)
        real = population(pairs_of([usual.records[example.id] for example in usual.rows]), rule, spare)
        with progress("ranking", max(1, len(groups))) as advance:
            self._write(CANARIES, self._ranked(real, groups, made, advance))
        found = ranked(real, [usual.records[example.id] for example in usual.rows], rule, seed)
        if trusted:
            self._write(TRUSTED, (record for _, record in found))
            found = ranked_among(real, guests, [audited.records[example.id] for example in audited.rows], rule, seed)
        for row, record in found:
            if record["rank"] <= _PICTURES and kept(images, record):
                self._keep(audited.rows[row])
            if self.writer.done.get(key_of(record)) != record:
                self.writer.append(record)

    def _ranked(
        self,
        real: Population,
        groups: Sequence[Sequence[Canary]],
        made: Mapping[Canary, Record],
        advance: Callable[[], None],
    ) -> Iterator[Record]:
        for group in groups:
            places = [canary.row for canary in group]
            yield from placed(real, places, [made[canary] for canary in group], self.plan.rule, self.plan.seed)
            advance()

    def _write(self, name: str, records: Iterable[Record]) -> None:
        """All of them at once, so that a file that is there is whole."""
        target = self.writer.path / name
        partial_file = target.with_name(target.name + ".partial")
        try:
            with partial_file.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            partial_file.replace(target)
        except OSError as error:
            raise RunError(
                f"cannot write {target}: {error.strerror}; type the same command again, it goes on"
            ) from error

    def _keep(self, example: Example) -> None:
        directory = self.writer.path / "images"
        if not (directory / thumbnail_name(example.id)).exists():
            keep_picture(self._open(example, self.plan.data).pixels.expand(3, -1, -1), directory, example.id)


def _residuals(images: Tensor) -> list[float]:
    return [round(float(value), 9) for value in residuals(images)]


def _resized(encoder: Encoder, image: Tensor) -> Tensor:
    """An image (3, size, size) of the first encoder as another one takes it."""
    return encoder.preprocess(image.permute(1, 2, 0).numpy())


def _name(canary: Canary, rows: Sequence[Example]) -> str:
    return f"{canary.family}|{canary.again}|{canary.planting}|{rows[canary.row].id}"
