"""JPEG files read as a whole: damage that libjpeg only warns of, and Pillow hides, is found.

The compressed data has no checksum. What shows damage: markers where none may be, restart markers out of order, and a
decoder that has its picture before the data ends, or whose data ends before it has its picture.
"""

import io
import itertools
import re
from collections.abc import Iterator

from PIL import Image

from sdcxr.io.image_files import BadImage

START, END = b"\xff\xd8", b"\xff\xd9"
SCAN, RESTARTS = 0xDA, 0xDD
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # begins with a literal: searched 20 times faster than \xff+
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_SEQUENTIAL = {0xC0, 0xC1}
_BETWEEN_SCANS = {0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, the next scan, comments
FILL = 64  # bytes of 00 and FF that may stand before the end marker
_MORE = bytes(range(1, 255)) * 8  # compressed data that no picture needs; longer than any block
_UNDECODED = {127, 128}  # level of blocks that libjpeg has no data for


class _LastByteApart(io.BytesIO):
    """Returns the data up to its last byte in one read and the rest, with the end marker, in the next."""

    def __init__(self, data: bytes, end: int) -> None:
        super().__init__(data)
        tail = data[max(0, end - FILL) : end]
        self.last = end - len(tail) + len(tail.rstrip(b"\0\xff")) - 1

    def read(self, size: int | None = -1) -> bytes:
        missing = self.last - self.tell()
        return super().read(missing if missing > 0 and (size is None or size < 0 or size > missing) else size)


def load_jpeg(data: bytes, at_least_px: int = 0) -> Image.Image:
    """Decode a JPEG; with `at_least_px` as grey at 1/2, 1/4 or 1/8 scale if its shorter side keeps that many pixels.

    Raises:
        BadImage: cut off or damaged.
        OSError, SyntaxError, ValueError: what Pillow raises.
    """
    # The search for the end takes 3 % of a conversion, so it is left to the files that are not the usual kind.
    usual = data.endswith(END) and _is_plain(data)
    end = len(data) - len(END) if usual else _ends(data)[-1]
    image, has_more = _decode(data, end, at_least_px)
    if has_more and usual and end != (end := _ends(data)[-1]):  # something else behind the picture
        image, has_more = _decode(data, end, at_least_px)
    if has_more:
        raise BadImage("damaged image", "JPEG: the picture is complete before its data ends")
    corner = image.getpixel((image.width - 1, image.height - 1))
    undecoded = set(corner if isinstance(corner, tuple) else (corner,)) <= _UNDECODED  # seldom in a whole picture
    if undecoded or not _is_plain(data):
        ends = _ends(data)
        parts = [data[begin:end] for begin, end in itertools.pairwise([0, *ends])]
        longer, _ = _decode(_MORE.join([*parts, data[ends[-1] :]]), ends[-1] + len(parts) * len(_MORE), at_least_px)
        if longer.tobytes() != image.tobytes():
            raise BadImage("damaged image", "JPEG: the data ends before the picture is complete")
    return image


def _decode(data: bytes, end: int, at_least_px: int) -> tuple[Image.Image, bool]:
    """The picture, and whether it was complete before the last byte in front of the end marker."""
    file = _LastByteApart(data, end)
    image = Image.open(file)
    if at_least_px:
        image.draft("L", (at_least_px, at_least_px))
    image.load()
    return image, file.tell() <= file.last


def _markers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Of every marker but those of restarts its code, its place, and where the data before it began."""
    position = len(START)
    while match := _MARKER.search(data, position):
        yield data[match.end() - 1], match.start(), position
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2])


def _is_plain(data: bytes) -> bool:
    """Whether the compressed data is one piece: sequential, without restart markers."""
    header = {code for code, _, _ in itertools.takewhile(lambda marker: marker[0] != SCAN, _markers(data))}
    return RESTARTS not in header and not header.isdisjoint(_SEQUENTIAL)


def _ends(data: bytes) -> list[int]:
    """Where the pieces of compressed data end, at a restart marker or behind a scan; the last at the end marker.

    The end is that of the first picture; what lies behind it does not count.
    """
    ends, scanned = [], False
    for code, place, begin in _markers(data):
        if scanned:
            restarts = list(_RESTART.finditer(data, begin, place))
            if any(data[match.end() - 1] & 7 != i % 8 for i, match in enumerate(restarts)):
                raise BadImage("damaged image", "JPEG: restart markers out of order")
            if code not in _BETWEEN_SCANS and code != END[1]:
                raise BadImage("damaged image", f"JPEG: marker FF{code:02X} in the compressed data")
            ends += [match.start() for match in restarts] + [place]
        if code == END[1]:
            return ends or [place]
        scanned = code == SCAN
    raise BadImage("truncated image", "image file is truncated: the JPEG has no end")
