"""What noise upstream does downstream: corpora with more and more noise, a model from each, and heads on all of them.

Below one directory, which goes on where it stopped: ``corpora/`` holds what was crafted (once for each arm, or for each
seed where the arm's surrogate is the seed's own clean model, at the largest ratio: smaller ones are parts of it),
``models/`` what was pre-trained, ``tasks/MODEL/TASK`` a comparison of heads for each model, ``answers/MODEL/SET`` heads that
answer questions and the run that attacks them, ``measures/`` what its features look like, and ``upstream.json`` says which
model is what.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from titer.attacks.words import cut
from titer.data import load_data
from titer.data.example import Data, Example
from titer.data.load import load_all
from titer.defenses import QUESTION_DEFENSES
from titer.errors import InputError, PictureError, RunError, unknown
from titer.evaluate.answering import attack_answers
from titer.evaluate.asking import fit_answerer
from titer.evaluate.machine import default_workers
from titer.evaluate.retrieval import Captioned
from titer.evaluate.study import Study, run_study
from titer.features.clean import clean_features
from titer.models import load_model
from titer.models.encoder import Encoder
from titer.results.store import differences, write_facts
from titer.results.upstream import (
    MEASURES,
    OWN_BASE,
    UPSTREAM,
    UpstreamModel,
    answers_directory,
    corpus_directory,
    model_name,
    task_directory,
)
from titer.upstream.craft import craft, noised_pairs
from titer.upstream.pairs import captioned_images, plain
from titer.upstream.pretrain import pretrain
from titer.upstream.pretraining import build_pretraining
from titer.upstream.spectrum import spectrum

_SPLIT = "train"
_IMAGES = 400  # whose features make a spectrum
_PAIRS = 200  # noised pairs that a model is asked about
_OTHERS = 100  # captions that a pair's own is compared with


@dataclass(frozen=True)
class UpstreamArm:
    """A kind of noise.

    Args:
        name: what tables call it.
        attack: the noise's registered name.
        eps: linf budget of pictures, in [0, 1] pixels.
        settings: of the noise.
        ratios: shares of the pairs, above 0.
        surrogate: model that it is made for; ``base`` is each seed's own clean model.
    """

    name: str
    attack: str
    eps: float
    settings: Mapping[str, Any]
    ratios: tuple[float, ...]
    surrogate: str


@dataclass(frozen=True)
class UpstreamQuestions:
    """Questions that each model's tokens are to answer.

    Args:
        sets: data sets with questions.
        heads: of ``fusion``, each fitted on all questions of ``train``.
        fusion: its other settings.
        attack: on the questions of ``test``.
        eps: budgets, linf, in [0, 1] pixels.
        settings: of the attack.
        limit: questions that are attacked; all where None.
        allow: ``overlap`` for sets that ask about the same pictures in both splits, as VQA-RAD does.
    """

    sets: tuple[str, ...]
    heads: tuple[str, ...]
    fusion: Mapping[str, Any]
    attack: str
    eps: tuple[float, ...]
    settings: Mapping[str, Any]
    limit: int | None
    allow: tuple[str, ...]

    def __post_init__(self) -> None:
        for head in self.heads:
            QUESTION_DEFENSES.build("fusion", **{"head": head, **self.fusion})


@dataclass(frozen=True)
class UpstreamStudy:
    """A study of upstream noise, as a recipe says it.

    Args:
        comparison: heads, attacks and cells; its model and data are replaced by each model's and each task's.
        corpus: data set with captions, all splits of which are loaded.
        surrogate: model that noise is made for where an arm names no other, and whose input size pictures are stored at;
            ``base`` is each seed's own clean model.
        arms: kinds of noise.
        seeds: of pre-training.
        base: settings of the pre-training of one clean model for each seed.
        settings: of the pre-training that goes on from there, on each corpus; ratio 0 included.
        tasks: data sets on which heads are fitted and judged.
        only: cells that are judged for some models alone: cell -> names of models.
        questions: that heads on each model answer, where there are any.
    """

    comparison: Study
    corpus: str
    surrogate: str
    arms: tuple[UpstreamArm, ...]
    seeds: tuple[int, ...]
    base: Mapping[str, Any]
    settings: Mapping[str, Any]
    tasks: tuple[str, ...]
    only: Mapping[str, tuple[str, ...]]
    questions: UpstreamQuestions | None = None

    def __post_init__(self) -> None:
        for place, settings in (("base", self.base), ("pretraining", self.settings)):
            try:
                build_pretraining(**dict(settings))
            except InputError as error:
                raise InputError(f"[upstream.{place}] {error}") from error
        cells, names = [cell.name for cell in self.comparison.cells], [model.name for model in self.models()]
        for cell, models in self.only.items():
            if cell not in cells:
                raise unknown("cell of [upstream] only:", cell, cells)
            for model in models:
                if model not in names:
                    raise unknown(f"model of [upstream] only.{cell}:", model, names)

    def models(self) -> list[UpstreamModel]:
        """Every model that is judged, those of a seed together, the clean one first."""
        return [
            UpstreamModel(model_name(arm, ratio, seed), arm, ratio, seed)
            for seed in self.seeds
            for arm, ratio in [(None, 0.0), *((arm.name, ratio) for arm in self.arms for ratio in arm.ratios)]
        ]


def run_upstream(
    study: UpstreamStudy,
    out: str | Path,
    *,
    seed: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    command: str = "titer.run",
) -> Path:
    """Craft, pre-train, fit and judge everything that a study asks for, or go on with it.

    Args:
        study: what is asked for.
        out: its directory.
        seed: of noise and attacks; the recorded one on resume, else a fresh one of the operating system.
        device: ``cpu`` or ``cuda``; found by itself unless given.
        workers: threads; one per core unless given.
        command: what upstream.json says it was made by.

    Raises:
        InputError: for whatever is wrong with the input.
        RunError: if a part of it fails.
    """
    out = Path(out)
    tasks = {task: _task_name(task) for task in study.tasks}
    said = _begun(out, study, tasks, seed, command)
    _crafted(study, None, 0, out, said["seed"], workers, device)
    for start in study.seeds:
        pretrain(
            study.comparison.model, str(_noised(study, None, start, out)), out=_base(out, start),
            settings=dict(study.base), seed=start, workers=workers, device=device,
        )  # fmt: skip
    for arm in study.arms:
        for start in study.seeds if arm.surrogate == OWN_BASE else study.seeds[:1]:
            _crafted(study, arm, start, out, said["seed"], workers, device)
    for model in study.models():
        path = _pretrained(study, model, out, said["seed"], workers, device)
        for task, name in tasks.items():
            cells = tuple(
                cell
                for cell in study.comparison.cells
                if cell.name not in study.only or model.name in study.only[cell.name]
            )
            judged = dataclasses.replace(study.comparison, model=str(path), data=task, cells=cells)
            run_study(
                judged, out / task_directory(model.name, name), seed=said["seed"], device=device, workers=workers,
                command=command,
            )  # fmt: skip
        if study.questions is not None:
            _answered(study.questions, model, path, out, said["seed"], workers, device)
        _measured(study, model, path, tasks, out, said["seed"], device)
    return out


def _answered(
    asked: UpstreamQuestions,
    model: UpstreamModel,
    path: Path,
    out: Path,
    seed: int,
    workers: int | None,
    device: str | None,
) -> None:
    """Heads on a model that answer questions, and an attack on all of them."""
    encoder = load_model(str(path), device=device)
    for source in asked.sets:
        place = out / answers_directory(model.name, _task_name(source))
        heads = [place / "prompts" / head for head in asked.heads]
        for head in heads:
            defense = QUESTION_DEFENSES.build("fusion", **{"head": head.name, **asked.fusion})
            fit_answerer(defense, encoder, source, head, model.seed, asked.allow, f"part of {out.name}")
        attack_answers(
            encoder, source, asked.attack, prompts=[str(head) for head in heads], out=place / "run", eps=asked.eps,
            settings=dict(asked.settings), seed=seed, workers=workers, limit=asked.limit, allow=asked.allow,
        )  # fmt: skip


def _task_name(task: str) -> str:
    """A directory's name for a data set's name."""
    if not re.search(r"[:@]", task):
        return Path(task).name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub(r"[\w.-]*/", "", task)).strip("-")


def _begun(out: Path, study: UpstreamStudy, tasks: Mapping[str, str], seed: int | None, command: str) -> dict[str, Any]:
    """upstream.json, begun now or earlier with the same study."""
    said: dict[str, Any] = {
        "title": study.comparison.title,
        "command": command,
        "model": study.comparison.model,
        "corpus": study.corpus,
        "surrogate": study.surrogate,
        "base": dict(study.base),
        "settings": dict(study.settings),
        "tasks": dict(tasks),
        "questions": None
        if study.questions is None
        else {
            **dataclasses.asdict(study.questions),
            "sets": {source: _task_name(source) for source in study.questions.sets},
        },
        "arms": {arm.name: {**dataclasses.asdict(arm), "ratios": list(arm.ratios)} for arm in study.arms},
        "models": [dataclasses.asdict(model) for model in study.models()],
    }
    file = out / UPSTREAM
    if file.exists():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(said | {"seed": earlier["seed"] if seed is None else seed}))
        fixed = ("seed", "model", "corpus", "surrogate", "base", "settings", "questions")
        found = differences({key: earlier.get(key) for key in fixed}, {key: now[key] for key in fixed})
        if found:
            raise InputError(f"{out} belongs to another study: {'; '.join(found)}; choose another --out")
        said = now
    elif out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} is not empty and holds no study of upstream noise; choose another --out")
    else:
        said["seed"] = secrets.randbits(63) if seed is None else seed
    out.mkdir(parents=True, exist_ok=True)
    write_facts(file, said)
    return said


def _crafted(
    study: UpstreamStudy,
    arm: UpstreamArm | None,
    start: int,
    out: Path,
    seed: int,
    workers: int | None,
    device: str | None,
) -> None:
    """A corpus without noise, or at an arm's largest ratio for the models of a seed."""
    named = study.surrogate if arm is None else arm.surrogate
    if named == OWN_BASE:
        named = study.comparison.model if arm is None else str(_base(out, start))
    given: dict[str, Any] = (
        {"ratio": 0.0, "attack": "random-noise"}
        if arm is None
        else {"ratio": max(arm.ratios), "attack": arm.attack, "eps": arm.eps, "settings": arm.settings}
    )
    path = _noised(study, arm, start, out)
    craft(named, study.corpus, out=path, seed=seed, workers=workers, device=device, **given)


