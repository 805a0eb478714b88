"""How fast the MIMIC-CXR preparation is, on one core, and how much memory its report stage takes.

    python benchmarks/preparation.py                                                    # prints the table, two minutes
    python benchmarks/preparation.py --output benchmarks/results/preparation.json       # and writes it
    python benchmarks/preparation.py --before DIR --images 300     # compares conversion with another checkout's

Everything is synthetic: a zip archive of reports of realistic length, and grey JPEGs of 2544 × 3056 pixels.
"""

import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from data_prep import filters
from data_prep.images import convert
from data_prep.mimic_files import impressions
from data_prep.report_sections import impression
from data_prep.report_text import decode
from sdcxr.io.files import write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.memory import peak_resident_bytes

SHORT = (
    "No acute cardiopulmonary process.",
    "No evidence of pneumonia.",
    "Moderate right pleural effusion, unchanged since ___.",
    "1. Cardiomegaly. 2. Mild pulmonary edema.",
)
SENTENCES = (
    "The lungs are well expanded and clear without focal consolidation, pleural\n effusion or pneumothorax.",
    "Cardiac and mediastinal silhouettes are stable.",
    "There is a moderate right-sided pleural effusion with adjacent atelectasis,\n not significantly changed.",
    "Right-sided Port-A-Cath tip terminates in the low SVC without evidence of\n pneumothorax.",
    "No displaced fracture is seen. The imaged upper abdomen is unremarkable.",
    "Hilar contours are normal; the aorta is tortuous and calcified.",
)


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
class PreparationBenchmarkConfig:
    """Measure the preparation."""

    reports: int = 30_000
    """reports in the synthetic archive"""
    images: int = 12
    """images converted per repetition"""
    repetitions: int = 5
    """times everything is measured; the median counts"""
    output: Path | None = None
    """JSON file to write"""
    before: Path | None = None
    """root of another checkout: convert --images pictures there and here in turn, and print the ratio of the speeds"""
    memory_of: Path | None = None
    """only run the report stage on this archive, <reports>.zip, and print its peak memory (for the benchmark itself)"""


def report(random_: random.Random) -> str:
    """A report of MIMIC-CXR's form and of about its mean length (800 characters)."""
    body = "  ".join(random_.choices(SENTENCES, k=random_.randint(4, 8)))
    closing = random_.choice(SHORT) if random_.random() < 0.5 else "  ".join(random_.choices(SENTENCES, k=3))
    return (
        "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n"
        " INDICATION:  ___ year old woman with shortness of breath  // eval for pneumonia\n \n"
        " TECHNIQUE:  Chest PA and lateral\n \n COMPARISON:  Chest radiograph from ___.\n \n"
        f" FINDINGS: \n \n {body}\n \n IMPRESSION: \n \n {closing}\n"
    )


def write_archive(path: Path, n: int) -> None:
    """An archive of `n` reports in the layout of mimic-cxr-reports.zip."""
    random_ = random.Random(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(n):
            subject = 10_000_000 + number
            archive.writestr(f"files/p10/p{subject}/s{50_000_000 + number}.txt", report(random_))


def report_stage(path: Path, n: int) -> int:
    """What the preparation does with reports: unzip, parse, filter by length. Returns how many are kept."""
    wanted = {(str(10_000_000 + number), str(50_000_000 + number)) for number in range(n)}
    text = pd.Series([text for _, text in impressions(path, wanted)]).dropna()
    return int((filters.length_reasons(text, 7, 77) == "").sum())


def radiograph(seed: int, noise: float) -> Image.Image:
    """2544 × 3056 grey pixels with structure at every scale; `noise` is a standard deviation in grey levels."""
    rng = np.random.default_rng(seed)
    size = (2544, 3056)
    total = np.zeros((size[1], size[0]), np.float32)
    for cells in (4, 16, 64, 256):
        coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32)).resize(
            size, Image.Resampling.BICUBIC
        )
        total += np.asarray(coarse) * (60 / cells**0.5)
    total += rng.normal(scale=noise, size=total.shape)
    return Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))


def main(config: PreparationBenchmarkConfig) -> int:
    """Measure, print, and write."""
    if config.memory_of is not None:
        n = int(config.memory_of.stem)
        before = peak_resident_bytes()
        report_stage(config.memory_of, n)
        print(before / 1e6, peak_resident_bytes() / 1e6)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(config, Path(folder)) if config.before is None else compare(config, config.before, Path(folder))
    width = max(len(row["measured"]) for row in rows)
    for row in rows:
        target = f"   (target: {row['target']})" if row.get("target") else ""
        print(f"{row['measured']:<{width}}  {row['value']:>10,.2f} {row['unit']}{target}")
    if config.output is not None:
        packages = ("pillow", "simplejpeg", "pandas")
        versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
        config.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.output, {"machine": platform.machine(), "versions": versions, "rows": rows})
    return 0


