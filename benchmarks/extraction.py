"""How close feature extraction comes to the plain speed of its network.

    python benchmarks/extraction.py                                                     # DenseNet-121 and grey PNGs
    python benchmarks/extraction.py --extractor rad-dino --weights_dir DIR --output benchmarks/results/extraction.json

The images are synthetic. Without --weights_dir the network of torchxrayvision gets random weights, which are as fast.
The steady speed leaves out what is paid once: it is that of the images by which two extractions differ.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval import extractors
from eval.extractors.cache import BATCH, extract
from eval.inputs.folders import ImageFolder, read_folder
from sdcxr.io.files import write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError


@dataclass
class ExtractionBenchmarkConfig:
    """Measure the extraction of features."""

    extractor: str = "xrv-all"
    """name of an extractor"""
    weights_dir: Path | None = None
    """where its weights lie; default: random ones for torchxrayvision's DenseNets"""
    images: int = 384
    """images of the long extraction; the short one has a quarter"""
    resolution: int = 512
    """their side in pixels"""
    repetitions: int = 3
    """times everything is measured, in turn; the median counts"""
    output: Path | None = None
    """JSON file to write"""

    def __post_init__(self) -> None:
        if self.images < 4 * BATCH:
            raise UserError(f"--images {self.images}: must be at least {4 * BATCH}")


def main(config: ExtractionBenchmarkConfig) -> int:
    """Measure, print, and write."""
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder) / "images", config.images, config.resolution)
        weights = config.weights_dir or random_densenet(Path(folder) / "weights", config.extractor)
        rows = measure(images, config, weights, Path(folder))
    width = max(len(row["measured"]) for row in rows)
    for row in rows:
        target = f"   (target: {row['target']})" if "target" in row else ""
        print(f"{row['measured']:<{width}}  {row['value']:>8,.3f} {row['unit']}{target}")
    if config.output is not None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.output, {"machine": machine(), "rows": rows})
    return 0


def write_images(folder: Path, n: int, side: int) -> ImageFolder:
    """Grey PNGs with structure and a little noise, which compress as radiographs do."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        grey = (smooth + rng.normal(0, 2, (side, side))).clip(0, 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{i:05}.png")
    return read_folder(folder, "--images")


def random_densenet(folder: Path, extractor: str) -> Path:
    """A folder with random weights for one of torchxrayvision's DenseNets."""
    import torch

    from eval.extractors import xrv

    base = extractor.partition("@")[0]
    name = xrv.ALIASES.get(base, base)
    if name not in xrv.FILES or name == xrv.RESNET:
        raise UserError(f"--extractor {extractor}: give --weights_dir, too")
    folder.mkdir()
    state = xrv.torchxrayvision().models.DenseNet(weights=None).state_dict()
    torch.save(state, folder / xrv.FILES[name].file)
    return folder


def measure(
    images: ImageFolder, config: ExtractionBenchmarkConfig, weights_dir: Path, folder: Path
) -> list[dict[str, Any]]:
    """One row per quantity: {"measured", "value", "unit", "target"?, "all"}."""
    few = ImageFolder(images.folder, images.rows[: len(images) // 4])
    plain_speed = plain(config, weights_dir, images)
    speeds: dict[str, list[float]] = {"plain": [], "steady": [], "whole": []}
    for repetition in range(config.repetitions):
        speeds["plain"].append(plain_speed())
        seconds = {}
        for part in (few, images):
            cache = folder / f"cache-{repetition}-{len(part)}"
            start = time.perf_counter()
            extract(part, extractors.find_extractor(config.extractor, weights_dir), cache_dir=cache)
            seconds[len(part)] = time.perf_counter() - start
        speeds["whole"].append(len(images) / seconds[len(images)])
        speeds["steady"].append((len(images) - len(few)) / (seconds[len(images)] - seconds[len(few)]))
    of_plain = statistics.median(speeds["steady"]) / statistics.median(speeds["plain"])
    about = f"{config.extractor}, {len(images)} PNGs of {config.resolution} px"
    return [
        _row(f"plain forward, batch {BATCH}", speeds["plain"]),
        _row(f"extraction, steady ({about})", speeds["steady"]),
        _row("extraction, with loading and start of workers", speeds["whole"]),
        {"measured": "steady / plain", "value": of_plain, "unit": "", "target": "at least 0.90"},
    ]


def plain(config: ExtractionBenchmarkConfig, weights_dir: Path, images: ImageFolder) -> Callable[[], float]:
    """A function that measures images/s of the network alone, on one batch that lies on its device."""
    import torch

    from eval.inputs.images import read_grey
    from sdcxr.runtime.processes import processes
    from sdcxr.runtime.threads import use_all_cores

    use_all_cores()
    device = processes().device
    extractor = extractors.find_extractor(config.extractor, weights_dir)
    network = extractor.load(device)
    prepared = [extractor.prepare(read_grey(path)[0]) for path in images.paths[:BATCH]]
    batch = torch.from_numpy(np.stack(prepared)).to(device)
    passes = max(1, len(images) // BATCH // 2)

    def speed() -> float:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            float(network(batch).float().sum())  # warm, and waited for
            start = time.perf_counter()
            for _ in range(passes):
                output = network(batch)
            float(output.float().sum())
        return passes * BATCH / (time.perf_counter() - start)

    return speed


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    from sdcxr.runtime.processes import processes

    device = processes().device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "pillow": Image.__version__,
    }


def _row(measured: str, values: list[float]) -> dict[str, Any]:
    return {"measured": measured, "value": statistics.median(values), "unit": "images/s", "all": values}


if __name__ == "__main__":
    run(main)