def _noised(study: UpstreamStudy, arm: UpstreamArm | None, start: int, out: Path) -> Path:
    """Where the corpus is that an arm noised for the models of a seed; None is the clean one."""
    return out / corpus_directory(
        None if arm is None else arm.name, study.surrogate if arm is None else arm.surrogate, start
    )


def _pretrained(
    study: UpstreamStudy,
    model: UpstreamModel,
    out: Path,
    seed: int,
    workers: int | None,
    device: str | None,
) -> Path:
    """What goes on from the clean model of its seed."""
    path = out / "models" / model.name
    pretrain(
        str(_base(out, model.seed)), corpus_of(study, model, out, seed), out=path, settings=dict(study.settings),
        seed=model.seed, workers=workers, device=device,
    )  # fmt: skip
    return path


def _base(out: Path, seed: int) -> Path:
    """The clean model that a seed's others go on from."""
    return out / "models" / f"base-s{seed}"


def corpus_of(study: UpstreamStudy, model: UpstreamModel, out: Path, seed: int) -> Data:
    """What a model is trained on: the clean corpus with the arm's noised pairs in it, as many as the ratio says."""
    clean = load_all(_noised(study, None, model.seed, out))
    arm = next((arm for arm in study.arms if arm.name == model.arm), None)
    if arm is None:
        return clean
    chosen = noised_pairs(captioned_images(clean, _SPLIT), model.ratio, seed)
    ids = {sample for pair in chosen for sample, _ in pair.captions}
    return mixed(clean, load_all(_noised(study, arm, model.seed, out)), ids, f"{model.arm} {model.ratio:g}")


