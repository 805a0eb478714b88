"""JPEG files read as a whole: damage that libjpeg only warns of, and Pillow hides, is found.

The compressed data has no checksum. What shows damage: markers where none may be, restart markers out of order, and a
decoder that has its picture before the data ends, or whose data ends before it has its picture.
"""

import io
import re

from PIL import Image

from sdcxr.io.image_files import BadImage

START = b"\xff\xd8"
SCAN, END, RESTARTS = 0xDA, 0xD9, 0xDD
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_BETWEEN_SCANS = {0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, the next scan, comments
_MORE = bytes(range(1, 255)) * 8  # compressed data that no picture needs; longer than any block
_UNDECODED = {127, 128}  # level of blocks that libjpeg has no data for


class _LastByteApart(io.BytesIO):
    """Returns the data up to its last byte in one read and the rest, with the end marker, in the next."""

    def __init__(self, data: bytes, end: int) -> None:
        super().__init__(data)
        self.last = len(data[:end].rstrip(b"\0\xff")) - 1  # fill bytes may follow it

    def read(self, size: int | None = -1) -> bytes:
        missing = self.last - self.tell()
        return super().read(missing if missing > 0 and (size is None or size < 0 or size > missing) else size)


def load_jpeg(data: bytes, at_least_px: int = 0) -> Image.Image:
    """Decode a JPEG; with `at_least_px` as grey at 1/2, 1/4 or 1/8 scale if its shorter side keeps that many pixels.

    Raises:
        BadImage: cut off or damaged.
        OSError, SyntaxError, ValueError: what Pillow raises.
    """
    end = _end(data)
    file = _LastByteApart(data, end)
    image = _decode(file, at_least_px)
    if file.tell() <= file.last:
        raise BadImage("damaged image", "JPEG: the picture is complete before its data ends")
    corner = image.getpixel((image.width - 1, image.height - 1))
    if set(corner if isinstance(corner, tuple) else (corner,)) <= _UNDECODED:  # mid-grey; seldom in a whole picture
        longer = _decode(io.BytesIO(data[:end] + _MORE + data[end:]), at_least_px)
        if longer.tobytes() != image.tobytes():
            raise BadImage("damaged image", "JPEG: the data ends before the picture is complete")
    return image


def _decode(file: io.BytesIO, at_least_px: int) -> Image.Image:
    image = Image.open(file)
    if at_least_px:
        image.draft("L", (at_least_px, at_least_px))
    image.load()
    return image


def _end(data: bytes) -> int:
    """Where the end marker of the (first) picture stands; what lies behind it does not count."""
    position, marker, restarts = len(START), 0, False
    while match := _MARKER.search(data, position):
        marker, scanned = data[match.end() - 1], marker == SCAN
        restarts |= marker == RESTARTS
        if scanned and restarts:
            numbers = [number[0] & 7 for number in _RESTART.findall(data, position, match.start())]
            if numbers != [i % 8 for i in range(len(numbers))]:
                raise BadImage("damaged image", "JPEG: restart markers out of order")
        if marker == END:
            return match.start()
        if scanned and marker not in _BETWEEN_SCANS:
            raise BadImage("damaged image", f"JPEG: marker FF{marker:02X} in the compressed data")
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2])
    raise BadImage("truncated image", "image file is truncated: the JPEG has no end")
