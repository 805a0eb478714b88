"""The end of a JPEG: looked for without a trace."""

import io

from PIL import Image

from sdcxr.io.jpeg import check_end


def test_the_place_in_the_file_is_kept():
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG")
    image = Image.open(file)
    place = file.tell()
    check_end(image)
    assert file.tell() == place < len(file.getvalue())
