"""How fast training is, and how much each lever adds: images/s and MFU of a base architecture with random weights.

    python benchmarks/train_throughput.py                                # the tiny base on a CPU, SD 1.5 on a GPU
    python benchmarks/train_throughput.py --arch sd15 --resolution 512 --tune unet+text --batch_size 32
    python benchmarks/train_throughput.py --arch sd15 --levers full      # only everything off, everything on
    python benchmarks/train_throughput.py --arch sana --levers full      # also pixart, sdxl, sd35, klein (by LoRA)
    python benchmarks/train_throughput.py --render                       # results into docs/performance.md

Every row of the table is a run of train.py in a process of its own, on random images of random captions, with the
moving average on. Text encoders whose outputs are cached are small ones with states of the same width. What counts is
the median over intervals of five steps, without the first ten steps. The same command again measures only what is
missing; delete the file in benchmarks/results to measure all anew.
"""

import dataclasses
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from levers import Row, Which, plan
from throughput_tables import insert, render

from sdcxr.config import TrainConfig
from sdcxr.io.files import read_json, write_json, write_text
from sdcxr.io.run_folder import write_config
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.threads import available_cores

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "performance.md"
INTERVAL = 5  # optimizer steps per log row
WARM_UP = 10  # steps before the first that counts: compilation, recording of graphs, filling of the prefetch
PATIENCE_S = 1800  # for one run, compilation and caching included
IMAGES = 64  # in the dataset; the stream repeats them
PACKAGES = ("torch", "diffusers", "transformers", "accelerate")
MEASURED = ("images_per_s", "tflops_per_s", "mfu", "data_wait", "peak_memory_gb")

Arch = Literal["tiny", "sd15", "sd21", "sana", "pixart", "sdxl", "sd35", "klein"]


