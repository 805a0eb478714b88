"""How long the search for copies of training images takes, from files to matches, and how much memory.

    python benchmarks/copies.py                              # 5,000 synthetic against 5,000 training images of 512 px
    python benchmarks/copies.py --images 500 --resolution 256

The pictures are synthetic: smooth grey patterns with noise, which compress about as radiographs do. One in a hundred
synthetic ones is an altered training image; the search has to find all of these and no other.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from eval.inputs.images import read_greys
from eval.memorization.copies import GRID, altered, best_matches, copy_threshold, whitening
from sdcxr.io.files import write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.memory import peak_resident_bytes


@dataclass
class CopiesConfig:
    """What to search."""

    images: int = 5000
    """Synthetic images, and as many training images."""
    resolution: int = 512
    """Their side in pixels."""
    output: Path | None = None
    """JSON file for the figures."""


def main(config: CopiesConfig) -> int:
    from sdcxr.runtime.threads import use_all_cores

    use_all_cores()
    with tempfile.TemporaryDirectory() as folder:
        train, synthetic, planted = make(Path(folder), config.images, config.resolution)
        start = time.perf_counter()
        known, queries = read_greys(train, GRID), read_greys(synthetic, GRID)
        read_s = time.perf_counter() - start
    start = time.perf_counter()
    common = whitening(known)
    matches = best_matches(queries, known, common)
    search_s = time.perf_counter() - start
    genuine = np.setdiff1d(np.arange(config.images), list(planted))
    threshold = copy_threshold(matches.correlation[genuine], config.images)
    found = {int(i): int(matches.index[i]) for i in np.flatnonzero(matches.correlation >= threshold)}
    figures = {
        "images": config.images,
        "resolution": config.resolution,
        "read_s": round(read_s, 1),
        "search_s": round(search_s, 1),
        "peak_memory_mb": round(peak_resident_bytes() / 1e6),
        "planted": len(planted),
        "found": sum(found.get(i) == j for i, j in planted.items()),
        "false_alarms": len(found.keys() - planted.keys()),
    }
    for name, value in figures.items():
        print(f"{name:16} {value}")
    if config.output is not None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.output, figures)
    return 0


def make(folder: Path, n: int, side: int) -> tuple[list[Path], list[Path], dict[int, int]]:
    """Training and synthetic image files, and which synthetic one was made from which training one."""
    draws = np.random.default_rng(0)
    common, grain = draws.normal(size=(5, 5)), draws.normal(0, 2, (side, side))
    train, synthetic = ([folder / f"{kind}{i}.png" for i in range(n)] for kind in ("train", "synthetic"))
    for path in train + synthetic:
        parts = 25 * common + 8 * draws.normal(size=(5, 5)), 10 * draws.normal(size=(16, 16))
        smooth = sum(
            np.asarray(Image.fromarray(part.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
            for part in parts
        )
        Image.fromarray((120 + smooth + grain).clip(0, 255).astype(np.uint8)).save(path, compress_level=1)
    copied, originals = (draws.permutation(n)[: n // 100].tolist() for _ in range(2))
    planted = dict(zip(copied, originals, strict=True))
    for i, j in planted.items():
        with Image.open(train[j]) as image:
            altered(image, draws).save(synthetic[i])
    return train, synthetic, planted


if __name__ == "__main__":
    run(main)
