"""generate.py against the plain diffusers pipeline called as its documentation shows: same model, prompts and seeds.

    python benchmarks/generation.py                                          # embedded architecture, random weights
    python benchmarks/generation.py --model RUN/pipeline --precision bf16    # a pipeline folder; on a GPU if there is
    python benchmarks/generation.py --arch sd15 --images 64 --steps 50       # Stable Diffusion 1.5's architecture

Each run is a process of its own that makes all images, both sides in turn within each round. Seconds are those of the
whole process, start-up included; images/s those of the steady state, from the time of the first batch's last file to
that of the last one's. The images are compared: grey against the mean of the plain pipeline's three channels.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from PIL import Image
from train_throughput import REPOSITORY, RESULTS, Arch, hardware, write_base
from vs_diffusers import versions, words

from sdcxr.generation.plan import image_seed
from sdcxr.io.files import write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.threads import WAITING

PLAIN = """
import json, sys
import torch
from diffusers import StableDiffusionPipeline

job = json.loads(sys.argv[1])
dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[job["precision"]]
pipeline = StableDiffusionPipeline.from_pretrained(job["model"], torch_dtype=dtype)
pipeline = pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
if job["channels_last"]:
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
if job["torch_compile"]:
    pipeline.unet = torch.compile(pipeline.unet, mode="reduce-overhead")
for start in range(0, len(job["prompts"]), job["batch_size"]):
    part = slice(start, start + job["batch_size"])
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in job["seeds"][part]]
    images = pipeline(
        job["prompts"][part],
        num_inference_steps=job["steps"],
        guidance_scale=job["guidance_scale"],
        generator=generators,
    ).images
    for path, image in zip(job["paths"][part], images):
        image.save(path)
"""
WORDS = ("small", "large", "left", "right", "effusion", "opacity", "no", "stable")

Side = Literal["ours", "plain", "plain, channels last", "plain, compiled"]


@dataclass
class GenerationBenchmarkConfig:
    """Measure generation."""

    model: Path | None = None
    """pipeline folder of Stable Diffusion's classes; one of `--arch` with random weights by default"""
    arch: Arch = "tiny"
    """architecture of the random weights"""
    images: int = 64
    """images of a run, each of a prompt of its own"""
    batch_sizes: str = "1,16"
    """images per step, separated by commas; each is measured"""
    steps: int = 25
    """denoising steps"""
    guidance_scale: float = 4.0
    """of classifier-free guidance"""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """of the weights, on both sides"""
    variants: bool = False
    """measure the plain pipeline with channels last and with torch.compile as well; for GPUs"""
    rounds: int = 3
    """times everything is run; the medians count"""
    output: Path = RESULTS / "generation.json"
    """JSON file to write"""

    def __post_init__(self) -> None:
        if not all(size.isdigit() and 2 * int(size) <= self.images for size in self.batch_sizes.split(",")):
            raise UserError(f"--batch_sizes {self.batch_sizes}: give numbers, at most half of --images {self.images}")


def main(config: GenerationBenchmarkConfig) -> int:
    """Measure, compare the images, print a table, and write."""
    sides: list[Side] = ["ours", "plain"]
    if config.variants:
        sides += ["plain, channels last", "plain, compiled"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="generation-") as folder:
        work = Path(folder)
        model = config.model or work / "model"
        if config.model is None:
            write_base(config.arch, model)
        prompts = write_prompts(work / "prompts.csv", config.images)
        for batch_size in map(int, config.batch_sizes.split(",")):
            results: dict[Side, list[dict[str, float]]] = {side: [] for side in sides}
            for number in range(config.rounds):
                for side in sides:
                    result = measure(side, config, batch_size, model, prompts, work / side)
                    print(f"round {number + 1}, batch {batch_size}: {side} {result}", flush=True)
                    results[side].append(result)
            apart = levels_apart(work / "ours", work / "plain")
            rows += [summary(side, batch_size, results[side], results["plain"], apart) for side in sides]
    print("\n" + table(rows))
    settings = {name: value for name, value in asdict(config).items() if name not in ("model", "output", "rounds")}
    record = {"hardware": hardware("cuda" if on_gpu() else "cpu"), "versions": versions(), "settings": settings}
    config.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(config.output, record | {"model": "given" if config.model else "random weights", "rows": rows})
    return 0


