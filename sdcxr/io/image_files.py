"""Image files before they are decoded: which files are images, and why one cannot be used."""

from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom", ".dcm.gz", ".dicom.gz")
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # PNG, JPEG, TIFF, BigTIFF
_DICOM_MAGIC = slice(128, 132)  # "DICM" behind the preamble


class BadImage(Exception):
    """An image file that cannot be used: `reason` is a few words to group by, `detail` says more.

    As text it completes a sentence that begins with the file's name: "cannot be read (image file is truncated)".
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = " ".join(detail.split())

    def __str__(self) -> str:
        return "does not exist" if self.reason == "missing image" else f"cannot be read ({self.detail or self.reason})"


def is_image_name(name: str) -> bool:
    """Whether a file of this name (without folders) is an image; upper and lower case alike, hidden files are none."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def looks_like_image(path: Path) -> bool:
    """Whether a file is an image by its name or, where its suffix says nothing (`IM0001`, `1.2.840.5`), its first bytes.

    Only such a file is opened. One that cannot be opened is no image.
    """
    if is_image_name(path.name):
        return True
    if path.name.startswith(".") or path.suffix.lower() in (".csv", ".txt", ".json", ".zip", ".gz", ".html", ".md"):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head.startswith(_MAGIC) or is_dicom(head)


def is_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes or more of a file are those of DICOM part 10."""
    return head[_DICOM_MAGIC] == b"DICM"
