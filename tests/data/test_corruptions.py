"""Corruptions: as strong as their severity, the same for an image wherever it stands, and seen by a run's identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import titer
from tiny_models import clip_directory
from titer.data import load_data
from titer.data.corruptions import CORRUPTIONS, SEVERITIES
from titer.data.phantoms import phantom
from titer.errors import InputError

COLOUR = ("saturation-down", "saturation-up")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A picture with edges, flat parts and colours."""
    return phantom("test", 0).pixels


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_more_severity_is_further_from_the_picture(name: str, pixels: np.ndarray) -> None:
    shown = pixels[..., :1] * np.array([1.0, 0.7, 0.5], np.float32) if name in COLOUR else pixels
    distances = [float(np.abs(CORRUPTIONS[name](shown, level, "x") - shown).mean()) for level in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(distances)
    assert distances[4] > 1.5 * distances[0]


@given(
    st.sampled_from(sorted(CORRUPTIONS)),
    st.sampled_from(SEVERITIES),
    arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
        elements=st.floats(0, 1, width=32),
    ),
)
def test_any_picture_stays_one(name: str, severity: int, pixels: np.ndarray) -> None:
    before = pixels.copy()
    found = CORRUPTIONS[name](pixels, severity, "x")
    assert found.shape == pixels.shape
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.array_equal(pixels, before)
    assert np.array_equal(found, CORRUPTIONS[name](pixels, severity, "x"))


@pytest.mark.parametrize("name", ["gaussian-noise", "shot-noise", "speckle-noise", "impulse-noise"])
def test_noise_differs_between_images_and_has_the_level_s_size(name: str) -> None:
    grey = np.full((256, 256, 1), 0.5, np.float32)
    first, second = (CORRUPTIONS[name](grey, 2, key) for key in "ab")
    assert not np.array_equal(first, second)
    level = CORRUPTIONS[name].levels[1]
    expected = {
        "gaussian-noise": level,
        "speckle-noise": 0.5 * level,
        "shot-noise": np.sqrt(0.5 * level),
        "impulse-noise": 0.5 * np.sqrt(level),
    }[name]
    assert first.std() == pytest.approx(expected, rel=0.15)


def test_blurs_keep_the_light_and_act_the_same_on_every_size() -> None:
    for name in ("gaussian-blur", "defocus-blur", "motion-blur"):
        spot = np.zeros((65, 65, 1), np.float32)
        spot[32, 32] = 1
        found = CORRUPTIONS[name](spot, 5, "x")
        assert found.sum() == pytest.approx(1, rel=1e-4), name
        assert found[32, 32, 0] < 0.9, name
    spots = [np.zeros((size, size, 1), np.float32) for size in (201, 401)]
    widths = []
    for spot in spots:
        middle = len(spot) // 2
        spot[middle, middle] = 1
        row = CORRUPTIONS["gaussian-blur"](spot, 5, "x").sum(axis=(1, 2))
        widths.append(np.sqrt(np.sum(row * (np.arange(len(row)) - middle) ** 2)) / len(spot))
    assert widths[0] == pytest.approx(0.02, rel=0.05)
    assert widths[1] == pytest.approx(widths[0], rel=0.02)


def test_by_hand() -> None:
    pixels = np.array([[[0.2], [0.8]], [[0.5], [0.5]]], np.float32)
    assert CORRUPTIONS["brightness-up"](pixels, 5, "x")[:, :, 0].tolist() == pytest.approx(
        np.array([[0.5, 1.0], [0.8, 0.8]])
    )
    assert np.allclose(CORRUPTIONS["contrast-down"](pixels, 3, "x")[:, :, 0], [[0.35, 0.65], [0.5, 0.5]])
    assert np.allclose(CORRUPTIONS["gamma-up"](pixels, 5, "x"), pixels**2.2)
    red = np.array([[[0.9, 0.3, 0.3]]], np.float32)
    assert np.allclose(CORRUPTIONS["saturation-down"](red, 5, "x"), 0.5)
    assert np.array_equal(CORRUPTIONS["saturation-down"](pixels, 5, "x"), pixels)
    blocks = CORRUPTIONS["pixelate"](np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1), 5, "x")
    assert len(np.unique(blocks)) == 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for label in ("brain", "lung"):
        (tmp_path / "set" / "test" / label).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(
                tmp_path / f"set/test/{label}/{index}.png"
            )
    return tmp_path / "set"


def test_a_set_is_corrupted_as_it_is_read(folder: Path) -> None:
    clean, noisy = load_data(folder), load_data(f"corrupted:gaussian-noise/3@{folder}")
    assert noisy.name == "corrupted:gaussian-noise/3@set"
    assert (noisy.source, noisy.altered) == ("set", ("gaussian-noise/3",))
    assert noisy.examples == clean.examples
    for example in clean.examples:
        before, after = clean.read(example), noisy.read(example)
        assert before.sha256 == after.sha256 == noisy.digest(example)  # so that a fit is not judged on its own pictures
        assert 0.02 < np.abs(before.pixels - after.pixels).mean() < 0.1
        assert np.array_equal(after.pixels, noisy.read(example).pixels)
    fewer = load_data(f"corrupted:gaussian-noise/3@{folder}", limit=2)
    assert np.array_equal(fewer.read(fewer.examples[0]).pixels, noisy.read(fewer.examples[0]).pixels)


def test_corruptions_nest_in_order(folder: Path) -> None:
    both = load_data(f"corrupted:jpeg/1@corrupted:gamma-up/2@{folder}")
    assert both.altered == ("gamma-up/2", "jpeg/1")
    inner = load_data(f"corrupted:gamma-up/2@{folder}")
    example = inner.examples[0]
    assert np.array_equal(
        both.read(example).pixels, CORRUPTIONS["jpeg"](inner.read(example).pixels, 1, f"jpeg/1\x00{example.id}")
    )


def test_a_run_of_another_corruption_is_another_run(folder: Path, tmp_path: Path) -> None:
    model, out = str(clip_directory(tmp_path / "clip")), tmp_path / "out"
    options: dict[str, Any] = {"sigma": 0.25, "n": 50, "seed": 1, "out": out, "images": False}
    titer.predict(model, f"corrupted:jpeg/3@{folder}", **options)
    titer.predict(model, f"corrupted:jpeg/3@{folder}", **options)  # a finished run is left alone
    for other in (f"corrupted:jpeg/4@{folder}", str(folder)):
        with pytest.raises(InputError, match="altered"):
            titer.predict(model, other, **options)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jpg/3@", "unknown corruption 'jpg'; did you mean 'jpeg'?"),
        ("jpeg/0@", "expected a severity from 1 to 5, as in jpeg/3, got '0'"),
        ("jpeg/6@", "expected a severity from 1 to 5"),
        ("jpeg/x@", "expected a severity from 1 to 5"),
        ("jpeg@", "expected corrupted:NAME/SEVERITY@DATA"),
        ("jpeg/3", "expected corrupted:NAME/SEVERITY@DATA"),
    ],
)
def test_wrong_names(name: str, said: str, folder: Path) -> None:
    with pytest.raises(InputError) as refused:
        load_data(f"corrupted:{name}{folder if '@' in name else ''}")
    assert said in str(refused.value)
