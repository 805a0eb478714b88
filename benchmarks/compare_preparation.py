"""Speed of the conversion of images in two checkouts of this project, image by image in turn, in one process each.

    python benchmarks/compare_preparation.py --before DIR              # the other checkout; this one is "after"
    python benchmarks/compare_preparation.py --before DIR --images 300 --output FILE.json

Processor time of 2544 × 3056 grey JPEGs to PNG of 512 × 512; the ratio of each image is before / after.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.preparation import radiograph
from sdcxr.io.files import write_json
from sdcxr.runtime.cli import run

# Converts the images whose names come on stdin, one at a time, and answers with the processor time in seconds.
WORKER = """
import sys, time
from data_prep.images import convert
for line in sys.stdin:
    source, target = line.split()
    start = time.process_time()
    convert(source, target, 512, "crop")
    print(time.process_time() - start, flush=True)
"""


@dataclass
class ComparePreparationConfig:
    """Compare the speed of two checkouts."""

    before: Path
    """root of the other checkout"""
    images: int = 300
    """JPEGs converted by either"""
    distinct: int = 12
    """different pictures among them"""
    output: Path | None = None
    """JSON file to write"""


def main(config: ComparePreparationConfig) -> int:
    """Measure, print, and write."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for seed in range(config.distinct):
            files.append(Path(folder, f"{seed}.jpg"))
            radiograph(seed, 2.0).save(files[-1], quality=95)
        before, after = _times(config, files, Path(folder))
    ratios = [old / new for old, new in zip(before, after, strict=True)]
    result = {
        "images": config.images,
        "before_ms": 1000 * statistics.median(before),
        "after_ms": 1000 * statistics.median(after),
        "ratio_median": statistics.median(ratios),
        "ratio_of_sums": sum(before) / sum(after),
        "ratio_of_minima": min(before) / min(after),
    }
    print(json.dumps(result, indent=2))
    if config.output is not None:
        write_json(config.output, result)
    return 0


def _times(config: ComparePreparationConfig, files: list[Path], folder: Path) -> tuple[list[float], list[float]]:
    """Seconds of each image in either checkout; which of them goes first alternates."""
    roots = [config.before.resolve(), Path(__file__).resolve().parents[1]]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=root,
            env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for root in roots
    ]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(config.images + config.distinct):  # the first ones warm up
        file = files[number % len(files)]
        for k in (0, 1) if number % 2 else (1, 0):
            stdin, stdout = workers[k].stdin, workers[k].stdout
            assert stdin is not None and stdout is not None
            target = folder / f"{k}-{number}.png"
            stdin.write(f"{file} {target}\n")
            seconds = float(stdout.readline())
            target.unlink()  # both have written it
            if number >= config.distinct:
                times[k].append(seconds)
    for worker in workers:
        worker.communicate()
    return times


if __name__ == "__main__":
    run(main)
