"""Fits in processes of their own: the same to the bit, and what ends them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluate.test_fitting import facts_in, two_splits
from tiny_models import clip_directory
from titer.defenses import Capt, Coop, Defense, Tecoa
from titer.errors import InputError
from titer.evaluate.fits import FitJob, Source, fit_all
from titer.evaluate.running import NEVER, Deadline, TimeIsUpError
from titer.features.stream import threads


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("made")
    return Source(str(clip_directory(root / "clip")), str(two_splits(root / "data")), None, "cpu")


def jobs(out: Path) -> list[FitJob]:
    """A method with a store of features, one with tokens in both towers, one that changes the encoder itself."""
    methods: dict[str, Defense] = {"coop": Coop(epochs=2, context=2), "capt": Capt(epochs=2), "tecoa": Tecoa(epochs=1)}
    return [
        FitJob(method, out / f"{name}-s{seed}", 2, seed, out / "features", "a test")
        for name, method in methods.items()
        for seed in (1, 2)
    ]


def learned(out: Path) -> dict[str, tuple[bytes, dict[str, object]]]:
    """Weights and what a fit says of itself, but for its time."""
    return {
        path.parent.name: (
            path.read_bytes(),
            {name: value for name, value in facts_in(path.parent).items() if name != "seconds"},
        )
        for path in sorted(out.rglob("adapter_model.safetensors"))
    }


def test_processes_learn_the_same_to_the_bit(source: Source, tmp_path: Path) -> None:
    for job in jobs(tmp_path / "alone"):
        job.run(*source.load())
    fit_all(jobs(tmp_path / "two"), source, 2, NEVER)
    alone, two = learned(tmp_path / "alone"), learned(tmp_path / "two")
    assert len(alone) == 6
    assert alone == two


def test_after_the_deadline_no_fit_is_begun(source: Source, tmp_path: Path) -> None:
    with pytest.raises(TimeIsUpError):
        fit_all(jobs(tmp_path), source, 2, Deadline(0))
    assert not learned(tmp_path)


def test_an_error_of_a_fit_is_told_as_it_is(source: Source, tmp_path: Path) -> None:
    asked = [dataclasses.replace(job, shots=100) for job in jobs(tmp_path)[:2]]
    with pytest.raises(InputError, match="expected 100 shots of each class"):
        fit_all(asked, source, 2, NEVER)