def measure(config: PreparationBenchmarkConfig, folder: Path) -> list[dict[str, Any]]:
    """One row per quantity: {"measured", "value", "unit", "target"?, "all"?}."""
    archive = folder / "reports.zip"
    write_archive(archive, config.reports)
    per_s = []
    for _ in range(config.repetitions):
        start = time.process_time()
        kept = report_stage(archive, config.reports)
        per_s.append(config.reports / (time.process_time() - start))
    assert 0.4 < kept / config.reports < 0.6
    rows = [_row("reports through zip, parser and filter", per_s, "reports/s per core", "at least 15,000")]
    rows.append(
        _row("reports through the parser alone", _parsed_per_s(config), "reports/s per core", "at least 20,000")
    )

    # MIMIC-CXR-JPG's mean is 1.5 MB: 570.3 GB for 377,110 images.
    for kind, noise, target in (("usual", 2.0, 35), ("heavy", 3.4, 30)):
        for number in range(config.images):
            radiograph(number, noise).save(folder / f"{number}.jpg", quality=95)
        megabytes = statistics.mean((folder / f"{number}.jpg").stat().st_size for number in range(config.images)) / 1e6
        per_s = [_images_per_s(folder, config.images, f"{kind}{number}") for number in range(config.repetitions)]
        name = f"{kind} JPEG 2544 × 3056 ({megabytes:.1f} MB) to PNG 512 × 512"
        rows.append(_row(name, per_s, "images/s per core", f"at least {target}"))

    for n in (10_000, 40_000):
        archive = folder / f"{n}.zip"
        write_archive(archive, n)
        command = [sys.executable, __file__, "--memory_of", str(archive)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, peak = map(float, out.split())
        rows.append({"measured": f"peak memory, report stage, {n:,} studies", "value": peak, "unit": "MB"})
        rows.append({"measured": "  of it before the first report", "value": before, "unit": "MB"})
    return rows


def compare(config: PreparationBenchmarkConfig, before: Path, folder: Path) -> list[dict[str, Any]]:
    """Rows as of `measure`: processor time of each image there and here, one process each, taking turns to go first."""
    files = [folder / f"{seed}.jpg" for seed in range(12)]
    for seed, file in enumerate(files):
        radiograph(seed, 2.0).save(file, quality=95)
    times: tuple[list[float], list[float]] = ([], [])
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(root)) for root in (before, Path(__file__).parents[1])]
        for number in range(config.images + len(files)):
            for k in (0, 1) if number % 2 else (1, 0):
                stdin, stdout = workers[k].stdin, workers[k].stdout
                assert stdin is not None and stdout is not None
                target = folder / f"{k}-{number}.png"
                stdin.write(f"{files[number % len(files)]} {target}\n")
                seconds = float(stdout.readline())
                target.unlink()  # fails where it was not converted
                if number >= len(files):  # the first ones warm up
                    times[k].append(seconds)
    ratios = [old / new for old, new in zip(*times, strict=True)]
    names = ("before, processor time of an image", "after")
    rows = [_row(name, [1000 * one for one in each], "ms", "") for name, each in zip(names, times, strict=True)]
    return [*rows, _row("speed after / before, median of images", ratios, "", "at least 0.95")]


def _worker(root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WORKER],
        cwd=root.resolve(),
        env={"PYTHONPATH": str(root.resolve()), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _parsed_per_s(config: PreparationBenchmarkConfig) -> list[float]:
    random_ = random.Random(0)
    reports = [report(random_).encode() for _ in range(config.reports)]
    per_s = []
    for _ in range(config.repetitions):
        start = time.process_time()
        assert all(impression(decode(data)) for data in reports)
        per_s.append(len(reports) / (time.process_time() - start))
    return per_s


def _images_per_s(folder: Path, n: int, prefix: str) -> float:
    start = time.process_time()
    for number in range(n):
        assert not convert(str(folder / f"{number}.jpg"), str(folder / f"{prefix}-{number}.png"), 512, "crop").reason
    return n / (time.process_time() - start)


def _row(measured: str, values: list[float], unit: str, target: str) -> dict[str, Any]:
    return {"measured": measured, "value": statistics.median(values), "unit": unit, "target": target, "all": values}


if __name__ == "__main__":
    run(main)
