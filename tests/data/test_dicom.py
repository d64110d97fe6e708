"""DICOM files written here, against the formulas of the standard and pydicom's own windowing."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import titer
from data.making import picture
from titer.data import Data, describe, load_all, load_data
from titer.data.dicom import Choice, choice, decode
from titer.data.pictures import read_picture
from titer.errors import InputError, PictureError

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.sequence import Sequence as Items  # noqa: E402

PRIVATE = {
    "PatientName": "Doe^Johanna",
    "PatientID": "MRN-0815-4711",
    "PatientBirthDate": "19570309",
    "PatientAddress": "Rosenweg",
    "ReferringPhysicianName": "Sauerbruch^F",
    "InstitutionName": "Charite-West",
    "AccessionNumber": "ACC90210",
    "StudyDescription": "Kontrolle-nach-Sturz",
}
IMPLICIT = "1.2.840.10008.1.2"


def header(kind: str = "MONOCHROME2", syntax: str = "1.2.840.10008.1.2.1", **elements: Any) -> FileDataset:
    """A data set without pixels, full of what must not get out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in {**PRIVATE, "PhotometricInterpretation": kind, "Modality": "CT", **elements}.items():
        setattr(file, name, value)
    return file


def written(
    path: Path, pixels: NDArray[Any], bits: int | None = None, *, frames: int | None = None, **elements: Any
) -> Path:
    """A file with these stored values: (height, width), (height, width, 3), or with frames in front."""
    file = header(**elements)
    body = pixels if frames is None else pixels[0]
    file.Rows, file.Columns = body.shape[:2]
    file.SamplesPerPixel = 3 if body.ndim == 3 else 1
    if body.ndim == 3:
        file.PlanarConfiguration = 0
    if frames is not None:
        file.NumberOfFrames = frames
    file.BitsAllocated = pixels.itemsize * 8
    file.BitsStored = bits or file.BitsAllocated
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def pixels_of(path: Path) -> NDArray[np.float32]:
    pixels = read_picture(path).pixels
    assert pixels.dtype == np.float32
    assert pixels.ndim == 3
    assert 0 <= pixels.min() <= pixels.max() <= 1
    return pixels


def reason(path: Path) -> str:
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    text = str(caught.value)
    assert "\n" not in text
    assert not any(value in text for value in PRIVATE.values())
    return text


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_twelve_bits_keep_their_4096_shades(tmp_path: Path) -> None:
    pixels = pixels_of(written(tmp_path / "a.dcm", RAMP, bits=12))
    np.testing.assert_allclose(pixels[..., 0], RAMP / 4095, rtol=1e-6)
    assert len(np.unique(pixels)) == 4096


