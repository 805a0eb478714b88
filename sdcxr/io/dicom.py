"""DICOM files as grey values in which larger is brighter, as a viewer shows them. pydicom is imported when needed.

Applied, in the order of PS3.3 C.11: bits stored, sign, padding, modality LUT or rescale, VOI LUT, presentation shape.
A window of values is not applied: it never changes a direction, and is often missing or wrong. What is not understood
is refused with its name.
"""

from typing import Any

import numpy as np
from PIL import Image

from sdcxr.io.deep import Deep, luma
from sdcxr.io.image_files import BadImage
from sdcxr.runtime.errors import UserError

_VR = b"AE AS AT CS DA DS DT FL FD IS LO LT OB OW PN SH SL SQ SS ST TM UI UL UN US UT".split()


def starts_like_dicom(data: bytes) -> bool:
    """Whether a file without preamble begins with a plausible DICOM element of group 2 or 8."""
    group, element, length = data[0:2], int.from_bytes(data[2:4], "little"), int.from_bytes(data[4:8], "little")
    explicit = data[4:6] in _VR
    return len(data) > 132 and group in (b"\2\0", b"\x08\0") and element < 0x70 and (explicit or length < 256)


def read_dicom(data: bytes, name: str) -> Deep:
    """Decode a DICOM file of one frame: monochrome, palette or colour. `name` is for messages.

    Raises:
        BadImage: damaged, without pixel data, of several frames, or with a property that is not understood.
        UserError: pydicom, or the decoder of this compression, is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise UserError(f"{name} is a DICOM file, which needs pydicom: pip install sdcxr[dicom]") from None
    try:
        dataset = _parse(data)
        _check_decoder(dataset.file_meta.TransferSyntaxUID, name)
        photometric = _checked_photometric(dataset)
        if photometric in ("MONOCHROME1", "MONOCHROME2"):
            return _monochrome(dataset, photometric)
        return Deep(_luma(dataset, photometric))
    except (BadImage, UserError, MemoryError):
        raise
    except Exception as error:  # pydicom raises almost anything on a damaged file
        raise BadImage("unreadable image", f"{type(error).__name__}: {error}") from None


def _refuse(what: str) -> BadImage:
    return BadImage("unsupported DICOM", what)


def _parse(data: bytes) -> Any:
    import io

    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    dataset = pydicom.dcmread(io.BytesIO(data), force=True)  # the caller has looked at the first bytes
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise _refuse(f"no pixel data {dataset.get('Modality') or ''}".strip())
    if "TransferSyntaxUID" not in dataset.file_meta:
        if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
            raise _refuse("compressed without a transfer syntax")
        implicit, little = dataset.original_encoding
        plain = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else plain
    return dataset


def _check_decoder(syntax: Any, name: str) -> None:
    from pydicom.pixels import get_decoder

    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise UserError(f"{name} is compressed ({syntax.name}), which needs: pip install sdcxr[dicom]")


def _checked_photometric(dataset: Any) -> str:
    """The photometric interpretation of a file that has nothing in its tags that is not understood."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise _refuse(f"{frames} frames")
    if Image.MAX_IMAGE_PIXELS and dataset.Rows * dataset.Columns > Image.MAX_IMAGE_PIXELS:
        raise BadImage("image too large", f"{dataset.Rows} × {dataset.Columns} pixels")
    stored, high = dataset.get("BitsStored"), dataset.get("HighBit")
    if "PixelData" in dataset and not 1 <= stored <= dataset.BitsAllocated <= 32:
        raise _refuse(f"Bits Stored {stored} of {dataset.BitsAllocated}")
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    if high not in (None, stored - 1) and (compressed or not stored - 1 < high < dataset.BitsAllocated):
        raise _refuse(f"High Bit {high} with Bits Stored {stored}")
    aspect = dataset.get("PixelAspectRatio")
    if aspect and len(set(map(float, aspect))) > 1:
        raise _refuse(f"Pixel Aspect Ratio {':'.join(map(str, aspect))}")
    if "PresentationLUTSequence" in dataset:
        raise _refuse("Presentation LUT Sequence")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    colour = photometric == "RGB" or photometric.startswith("YBR_")
    if not colour and photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"):
        raise _refuse(f"Photometric Interpretation {photometric or 'missing'}")
    if dataset.get("SamplesPerPixel") != (3 if colour else 1):
        raise _refuse(f"{dataset.get('SamplesPerPixel')} samples per pixel in {photometric}")
    return photometric


