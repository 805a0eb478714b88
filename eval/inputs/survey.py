"""What the image files of a folder are: formats, pixel sizes and JPEG quality, from their headers; colour."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdcxr.io.image_files import is_dicom
from sdcxr.runtime.threads import available_cores

LISTED = 3  # sizes and formats that a text names
MEAN_QUANTUM = 57.625  # of JPEG's standard luminance table (ITU-T T.81, K.1), which is that of quality 50
QUALITY_APART = 10  # JPEG qualities that differ by more are a warning


@dataclass(frozen=True)
class Survey:
    """The image files of one side. Files that cannot be opened do not count: reading them is an error elsewhere."""

    formats: dict[str, int]
    """Number of files by format, "PNG", the most frequent first."""
    sizes: dict[str, int]
    """Number of files by width and height in pixels, "512 × 512"; those of DICOM files are not read."""
    jpeg_quality: float | None
    """Median, as libjpeg counts it; None without JPEGs."""

    @property
    def text(self) -> str:
        """Formats and sizes in words."""
        quality = f" (quality about {self.jpeg_quality:.0f})" if self.jpeg_quality is not None else ""
        sizes = f"; {_listed(self.sizes)} px" if self.sizes else ""
        return ", ".join(f"{n} {name}" for name, n in self.formats.items()) + quality + sizes


def _listed(counts: Mapping[str, int]) -> str:
    names = list(counts)
    more = f" and {len(names) - LISTED} other sizes" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def survey(paths: Sequence[Path]) -> Survey:
    """Formats and sizes of image files; nothing is decoded."""
    with ThreadPoolExecutor(available_cores()) as pool:
        headers = [header for header in pool.map(_header, paths) if header is not None]
    qualities = [quality for _, _, quality in headers if quality is not None]
    formats = dict(Counter(name for name, _, _ in headers).most_common())
    sizes = dict(Counter(size for _, size, _ in headers if size).most_common())
    return Survey(formats, sizes, float(np.median(qualities)) if qualities else None)


def _header(path: Path) -> tuple[str, str, float | None] | None:
    """Format, size in words, and quality of a JPEG; None for a file that cannot be opened."""
    try:
        with path.open("rb") as file:
            if is_dicom(file.read(132)):
                return "DICOM", "", None
        with Image.open(path) as image:
            size = f"{image.width} × {image.height}"
            name = {"MPO": "JPEG"}.get(image.format or "", image.format or "?")
            tables = getattr(image, "quantization", None)
            return name, size, jpeg_quality(tables[0]) if name == "JPEG" and tables else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def jpeg_quality(luminance: Sequence[int]) -> float:
    """Quality from 1 to 100 with which libjpeg would write about this quantisation table (64 numbers)."""
    scale = 100 * float(np.mean(luminance)) / MEAN_QUANTUM
    return float(np.clip(100 - scale / 2 if scale <= 100 else 5000 / scale, 1, 100))


def colour_text(provenance: Mapping[str, Any]) -> str:
    """How coloured the images of an array of features were, in words; empty for grey ones."""
    n_colour, by = provenance.get("n_colour", 0), provenance.get("channel_difference", 0.0)
    return f"; {n_colour} with colour (channels {by:.1f} grey levels apart on average)" if n_colour else ""


def differences(real: Survey, synthetic: Survey) -> list[str]:
    """Warnings about files of the two sides that differ in what moves a distance by itself."""
    warnings = []
    if real.formats and synthetic.formats and set(real.formats) != set(synthetic.formats):
        warnings.append(
            f"the files differ in format (real: {_listed(real.formats)}; synthetic: {_listed(synthetic.formats)}): "
            "compression alone moves a distance; save both alike"
        )
    elif (one := real.jpeg_quality) and (other := synthetic.jpeg_quality) and abs(one - other) > QUALITY_APART:
        warnings.append(
            f"the JPEGs differ in quality (real: about {one:.0f}; synthetic: about {other:.0f}): compression alone "
            "moves a distance; save both alike"
        )
    if real.sizes and synthetic.sizes and set(real.sizes) != set(synthetic.sizes):
        warnings.append(
            f"the images differ in size (real: {_listed(real.sizes)}; synthetic: {_listed(synthetic.sizes)} px): "
            "resizing alone moves a distance; prepare the real ones at the size of the synthetic ones"
        )
    return warnings
