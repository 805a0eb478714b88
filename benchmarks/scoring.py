"""How long the scores of fidelity take, given features, and how much memory; torch-fidelity and prdc beside them.

    python benchmarks/scoring.py                                              # prints the table, four minutes
    python benchmarks/scoring.py --output benchmarks/results/scoring.json     # and writes it

Fréchet distance, KID, precision, recall, density, coverage of two sides of synthetic features; every way in a process
of its own, whose peak memory is read at its end.
"""

import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eval.fid import compare_distributions
from eval.metrics.bootstrap import half_samples
from eval.metrics.prdc import NAMES
from eval.metrics.presets import Preset, measure, values_of_halves
from sdcxr.io.files import write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.memory import peak_resident_bytes
from sdcxr.runtime.threads import available_cores

WAYS = ("values", "errors", "rows", "libraries")
METRICS = ("fd", "kid", "kid_subsets", *NAMES)
PRESET = Preset("synthetic features", METRICS, kid_subset_size=1000)
MEANS = {
    "values": "the metrics alone",
    "errors": "100 half-samples for the intervals",
    "rows": "the metrics, their floor and their intervals, as the command has them",
    "libraries": "the metrics by torch-fidelity and prdc",
}


@dataclass
class ScoringBenchmarkConfig:
    """Measure scoring."""

    images: int = 5000
    """On each side."""
    dimension: int = 1024
    """Of the features."""
    output: Path | None = None
    """JSON file to write."""
    way: Literal["values", "errors", "rows", "libraries"] | None = None
    """Only this one, in this process (for the benchmark itself)."""


def main(config: ScoringBenchmarkConfig) -> int:
    if config.way is not None:
        print(json.dumps(measure_one(config.way, *sides(config.images, config.dimension))))
        return 0
    result: dict[str, Any] = {
        "images": [config.images, config.images],
        "dimension": config.dimension,
        "cores": available_cores(),
        "processor": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "ways": {},
    }
    for way in WAYS:
        flags = ["--images", str(config.images), "--dimension", str(config.dimension), "--way", way]
        done = subprocess.run([sys.executable, __file__, *flags], check=True, capture_output=True, text=True)
        result["ways"][way] = json.loads(done.stdout.splitlines()[-1])
        one = result["ways"][way]
        print(f"{MEANS[way]}: {one['seconds']:.1f} s, {one['peak_mb']:.0f} MB")
    ours, theirs = (result["ways"][way]["values"] for way in ("values", "libraries"))
    for name, value in theirs.items():
        print(f"{name:10} {ours[name]:.8g} here, {value:.8g} there")
    if config.output is not None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.output, result)
    return 0


def sides(images: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of falling variance, as networks give them; the synthetic side is shifted and narrower."""
    generator = np.random.default_rng(0)
    mixing = np.linalg.qr(generator.normal(size=(dimension, dimension)))[0] * np.arange(1, dimension + 1) ** -0.5
    real, synthetic = (generator.normal(size=(images, dimension)) @ mixing.T for _ in range(2))
    return real.astype(np.float32), (0.9 * synthetic + 0.02).astype(np.float32)


def measure_one(way: str, real: np.ndarray, synthetic: np.ndarray) -> dict[str, Any]:
    """Seconds, peak memory of this process in MB, and the values where the way gives some."""
    if way == "libraries":
        import prdc  # noqa: F401 - not part of what is timed
        import torch_fidelity  # noqa: F401
    started = time.perf_counter()
    values: dict[str, float] = {}
    if way == "libraries":
        values = libraries(real, synthetic)
    else:
        x, y = real.astype(np.float64), synthetic.astype(np.float64)
        groups = [str(i // 2) for i in range(len(x))]
        if way == "values":
            values = {name: measured.value for name, measured in measure(x, y, PRESET).items()}
        elif way == "errors":
            halves = [half_samples(groups, 100, np.random.default_rng(i)) for i in range(2)]
            values_of_halves(x, y, PRESET, *halves)
        else:
            compare_distributions(x, y, groups, groups, PRESET)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), "peak_mb": round(peak_resident_bytes() / 1e6), "values": values}


def libraries(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """The same by torch-fidelity's and prdc's functions of features; input 1 is the generated side."""
    import torch
    from prdc import compute_prdc
    from torch_fidelity import metric_fid, metric_kid

    x, y = torch.from_numpy(real).double(), torch.from_numpy(synthetic).double()
    statistics = [metric_fid.fid_features_to_statistics(side) for side in (y, x)]
    fid = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    kid = metric_kid.kid_features_to_metric(y, x, kid_subset_size=1000, kid_subsets=100, verbose=False)
    return {
        "fd": fid["frechet_inception_distance"],
        "kid_subsets": kid["kernel_inception_distance_mean"],
        **{name: float(value) for name, value in compute_prdc(real, synthetic, 5).items()},
    }


if __name__ == "__main__":
    run(main)
