"""DICOM: stored values to what a viewer would show, in [0, 1] and without an 8-bit step (PS3.3 C.11.1, C.11.2, C.7.6.3).

Nothing of a file's header but photometric interpretation and window leaves this module: names, dates and identifiers of a patient
must not reach a record, so pydicom's own words, which may quote them, are not repeated either.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from titer.errors import InputError, PictureError

SUFFIXES = frozenset({".dcm", ".dicom"})

_MAGIC = slice(128, 132), b"DICM"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_ASKED = re.compile(r"(frame|window)=([^&#]+)")
_PAIR = re.compile(r"(-?[0-9.]+)/([0-9.]+)")

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """Which frame of a file, seen through which window; what stands behind ``#`` in a path.

    Args:
        frame: counted from 1; None where the file has but one.
        window: which of the file's windows, counted from 1, or (center, width) in the file's units; the first where None.
    """

    frame: int | None = None
    window: int | tuple[float, float] | None = None

    @property
    def said(self) -> str:
        """The window in the words of `Picture.decoded`."""
        return (
            f"window {self.window}" if isinstance(self.window, int) else "window {:g}/{:g}".format(*self.window or ())
        )


def choice(text: str) -> Choice:
    """``frame=3``, ``window=2``, ``window=40/400`` (center/width), joined by ``&``.

    Raises:
        PictureError: for anything else.
    """
    settings = {}
    for part in text.split("&"):
        match = _ASKED.fullmatch(part)
        if match is None:
            raise PictureError(
                f"{part!r} after the # is not understood; expected frame=N, window=N or window=CENTER/WIDTH"
            )
        settings[match[1]] = _positive(match[2]) if match[1] == "frame" else window_of(match[2])
    return Choice(**settings)  # type: ignore[arg-type]


def window_of(text: str) -> int | tuple[float, float]:
    """``2``, the second window of a file, or ``40/400``: center and width.

    Raises:
        PictureError: for anything else.
    """
    pair = _PAIR.fullmatch(text)
    try:
        if pair is None:
            return _positive(text)
        center, width = float(pair[1]), float(pair[2])
    except ValueError:
        width = 0.0
    if width < 1:
        raise PictureError(
            f"window {text!r}: expected CENTER/WIDTH with a width of at least 1, or the number of a window"
        )
    return center, width


def _positive(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise PictureError(f"{text!r} after the #: expected a whole number from 1")
    return int(text)


def is_dicom(content: bytes) -> bool:
    """Whether these are the bytes of a DICOM file."""
    where, magic = _MAGIC
    return content[where] == magic


def decode(content: bytes, chosen: Choice, largest: int) -> tuple[NDArray[np.float32], str]:
    """The pixels of one frame.

    Grey values are rescaled (slope and intercept, or modality LUT) and seen through a window (else through the file's VOI
    LUT, else over all values that its stored bits can hold); MONOCHROME1 is inverted; palettes and YBR become RGB. No
    8-bit step in between.

    Args:
        content: the file's bytes.
        chosen: frame and window.
        largest: most pixels that are decoded.

    Returns:
        Pixels (height, width, 1 or 3) in [0, 1], and in words how they came about.

    Raises:
        PictureError: without pixel data, for several frames of which none is chosen, without a decoder for the
            compression, and for what cannot be decoded.
        InputError: if pydicom is not installed.
    """
    try:
        import pydicom
    except ModuleNotFoundError as error:
        raise InputError(
            "DICOM files are read by pydicom, which is not installed: pip install 'titer[dicom]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            file = pydicom.dcmread(io.BytesIO(content))
            place = _place(file, chosen, largest)
            _take_frame_settings(file, place)
            return _shown(file, _stored(file, place), chosen)
        except PictureError:
            raise
        except Exception as error:  # on damaged bytes pydicom raises almost anything, and quotes the header
            raise PictureError(f"the DICOM file cannot be decoded ({type(error).__name__})") from error


def _place(file: Any, chosen: Choice, largest: int) -> int:
    """Index of the chosen frame, after the checks that need no pixel."""
    if not any(name in file for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise PictureError("the DICOM file has no pixel data")
    if file.Rows * file.Columns > largest:
        raise PictureError(f"{file.Columns} x {file.Rows} pixels; at most {largest // 1_000_000} million are read")
    if file.PhotometricInterpretation not in (*_GREY, *_COLOUR):
        raise PictureError(
            f"its photometric interpretation is not read; expected one of {', '.join((*_GREY, *_COLOUR))}"
        )
    frames = int(file.get("NumberOfFrames") or 1)
    if frames > 1 and chosen.frame is None:
        raise PictureError(f"{frames} frames: choose one in a table of paths, such as FILE.dcm#frame=1")
    if (chosen.frame or 1) > frames:
        raise PictureError(f"there is no frame {chosen.frame}: the file has {frames}")
    return (chosen.frame or 1) - 1


def _take_frame_settings(file: Any, place: int) -> None:
    """Enhanced files keep rescale and window for all frames, and then for each one, in groups."""
    groups = [
        *file.get("SharedFunctionalGroupsSequence", ()),
        *file.get("PerFrameFunctionalGroupsSequence", ())[place:][:1],
    ]
    for group in groups:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in group.get(name, ()):
                file.update(item)


def _stored(file: Any, place: int) -> NDArray[Any]:
    from pydicom.pixels import get_decoder, pixel_array

    syntax = file.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax.is_deflated:
        return pixel_array(file, index=place)  # type: ignore[no-any-return]
    package = "pylibjpeg pylibjpeg-openjpeg" if "2000" in syntax.name else "pylibjpeg pylibjpeg-libjpeg"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise PictureError(f"compressed as {syntax.name}, which is not read") from error
    if not decoder.is_available:
        raise PictureError(f"compressed as {syntax.name}, which needs a decoder: pip install {package}")
    try:
        return pixel_array(file, index=place)  # type: ignore[no-any-return]
    except Exception as error:
        raise PictureError(
            f"compressed as {syntax.name} and not decoded; a decoder for more of it: pip install {package}"
        ) from error


def _shown(file: Any, values: NDArray[Any], chosen: Choice) -> tuple[NDArray[np.float32], str]:
    kind = str(file.PhotometricInterpretation)
    if kind in _GREY:
        grey, through = _grey(file, values, chosen)
        return (1 - grey if kind == "MONOCHROME1" else grey).astype(np.float32)[..., None], f"DICOM {kind}, {through}"
    if chosen.window is not None:
        raise PictureError(f"a window cannot be chosen for {kind}; it is for grey pictures")
    bits = int(file.BitsStored)
    if kind == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        values = apply_color_lut(values, file)[..., :3]
        bits = values.itemsize * 8
    return np.divide(values, np.float32(2**bits - 1), dtype=np.float32), f"DICOM {kind}"


def _grey(file: Any, stored: NDArray[Any], chosen: Choice) -> tuple[Values, str]:
    """Values in [0, 1], and what they were seen through."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    values = apply_modality_lut(stored, file).astype(np.float64)
    if isinstance(chosen.window, tuple):
        return _windowed(values, *chosen.window, "LINEAR"), chosen.said
    windows = list(zip(_numbers(file, "WindowCenter"), _numbers(file, "WindowWidth"), strict=False))
    number = chosen.window or 1
    if number <= len(windows):
        center, width = windows[number - 1]
        function = str(file.get("VOILUTFunction") or "LINEAR").upper()
        return _windowed(values, center, width, function), f"window {number} ({center:g}/{width:g})"
    if chosen.window is not None:
        raise PictureError(f"there is no window {number}: the file has {len(windows)}")
    if file.get("VOILUTSequence"):
        shades = 2 ** int(file.VOILUTSequence[0].LUTDescriptor[2]) - 1
        return apply_voi(np.rint(values).astype(np.int64), file) / shades, "VOI LUT"
    low, high = _range(file)
    return (values - low) / (high - low), "all values of its bits"


def _numbers(file: Any, name: str) -> list[float]:
    value = file.get(name)
    if value is None or value == "":
        return []
    return [float(value)] if isinstance(value, int | float | str) else [float(each) for each in value]


def _range(file: Any) -> tuple[float, float]:
    """The least and the largest value that can be there after rescaling."""
    if file.get("ModalityLUTSequence"):
        return 0.0, float(2 ** int(file.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    if "PixelData" not in file:
        raise PictureError("floating-point values have no known scale; choose a window, such as FILE.dcm#window=40/400")
    bits, signed = int(file.BitsStored), bool(file.PixelRepresentation)
    stored = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    low, high = sorted(slope * value + intercept for value in stored)
    if low == high:
        raise PictureError("the rescale slope is 0")
    return low, high


def _windowed(values: Values, center: float, width: float, function: str) -> Values:
    """A window by the three functions of PS3.3 C.11.2.1.2.1 and C.11.2.1.3."""
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR" and width >= 1:
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT" or width <= 0:
        raise PictureError(f"a window of the kind {function} and width {width:g} is not understood")
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)
