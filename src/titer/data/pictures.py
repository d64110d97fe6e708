"""Decoding: any still picture to float32 in [0, 1], one channel for grey and three for colour."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from titer.data import dicom
from titer.data.example import Picture
from titer.errors import PictureError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"}) | dicom.SUFFIXES
LARGEST = 100_000_000
"""Pixels; a larger picture is refused before it is decoded."""

# What a file holds decides, not its suffix; formats for which Pillow starts other programs (EPS) stay out.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "WEBP", "GIF")
_LARGEST_FILE = 2**30  # bytes; slides of several gigabytes would fill the memory before their size is known
_DEEPEST = 65_535
_CHOSEN = re.compile(r"(.+)#(\w+=[^#]*)", re.DOTALL)


def read_picture(path: Path) -> Picture:
    """Decode a picture file.

    Grey stays one channel: 8-bit values are divided by 255, 16-bit ones by 65,535 (also where only 12 bits are used),
    floating point is taken as it is. 16-bit colour is read with 8 bits. Palettes become colour, CMYK becomes RGB;
    transparency is laid over black, the background of radiology and of what masks leave out. The EXIF rotation is
    applied. Of several frames the first is taken. DICOM: see `titer.data.dicom`; there a frame must be chosen.

    Args:
        path: the file; a DICOM file's frame and window may follow as ``#frame=3&window=40/400``.

    Returns:
        Pixels (height, width, 1 or 3) and the SHA-256 of the file's bytes.

    Raises:
        PictureError: if the file is missing, empty, truncated, too large or no picture; the message is one line.
    """
    file, asked = _asked(path)
    return decode_picture(_content(file), asked)


def decode_picture(content: bytes, asked: str = "") -> Picture:
    """Decode the bytes of a picture file, as ``read_picture`` does.

    Args:
        content: of the file.
        asked: frame and window of a DICOM file.

    Raises:
        PictureError: as there.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    if dicom.is_dicom(content):
        pixels, decoded = dicom.decode(content, dicom.choice(asked) if asked else dicom.Choice(), LARGEST)
        return Picture(pixels, sha256, decoded)
    if asked:
        raise PictureError(f"{asked!r} after the #: only of a DICOM file can frame and window be chosen")
    return Picture(_decode(content), sha256)


def file_digest(path: Path) -> str:
    """SHA-256 of a picture file's bytes, hexadecimal; the picture is not decoded.

    Raises:
        PictureError: if the file is missing, empty or too large.
    """
    return hashlib.sha256(_content(_asked(path)[0])).hexdigest()


def _asked(path: Path) -> tuple[Path, str]:
    """The file, and what stands behind its ``#`` unless that is part of the file's name."""
    found = _CHOSEN.fullmatch(str(path))
    return (Path(found[1]), found[2]) if found and not os.path.lexists(path) else (path, "")


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise PictureError("not a file" if path.exists() else "the file does not exist")
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise PictureError(f"{size / 2**30:.1f} GiB; at most {_LARGEST_FILE / 2**30:.0f} GiB is read")
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise PictureError(f"the file cannot be read: {_line(error)}") from error
    if not content:
        raise PictureError("the file is empty")
    return content


def _decode(content: bytes) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        try:
            with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
                width, height = picture.size
                if width * height > LARGEST:
                    raise PictureError(f"{width} x {height} pixels; {_AT_MOST}")
                picture.load()
                return _pixels(ImageOps.exif_transpose(picture))
        except PictureError:
            raise
        except Image.DecompressionBombError as error:
            raise PictureError(f"far too many pixels; {_AT_MOST}") from error
        except UnidentifiedImageError as error:
            raise PictureError(
                f"not a picture, or of a kind that is not read ({', '.join(_FORMATS)}, DICOM)"
            ) from error
        except Exception as error:  # on damaged bytes Pillow's parsers raise almost anything
            raise PictureError(f"the picture cannot be decoded: {_line(error)}") from error


_AT_MOST = f"at most {LARGEST // 1_000_000} million are read"


def _line(error: Exception) -> str:
    """An error's words on one line, without the file's full path."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return " ".join((text or str(error)).split()) or type(error).__name__


def _pixels(picture: Image.Image) -> NDArray[np.float32]:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep(picture)
    clear = picture.has_transparency_data
    if picture.mode in ("1", "L", "LA", "La"):
        return _over_black(picture.convert("LA")) if clear else _scaled(picture.convert("L"))
    return _over_black(picture.convert("RGBA")) if clear else _scaled(picture.convert("RGB"))


def _over_black(picture: Image.Image) -> NDArray[np.float32]:
    """LA or RGBA to one or three channels."""
    values = _scaled(picture)
    return values[..., :-1] * values[..., -1:]


def _scaled(picture: Image.Image) -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = np.divide(np.asarray(picture), np.float32(255), dtype=np.float32)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _deep(picture: Image.Image) -> NDArray[np.float32]:
    """Integers by the range of 16 bits, floating point as it is; what lies outside has no known scale."""
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    largest = 1 if picture.mode == "F" else _DEEPEST
    if not (low >= 0 and high <= largest):  # written so that NaN is refused too
        kind = "floating point in [0, 1]" if picture.mode == "F" else f"whole numbers from 0 to {_DEEPEST}"
        raise PictureError(f"values from {low:g} to {high:g} have no known scale; expected {kind}")
    pixels: NDArray[np.float32] = np.divide(values, np.float32(largest), dtype=np.float32)
    return pixels[..., None]
