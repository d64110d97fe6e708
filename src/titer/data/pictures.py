"""Decoding: any still picture to float32 in [0, 1], one channel for grey and three for colour."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from titer.data.example import Picture
from titer.errors import PictureError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
LARGEST = 100_000_000
"""Pixels; a larger picture is refused before it is decoded."""


def read_picture(path: Path) -> Picture:
    """Decode a picture file.

    Grey stays one channel: 8-bit values are divided by 255, 16-bit ones by 65,535. Palettes become colour, CMYK becomes
    RGB, transparency is laid over black (the background of radiology, and what masks leave out). The EXIF rotation is
    applied. Of several frames the first is taken.

    Raises:
        PictureError: if the file is missing, empty, truncated, too large or no picture.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise PictureError("the file does not exist") from error
    except OSError as error:
        raise PictureError(f"the file cannot be read: {error.strerror}") from error
    if not content:
        raise PictureError("the file is empty")
    return Picture(_decode(content), hashlib.sha256(content).hexdigest())


def _decode(content: bytes) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content)) as picture:
                width, height = picture.size
                if width * height > LARGEST:
                    raise PictureError(f"{width} x {height} pixels; at most {LARGEST / 1e6:.0f} million are read")
                picture.load()
                return _pixels(ImageOps.exif_transpose(picture))
        except Image.DecompressionBombError as error:
            raise PictureError(f"too many pixels; at most {LARGEST / 1e6:.0f} million are read") from error
        except Image.UnidentifiedImageError as error:
            raise PictureError("not a picture, or of a format that is not read") from error
        except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
            raise PictureError(f"damaged: {error}") from error


def _pixels(picture: Image.Image) -> NDArray[np.float32]:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep(picture)
    if picture.mode in ("1", "L"):
        return _scaled(picture.convert("L"))
    if picture.mode in ("LA", "La"):
        grey, opacity = (np.asarray(band, np.float32) for band in picture.convert("LA").split())
        return (grey * opacity / 255**2)[..., None]
    if picture.mode in ("RGBA", "RGBa", "PA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        over_black = Image.new("RGBA", clear.size, (0, 0, 0, 255))
        return _scaled(Image.alpha_composite(over_black, clear).convert("RGB"))
    return _scaled(picture.convert("RGB"))


def _scaled(picture: Image.Image) -> NDArray[np.float32]:
    pixels = np.asarray(picture, np.float32) / np.float32(255)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _deep(picture: Image.Image) -> NDArray[np.float32]:
    """16- and 32-bit integers by the range of 16 bits, floating point as it is; refused outside [0, 1]."""
    values = np.asarray(picture).astype(np.float64)
    if picture.mode != "F":
        values /= 65_535
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise PictureError(f"values from {values.min():g} to {values.max():g} of mode {picture.mode}; expected 16 bits or [0, 1]")
    return values.astype(np.float32)[..., None]
