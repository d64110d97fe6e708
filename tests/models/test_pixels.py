import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from titer.errors import InputError
from titer.models.pixels import Preprocess, from_config

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
