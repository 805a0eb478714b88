"""One asymmetric, chest-like picture in every kind of PNG, JPEG, TIFF and DICOM file that collections hold."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

HEIGHT, WIDTH = 108, 96
ORIENTATION = 0x0112


class Variant(NamedTuple):
    """A file, and the reason for which it is refused; "" where it is kept."""

    file_name: str
    content: bytes
    refusal: str = ""


def chest() -> np.ndarray:
    """uint8 (HEIGHT, WIDTH), 0–255: two unequal lungs, a heart to the right, bright abdomen below, a marker above."""
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]

    def disc(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return np.exp(-((((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2) ** 2))

    body = disc(0.5, 0.6, 0.52, 0.62) * (150 + 60 * y)
    lungs = 95 * disc(0.27, 0.45, 0.17, 0.3) + 70 * disc(0.75, 0.42, 0.13, 0.24)
    grey = (
        body
        - lungs
        + 60 * disc(0.6, 0.62, 0.2, 0.16)
        + 12 * np.sin(40 * y + 3 * x) * disc(0.5, 0.45, 0.4, 0.3)
        + 20 * x
    )
    grey[8:14, 12:18] = grey.max() * 0.95
    return np.rint((grey - grey.min()) * (255 / np.ptp(grey))).astype(np.uint8)


GREY = chest()
TWELVE = GREY.astype(np.uint16) * 16  # 12 bits in 16
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # what stands in the file, by its orientation tag
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def changed(values: np.ndarray, kind: str, level: float = 65535) -> np.ndarray:
    """A copy with a hot pixel, a marker or a blank edge of this level."""
    values = values.copy()
    place = {"hot": np.s_[3, 4], "marker": np.s_[4:14, 50:65], "edge": np.s_[:, :6]}[kind]
    values[place] = level
    return values


def encode(pixels: np.ndarray | Image.Image, kind: str, mode: str = "", orientation: int = 0, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    image = image.convert(mode) if mode else image
    if orientation:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def raw_png(channels: np.ndarray, bits: int, orientation: int = 0) -> bytes:
    """A PNG of (H, W, channels) with 1–16 bits per channel, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, n = channels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[n]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in channels]
    else:
        wide = np.unpackbits(channels[..., 0, None], axis=2)[..., -bits:].reshape(height, -1)
        rows = [np.packbits(row).tobytes() for row in wide]
    turned = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", ORIENTATION, 3, 1, orientation, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
        + (turned if orientation else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.ascontiguousarray(values), **({"photometric": "minisblack"} | options))
    return file.getvalue()


def stacked(*channels: np.ndarray) -> np.ndarray:
    return np.stack(channels, axis=-1)


