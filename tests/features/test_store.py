"""Stored features against the encoder itself, files that are shared, and files that are damaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

import titer
from images import SIZE, brightness_encoder
from tiny_models import clip_directory
from titer.errors import InputError, RunError
from titer.features import store as module
from titer.features.store import FeatureStore, build_store
from titer.features.stream import noisy_images
from titer.features.views import CropAndFlip
from titer.models import Encoder, load_model
from titer.noise import BLOCK, NoiseStream, Purpose

IDS = ("a.png", "b.png", "c.png")
SIGMAS = (0.1, 0.25, 1.0)
HALF = 2.0**-11  # largest relative rounding of half precision


@dataclass
class Counting:
    """Encodes as another encoder does and counts the blocks."""

    encoder: Encoder
    blocks: list[int] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Tensor:
        self.blocks.append(len(images))
        return self.encoder.image_tower(images)


def counting() -> tuple[Encoder, Counting]:
    plain = brightness_encoder()
    tower = Counting(plain)
    wrapped = titer.wrap(tower, plain.text_tower, SIZE, (0.5,) * 3, (0.5,) * 3, fingerprint="counting")
    tower.blocks.clear()
    return wrapped, tower


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_model(clip_directory(tmp_path_factory.mktemp("clip")))


def image_of(place: int, size: int = SIZE) -> Tensor:
    return torch.rand(3, size, size, generator=torch.Generator().manual_seed(place))


def stored(encoder: Encoder, ids: tuple[str, ...] = IDS, **changes: Any) -> FeatureStore:
    settings: dict[str, Any] = {"sigmas": SIGMAS, "draws": 2 * BLOCK, "seed": 5, **changes}
    return build_store(encoder, lambda place: image_of(IDS.index(ids[place]), encoder.size), ids, **settings)


def test_stored_features_are_the_encoders_own_on_the_same_noise(clip: Encoder) -> None:
    store = stored(clip)
    for place, sample in enumerate(IDS):
        for block in range(2):
            rows = np.arange(block * BLOCK, (block + 1) * BLOCK)
            noise = NoiseStream(5, "fit").block(sample, block, (3, 32, 32))
            noisy = image_of(place, 32) + torch.from_numpy(noise * store.sigmas[place, rows][:, None, None, None])
            with torch.inference_mode():
                expected = clip.encode_image(noisy)
            found = store.rows(np.array([place]), rows)[0]
            assert torch.allclose(found, expected, rtol=1.01 * HALF, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 0.25])
def test_noise_is_added_as_certificates_add_it(sigma: float) -> None:
    encoder = brightness_encoder()
    store = stored(encoder, sigmas=(sigma,), draws=BLOCK)
    noisy = noisy_images(image_of(1), "b.png", sigma, NoiseStream(5, "fit"), 0)
    with torch.inference_mode():
        assert torch.equal(store.everything()[1], encoder.encode_image(noisy).half().float())


def test_the_noise_of_a_store_is_no_certificates(clip: Encoder) -> None:
    """Prompts are fitted on draws of the purpose fit; every other purpose has other numbers under the same seed."""
    kept = stored(clip, sigmas=(0.25,), draws=BLOCK).everything()[0]
    for purpose in get_args(Purpose):
        if purpose == "fit":
            continue
        noisy = noisy_images(image_of(0, 32), "a.png", 0.25, NoiseStream(5, purpose), 0)
        with torch.inference_mode():
            other = clip.encode_image(noisy).half().float()
        assert not (kept[:, None] == other[None]).all(dim=-1).any()


def test_sigmas_take_turns_and_images_begin_at_different_ones() -> None:
    ids = tuple(f"{number}.png" for number in range(30))
    store = build_store(brightness_encoder(), lambda _: image_of(0), ids, SIGMAS, BLOCK, 0)
    assert store.sigmas.shape == (30, BLOCK)
    for turns in store.sigmas:
        assert sorted(turns[:3]) == pytest.approx(SIGMAS)
        assert np.array_equal(turns[:-3], turns[3:])
    first = [int((store.sigmas[:, 0] == np.float32(sigma)).sum()) for sigma in SIGMAS]
    assert min(first) >= 4


def test_every_copy_has_a_crop_of_its_own_before_the_noise() -> None:
    encoder, views = brightness_encoder(), CropAndFlip()
    store = stored(encoder, views=views, draws=2 * BLOCK)
    for draw in (0, 1, BLOCK + 3):
        shown = views(image_of(2), "c.png", 5, draw)
        noise = NoiseStream(5, "fit").block("c.png", draw // BLOCK, (3, SIZE, SIZE))[draw % BLOCK]
        with torch.inference_mode():
            expected = encoder.encode_image(shown[None] + torch.from_numpy(noise) * float(store.sigmas[2, draw]))
        assert torch.allclose(store.everything()[2, draw], expected[0], atol=HALF)


def test_clean_copies_are_all_alike_and_encoded_once() -> None:
    encoder, tower = counting()
    store = stored(encoder, sigmas=(0.0,))
    assert tower.blocks == [1] * 3
    for place in range(3):
        clean = encoder.encode_image(image_of(place)[None]).detach()
        assert torch.equal(store.everything()[place], clean.half().float().expand(2 * BLOCK, -1))


def test_rows_are_those_asked_for() -> None:
    store = stored(brightness_encoder())
    everything = store.everything()
    assert everything.shape == (3, 2 * BLOCK, 2)
    assert everything.dtype == torch.float32
    images, draws = np.array([2, 0]), np.array([7, 1, 99])
    assert torch.equal(store.rows(images, draws), everything[images][:, draws])


@pytest.mark.parametrize("workers", [1, 3])
def test_numbers_depend_neither_on_workers_nor_on_the_other_images(clip: Encoder, workers: int) -> None:
    together = stored(clip, workers=workers).everything()
    alone = stored(clip, ids=("b.png",), workers=1).everything()
    assert torch.equal(together[1], alone[0])


def test_files_are_read_again_and_equal_what_was_made(tmp_path: Path) -> None:
    encoder, tower = counting()
    made = stored(encoder, directory=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert tower.blocks == [BLOCK] * 6
    read = stored(encoder, directory=tmp_path)
    assert len(tower.blocks) == 6  # the encoder was not asked again
    assert torch.equal(read.everything(), made.everything())
    assert torch.equal(read.everything(), stored(encoder).everything())


def test_nested_shots_share_files(tmp_path: Path) -> None:
    encoder, tower = counting()
    stored(encoder, ids=IDS[:2], directory=tmp_path)
    tower.blocks.clear()
    stored(encoder, directory=tmp_path)
    assert tower.blocks == [BLOCK] * 2  # one image was new


@pytest.mark.parametrize(
    "changes",
    [{"seed": 6}, {"sigmas": (0.1, 0.25)}, {"sigmas": SIGMAS[::-1]}, {"draws": BLOCK}, {"views": CropAndFlip()}],
)
def test_other_settings_have_other_files(tmp_path: Path, changes: dict[str, Any]) -> None:
    encoder, tower = counting()
    stored(encoder, directory=tmp_path)
    tower.blocks.clear()
    other = stored(encoder, directory=tmp_path, **changes)
    assert len(tower.blocks) == 3 * other.draws // BLOCK
    assert len(list(tmp_path.iterdir())) == 6


def test_another_picture_of_the_same_id_has_another_file(tmp_path: Path) -> None:
    """Two data sets may both have a train/0.png, and a picture may be replaced."""
    encoder = brightness_encoder()
    settings = {"sigmas": (0.0,), "draws": BLOCK, "seed": 0, "directory": tmp_path}
    dark, bright = (
        build_store(encoder, lambda _: torch.full((3, SIZE, SIZE), value), ["train/0.png"], **settings)  # type: ignore[arg-type]  # noqa: B023
        for value in (0.1, 0.9)
    )
    assert not torch.allclose(dark.everything(), bright.everything(), atol=0.1)


def test_another_encoder_has_other_files(tmp_path: Path) -> None:
    stored(counting()[0], directory=tmp_path)
    stored(brightness_encoder(), directory=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array at all", None])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    encoder, tower = counting()
    made = stored(encoder, directory=tmp_path).everything()
    file = sorted(tmp_path.iterdir())[1]
    whole = file.read_bytes()
    file.write_bytes(whole[:-40] if damage is None else damage)
    tower.blocks.clear()
    assert torch.equal(stored(encoder, directory=tmp_path).everything(), made)
    assert tower.blocks == [BLOCK] * 2
    assert file.read_bytes() == whole


def test_a_file_of_another_shape_or_type_is_made_again(tmp_path: Path) -> None:
    encoder = brightness_encoder()
    made = stored(encoder, directory=tmp_path).everything()
    for array in (np.zeros((3, 2), np.float16), np.zeros((2 * BLOCK, 2), np.float32)):
        np.save(sorted(tmp_path.iterdir())[0], array)
        assert torch.equal(stored(encoder, directory=tmp_path).everything(), made)


def test_a_half_written_file_is_never_taken_for_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(stream: object, array: np.ndarray) -> None:  # noqa: ARG001
        stream.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    encoder = brightness_encoder()
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stored(encoder, directory=tmp_path)
    assert list(tmp_path.glob("*.npy")) == []
    assert torch.equal(stored(encoder, directory=tmp_path).everything(), stored(encoder).everything())


def test_a_store_too_large_for_memory_stays_on_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IN_MEMORY", 100)
    encoder = brightness_encoder()
    made, read = (stored(encoder, directory=tmp_path) for _ in range(2))
    for store in (made, read):
        assert all(isinstance(image.base, np.memmap) for image in store.images)
        assert torch.equal(store.everything(), stored(encoder).everything())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot keep features in .*file.*--cache"):
        stored(brightness_encoder(), directory=tmp_path / "file")


@pytest.mark.parametrize("draws", [0, -BLOCK, BLOCK - 1, BLOCK + 1])
def test_draws_are_whole_blocks(draws: int) -> None:
    with pytest.raises(InputError, match=f"multiple of {BLOCK}, got {draws}"):
        stored(brightness_encoder(), draws=draws)


def test_features_that_are_not_finite_are_no_store(tmp_path: Path) -> None:
    encoder = titer.wrap(
        lambda images: torch.where(images.amax(dim=(1, 2, 3))[:, None] > 1, torch.nan, torch.ones(len(images), 2)),
        lambda texts: torch.ones(len(texts), 2), SIZE, (0.0,) * 3, (1.0,) * 3, name="broken", fingerprint="x",
    )  # fmt: skip
    with pytest.raises(RunError, match=r"broken gave nan or infinity for a\.png"):
        stored(encoder, directory=tmp_path, workers=1)
    assert list(tmp_path.iterdir()) == []
