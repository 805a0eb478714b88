"""What Pillow does not notice: a JPEG of which a part never reached the disk."""

from PIL import ImageFile

SCAN = b"\xff\xda"
END = b"\xff\xd9"  # which compressed pixels never hold, nor SCAN


def check_end(image: ImageFile.ImageFile) -> None:
    """Refuse a JPEG without its end, such as one whose rest is zeros: these the decoder takes for grey.

    Args:
        image: of any format, opened and not yet loaded.

    Raises:
        OSError: the file is a JPEG that was cut off.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    file = image.fp
    assert file is not None
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    # Something may lie behind the end; and a preview in the header has an end of its own, before the last scan.
    if not data.endswith(END) and data.find(END, data.rfind(SCAN)) < 0:
        raise OSError("image file is truncated: the JPEG has no end")
