"""`pretrain`: contrastive training of a dual encoder on image-caption pairs, from a checkpoint or from scratch.

What comes out is a model directory like the one that went in, so that every verb takes it. Training goes on exactly
where it stopped: order, crops and optimiser are functions of seed, epoch and step.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from titer.attacks.words import cut
from titer.data.example import Data
from titer.data.load import load_all
from titer.errors import InputError, PictureError, RunError
from titer.evaluate.machine import default_workers, program, reuse_buffers, versions
from titer.evaluate.retrieval import Captioned
from titer.evaluate.running import running
from titer.features.stream import threads
from titer.models.encoder import Encoder
from titer.models.load import open_model
from titer.models.weights import seeded
from titer.progress import progress
from titer.registry import settings_of
from titer.results.store import SCHEMA, Record, RunWriter
from titer.upstream.contrastive import backward_in_parts, contrastive_loss, same_captions, unclear_captions
from titer.upstream.craft import SOURCE_DIGEST
from titer.upstream.pairs import captioned_images
from titer.upstream.pretraining import Pretraining, build_pretraining, optimiser_of

CURVE = "curve.jsonl"
_CHECKPOINT = "training.pt"
_PICTURES = "pictures.u8"
_LARGEST_SCALE = math.log(100)
_OWN_FILES = frozenset(
    {"run.json", CURVE, _CHECKPOINT, _PICTURES, "upstream.json", ".lock", "metrics.json", "README.md"}
)


@dataclass(frozen=True)
class Pretrained:
    """What ``pretrain`` did.

    Args:
        path: the model directory.
        pairs: learned from.
        failed: pictures that could not be read, and are left out.
        curve: one record an epoch: mean loss, loss on ``val``, pairs a second.
        epoch: whose weights were kept.
        seconds: that the work took, earlier parts included.
        warnings: no split to choose by, for instance.
    """

    path: Path
    pairs: int
    failed: int
    curve: tuple[Record, ...]
    epoch: int
    seconds: float
    warnings: tuple[str, ...]


def pretrain(
    model: str | Path,
    data: str | Path | Data,
    *,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    split: str = "train",
    seed: int = 0,
    workers: int | None = None,
    device: str | None = None,
    command: str = "titer.pretrain",
) -> Pretrained:
    """Train a dual encoder on image-caption pairs and write it as a model directory.

    Args:
        model: a model's name; it gives architecture, tokenizer and preprocessing, and the weights unless from scratch.
        data: a data set's name or directory with captions, or a loaded one with all its splits.
        out: the model directory. The same call goes on where an earlier one stopped.
        settings: fields of ``Pretraining``.
        split: whose pairs are learned; ``val``, where there is one, chooses the epoch.
        seed: of weights from scratch, order and crops.
        workers: threads; one per core unless given. Another number may change the last bit.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        command: what run.json says it was made by.

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if no picture could be read, the loss is not finite, or the disk is full.
    """
    reuse_buffers()
    if seed < 0:
        raise InputError(f"seed: expected a whole number of at least 0, got {seed}")
    method = build_pretraining(**(settings or {}))
    encoder, network, directory = open_model(model, device=device)
    everything = data if isinstance(data, Data) else load_all(data)
    pairs = captioned_images(everything, split)
    judged = captioned_images(everything, "val") if split != "val" and _has(everything, "val") else []
    if sum(len(pair.captions) for pair in pairs) < method.batch:
        raise InputError(
            f"{everything.name}: {sum(len(pair.captions) for pair in pairs)} pairs do not fill a batch of {method.batch}; "
            "expected a smaller --set batch=..."
        )
    identity = {
        "verb": "pretrain",
        "settings": settings_of(method),
        "seed": seed,
        "model": encoder.fingerprint,
        "split": split,
        "pairs": _digest(everything, pairs),
        "judged": _digest(everything, judged),
        **({"altered": list(everything.altered)} if everything.altered else {}),
        "program": program(encoder.device, encoder.dtype),
    }
    info = {
        "schema": SCHEMA,
        "status": "running",
        "verb": "pretrain",
        "command": command,
        "settings": {**settings_of(method), "split": split},
        "seed": seed,
        "versions": versions(),
        "device": encoder.device.type,
        "dtype": "bfloat16 and float32" if method.mixed else "float32",
        "model": {"name": encoder.name, "fingerprint": encoder.fingerprint, "size": encoder.size},
        "data": {"name": everything.name, "split": split, "limit": None},
        "samples": {"expected": method.epochs, "done": 0, "failed": 0},
        "seconds": 0.0,
    }
    count = workers or default_workers(encoder.device)
    with RunWriter(Path(out), identity, info, CURVE) as writer, threads(count):
        training = _Training(method, encoder, network, everything, writer, seed)
        return training.run(pairs, judged, directory)


def _has(data: Data, split: str) -> bool:
    return any(row.split == split and row.caption is not None for row in data.examples)


def _digest(data: Data, pairs: Sequence[Captioned]) -> str:
    """SHA-256 of captions, classes and files: two corpora may differ in a few pictures alone."""
    running = hashlib.sha256()
    for pair in pairs:
        try:
            file = data.digest(pair.example)
        except PictureError:
            file = "unreadable"
        running.update(f"{pair.example.id}\x00{file}\x00{pair.example.label}\x00{pair.captions}\x01".encode())
    return running.hexdigest()


@dataclass(frozen=True, eq=False)
class _Rows:
    """Pairs ready to be learned from.

    Args:
        pictures: uint8 (pictures, 3, size, size), on the disk so that memory stays flat.
        picture: of each pair, its place there.
        captions: as the text tower takes them.
        labels: class of each, or None.
    """

    pictures: NDArray[np.uint8]
    picture: NDArray[np.int64]
    captions: tuple[str, ...]
    labels: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def images(self, places: Sequence[int]) -> Tensor:
        """(pairs, 3, size, size) in [0, 1]."""
        return torch.from_numpy(self.pictures[self.picture[list(places)]]).float() / 255


class _Training:
    """One process's work on a model directory."""

    def __init__(
        self, method: Pretraining, encoder: Encoder, network: nn.Module, data: Data, writer: RunWriter, seed: int
    ) -> None:
        self.method = method
        self.encoder = encoder
        self.network: Any = network
        self.data = data
        self.writer = writer
        self.seed = seed
        self.failed: dict[str, str] = {}

    def run(self, pairs: Sequence[Captioned], judged: Sequence[Captioned], directory: Path) -> Pretrained:
        warnings = () if judged or self.method.keep == "last" else (_NO_VAL,)
        if (self.writer.path / "model.safetensors").exists():
            return self._told(len(pairs), warnings)
        with running(self.writer, self.method.epochs, self.failed):
            learned = self._rows(pairs, _PICTURES)
            val = self._rows(judged, f"val-{_PICTURES}") if judged else None
            kept = self._train(learned, val)
            self.writer.save(kept=kept["epoch"], pairs=len(learned), warnings=list(warnings))
            self._write(kept["weights"], directory, pairs)
        return self._told(len(learned), warnings)

    def _told(self, pairs: int, warnings: Sequence[str]) -> Pretrained:
        info = self.writer.info
        curve = sorted(self.writer.done.values(), key=lambda record: int(record["epoch"]))
        return Pretrained(
            self.writer.path, int(info.get("pairs", pairs)), len(self.failed), tuple(curve),
            int(info.get("kept", self.method.epochs)), float(info["seconds"]), tuple(warnings),
        )  # fmt: skip

    def _rows(self, pairs: Sequence[Captioned], name: str) -> _Rows:
        """Decode every picture once."""
        size = self.encoder.size
        file = self.writer.path / name
        stored = np.lib.format.open_memmap(file, "w+", np.uint8, (len(pairs), 3, size, size))
        places: list[int] = []
        captions: list[str] = []
        labels: list[str | None] = []
        with progress("pictures", len(pairs)) as advance:
            for place, pair in enumerate(pairs):
                advance()
                try:
                    pixels = self.encoder.preprocess(self.data.read(pair.example).pixels)
                    texts = [cut(self.encoder, text) for _, text in pair.captions]
                except PictureError as error:
                    self.failed[pair.example.id] = str(error)
                    continue
                stored[place] = (pixels * 255).round().to(torch.uint8).numpy()
                label = None if pair.example.label is None else str(pair.example.label)
                places += [place] * len(texts)
                captions += texts
                labels += [label] * len(texts)
        if len(captions) < self.method.batch and name == _PICTURES:
            first = next(iter(self.failed.values()), "none")
            raise RunError(f"{len(captions)} readable pairs do not fill a batch; the first error: {first}")
        return _Rows(stored, np.array(places), tuple(captions), tuple(labels))

    def _train(self, learned: _Rows, val: _Rows | None) -> dict[str, Any]:
        """Every epoch, from the checkpoint if there is one; returns the weights to keep and their epoch."""
        method, network = self.method, self.network
        if method.start == "scratch":
            _initialise(network, self.seed)
        parameters = [parameter.requires_grad_() for parameter in network.parameters()]
        optimiser = optimiser_of(method, network)
        steps = len(learned) // method.batch
        mean = copy.deepcopy(network) if method.mean else network
        state: dict[str, Any] = {"epoch": 0, "step": 0, "total": 0.0, "best": math.inf, "kept": {}, "kept_epoch": 0}
        state |= self._resumed(network, mean, optimiser)
        with progress("pretrain", method.epochs * steps) as advance:
            for epoch in range(state["epoch"], method.epochs):
                began, first = time.perf_counter(), state["step"]
                order = torch.randperm(len(learned), generator=_chance(self.seed, epoch)).tolist()
                for step in range(first, steps):
                    places = order[step * method.batch : (step + 1) * method.batch]
                    now = epoch * steps + step
                    state["total"] += self._step(learned, places, optimiser, parameters, now, method.epochs * steps)
                    if method.mean:
                        _follow(mean, network, now, method.mean)
                    advance()
                    if time.perf_counter() - began > _SAVE_EVERY:
                        state |= {"epoch": epoch, "step": step + 1}
                        self._save(network, mean, optimiser, state)
                        began, first = time.perf_counter(), step + 1
                judged = None if val is None else self._judge(mean, val)
                score = judged if judged is not None and method.keep == "best" else -float(epoch)
                if score < state["best"]:
                    weights = {name: tensor.detach().cpu().clone() for name, tensor in mean.state_dict().items()}
                    state |= {"best": score, "kept": weights, "kept_epoch": epoch + 1}
                rate = (steps - first) * method.batch / max(time.perf_counter() - began, 1e-9)
                self._tell(epoch, state["total"] / steps, judged, rate)
                state |= {"epoch": epoch + 1, "step": 0, "total": 0.0}
                self._save(network, mean, optimiser, state)
        return {"weights": state["kept"], "epoch": state["kept_epoch"]}

    def _step(
        self,
        rows: _Rows,
        places: Sequence[int],
        optimiser: torch.optim.Optimizer,
        parameters: Sequence[Tensor],
        now: int,
        steps: int,
    ) -> float:
        """One batch; its loss."""
        for group in optimiser.param_groups:
            group["lr"] = self.method.rate_at(now, steps)
        chance = _chance(self.seed, now, "crops")
        images = self.method.augment(rows.images(places).to(self.encoder.device), chance)
        optimiser.zero_grad(set_to_none=True)
        scale: Tensor = self.network.logit_scale.exp()
        loss = backward_in_parts(
            self._image_features,
            self._text_features,
            images,
            [rows.captions[place] for place in places],
            scale,
            self.method.part,
            [rows.labels[place] for place in places] if self.method.negatives == "other-class" else None,
        )
        if not math.isfinite(loss):
            raise RunError(f"the loss of step {now + 1} is {loss}; expected a smaller rate, or mixed=false")
        if self.method.clip:
            nn.utils.clip_grad_norm_(parameters, self.method.clip)
        optimiser.step()
        with torch.no_grad():
            self.network.logit_scale.clamp_(max=_LARGEST_SCALE)
        return loss

    def _image_features(self, images: Tensor, network: nn.Module | None = None) -> Tensor:
        model: Any = network or self.network
        with self._precision():
            shown = self.encoder.preprocess.normalise(images)
            found = model.visual_projection(model.vision_model(pixel_values=shown).pooler_output)
        return F.normalize(found.float(), dim=-1)

    def _text_features(self, captions: Sequence[str], network: nn.Module | None = None) -> Tensor:
        tower: Any = self.encoder.text_tower
        model: Any = network or self.network
        tokens = tower.padded([tower.ids(text) for text in captions])
        with self._precision():
            found = model.get_text_features(**tokens).pooler_output
        return F.normalize(found.float(), dim=-1)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.encoder.device.type, torch.bfloat16, enabled=self.method.mixed)

    @torch.no_grad()
    def _judge(self, network: Any, rows: _Rows) -> float:
        """Mean loss over the pairs of the split ``val``, in their order, without crops."""
        total, count = 0.0, 0
        scale: Tensor = network.logit_scale.exp()
        for first in range(0, len(rows), self.method.batch):
            places = range(first, min(first + self.method.batch, len(rows)))
            captions = [rows.captions[place] for place in places]
            same = same_captions(captions).to(self.encoder.device)
            unclear = unclear_captions([rows.labels[place] for place in places], same)
            images = self._image_features(rows.images(places).to(self.encoder.device), network)
            loss = contrastive_loss(images, self._text_features(captions, network), scale, same, unclear)
            total, count = total + float(loss) * len(captions), count + len(captions)
        return total / count

    def _tell(self, epoch: int, loss: float, judged: float | None, rate: float) -> None:
        record: Record = {"sample_id": f"epoch {epoch + 1}", "epoch": epoch + 1, "loss": round(loss, 6)}
        if judged is not None:
            record["val_loss"] = round(judged, 6)
        self.writer.append({**record, "pairs_per_second": round(rate, 1)})

    def _save(
        self, network: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer, state: Mapping[str, Any]
    ) -> None:
        content = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "state": dict(state)}
        if mean is not network:
            content["mean"] = mean.state_dict()
        file = self.writer.path / _CHECKPOINT
        partial = file.with_suffix(".partial")
        try:
            torch.save(content, partial)
        except (OSError, RuntimeError) as error:
            raise RunError(
                f"cannot write {partial}: {error}; free some space and type the same command again"
            ) from error
        partial.replace(file)

    def _resumed(self, network: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        file = self.writer.path / _CHECKPOINT
        if not file.exists():
            return {}
        content = torch.load(file, map_location=self.encoder.device, weights_only=True)
        network.load_state_dict(content["network"])
        optimiser.load_state_dict(content["optimiser"])
        if mean is not network:
            mean.load_state_dict(content["mean"])
        state: dict[str, Any] = content["state"]
        return state

    def _write(self, weights: Mapping[str, Tensor], directory: Path, pairs: Sequence[Captioned]) -> None:
        """The model directory: the base's files, the new weights last."""
        for file in directory.iterdir():
            if (
                file.is_file()
                and file.name not in _OWN_FILES
                and not file.name.startswith(("model", "pytorch_model", "LICENSE"))
            ):
                shutil.copyfile(file, self.writer.path / file.name)
        before = {} if self.method.start == "scratch" else _upstream(directory)
        seen = before | self._seen(pairs)
        (self.writer.path / "upstream.json").write_text(json.dumps(seen, indent=0) + "\n", encoding="utf-8")
        for name in (_PICTURES, f"val-{_PICTURES}"):
            (self.writer.path / name).unlink(missing_ok=True)
        partial = self.writer.path / "model.safetensors.partial"
        partial.write_bytes(save({name: tensor.contiguous() for name, tensor in weights.items()}, {"format": "pt"}))
        partial.replace(self.writer.path / "model.safetensors")
        (self.writer.path / _CHECKPOINT).unlink(missing_ok=True)

    def _seen(self, pairs: Sequence[Captioned]) -> dict[str, dict[str, str]]:
        """What the model has now seen, and the files that its pictures were made of."""
        readable = [pair.example for pair in pairs if pair.example.id not in self.failed]
        files = {example.id: self.data.digest(example) for example in readable}
        sources = {row.id: row.attributes[SOURCE_DIGEST] for row in readable if SOURCE_DIGEST in row.attributes}
        found = {self.data.name: files}
        return found | ({f"{self.data.name}, sources": sources} if sources else {})


_SAVE_EVERY = 120  # seconds of training between checkpoints
_NO_VAL = "there is no split val with captions to choose the epoch by; the last epoch is kept"


def _upstream(directory: Path) -> dict[str, dict[str, str]]:
    file = directory / "upstream.json"
    found: dict[str, dict[str, str]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def _initialise(network: nn.Module, seed: int) -> None:
    """The architecture's own random weights."""
    with seeded(seed):
        fresh = type(network)(network.config)
    network.load_state_dict(fresh.state_dict())


def _follow(mean: nn.Module, network: nn.Module, now: int, over: int) -> None:
    """Exponential mean of the weights, shorter at the beginning."""
    keep = min(1 - 1 / over, (now + 1) / (now + 10))
    with torch.no_grad():
        for kept, value in zip(mean.parameters(), network.parameters(), strict=True):
            kept.lerp_(value, 1 - keep)


def _chance(seed: int, number: int, purpose: str = "order") -> torch.Generator:
    label = f"pretrain\x00{seed}\x00{purpose}\x00{number}".encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(label).digest()[:8], "big") % 2**63)
