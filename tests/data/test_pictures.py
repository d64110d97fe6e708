"""Whatever a picture's mode, its pixels come out as float32 (height, width, 1 or 3) in [0, 1]."""

import hashlib
import io
import os
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from data.making import tiff
from titer.data import dicom
from titer.data.pictures import LARGEST, SUFFIXES, read_picture
from titer.errors import PictureError

GREY = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def saved(path: Path, image: Image.Image, **options: Any) -> NDArray[np.float32]:
    image.save(path, **options)
    return decoded(path)


def decoded(path: Path) -> NDArray[np.float32]:
    pixels = read_picture(path).pixels
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    return pixels


def reason(path: Path, content: bytes | None = None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path.parent) not in text
    return text


def png(*, size: tuple[int, int], body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_grey_is_one_channel_divided_by_255(tmp_path: Path) -> None:
    pixels = saved(tmp_path / "a.png", Image.fromarray(GREY))
    np.testing.assert_array_equal(pixels, (GREY / np.float32(255)).astype(np.float32)[..., None])


def test_the_digest_is_of_the_files_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path)
    assert read_picture(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_colour_is_three_channels_in_order_red_green_blue(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    pixels = saved(tmp_path / f"a{suffix}", Image.fromarray(COLOUR), **options)
    np.testing.assert_array_equal(pixels, (COLOUR / np.float32(255)).astype(np.float32))


def test_every_suffix_that_is_listed_is_read(tmp_path: Path) -> None:
    for suffix in SUFFIXES - dicom.SUFFIXES:
        assert saved(tmp_path / f"a{suffix}", Image.new("RGB", (4, 3), (200, 100, 0))).shape == (3, 4, 3)


def test_a_jpeg_in_colour_stays_colour_though_it_looks_grey(tmp_path: Path) -> None:
    assert saved(tmp_path / "a.jpg", Image.new("RGB", (4, 3), (90, 90, 90))).shape == (3, 4, 3)
    assert saved(tmp_path / "b.jpg", Image.new("L", (4, 3), 90)).shape == (3, 4, 1)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    pixels = saved(tmp_path / "a.png", Image.fromarray(GREY > 100))
    np.testing.assert_array_equal(pixels[..., 0], GREY > 100)


def test_palettes_become_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    np.testing.assert_array_equal(saved(tmp_path / "a.png", image), [[[1, 0, 0], [0, 0, 1]]])
    np.testing.assert_array_equal(saved(tmp_path / "a.gif", image), [[[1, 0, 0], [0, 0, 1]]])


def test_cmyk_becomes_red_green_blue(tmp_path: Path) -> None:
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    np.testing.assert_allclose(saved(tmp_path / "a.tif", inks), np.broadcast_to([1, 0, 0], (8, 8, 3)))
    np.testing.assert_allclose(saved(tmp_path / "a.jpg", inks), np.broadcast_to([1, 0, 0], (8, 8, 3)), atol=0.02)


@pytest.mark.parametrize(
    ("mode", "ink", "expected"),
    [
        ("RGBA", (255, 100, 0, 51), [0.2, 100 / 255 * 0.2, 0]),
        ("RGBA", (255, 255, 255, 0), [0, 0, 0]),
        ("LA", (255, 51), [0.2]),
        ("LA", (100, 255), [100 / 255]),
    ],
)
def test_transparency_is_laid_over_black(
    tmp_path: Path, mode: str, ink: tuple[int, ...], expected: list[float]
) -> None:
    pixels = saved(tmp_path / "a.png", Image.new(mode, (4, 3), ink))
    np.testing.assert_allclose(pixels, np.broadcast_to(expected, (3, 4, len(expected))), atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "ink", "clear", "channels"),
    [("L", 200, 200, 1), ("1", 1, 255, 1), ("RGB", (9, 8, 7), (9, 8, 7), 3), ("P", 1, 1, 3)],
)
def test_a_transparent_colour_is_black(tmp_path: Path, mode: str, ink: object, clear: object, channels: int) -> None:
    image = Image.new(mode, (4, 3), ink)  # type: ignore[arg-type]
    if mode == "P":
        image.putpalette([255, 255, 255] * 2)
    pixels = saved(tmp_path / "a.png", image, transparency=clear)
    np.testing.assert_array_equal(pixels, np.zeros((3, 4, channels)))


def test_a_palette_with_half_transparent_entries(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 255, 255, 255, 255, 255])
    image.putdata([0, 1])
    pixels = saved(tmp_path / "a.png", image, transparency=bytes([51, 255]))
    np.testing.assert_allclose(pixels[0, :, 0], [0.2, 1], atol=1e-6)


DEEP = (np.arange(12).reshape(3, 4) * 5957).astype(np.uint16)


def test_16_bit_png_is_divided_by_65535(tmp_path: Path) -> None:
    pixels = saved(tmp_path / "a.png", Image.fromarray(DEEP))
    np.testing.assert_allclose(pixels[..., 0], DEEP / 65535, rtol=1e-6)


@pytest.mark.parametrize(("kind", "sample_format"), [("<u2", 1), (">u2", 1), ("<u4", 1), ("<i4", 2), (">i4", 2)])
def test_deep_tiff_of_either_byte_order(tmp_path: Path, kind: str, sample_format: int) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(DEEP.astype(kind), sample_format=sample_format))
    np.testing.assert_allclose(decoded(path)[..., 0], DEEP / 65535, rtol=1e-6)