def _monochrome(dataset: Any, photometric: str) -> Deep:
    stored, padding = _stored_values(dataset)
    values = _voi(dataset, _modality(dataset, stored))
    if _inverse(dataset, photometric):
        values = -values
    return Deep(values, ~padding if padding.any() else None)


def _stored_values(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixel values within Bits Stored with their sign (int64, or the file's floats), and where they are padding."""
    from pydicom.pixels import get_decoder

    # Bits above Bits Stored (overlays, an odd High Bit) are taken off here: pydicom leaves some of them in.
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    words, _ = decoder.as_array(dataset, raw=True, correct_unused_bits=False)
    limits = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    ends = [limit for limit in limits if isinstance(limit, int | float)] if limits[0] is not None else []
    if words.dtype.kind == "f":
        return words, _between(words, ends)
    words = words.astype(np.int64)
    bits, signed = int(dataset.BitsStored), bool(dataset.get("PixelRepresentation"))
    values = _within(words >> (int(dataset.HighBit) - bits + 1), bits, signed)
    padding = _between(values, [int(_within(np.int64(end), bits, signed)) for end in ends])
    if ends and not padding.any():  # a padding value outside Bits Stored
        padding = _between(words, ends)
    return values, padding


def _within(words: Any, bits: int, signed: bool) -> Any:
    """The lowest `bits` of integers, in two's complement if `signed`."""
    values = words & ((1 << bits) - 1)
    sign = 1 << (bits - 1)
    return (values ^ sign) - sign if signed else values


def _between(values: np.ndarray, ends: list[Any]) -> np.ndarray:
    return (values >= min(ends)) & (values <= max(ends)) if ends else np.zeros(values.shape, bool)


def _modality(dataset: Any, values: np.ndarray) -> np.ndarray:
    if dataset.get("ModalityLUTSequence"):
        return _look_up(dataset, dataset.ModalityLUTSequence[0], values, "Modality LUT")
    slope, intercept = (dataset.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    slope, intercept = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if (slope, intercept) == (1.0, 0.0):
        return values
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise _refuse(f"Rescale Slope {slope:g} and Intercept {intercept:g}")
    return values * slope + intercept


def _voi(dataset: Any, values: np.ndarray) -> np.ndarray:
    if not dataset.get("VOILUTSequence"):
        return values
    return _look_up(dataset, dataset.VOILUTSequence[0], np.rint(values).astype(np.int64), "VOI LUT")


def _look_up(dataset: Any, item: Any, values: np.ndarray, name: str) -> np.ndarray:
    """Values through a LUT (PS3.3 C.11.1.1): below its first input its first entry, beyond its last its last.

    pydicom's functions overflow on negative inputs and on 8-bit entries, which occur packed in pairs.
    """
    count, first, bits = item.LUTDescriptor
    count = count or 1 << 16
    if first >= 1 << 15 and values.min() < 0:  # a signed number that was written as unsigned
        first -= 1 << 16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        table = np.frombuffer(data, np.uint8 if bits <= 8 and len(data) < 2 * count else f"{order}u2")[:count]
    else:
        table = np.atleast_1d(np.asarray(data))
    if len(table) != count:
        raise _refuse(f"{name} of {len(table)} entries that announces {count}")
    return table.astype(np.int64)[np.clip(values - first, 0, count - 1)]


def _inverse(dataset: Any, photometric: str) -> bool:
    """Whether small values are bright. Presentation LUT Shape repeats what MONOCHROME1 says (PS3.3 C.8.11.1)."""
    shape = str(dataset.get("PresentationLUTShape") or "")
    if shape not in ("", "IDENTITY", "INVERSE"):
        raise _refuse(f"Presentation LUT Shape {shape}")
    if shape == "IDENTITY" and photometric == "MONOCHROME1":
        raise _refuse("MONOCHROME1 with Presentation LUT Shape IDENTITY: one inverts, the other does not")
    return shape == "INVERSE" or photometric == "MONOCHROME1"


def _luma(dataset: Any, photometric: str) -> np.ndarray:
    """Palette and colour pictures as luma, float32 (H, W)."""
    from pydicom.pixels import apply_color_lut, get_decoder

    if dataset.HighBit != dataset.BitsStored - 1:
        raise _refuse(f"High Bit {dataset.HighBit} with Bits Stored {dataset.BitsStored}")
    if photometric == "PALETTE COLOR":
        indices, _ = _stored_values(dataset)
        colour = apply_color_lut(indices, dataset)
    else:
        colour, found = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset)
        if found["photometric_interpretation"] != "RGB":
            raise _refuse(f"colours in {found['photometric_interpretation']}")
    return luma(colour)