def on_gpu() -> bool:
    """Whether torch finds a CUDA device."""
    import torch

    return torch.cuda.is_available()


def write_prompts(path: Path, n: int) -> pd.DataFrame:
    """A table of n different prompts; its columns id and text."""
    draws = np.random.default_rng(0)
    texts = [" ".join([f"image {i}:", *draws.choice(WORDS, 8)]) for i in range(n)]
    rows = pd.DataFrame({"id": [f"p{i}" for i in range(n)], "text": texts})
    rows.to_csv(path, index=False)
    return rows


def measure(
    side: Side, config: GenerationBenchmarkConfig, batch_size: int, model: Path, prompts: pd.DataFrame, output: Path
) -> dict[str, float]:
    """Seconds of one run and its images/s in the steady state.

    Raises:
        UserError: it failed; says its last line.
    """
    shutil.rmtree(output, ignore_errors=True)
    paths = [output / f"{name}_0.png" for name in prompts["id"]]
    environment = {name: value for name, value in os.environ.items() if WAITING.get(name) != value}
    if side == "ours":
        flags: dict[str, Any] = {"model": model, "prompts": output.parent / "prompts.csv", "output_dir": output}
        flags |= {"num_images_per_prompt": 1, "num_inference_steps": config.steps, "batch_size": batch_size}
        flags |= {"guidance_scale": config.guidance_scale, "mixed_precision": config.precision}
        command = [sys.executable, str(REPOSITORY / "generate.py"), *words(flags)]
    else:
        output.mkdir()
        job = asdict(config) | {"model": str(model), "batch_size": batch_size, "prompts": prompts["text"].tolist()}
        job |= {"channels_last": side == "plain, channels last", "torch_compile": side == "plain, compiled"}
        job |= {"paths": list(map(str, paths)), "seeds": [image_seed(0, name, 0) for name in prompts["id"]]}
        command = [sys.executable, "-c", PLAIN, json.dumps(job, default=str)]
    start = time.perf_counter()
    done = subprocess.run(command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    wall_s = time.perf_counter() - start
    if done.returncode:
        raise UserError(f"{side} ended with exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    times = [path.stat().st_mtime for path in paths]
    rest = len(times) - batch_size
    return {"wall_s": round(wall_s, 2), "images_per_s": round(rest / (max(times) - max(times[:batch_size])), 3)}


def levels_apart(ours: Path, plain: Path) -> int:
    """The largest difference between two folders of the same images, in grey levels."""
    most = 0.0
    for path in plain.glob("*.png"):
        with Image.open(path) as three, Image.open(ours / path.name) as one:
            grey = np.asarray(three, dtype=float).mean(axis=2).round()
            most = max(most, float(np.abs(grey - np.asarray(one, dtype=float)).max()))
    return int(most)


def summary(
    side: Side, batch_size: int, results: list[dict[str, float]], plain: list[dict[str, float]], apart: int
) -> dict[str, Any]:
    """Medians of the rounds, and the median ratio of images/s and of seconds to the plain pipeline within a round."""
    row: dict[str, Any] = {"side": side, "batch_size": batch_size, "levels_apart": apart if side == "ours" else None}
    for name in ("wall_s", "images_per_s"):
        row[name] = statistics.median(result[name] for result in results)
        row[f"{name}_to_plain"] = statistics.median(
            result[name] / other[name] for result, other in zip(results, plain, strict=True)
        )
    return row | {"rounds": results}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| | batch | images/s | × plain | whole run, s | × plain | grey levels apart |", "|-|-:|-:|-:|-:|-:|-:|"]
    for row in rows:
        cells = [row["side"], row["batch_size"], f"{row['images_per_s']:.2f}", f"{row['images_per_s_to_plain']:.2f}"]
        cells += [f"{row['wall_s']:.1f}", f"{row['wall_s_to_plain']:.2f}"]
        cells += ["" if row["levels_apart"] is None else row["levels_apart"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
