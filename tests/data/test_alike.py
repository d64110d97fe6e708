"""Prints of pictures, and which of them are near."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from data.making import words
from titer.data import describe, load_all
from titer.data.alike import ALIKE, LENGTH, alike, print_of

Floats = NDArray[np.float32]


def drawn(seed: int, side: int = 96) -> Floats:
    """A smooth random picture."""
    small = np.random.default_rng(seed).random((9, 9), dtype=np.float32)
    large = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    pixels: Floats = np.clip(np.asarray(large), 0, 1)[..., None]
    return pixels


def cosine(one: Floats, two: Floats) -> float:
    first, second = (print_of(each).astype(float) for each in (one, two))
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def resized(pixels: Floats, side: int) -> Floats:
    return np.asarray(Image.fromarray(pixels[..., 0]).resize((side, side), Image.Resampling.BILINEAR))[..., None]


def jpeg(pixels: Floats) -> Floats:
    packed = io.BytesIO()
    Image.fromarray((pixels[..., 0] * 255).astype(np.uint8)).save(packed, "JPEG", quality=60)
    return np.asarray(Image.open(packed), np.float32)[..., None] / np.float32(255)


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: resized(pixels, 61),
        jpeg,
        lambda pixels: np.clip(pixels * 0.6 + 0.3, 0, 1),
        lambda pixels: pixels**2,
        lambda pixels: np.repeat(pixels, 3, axis=2),
    ],
    ids=["smaller", "JPEG", "contrast", "gamma", "in colour"],
)
def test_the_same_scene_is_near(change: object) -> None:
    assert callable(change)
    for seed in range(10):
        assert cosine(drawn(seed), change(drawn(seed)).astype(np.float32)) > ALIKE


def test_other_scenes_and_mirrored_ones_are_not() -> None:
    scenes = [drawn(seed) for seed in range(12)]
    assert max(cosine(one, two) for place, one in enumerate(scenes) for two in scenes[:place]) < ALIKE - 0.2
    assert all(cosine(each, np.ascontiguousarray(each[:, ::-1])) < ALIKE for each in scenes)


def test_the_signs_by_hand() -> None:
    ramp = np.tile(np.linspace(0, 1, 17 * 16, dtype=np.float32), (17 * 16, 1))[..., None]
    right = print_of(ramp)
    assert right.shape == (LENGTH,)
    np.testing.assert_array_equal(right[: LENGTH // 2], 1)
    np.testing.assert_array_equal(right[LENGTH // 2 :], 0)
    np.testing.assert_array_equal(print_of(np.ascontiguousarray(ramp[:, ::-1]))[: LENGTH // 2], -1)
    np.testing.assert_array_equal(print_of(np.full((5, 5, 1), 0.3, np.float32)), 0)


@given(st.integers(0, 10_000), st.lists(st.sampled_from(["train", "val", "test"]), max_size=30))
def test_neighbours_agree_with_two_loops(seed: int, splits: list[str]) -> None:
    random = np.random.default_rng(seed)
    centers = random.integers(-1, 2, (4, LENGTH))
    prints = np.array([centers[random.integers(4)] * (random.random(LENGTH) < 0.97) for _ in splits], np.int8)
    prints = prints.reshape(-1, LENGTH)
    found = set()
    for one, split in enumerate(splits):
        near = {
            two: float(prints[one].astype(float) @ prints[two]) / np.sqrt(
                (prints[one].astype(float) ** 2).sum() * (prints[two].astype(float) ** 2).sum()
            )
            for two in range(len(splits))
            if splits[two] != split
        }  # fmt: skip
        if near and max(near.values()) >= ALIKE:
            best = max(near, key=lambda two: near[two])
            found.add((min(one, best), max(one, best)))
    assert alike(prints, splits) == sorted(found)


def test_near_pictures_of_two_splits_are_told(tmp_path: Path) -> None:
    for name, pixels in (
        ("train/a/1.png", drawn(1)),
        ("train/b/2.png", drawn(2)),
        ("test/a/3.png", resized(drawn(1), 50)),
        ("test/b/4.png", drawn(4)),
        ("train/a/5.png", resized(drawn(4), 40) * np.float32(0.7)),
        ("train/a/6.png", resized(drawn(2), 40)),  # near one of its own split: no leak
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels[..., 0] * 255).astype(np.uint8)).save(tmp_path / name)
    report = describe(load_all(words(tmp_path, {"a": "one", "b": "two"})))
    assert {frozenset(pair) for pair in report.near} == {
        frozenset({"train/a/1.png", "test/a/3.png"}),
        frozenset({"train/a/5.png", "test/b/4.png"}),
    }
    assert [text for text in report.warnings if "look alike" in text] == [
        f"2 pairs of pictures in different splits look alike, such as {' = '.join(report.near[0])}"
    ]
    assert report.identical == ()