def mixed(clean: Data, noised: Data, ids: Collection[str], name: str) -> Data:
    """A corpus some of whose pairs are the noised ones.

    Args:
        clean: all pairs as they were.
        noised: the same pairs, more of them noised.
        ids: whose rows are taken from there.
        name: of what comes out.
    """
    there = {example.id: example for example in noised.examples}
    examples = tuple(there[example.id] if example.id in ids else example for example in clean.examples)

    def home(example: Example) -> Data:
        return noised if example.id in ids else clean

    return dataclasses.replace(
        clean,
        name=name,
        examples=examples,
        read=lambda example: home(example).read(example),
        digest=lambda example: home(example).digest(example),
    )


def _measured(
    study: UpstreamStudy,
    model: UpstreamModel,
    path: Path,
    tasks: Mapping[str, str],
    out: Path,
    seed: int,
    device: str | None,
) -> None:
    """Spectra of the model's features, and whether it prefers noised pairs to clean ones."""
    file = out / MEASURES / f"{model.name}.json"
    if file.exists():
        return
    encoder = load_model(path, device=device)
    spectra = {
        name: [
            dataclasses.asdict(spectrum(features, centring))
            for features in [_image_features(encoder, load_data(task, study.comparison.split, _IMAGES))]
            for centring in ("column", "row")
        ]
        for task, name in tasks.items()
    }
    clean = load_all(_noised(study, None, model.seed, out))
    asked = {
        arm.name: _margins(encoder, clean, load_all(_noised(study, arm, model.seed, out)), arm, seed)
        for arm in study.arms
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_facts(file, {"spectra": spectra, "pairs": asked})


def _margins(encoder: Encoder, clean: Data, noised: Data, arm: UpstreamArm, seed: int) -> dict[str, list[float]]:
    """Cosine of image and own caption, less the largest with other captions: of clean pairs and of the same pairs noised.

    The pairs are those that every ratio of the arm noises, so that every noisy model has seen them.
    """
    pairs = captioned_images(clean, _SPLIT)
    chosen = noised_pairs(pairs, min(arm.ratios), seed)
    ordered = sorted(chosen, key=lambda pair: hashlib.sha256(pair.example.id.encode()).hexdigest())[:_PAIRS]
    ids = {pair.example.id for pair in ordered}
    same = [pair for pair in captioned_images(noised, _SPLIT) if pair.example.id in ids]
    others = _other_captions(pairs, ids)
    return {
        "clean": _margins_of(encoder, clean, [pair for pair in pairs if pair.example.id in ids], others),
        "noised": _margins_of(encoder, noised, same, others),
    }


def _other_captions(pairs: Sequence[Captioned], ids: Collection[str]) -> list[str]:
    rest = (pair for pair in pairs if pair.example.id not in ids)
    ordered = sorted(rest, key=lambda pair: hashlib.sha256(pair.example.id.encode()).hexdigest())
    return [pair.captions[0][1] for pair in ordered[:_OTHERS]]


def _margins_of(encoder: Encoder, data: Data, pairs: Sequence[Captioned], others: Sequence[str]) -> list[float]:
    with torch.no_grad():
        compared = encoder.encode_text([cut(encoder, text) for text in others])
        found = []
        for pair, image in _opened(encoder, data, pairs):
            own = encoder.encode_text([cut(encoder, pair.captions[0][1])])[0]
            feature = encoder.encode_image(image[None])[0]
            different = torch.tensor([plain(text) != plain(pair.captions[0][1]) for text in others])
            found.append(round(float(feature @ own - (compared @ feature)[different].max()), 5))
    return found


def _opened(encoder: Encoder, data: Data, pairs: Sequence[Captioned]) -> Iterator[tuple[Captioned, Tensor]]:
    for pair in pairs:
        try:
            yield pair, encoder.preprocess(data.read(pair.example).pixels)
        except PictureError:
            continue


def _image_features(encoder: Encoder, data: Data) -> Tensor:
    features, read = clean_features(encoder, data, default_workers(encoder.device))
    if len(read) < 2:
        raise RunError(f"{data.name}: fewer than two pictures can be read; no spectrum can be made")
    return features
