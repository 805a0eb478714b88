"""PNG: damage of any byte is found by the chunks' checksums; grey levels and channels of 16 bits are kept."""

import io

import numpy as np
import pytest
from PIL import Image

from sdcxr.io.image_files import BadImage
from sdcxr.io.png import SIGNATURE, check_png, encode_png, has_16_bits, read_16_bits
from tests.data_prep.image_variants import raw_png


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(file, format="PNG")
    return file.getvalue()


def test_every_changed_byte_and_every_cut_is_found():
    whole = png()
    check_png(whole)
    check_png(whole + b"something behind")
    for place in range(len(SIGNATURE), len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        for content in (bytes(damaged), whole[:place]):
            with pytest.raises(BadImage):
                check_png(content)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 30)])
def test_encoded_pixels_come_back_from_any_decoder(shape):
    grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for pixels in (grey, grey.T):  # contiguous or not
        data = encode_png(pixels)
        check_png(data)
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == "L"
            assert (np.asarray(image) == pixels).all()


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bits_of_every_channel_are_kept(channels):
    values = np.random.default_rng(channels).integers(0, 65536, (7, 5, channels), dtype=np.uint16)
    data = raw_png(values, 16)
    assert has_16_bits(data) and not has_16_bits(png())
    assert (read_16_bits(data) == values).all()