@pytest.mark.parametrize("kind", ["<f4", ">f4"])
def test_floating_point_is_taken_as_it_is(tmp_path: Path, kind: str) -> None:
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values.astype(kind), sample_format=3))
    np.testing.assert_array_equal(decoded(path)[..., 0], values)


@pytest.mark.parametrize(
    ("values", "sample_format"),
    [
        (np.array([[-1000, 3000]], "<i2"), 2),  # Hounsfield units
        (np.array([[0, 70_000]], "<u4"), 1),
        (np.array([[0, 255]], "<f4"), 3),
        (np.array([[0, np.nan]], "<f4"), 3),
        (np.array([[0, np.inf]], "<f4"), 3),
    ],
)
def test_values_without_a_known_scale_are_refused(
    tmp_path: Path, values: NDArray[np.generic], sample_format: int
) -> None:
    assert "no known scale" in reason(tmp_path / "a.tif", tiff(values, sample_format=sample_format))


UPRIGHT: dict[int, Callable[[Any], Any]] = {
    1: lambda shown: shown,
    2: np.fliplr,
    3: lambda shown: np.rot90(shown, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda shown: np.rot90(shown, -1),
    7: lambda shown: np.rot90(shown, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    blocks = np.kron(GREY, np.ones((16, 16), np.uint8))  # blocks of 16, so that JPEG keeps them
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact: dict[str, dict[str, Any]] = {".webp": {"lossless": True}, ".jpg": {"quality": 98}}
    pixels = saved(tmp_path / f"a{suffix}", Image.fromarray(blocks), exif=exif, **exact.get(suffix, {}))
    np.testing.assert_allclose(pixels[..., 0], UPRIGHT[orientation](blocks) / 255, atol=0.02)


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_a_deep_tiff_is_turned_too(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(DEEP.astype(kind), orientation=6))
    np.testing.assert_allclose(decoded(path)[..., 0], np.rot90(DEEP, -1) / 65535, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".png", ".webp"])
def test_the_first_of_several_frames_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), ink) for ink in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if suffix == ".webp" else {}
    pixels = saved(tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(pixels, np.broadcast_to([1, 0, 0], (8, 8, 3)))


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(GREY).save(path, format="PNG")
    assert decoded(path).shape == (3, 4, 1)


def test_a_missing_file(tmp_path: Path) -> None:
    assert reason(tmp_path / "a.png") == "the file does not exist"
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert reason(tmp_path / "link.png") == "the file does not exist"


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    assert reason(tmp_path / "folder.png") == "not a file"
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    assert reason(tmp_path / "pipe.png") == "not a file"


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    assert "File name too long" in reason(tmp_path / ("a" * 300))
    assert reason(tmp_path / "a\0b.png") == "the file does not exist"


def test_an_empty_file(tmp_path: Path) -> None:
    assert reason(tmp_path / "a.png", b"") == "the file is empty"


def test_not_a_picture(tmp_path: Path) -> None:
    assert "not a picture" in reason(tmp_path / "a.png", b"patient,label\n1,glioma\n")


def test_nothing_that_starts_another_program(tmp_path: Path) -> None:
    """Pillow hands PostScript to Ghostscript."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(script)).format == "EPS"
    assert "not a picture" in reason(tmp_path / "a.png", script)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".bmp", ".webp"])
def test_a_truncated_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(path)
    reason(path, path.read_bytes()[: path.stat().st_size // 2])


def test_200_megapixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(size=(20_000, 10_000), body=zlib.compress(bytes(30_000_000), 1)))
    tracemalloc.start()
    text = reason(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert "at most 100 million are read" in text


@pytest.mark.parametrize("size", [(10_001, 10_000), (40_000, 40_000), (2**31 - 1, 2**31 - 1)])
def test_above_100_megapixels(tmp_path: Path, size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "at most 100 million are read" in reason(tmp_path / "a.png", png(size=size))


def test_100_megapixels_are_let_through_to_the_decoder(tmp_path: Path) -> None:
    assert LARGEST == 10_000 * 10_000
    assert "cannot be decoded" in reason(tmp_path / "a.png", png(size=(10_000, 10_000)))


def test_a_file_of_gigabytes_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # sparse: takes no room
    assert reason(path) == "3.0 GiB; at most 1 GiB is read"


def samples() -> list[bytes]:
    files = []
    for format_ in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"):
        stream = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(COLOUR).save(stream, format_, **({} if format_ in ("GIF", "BMP") else {"exif": exif}))
        files.append(stream.getvalue())
    return [*files, tiff(DEEP.astype(">u2"))]


@settings(deadline=None)
@given(file=st.sampled_from(samples()), places=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255))))
def test_damaged_bytes_give_pixels_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, file: bytes, places: list[tuple[int, int]]
) -> None:
    content = bytearray(file)
    for place, value in places:
        content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        pixels = read_picture(path).pixels
    except PictureError:
        reason(path)
    else:
        assert pixels.ndim == 3
        assert pixels.shape[2] in (1, 3)
