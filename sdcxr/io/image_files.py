"""Image files before they are decoded: which files are images, and why one cannot be used."""

import re
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom", ".dcm.gz", ".dicom.gz")
UNREAD_SUFFIXES = (
    *(".jp2", ".j2k", ".j2c", ".jpx", ".jpf", ".jxl", ".gif", ".heic", ".heif", ".avif", ".svg", ".pdf", ".dng"),
    *(".pgm", ".ppm", ".raw", ".img", ".npy", ".npz", ".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".zip"),
)
"""Of files that hold pictures, but are not read under that name."""
_SUFFIX = re.compile(rf"(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})$", re.IGNORECASE)
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GZIP = b"\x1f\x8b"
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", *TIFF)
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


class NeedsStretch(BadImage):
    """An image whose values have no agreed place in 0–255; as text: "has more than 8 bits per pixel"."""

    def __str__(self) -> str:
        return self.reason


def is_image_name(name: str) -> bool:
    """Whether a file of this name (without folders) is an image; upper and lower case alike, hidden files are none."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def without_image_suffix(path: str) -> str:
    """A path or name without the suffix of an image: a copy in another format has the same."""
    return _SUFFIX.sub("", path)


def looks_like_image(path: Path) -> bool:
    """Whether a file is an image by its name or, where that says nothing (`IM0001`, `1.2.840.5`), its first bytes.

    Only in the latter case is it opened. A file that cannot be opened is no image.
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