@dataclass
class ThroughputConfig:
    """Measure the throughput of training."""

    arch: Arch | None = None
    """architecture of the base, with random weights; tiny on a CPU, else sd15"""
    resolution: int | None = None
    """side of the images in pixels; 128 for tiny, else 512"""
    tune: str | None = None
    """what trains, as for train.py; unet+text for Stable Diffusion 1 and 2, else unet"""
    batch_size: int | None = None
    """images per step; 16 on a CPU, else 32"""
    steps: int = 30
    """optimizer steps that count; a multiple of 5"""
    levers: Which = "all"
    """`on`: from everything off, one more lever each; `off`: from everything on, one less each; `full`: the two ends"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to train"""
    rounds: int = 1
    """how often each row is measured, in turn; the medians count"""
    work_dir: Path | None = None
    """where base and images are kept for another call (SD: 5 GB); a temporary folder by default"""
    output: Path | None = None
    """JSON file to add to; benchmarks/results/<hardware>.json by default"""
    render: bool = False
    """only put all results in benchmarks/results into docs/performance.md"""

    def __post_init__(self) -> None:
        if self.steps < INTERVAL or self.steps % INTERVAL:
            raise UserError(f"--steps {self.steps}: must be a multiple of {INTERVAL}")
        for name in ("resolution", "batch_size", "rounds"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")


def main(config: ThroughputConfig) -> int:
    """Measure what is missing, or render what there is."""
    if config.render:
        records = [record for path in sorted(RESULTS.glob("*.json")) if "throughput" in (record := read_json(path))]
        write_text(PAGE, insert(PAGE.read_text(encoding="utf-8"), render(records)))
        print(f"{PAGE.relative_to(REPOSITORY)}: {len(records)} files of results")
        return 0
    config = filled(config)
    name = hardware(config.device)
    output = config.output or RESULTS / (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".json")
    record, benchmark = opened(output, name, config)
    with tempfile.TemporaryDirectory() as temporary:
        work = config.work_dir or Path(temporary)
        data, base = work / f"noise-{config.resolution}", work / str(config.arch)
        failed = 0
        rows = plan(config.levers, config.device, config.batch_size or 0)
        for number, row in itertools.product(range(config.rounds), rows):
            entry = entry_of(benchmark, row)
            if len(entry["rounds"]) > number or "error" in entry:
                continue
            once(base, lambda folder: write_base(config.arch or "tiny", folder))
            once(data, lambda folder: write_noise(folder, config.resolution or 0))
            start = time.perf_counter()
            try:
                values = measure(config, row, base, data, work / "run")
            except UserError as error:  # the other rows are worth having
                print(f"error: {row.label}: {error}", file=sys.stderr, flush=True)
                failed += 1
                continue
            add(entry, values)
            benchmark["rows"] = [*(other for other in benchmark["rows"] if other is not entry), entry]
            output.parent.mkdir(parents=True, exist_ok=True)
            write_json(output, record)
            said = values.get("error") or f"{values['images_per_s']:.1f} images/s, MFU {values['mfu']}"
            print(f"{row.label}: {said} ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"{output}: {len(benchmark['rows'])} rows; --render puts them into {PAGE.relative_to(REPOSITORY)}")
    return 2 if failed else 0


def filled(config: ThroughputConfig) -> ThroughputConfig:
    """The settings with those left open chosen for this machine."""
    import torch

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here")
    arch = config.arch or ("tiny" if device == "cpu" else "sd15")
    return dataclasses.replace(
        config,
        device=device,
        arch=arch,
        tune=config.tune or ("unet+text" if arch in ("tiny", "sd15", "sd21") else "unet"),
        resolution=config.resolution or (128 if arch == "tiny" else 512),
        batch_size=config.batch_size or (16 if device == "cpu" else 32),
    )


def hardware(device: str) -> str:
    """Name of the GPU, or of the processor with the number of its cores that may be used."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return f"{(models or [platform.machine()])[0]}, {available_cores()} cores"


def opened(output: Path, name: str, config: ThroughputConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of the hardware, begun anew where it is of other versions, and in it the benchmark to add rows to."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    record = read_json(output) if output.is_file() else {}
    if record.get("hardware") != name or record.get("versions") != versions:
        record = {"hardware": name, "versions": versions, "throughput": []}
    about = {key: getattr(config, key) for key in ("arch", "resolution", "tune", "batch_size", "steps", "device")}
    command = " ".join(f"--{key} {value}" for key, value in about.items())
    if config.device == "cpu":
        about["threads"] = int(os.environ.get("OMP_NUM_THREADS") or available_cores())
    for benchmark in record["throughput"]:
        if all(benchmark.get(key) == value for key, value in about.items()):
            return record, benchmark
    benchmark = about | {"command": f"python benchmarks/train_throughput.py {command}", "rows": []}
    record["throughput"].append(benchmark)
    return record, benchmark


def entry_of(benchmark: dict[str, Any], row: Row) -> dict[str, Any]:
    """What has been measured of a row, in its rounds."""
    key = {"levers": sorted(row.levers), "batch_size": row.batch_size}
    return next((old for old in benchmark["rows"] if old.items() >= key.items()), key | {"rounds": []})


def add(entry: dict[str, Any], values: dict[str, Any]) -> None:
    """Take one more round of a row into its medians, or say what kept it from being measured."""
    entry["rounds"].append(values)
    if "error" in values:
        entry["error"] = values["error"]
    else:
        entry |= {key: median([known[key] for known in entry["rounds"]]) for key in MEASURED}


def once(folder: Path, write: Callable[[Path], None]) -> None:
    """Make a folder, unless an earlier call has."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        write(unfinished)
        unfinished.rename(folder)


def write_base(arch: Arch, folder: Path) -> None:
    """A pipeline folder of the architecture with random weights."""
    from architectures import random_weights

    from sdcxr import backbones

    backbones.save(random_weights(arch, light=True), folder)


def needed(arch: Arch | None) -> dict[str, Any]:
    """Settings without which a family refuses to be trained."""
    from architectures import ARCHITECTURES

    return ARCHITECTURES[arch].tuning if arch in ARCHITECTURES else {}


def write_noise(folder: Path, resolution: int) -> None:
    """A dataset folder of noise with captions of random words."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    from sdcxr.io.manifest import COLUMNS, write_metadata

    draws = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    rows = []
    for i in range(IMAGES):
        noise = draws.integers(0, 256, (resolution, resolution), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "train" / f"{i}.png")
        text = " ".join(draws.choice(["small", "large", "left", "right", "effusion", "opacity", "no", "stable"], 12))
        rows.append(dict.fromkeys(COLUMNS) | {"file_name": f"{i}.png", "text": text, "dicom_id": f"noise-{i}"})
    write_metadata(folder / "train", pd.DataFrame(rows, columns=list(COLUMNS)))


def measure(
    config: ThroughputConfig, row: Row, base: Path, data: Path, run_dir: Path, variables: dict[str, str] | None = None
) -> dict[str, Any]:
    """Medians over the intervals of one run in the steady state, or {"error": …} where memory does not suffice.

    `variables` are added to the environment of the run.
    """
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    settings = TrainConfig(
        tune=config.tune or "unet",
        base=str(base),
        data=str(data),
        output_dir=str(run_dir / "out"),
        resolution=config.resolution,
        # It is killed once it has logged enough: nothing is spent on saving several times the model.
        max_train_steps=1_000_000,
        checkpointing_steps=1_000_000,
        lr_warmup_steps=0,
        learning_rate=1e-6,
        validation_steps=0,
        logging_steps=INTERVAL,
        report_to="none",
        **needed(config.arch) | row.settings(),
    )
    write_config(run_dir / "config.yaml", dataclasses.asdict(settings))
    command = [sys.executable, str(REPOSITORY / "train.py"), "--config", str(run_dir / "config.yaml")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | (variables or {})
    if config.device == "cpu":
        environment["ACCELERATE_USE_CPU"] = "true"
    messages = run_dir / "messages.txt"
    with messages.open("wb") as file:
        # With a group of its own, so that the processes that read data go with it.
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        wanted = (WARM_UP + config.steps) // INTERVAL
        rows = awaited(process, run_dir / "out" / "log.jsonl", wanted)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if rows is None:
        return failure(messages, process.returncode)
    rows = rows[WARM_UP // INTERVAL :]
    shutil.rmtree(run_dir)
    medians = {key: median([logged.get(key) for logged in rows]) for key in MEASURED}
    return medians | {"all_images_per_s": [logged["images_per_s"] for logged in rows]}


def awaited(process: subprocess.Popen[bytes], log: Path, wanted: int) -> list[dict[str, Any]] | None:
    """The first `wanted` rows of a log as soon as they are there; None if the process ends before."""
    start = time.monotonic()
    while time.monotonic() - start < PATIENCE_S:
        ended = process.poll() is not None
        text = log.read_text() if log.is_file() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last line may be half written
        if len(lines) >= wanted:
            return [json.loads(line) for line in lines[:wanted]]
        if ended:
            return None
        time.sleep(0.2)
    raise UserError(f"a run has not come to {wanted * INTERVAL} steps in {PATIENCE_S} s: take a smaller --batch_size")


def failure(messages: Path, code: int) -> dict[str, Any]:
    """{"error": "out of memory"} if a run that has ended says so.

    Raises:
        UserError: it has ended for another reason.
    """
    text = messages.read_text(errors="replace")
    if "out of memory" in text.lower() or code == -signal.SIGKILL:  # which is how Linux says so
        return {"error": "out of memory"}
    last = (text.strip().splitlines() or ["no message"])[-1]
    raise UserError(f"the run ended with exit code {code}: {last}")


def median(values: list[Any]) -> float | None:
    """Median of those values that there are."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


if __name__ == "__main__":
    run(main)