def dicom(
    values: np.ndarray,
    photometric: str = "MONOCHROME2",
    stored: int = 0,
    syntax: str = pydicom.uid.ExplicitVRLittleEndian,
    compressed: bytes = b"",
    **tags,
) -> bytes:
    """A DICOM file of (rows, columns) or (rows, columns, colours); other tags as keywords, None to leave one out."""
    uid = pydicom.uid.UID(syntax)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    bits = values.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = values.shape[2] if values.ndim == 3 else 1
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, stored or bits, (stored or bits) - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    native = values.astype(values.dtype.newbyteorder("<" if uid.is_little_endian else ">")).tobytes()
    dataset.PixelData = encapsulate([compressed]) if compressed else native
    dataset["PixelData"].VR = "OB" if bits == 8 or compressed else "OW"
    dataset["PixelData"].is_undefined_length = bool(compressed)
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def without_header(content: bytes) -> bytes:
    """A DICOM file's dataset alone: no preamble, no group 2."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.file_meta = FileMetaDataset()
    dataset.preamble = None
    file = io.BytesIO()
    syntax = pydicom.dcmread(io.BytesIO(content)).file_meta.TransferSyntaxUID
    dataset.save_as(file, implicit_vr=syntax.is_implicit_VR, little_endian=True, enforce_file_format=False)
    return file.getvalue()


def lut(table: np.ndarray, first: int = 0, bits: int = 16, kind: str = "OW") -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(table) % 65536, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.LUTData = table.tolist() if kind == "US" else table.astype(np.uint8 if bits == 8 else "<u2").tobytes()
    item["LUTData"].VR = kind
    return [item]


def palette(table: np.ndarray) -> dict[str, object]:
    entries = {"Descriptor": [len(table), 0, 16], "Data": table.astype("<u2").tobytes()}
    names = [(colour, end) for colour in ("Red", "Green", "Blue") for end in entries]
    return {f"{colour}PaletteColorLookupTable{end}": entries[end] for colour, end in names}


def pngs() -> Iterator[tuple[str, bytes, str]]:
    """Of each variant its name, content and reason of refusal."""
    for mode in ("L", "LA", "RGB", "RGBA", "P"):
        yield mode, encode(GREY, "PNG", mode), ""
    yield "1", encode(GREY, "PNG", "1"), "mostly saturated image"
    yield "4 bits", raw_png(GREY[..., None] // 16, 4), ""
    yield "2 bits", raw_png(GREY[..., None] // 64, 2), ""
    for orientation, turn in STORED.items():
        yield f"orientation {orientation}", encode(turn(GREY), "PNG", orientation=orientation), ""
    opaque = np.full_like(TWELVE, 65535)
    channels = {"grey": TWELVE[..., None], "grey alpha": stacked(TWELVE, opaque), "rgb": stacked(*[TWELVE] * 3)}
    channels["rgba"] = stacked(*[TWELVE] * 3, opaque)
    for name, pixels in channels.items():
        yield f"16 bits {name}", raw_png(pixels, 16), ""
        for orientation in (2, 6):
            yield f"16 bits {name} orientation {orientation}", raw_png(STORED[orientation](pixels), 16, orientation), ""
    for kind in ("hot", "marker"):
        yield f"16 bits {kind}", raw_png(changed(TWELVE, kind)[..., None], 16), ""
        yield f"16 bits rgb {kind}", raw_png(stacked(*[changed(TWELVE, kind)] * 3), 16), ""
        yield f"12 bits of which 10 are used, {kind}", raw_png(changed(TWELVE // 4, kind, 4095)[..., None], 16), ""
    clear = stacked(TWELVE + 20000, changed(opaque, "edge", 0))
    yield "16 bits grey alpha, transparent edge", raw_png(clear, 16), ""
    yield "full 16 bits", raw_png(GREY[..., None].astype(np.uint16) * 257, 16), ""
    animation = {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]}
    yield "an animation", encode(GREY, "PNG", **animation), "several pictures in a file"
    yield "constant", encode(np.full_like(GREY, 9), "PNG"), "constant image"
    whole = encode(GREY, "PNG")
    yield "cut off", whole[: len(whole) // 2], "truncated image"


def jpegs() -> Iterator[tuple[str, bytes, str]]:
    yield "grey", encode(GREY, "JPEG", quality=95), ""
    yield "rgb 4:2:0", encode(GREY, "JPEG", "RGB", quality=95), ""
    yield "rgb 4:4:4", encode(GREY, "JPEG", "RGB", quality=95, subsampling=0), ""
    yield "cmyk of Adobe", encode(Image.fromarray(GREY).convert("RGB"), "JPEG", "CMYK", quality=95), ""
    yield "progressive", encode(GREY, "JPEG", quality=95, progressive=True), ""
    yield "restart markers", encode(GREY, "JPEG", quality=95, restart_marker_blocks=5), ""
    yield "own Huffman tables", encode(GREY, "JPEG", quality=80, optimize=True), ""
    yield "bytes behind the end", encode(GREY, "JPEG", quality=95) + bytes(1000), ""
    two = {"save_all": True, "append_images": [Image.fromarray(GREY[:50, :50])]}
    yield "camera's second picture", encode(GREY, "MPO", quality=95, **two), ""
    for orientation, turn in STORED.items():
        yield f"orientation {orientation}", encode(turn(GREY), "JPEG", orientation=orientation, quality=95), ""
    whole = encode(GREY, "JPEG", quality=95)
    middle = len(whole) // 2
    yield "zeros in the middle", whole[:middle] + bytes(400) + whole[middle + 400 :], "damaged image"
    yield "bytes lost in the middle", whole[:middle] + whole[middle + 400 :], "damaged image"
    yield "bytes twice in the middle", whole[:middle] + whole[middle - 400 :], "damaged image"
    yield "cut off", whole[:middle], "truncated image"


def tiffs() -> Iterator[tuple[str, bytes, str]]:
    rgb, rgb16 = stacked(*[GREY] * 3), stacked(*[TWELVE] * 3)
    for mode in ("L", "LA", "RGB", "RGBA", "CMYK", "P"):
        yield mode, encode(Image.fromarray(GREY).convert("RGB") if mode == "CMYK" else GREY, "TIFF", mode), ""
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"L {compression}", encode(GREY, "TIFF", compression=compression), ""
    yield "white is zero", tiff(255 - GREY, photometric="miniswhite"), ""
    yield "rgb planar", tiff(np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate"), ""
    numbers = {"<u2": TWELVE, ">u2": TWELVE, "i2": TWELVE.astype(int) - 2000, "u4": TWELVE.astype(float) * 1e6}
    numbers |= {"i4": TWELVE - 1e5, "f2": GREY / 255, "f4": GREY / 255 - 3, "f8": GREY * 1e3, "u8": TWELVE}
    for dtype, values in numbers.items():
        yield dtype, tiff(values.astype(dtype), byteorder=dtype[0] if dtype[0] in "<>" else None), ""
    yield "u2 lzw", encode(TWELVE, "TIFF", compression="tiff_lzw"), ""
    yield "u2 deflate with predictor", tiff(TWELVE, compression="zlib", predictor=2), ""
    yield "u2 white is zero", tiff(4095 - TWELVE, photometric="miniswhite"), ""
    yield "u2 rgb white is zero is none", tiff(rgb16, photometric="rgb"), ""
    yield "u2 rgb planar", tiff(np.moveaxis(rgb16, -1, 0), photometric="rgb", planarconfig="separate"), ""
    alpha = {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
    opaque = np.full_like(TWELVE, 65535)
    yield "u2 rgba", tiff(stacked(*[TWELVE] * 3, opaque), photometric="rgb", **alpha), ""
    yield "u2 grey alpha", tiff(stacked(TWELVE, opaque), **alpha), ""
    yield "f4 rgb", tiff(rgb16.astype(np.float32), photometric="rgb"), ""
    yield "big", tiff(TWELVE, bigtiff=True), ""
    yield "tiled", tiff(TWELVE, tile=(32, 32)), ""
    for kind in ("hot", "marker"):
        yield f"u2 {kind}", tiff(changed(TWELVE, kind)), ""
        yield f"u2 rgb {kind}", tiff(stacked(*[changed(TWELVE, kind)] * 3), photometric="rgb"), ""
        yield f"f4 {kind}", tiff(changed(GREY / np.float32(255), kind, 1e6).astype(np.float32)), ""
    yield "a pixel far below", tiff(changed(TWELVE.astype(np.int32) + 30000, "hot", 0).astype(np.uint16)), ""
    for orientation in (2, 3, 6, 8):
        turned = {"tiffinfo": {ORIENTATION: orientation}}
        yield f"orientation {orientation}", encode(STORED[orientation](GREY), "TIFF", **turned), ""
        yield (
            f"u2 orientation {orientation}",
            encode(STORED[orientation](TWELVE), "TIFF", compression="tiff_lzw", **turned),
            "",
        )
        tag = {"extratags": [(ORIENTATION, 3, 1, orientation, True)], "photometric": "rgb"}
        yield f"u2 rgb orientation {orientation}", tiff(STORED[orientation](rgb16), **tag), ""
    for value in (np.nan, np.inf):
        yield str(value), tiff(changed(GREY.astype(np.float32), "hot", value)), "NaN or infinite values"
    yield "two pages", tiff(np.stack([TWELVE, TWELVE])), "several pictures in a file"
    yield (
        "f4 rgb of two pages",
        tiff(np.stack([rgb16, rgb16]).astype("f4"), photometric="rgb"),
        "several pictures in a file",
    )


def others() -> Iterator[tuple[str, bytes, str]]:
    yield "bmp", encode(GREY, "BMP"), ""
    yield "gif", encode(GREY, "GIF"), ""
    yield "webp", encode(GREY, "WEBP", "RGB", lossless=True), ""
    yield "webp orientation 3", encode(STORED[3](GREY), "WEBP", "RGB", 3, lossless=True), ""
    yield "webp orientation 6", encode(STORED[6](GREY), "WEBP", "RGB", 6, lossless=True), ""
    yield "jpeg 2000", encode(GREY, "JPEG2000"), ""
    yield "jpeg 2000 of 16 bits", encode(TWELVE, "JPEG2000"), ""
    yield "text", b"no picture at all " * 20, "unreadable image"


def dicoms() -> Iterator[tuple[str, bytes, str]]:
    """Files that a viewer shows alike, and files that no one can be sure of."""
    down, down12 = np.arange(255, -1, -1), np.arange(4095, -1, -1)
    negative, negative12 = 255 - GREY, 4095 - TWELVE
    u1, u2 = GREY.astype(np.uint8), TWELVE
    yield "8 bits", dicom(u1), ""
    yield "12 bits", dicom(u2, stored=12), ""
    yield "full 16 bits", dicom(u2 * 16), ""
    yield "32 bits", dicom(u2.astype(np.uint32) * 1000), ""
    yield "signed", dicom((u2.astype(int) - 2048).astype(np.int16), stored=12), ""
    yield "one frame", dicom(u2, NumberOfFrames=1), ""
    yield "MONOCHROME1", dicom(negative12, "MONOCHROME1", stored=12), ""
    yield "MONOCHROME1 and INVERSE", dicom(negative12, "MONOCHROME1", PresentationLUTShape="INVERSE"), ""
    yield "INVERSE", dicom(negative12, PresentationLUTShape="INVERSE"), ""
    yield "IDENTITY", dicom(u2, PresentationLUTShape="IDENTITY"), ""
    yield "slope", dicom(u2, RescaleSlope="2.5", RescaleIntercept="-1024"), ""
    yield "negative slope", dicom(negative12, RescaleSlope="-10", RescaleIntercept="3000"), ""
    yield "negative slope alone", dicom(negative12, RescaleSlope="-1"), ""
    yield "negative slope, MONOCHROME1", dicom(u2, "MONOCHROME1", RescaleSlope="-1", RescaleIntercept="4095"), ""
    yield (
        "negative slope and window",
        dicom(negative12, RescaleSlope="-1", RescaleIntercept="4095", WindowCenter="2048", WindowWidth="4096"),
        "",
    )
    yield "window", dicom(u2, WindowCenter="2048", WindowWidth="4096"), ""
    yield "modality LUT", dicom(negative, ModalityLUTSequence=lut(down * 257)), ""
    yield "modality LUT of 8 bits", dicom(negative, ModalityLUTSequence=lut(down, bits=8)), ""
    signed = (negative12.astype(int) - 2048).astype(np.int16)
    yield "modality LUT of signed pixels", dicom(signed, ModalityLUTSequence=lut(down12, -2048, kind="US")), ""
    yield "VOI LUT", dicom(negative12, VOILUTSequence=lut(down12 * 16)), ""
    yield "VOI LUT of 65536 entries", dicom(65535 - u2, VOILUTSequence=lut(np.arange(65535, -1, -1))), ""
    yield (
        "VOI LUT behind a negative slope",
        dicom(u2, RescaleSlope="-1", RescaleIntercept="4095", VOILUTSequence=lut(down12)),
        "",
    )
    yield "two LUTs", dicom(u1, ModalityLUTSequence=lut(down), VOILUTSequence=lut(down * 257)), ""
    yield "palette", dicom(u1, "PALETTE COLOR", **palette(np.arange(256) * 257)), ""
    yield "descending palette", dicom(negative, "PALETTE COLOR", **palette(down * 257)), ""
    yield "RGB", dicom(stacked(u1, u1, u1), "RGB"), ""
    planes = np.moveaxis(stacked(u1, u1, u1), -1, 0).tobytes()
    yield "RGB in planes", dicom(stacked(u1, u1, u1), "RGB", PlanarConfiguration=1, PixelData=planes), ""
    yield "YBR_FULL", dicom(stacked(u1, np.full_like(u1, 128), np.full_like(u1, 128)), "YBR_FULL"), ""
    yield "padding", dicom(changed(u2, "edge"), PixelPaddingValue=65535), ""
    yield (
        "padding range",
        dicom(changed(changed(u2, "edge", 60000), "hot", 62000), PixelPaddingValue=60000, PixelPaddingRangeLimit=65535),
        "",
    )
    low = changed((u2.astype(int) + 1000).astype(np.int16), "edge", -30000)
    yield "signed padding", dicom(low, PixelPaddingValue=-30000), ""
    yield "padding, MONOCHROME1", dicom(changed(4095 - u2, "edge", 0), "MONOCHROME1", PixelPaddingValue=0), ""
    yield "undeclared padding", dicom(changed(u2 + 20000, "edge", 0)), ""
    for kind in ("hot", "marker"):
        yield kind, dicom(changed(u2, kind)), ""
    yield "high bit 15", dicom(u2 << 4, stored=12, HighBit=15), ""
    yield "overlay in the pixels", dicom(u2 | changed(np.zeros_like(u2), "marker", 0x1000), stored=12), ""
    j2k, over = (encode(a, "JPEG2000", no_jp2=True) for a in (u2, u2 | changed(np.zeros_like(u2), "marker", 0x1000)))
    lossless = pydicom.uid.JPEG2000Lossless
    yield "JPEG 2000", dicom(u2, stored=12, syntax=lossless, compressed=j2k), ""
    yield "JPEG 2000 with overlay", dicom(u2, stored=12, syntax=lossless, compressed=over), ""
    jpeg = encode(GREY, "JPEG", quality=95)
    yield "JPEG", dicom(u1, syntax=pydicom.uid.JPEGBaseline8Bit, compressed=jpeg), ""
    rle = pydicom.dcmread(io.BytesIO(dicom(u2, stored=12)))
    rle.compress(pydicom.uid.RLELossless)
    file = io.BytesIO()
    rle.save_as(file)
    yield "RLE", file.getvalue(), ""
    for name in ("ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian"):
        yield name, dicom(u2, stored=12, syntax=getattr(pydicom.uid, name)), ""
    yield "no header", without_header(dicom(u2, stored=12)), ""
    yield "no header, implicit", without_header(dicom(u2, stored=12, syntax=pydicom.uid.ImplicitVRLittleEndian)), ""
    refused = "unsupported DICOM"
    yield "several frames", dicom(u2, NumberOfFrames=2, PixelData=u2.tobytes() * 2), refused
    yield "no pixel data", dicom(u2, PixelData=None), refused
    yield "MONOCHROME1 and IDENTITY", dicom(u2, "MONOCHROME1", PresentationLUTShape="IDENTITY"), refused
    yield "unknown shape", dicom(u2, PresentationLUTShape="LIN OD"), refused
    yield "HSV", dicom(stacked(u1, u1, u1), "HSV"), refused
    yield "no photometric interpretation", dicom(u2, PhotometricInterpretation=None), refused
    yield "two samples", dicom(stacked(u1, u1)), refused
    yield "oblong pixels", dicom(u2, PixelAspectRatio=["2", "1"]), refused
    yield "slope 0", dicom(u2, RescaleSlope="0", RescaleIntercept="1"), refused
    yield "short LUT", dicom(u1, VOILUTSequence=[_short_lut()]), refused
    yield "high bit below the bits stored", dicom(u2, stored=12, HighBit=8), refused
    yield "compressed with an odd high bit", dicom(u2, stored=12, HighBit=15, syntax=lossless, compressed=j2k), refused
    whole = dicom(u2)
    yield "cut off", whole[: len(whole) // 2], "unreadable image"


def _short_lut() -> Dataset:
    item = lut(np.arange(100))[0]
    item.LUTDescriptor = [256, 0, 16]
    return item


@cache
def variants() -> dict[str, Variant]:
    """All of them by name."""
    found = {}
    kinds = {"png": pngs, "jpg": jpegs, "tif": tiffs, "img": others, "dcm": dicoms}
    for suffix, make in kinds.items():
        for name, content, refusal in make():
            found[f"{suffix}: {name}"] = Variant(f"x.{suffix}", content, refusal)
    plain = dicom(TWELVE, stored=12)
    for file_name in ("x", "1.2.840.5", "x.DCM", "x.dicom", "x.png"):
        found[f"DICOM named {file_name}"] = Variant(file_name, plain)
    found["DICOM named x.dcm.gz"] = Variant("x.dcm.gz", gzip.compress(plain))
    found["JPEG named x.dcm"] = Variant("x.dcm", encode(GREY, "JPEG", quality=95))
    found["PNG named x.jpg"] = Variant("x.jpg", encode(GREY, "PNG"))
    return found
