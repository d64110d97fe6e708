import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from titer.errors import InputError
from titer.models.pixels import Preprocess, from_config
from titer.models.resizing import matrix

HALF = (0.5, 0.5, 0.5)


def smooth(height: int, width: int) -> NDArray[np.float32]:
    """Without sharp edges, where theirs also clips between the two passes of the filter."""
    y, x = np.mgrid[:height, :width]
    return np.stack([np.sin((x + y) / 15) ** 2, np.sin(x / 9) ** 2, np.cos(y / 7) ** 2], axis=2).astype(np.float32)


@pytest.mark.parametrize("shape", [(224, 224), (300, 200), (97, 160), (40, 40)])
def test_agreement_with_clips_own_processor(shape: tuple[int, int]) -> None:
    """To within the 8-bit rounding that theirs does and ours does not."""
    eight_bits = (smooth(*shape) * 255).round().astype(np.uint8)
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_normalize=False
    )
    expected = theirs(Image.fromarray(eight_bits), return_tensors="np")["pixel_values"][0]
    ours = Preprocess(64, HALF, HALF)((eight_bits / 255).astype(np.float32)).numpy()
    assert np.abs(ours - expected).max() <= 2.01 / 255
    assert np.abs(ours - expected).mean() < 0.5 / 255


def test_agreement_with_siglips_own_processor() -> None:
    eight_bits = (smooth(120, 80) * 255).round().astype(np.uint8)
    theirs = SiglipImageProcessorPil(size={"height": 48, "width": 48}, resample=2, do_normalize=False)
    expected = theirs(Image.fromarray(eight_bits), return_tensors="np")["pixel_values"][0]
    ours = Preprocess(48, HALF, HALF, mode="squash", resample=2)((eight_bits / 255).astype(np.float32)).numpy()
    assert np.abs(ours - expected).max() <= 2.01 / 255


def test_grey_is_replicated_and_stays_in_range() -> None:
    edges = np.zeros((50, 50, 1), np.float32)
    edges[20:30, 20:30] = 1  # bicubic overshoots here
    image = Preprocess(32, HALF, HALF)(edges)
    assert image.shape == (3, 32, 32)
    assert (image[0] == image[1]).all()
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    pixels = smooth(32, 32)
    assert np.array_equal(Preprocess(32, HALF, HALF)(pixels).numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("config", "size", "mode"),
    [
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}}, 64, "crop"),
        ({"size": 64, "do_center_crop": True, "crop_size": 64}, 64, "crop"),
        ({"size": {"height": 64, "width": 64}}, 64, "squash"),
        ({"size": {"shortest_edge": 72}, "do_center_crop": True, "crop_size": 64}, 64, "crop"),
    ],
)
def test_the_variants_of_the_config_file(config: dict[str, object], size: int, mode: str) -> None:
    found = from_config(config, 64)
    assert (found.size, found.mode) == (size, mode)
    assert found(smooth(100, 90)).shape == (3, 64, 64)


def test_what_this_package_does_not_do_is_refused() -> None:
    with pytest.raises(InputError, match="square"):
        from_config({"size": {"height": 64, "width": 32}}, 64)
    with pytest.raises(InputError, match="rescale_factor"):
        from_config({"rescale_factor": 1 / 127.5}, 64)
    with pytest.raises(InputError, match="the vision tower takes 64"):
        from_config({"size": 32, "do_center_crop": True, "crop_size": 32}, 64)


def stretch(preprocess: Preprocess, height: int, width: int, bands: int, channels: int) -> float:
    found = preprocess.stretch(height, width, bands, channels)
    assert found is not None
    return found


SQUEEZED = [
    (Preprocess(48, HALF, HALF), (3, 70, 160)),
    (Preprocess(48, HALF, HALF, resize=56), (3, 31, 40)),
    (Preprocess(48, HALF, HALF, mode="squash", resample=2), (3, 90, 33)),
    (Preprocess(48, HALF, HALF, mode="pad"), (3, 70, 60)),
    (Preprocess(48, HALF, HALF, mode="pad"), (1, 20, 30)),
    (Preprocess(48, HALF, HALF, mode="squash", resample=1), (1, 120, 64)),
]


@pytest.mark.parametrize(("preprocess", "shape"), SQUEEZED)
def test_no_change_becomes_longer_than_the_stretch_says_clipped_or_not(
    preprocess: Preprocess, shape: tuple[int, int, int]
) -> None:
    bands, height, width = shape
    most = stretch(preprocess, height, width, bands, 3)
    random = np.random.default_rng(0)
    for spread in (0.01, 1.0):  # the second leaves [0, 1] nearly everywhere after resizing
        one = random.uniform(0, 1, (height, width, bands)).astype(np.float32).round(0 if spread == 1 else 3)
        two = (one + spread * random.uniform(-1, 1, one.shape)).clip(0, 1).astype(np.float32)
        assert (preprocess(one) - preprocess(two)).norm() <= most * np.linalg.norm(two - one)


@pytest.mark.parametrize(("preprocess", "shape"), SQUEEZED)
def test_some_change_becomes_as_long_as_the_stretch_says(preprocess: Preprocess, shape: tuple[int, int, int]) -> None:
    """The worst change is the outer product of both sides' first singular vectors, and Pillow itself is asked."""
    bands, height, width = shape
    vectors = [
        np.linalg.svd(matrix(side, preprocess.resample).toarray())[2][0] for side in preprocess.sides(height, width)
    ]
    colour = np.array([0.299, 0.587, 0.114]) if bands == 3 else np.ones(1)
    worst = np.outer(*vectors)[..., None] * colour / np.linalg.norm(colour)
    grey = np.full((height, width, bands), 0.5, np.float32)
    moved = (grey + 0.4 * worst).astype(np.float32)
    assert 0 < moved.min() < moved.max() < 1
    found = float((preprocess(moved) - preprocess(grey)).norm()) / 0.4
    assert found == pytest.approx(stretch(preprocess, height, width, bands, 3), rel=1e-4)


def test_of_a_filter_that_is_not_known_nothing_is_said() -> None:
    assert Preprocess(64, HALF, HALF, resample=int(Image.Resampling.NEAREST)).stretch(90, 90, 3, 3) is None


def test_the_stretch_of_a_grey_picture_counts_the_channels_that_noise_is_drawn_in() -> None:
    squares = Preprocess(64, HALF, HALF)
    assert stretch(squares, 224, 224, 3, 3) == pytest.approx(0.28907, abs=2e-5)
    assert stretch(squares, 224, 224, 1, 1) == stretch(squares, 224, 224, 3, 3)
    assert stretch(squares, 224, 224, 1, 3) == pytest.approx(np.sqrt(3) * 0.28907, abs=4e-5)
    assert stretch(Preprocess(224, HALF, HALF), 64, 64, 3, 3) == pytest.approx(3.5065, abs=2e-4)
    assert 1 < stretch(squares, 64, 64, 3, 3) < 1.00001  # rounded up, where nothing is resized
