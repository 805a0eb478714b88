"""JPEG files decoded with all warnings of libjpeg as errors: Pillow hides them, and they are what shows damage."""

import io

import simplejpeg
from PIL import Image

from sdcxr.io.deep import ORIENTATION
from sdcxr.io.image_files import BadImage

START, END = b"\xff\xd8", b"\xff\xd9"
_FILL = b"\0\xff"  # may stand before the end marker; libjpeg warns of the zeros
_AS_PILLOW = {"L": ("GRAY", "L"), "RGB": ("RGB", "RGB"), "CMYK": ("CMYK", "CMYK;I")}  # colour space; order of the bytes


def load_jpeg(data: bytes, at_least_px: int = 0) -> Image.Image:
    """Decode a JPEG; with `at_least_px` as grey at 1/2, 1/4 or 1/8 scale if its shorter side keeps that many pixels.

    The pixels are those of Pillow. The compressed data has no checksum: damage shows in a code that does not exist, or
    in data that ends before the picture or goes on behind it.

    Raises:
        BadImage: cut off or damaged.
        OSError, SyntaxError, ValueError: what Pillow raises of the header.
    """
    header = Image.open(io.BytesIO(data))
    if at_least_px:
        header.draft("L", (at_least_px, at_least_px))
    try:
        image = _decode(data, header)
    except ValueError as error:
        if "subsampling" in str(error):  # of colour, of a kind that simplejpeg does not know, such as 4:2:0 CMYK
            header.load()
            return header
        filled = data[: data.rfind(END)]
        if filled == (unfilled := filled.rstrip(_FILL)):
            raise _bad(error) from None
        try:
            image = _decode(unfilled + END, header)
        except ValueError:
            raise _bad(error) from None
    image.getexif()[ORIENTATION] = header.getexif().get(ORIENTATION, 1)
    return image


def _decode(data: bytes, header: Image.Image) -> Image.Image:
    """The picture in the mode and size that a header has, drafted perhaps; ValueError where libjpeg warns."""
    space, order = _AS_PILLOW[header.mode]
    pixels = simplejpeg.decode_jpeg(data, space, min_width=header.width, min_height=header.height)
    return Image.frombytes(header.mode, header.size, pixels.data, "raw", order)


def _bad(error: ValueError) -> BadImage:
    cut = "Premature end of JPEG file" in str(error)
    return BadImage("truncated image" if cut else "damaged image", f"JPEG: {error}")