@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_eight_and_sixteen_bits(tmp_path: Path, dtype: type[np.unsignedinteger[Any]], largest: int) -> None:
    values: NDArray[Any] = np.array([[0, 1, largest // 2], [largest - 1, largest, 7]], dtype)
    np.testing.assert_allclose(pixels_of(written(tmp_path / "a.dcm", values))[..., 0], values / largest, rtol=1e-6)


def test_signed_values_without_a_window_span_their_bits(tmp_path: Path) -> None:
    values = np.array([[-2048, 0, 2047]], np.int16)
    pixels = pixels_of(written(tmp_path / "a.dcm", values, bits=12, RescaleSlope=2, RescaleIntercept=-100))
    np.testing.assert_allclose(pixels[0, :, 0], (values[0] + 2048) / 4095, rtol=1e-6)


def test_monochrome1_is_the_negative(tmp_path: Path) -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 800}
    negative = pixels_of(written(tmp_path / "a.dcm", RAMP, bits=12, kind="MONOCHROME1", **window))
    positive = pixels_of(written(tmp_path / "b.dcm", RAMP, bits=12, **window))
    np.testing.assert_allclose(negative, 1 - positive, atol=1e-7)


def test_hounsfield_units_through_a_lung_window_by_hand(tmp_path: Path) -> None:
    stored = np.array([[0, 274, 424, 1024, 1174, 4095]], np.uint16)  # -1024, -750, -600, 0, 150, 3071 HU
    path = written(
        tmp_path / "a.dcm", stored, bits=12, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=-600, WindowWidth=1500
    )
    expected = np.clip((stored[0] - 1024.0 + 600.5) / 1499 + 0.5, 0, 1)
    np.testing.assert_allclose(pixels_of(path)[0, :, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (100.5, 1), (0, 3)])
def test_windows_agree_with_pydicom(tmp_path: Path, function: str, center: float, width: float) -> None:
    from pydicom.pixels import apply_modality_lut, apply_windowing

    path = written(
        tmp_path / "a.dcm", RAMP, bits=12, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=center,
        WindowWidth=width, VOILUTFunction=function,
    )  # fmt: skip
    file = pydicom.dcmread(path)
    theirs = apply_windowing(apply_modality_lut(RAMP, file), file)
    np.testing.assert_allclose(pixels_of(path)[..., 0], (theirs + 1024) / 4095, atol=1e-6)


def test_the_first_window_unless_told(tmp_path: Path) -> None:
    two: dict[str, Any] = {"WindowCenter": [1000, 2000], "WindowWidth": [800, 100]}
    path = written(tmp_path / "a.dcm", RAMP, bits=12, **two)
    first = written(tmp_path / "1.dcm", RAMP, bits=12, WindowCenter=1000, WindowWidth=800)
    second = written(tmp_path / "2.dcm", RAMP, bits=12, WindowCenter=2000, WindowWidth=100)
    np.testing.assert_array_equal(pixels_of(path), pixels_of(first))
    np.testing.assert_array_equal(pixels_of(Path(f"{path}#window=2")), pixels_of(second))
    np.testing.assert_array_equal(pixels_of(Path(f"{path}#window=2000/100")), pixels_of(second))
    assert read_picture(path).decoded == "DICOM MONOCHROME2, window 1 (1000/800)"
    assert "there is no window 3: the file has 2" in reason(Path(f"{path}#window=3"))


def test_a_modality_table_and_a_voi_table(tmp_path: Path) -> None:
    def table(values: list[int], bits: int) -> Items:
        item = pydicom.Dataset()
        item.LUTDescriptor = [len(values), 0, bits]
        item.add_new("LUTData", "OW", np.array(values, "<u2").tobytes())
        return Items([item])

    stored = np.array([[0, 1, 2, 3]], np.uint8)
    file = header(ModalityLUTSequence=table([3, 2, 1, 0], 8), VOILUTSequence=table([0, 100, 200, 1023], 10))
    file.Rows, file.Columns, file.SamplesPerPixel, file.PixelRepresentation = 1, 4, 1, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
    file.PixelData = stored.tobytes()
    file.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_allclose(pixels_of(tmp_path / "a.dcm")[0, :, 0], np.array([1023, 200, 100, 0]) / 1023, rtol=1e-6)


def test_colour(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    np.testing.assert_allclose(pixels_of(written(tmp_path / "a.dcm", colours, kind="RGB")), colours / 255, rtol=1e-6)
    grey = np.full((2, 2, 3), 128, np.uint8)
    grey[..., 0] = [[0, 64], [128, 255]]  # Y alone: no colour
    pixels = pixels_of(written(tmp_path / "b.dcm", grey, kind="YBR_FULL"))
    np.testing.assert_allclose(pixels, np.repeat(grey[..., :1], 3, 2) / 255, atol=1e-6)


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    tables = {
        name: np.array(values, "<u2").tobytes()
        for name, values in (("Red", [0, 65535]), ("Green", [0, 32768]), ("Blue", [65535, 0]))
    }
    elements: dict[str, Any] = {f"{name}PaletteColorLookupTableDescriptor": [2, 0, 16] for name in tables}
    elements |= {f"{name}PaletteColorLookupTableData": data for name, data in tables.items()}
    pixels = pixels_of(written(tmp_path / "a.dcm", np.array([[0, 1]], np.uint8), kind="PALETTE COLOR", **elements))
    np.testing.assert_allclose(pixels[0], np.array([[0, 0, 65535], [65535, 32768, 0]]) / 65535, rtol=1e-6)


def test_a_frame_must_be_chosen_where_there_are_several(tmp_path: Path) -> None:
    frames = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)
    path = written(tmp_path / "a.dcm", frames, frames=3)
    assert reason(path) == "3 frames: choose one in a table of paths, such as FILE.dcm#frame=1"
    for number in (1, 2, 3):
        np.testing.assert_allclose(pixels_of(Path(f"{path}#frame={number}"))[..., 0], frames[number - 1] / 255)
    assert "there is no frame 4: the file has 3" in reason(Path(f"{path}#frame=4"))


def test_an_enhanced_file_has_a_window_for_each_frame(tmp_path: Path) -> None:
    def of_frame(center: float) -> Any:
        item, window, rescale = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = center, 11
        rescale.RescaleSlope, rescale.RescaleIntercept = 2, 0
        item.FrameVOILUTSequence, item.PixelValueTransformationSequence = Items([window]), Items([rescale])
        return item

    frames = np.tile(np.arange(30, dtype=np.uint8), (2, 1, 1))
    groups = Items([of_frame(10), of_frame(40)])
    path = written(tmp_path / "a.dcm", frames, frames=2, PerFrameFunctionalGroupsSequence=groups)
    for number, center in ((1, 10), (2, 40)):
        expected = np.clip((2.0 * np.arange(30) - center + 0.5) / 10 + 0.5, 0, 1)
        np.testing.assert_allclose(pixels_of(Path(f"{path}#frame={number}"))[0, :, 0], expected, atol=1e-6)


def test_no_pixels(tmp_path: Path) -> None:
    header().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert reason(tmp_path / "a.dcm") == "the DICOM file has no pixel data"


@pytest.mark.parametrize(
    ("syntax", "name", "package"),
    [
        ("1.2.840.10008.1.2.4.70", "JPEG Lossless", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless", "pylibjpeg pylibjpeg-libjpeg"),
        ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
    ],
)
def test_a_compression_without_a_decoder_is_named(tmp_path: Path, syntax: str, name: str, package: str) -> None:
    from pydicom.pixels import get_decoder

    if get_decoder(pydicom.uid.UID(syntax)).is_available:
        pytest.skip("a decoder is installed")
    path = compressed(tmp_path / "a.dcm", syntax, b"\xff\xd8\xff\xd9")
    text = reason(path)
    assert text.startswith(f"compressed as {name}")
    assert text.endswith(f"which needs a decoder: pip install {package}")


def test_a_compression_that_nothing_reads(tmp_path: Path) -> None:
    assert "MPEG2 Main Profile / Main Level, which is not read" in reason(
        compressed(tmp_path / "a.dcm", "1.2.840.10008.1.2.4.100", b"\0" * 16)
    )


def compressed(path: Path, syntax: str, content: bytes, side: int = 8) -> Path:
    file = header(syntax=syntax)
    file.Rows = file.Columns = side
    file.SamplesPerPixel, file.PixelRepresentation = 1, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
    file.PixelData = encapsulate([content])
    file["PixelData"].is_undefined_length = True
    file.save_as(path, enforce_file_format=True)
    return path


def test_jpeg_baseline_needs_no_other_package(tmp_path: Path) -> None:
    import io

    from PIL import Image

    values = np.tile(np.arange(0, 256, 32, dtype=np.uint8), (8, 1))
    packed = io.BytesIO()
    Image.fromarray(values).save(packed, "JPEG", quality=95)
    path = compressed(tmp_path / "a.dcm", "1.2.840.10008.1.2.4.50", packed.getvalue())
    np.testing.assert_allclose(pixels_of(path)[..., 0], values / 255, atol=0.03)
    assert "JPEG Baseline" in reason(compressed(tmp_path / "b.dcm", "1.2.840.10008.1.2.4.50", b"\xff\xd8\xff\xd9"))


@pytest.mark.parametrize("kind", ["HSV", "YBR_PARTIAL_420", "Doe^Johanna"])
def test_other_colours_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.warns() if "^" in kind else nullcontext():  # pydicom's, when the file is written
        path = written(tmp_path / "a.dcm", np.zeros((2, 2, 3), np.uint8), kind=kind)
    assert "is not read; expected one of MONOCHROME1" in reason(path)


def test_damaged_files_are_one_line_and_quote_nothing(tmp_path: Path) -> None:
    content = written(tmp_path / "a.dcm", RAMP, bits=12).read_bytes()
    for end in (132, 200, 500, len(content) // 2, len(content) - 1):
        (tmp_path / "b.dcm").write_bytes(content[:end])
        reason(tmp_path / "b.dcm")


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_as_pictures_are(tail: bytes) -> None:
    with pytest.raises(PictureError, match=r"^[^\n]+$"):
        decode(b"\0" * 128 + b"DICM" + tail, Choice(), 10_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("frame=3", Choice(frame=3)),
        ("window=2", Choice(window=2)),
        ("window=-600/1500&frame=12", Choice(frame=12, window=(-600, 1500))),
    ],
)
def test_what_stands_behind_the_mark(text: str, expected: Choice) -> None:
    assert choice(text) == expected


@pytest.mark.parametrize(
    "text", ["fram=3", "frame=0", "frame=x", "window=40/0", "window=1.2.3/4", "window=-1", "frame=1&", "frame=1e9"]
)
def test_what_may_not_stand_there(text: str) -> None:
    with pytest.raises(PictureError, match="expected"):
        choice(text)


def test_a_choice_is_only_for_dicom_and_a_name_may_hold_the_mark(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    assert "only of a DICOM file" in reason(Path(f"{path}#frame=1"))
    assert pixels_of(picture(tmp_path / "b#frame=1.png")).shape == (3, 4, 1)


def test_pydicom_is_asked_for_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.dcm", RAMP, bits=12)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"pip install 'titer\[dicom\]'"):
        read_picture(path)


def folder(root: Path, count: int = 4) -> Path:
    """Two classes of 12-bit files with private headers."""
    random = np.random.default_rng(0)
    for label, low in (("normal", 0), ("opaque", 2000)):
        for place in range(count):
            values = random.integers(low, low + 2000, (40, 32)).astype(np.uint16)
            written(root / label / f"{place}.dcm", values, bits=12, WindowCenter=2000, WindowWidth=4000)
    return root


def test_a_folder_of_dicom_files(tmp_path: Path) -> None:
    data = load_data(folder(tmp_path))
    assert data.counts == {"normal": 4, "opaque": 4}
    assert data.read(data.examples[0]).sha256 == data.digest(data.examples[0])


def test_a_check_tells_windows_and_knows_frames(tmp_path: Path) -> None:
    frames = np.arange(2 * 9, dtype=np.uint8).reshape(2, 3, 3)
    written(tmp_path / "a.dcm", frames, frames=2)
    rows = ["a.dcm#frame=1,x,train", "a.dcm#frame=2,y,test", "a.dcm,y,test"]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    report = describe(load_all(tmp_path / "t.csv"))
    assert report.decoded == {"DICOM MONOCHROME2, all values of its bits": 2}
    assert list(report.unreadable) == ["a.dcm"]
    assert report.identical == (("a.dcm#frame=1", "a.dcm#frame=2"),)  # one file in two splits is a leak
    assert report.contradicting == ()  # its frames may well have labels of their own


def test_another_window_for_a_whole_set(tmp_path: Path) -> None:
    folder(tmp_path / "ct")
    data = load_all(f"windowed:1000/800@{tmp_path / 'ct'}")
    assert (data.name, data.altered) == ("windowed:1000/800@ct", ("window 1000/800",))
    found, file = data.read(data.examples[0]), tmp_path / "ct" / data.examples[0].path
    np.testing.assert_array_equal(found.pixels, pixels_of(Path(f"{file}#window=1000/800")))
    assert found.sha256 == data.digest(data.examples[0])
    with pytest.raises(PictureError, match="there is no window 2"):
        second(load_all(f"windowed:2@{tmp_path / 'ct'}"))


def second(data: Data) -> object:
    return data.read(data.examples[1])


def test_a_window_needs_dicom_files(tmp_path: Path) -> None:
    folder(tmp_path / "ct")
    folder(tmp_path / "other")
    for name in ("titer:phantoms", f"pooled:{tmp_path / 'ct'},{tmp_path / 'other'}"):
        with pytest.raises(PictureError, match="needs DICOM files"):
            second(load_all(f"windowed:40/400@{name}"))
    for name in ("windowed:40/400", f"windowed:x@{tmp_path / 'ct'}", f"windowed:40/0@{tmp_path / 'ct'}"):
        with pytest.raises(InputError, match="expected"):
            load_all(name)


def everything_in(run: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file())


@pytest.mark.parametrize("verb", ["certify", "attack", "predict"])
def test_no_run_holds_private_data_or_pictures(tmp_path: Path, verb: str) -> None:
    data, out = folder(tmp_path / "data", 2), tmp_path / "run"
    header().save_as(data / "normal" / "report.dcm", enforce_file_format=True)
    settings: dict[str, dict[str, Any]] = {
        "certify": {"sigma": 0.25, "n": 100},
        "predict": {"sigma": 0.25, "n": 100},
        "attack": {"name": "fgsm", "eps": 1 / 255},
    }
    named = {"model": "titer:tiny", "data": data}
    run = getattr(titer, verb)(**named, out=out, **settings[verb])
    assert run.info["samples"] == {"expected": 5, "done": 4, "failed": 1}
    content = everything_in(out)
    assert b'"decoded":"DICOM MONOCHROME2, window 1 (2000/4000)"' in content.replace(b'": "', b'":"')
    for value in PRIVATE.values():
        assert value.encode() not in content
        assert value.partition("^")[0].encode() not in content
    assert not (out / "images").exists()


def test_thumbnails_are_kept_where_asked_for(tmp_path: Path) -> None:
    run = titer.predict(
        "titer:tiny", folder(tmp_path / "data", 1), sigma=0.25, n=100, images=True, out=tmp_path / "run"
    )
    assert len(list((run.path / "images").iterdir())) == 2
