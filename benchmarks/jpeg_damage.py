"""Share of damaged JPEGs that are refused: bytes set to zero, lost, replaced, or single bits changed, at random places.

    python benchmarks/jpeg_damage.py --images DIR [--output FILE.json]

DIR holds radiographs of any format; they are encoded as JPEG, then damaged. "visible" is the share of damaged files
that are kept and differ from the whole picture by more than 3 grey levels on average.
"""

import io
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdcxr.io.files import write_json
from sdcxr.io.image_files import BadImage, is_image_name
from sdcxr.io.pixels import load_upright
from sdcxr.runtime.cli import run

ENCODINGS: dict[str, dict[str, Any]] = {
    "baseline": {"quality": 95},
    "baseline, own Huffman tables": {"quality": 90, "optimize": True},
    "progressive": {"quality": 95, "progressive": True},
    "restart markers": {"quality": 95, "restart_marker_rows": 1},
}
DAMAGES: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "4096 bytes zero": lambda data, at, _: data[:at] + bytes(4096) + data[at + 4096 :],
    "4096 bytes lost": lambda data, at, _: data[:at] + data[at + 4096 :],
    "512 bytes zero": lambda data, at, _: data[:at] + bytes(512) + data[at + 512 :],
    "512 bytes replaced": lambda data, at, rng: data[:at] + rng.randbytes(512) + data[at + 512 :],
    "cut off": lambda data, at, _: data[:at],
    "a bit changed": lambda data, at, _: data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :],
}


@dataclass
class JpegDamageConfig:
    """Measure how much damage of JPEGs is noticed."""

    images: Path
    """folder of radiographs"""
    limit: int = 60
    """radiographs used"""
    repetitions: int = 4
    """places of damage for each"""
    output: Path | None = None
    """JSON file to write"""


def main(config: JpegDamageConfig) -> int:
    """Measure, print, and write."""
    rng = random.Random(0)
    paths = sorted(path for path in config.images.iterdir() if is_image_name(path.name))[: config.limit]
    pictures = [load_upright(path, stretched=True).image.convert("L") for path in paths]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for encoding, options in ENCODINGS.items():
            wholes = [_encoded(picture, options) for picture in pictures]
            for damage, apply in DAMAGES.items():
                seen = [_outcome(data, apply, Path(folder), rng) for data in wholes for _ in range(config.repetitions)]
                refused, visible = (sum(one[k] for one in seen) / len(seen) for k in (0, 1))
                rows.append({"encoding": encoding, "damage": damage, "refused": refused, "visible": visible})
                print(f"{encoding:<30} {damage:<20} refused {refused:7.1%}   kept and visible {visible:6.1%}")
    if config.output is not None:
        write_json(config.output, {"images": len(paths), "per_image": config.repetitions, "rows": rows})
    return 0


def _encoded(picture: Image.Image, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def _outcome(
    data: bytes, apply: Callable[[bytes, int, random.Random], bytes], folder: Path, rng: random.Random
) -> tuple[bool, bool]:
    """Whether a damaged copy is refused, and whether it is kept and looks different."""
    start = data.find(b"\xff\xda") + 16
    file = folder / "x.jpg"
    file.write_bytes(data)
    right = np.asarray(load_upright(file, 256).image, dtype=np.float32)
    file.write_bytes(apply(data, rng.randrange(start, max(start + 1, len(data) - 4200)), rng))
    try:
        found = np.asarray(load_upright(file, 256).image, dtype=np.float32)
    except BadImage:
        return True, False
    return False, bool(np.abs(found - right).mean() > 3)


if __name__ == "__main__":
    run(main)
