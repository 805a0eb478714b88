"""What pretraining gives the embedded base: fine-tuning against training from random weights, part by part.

    python benchmarks/embedded_base.py --output_dir DIR                    # two hours on two cores; resumes
    python benchmarks/embedded_base.py --output_dir DIR --images FOLDER    # and its VAE on other images than phantoms

Each row is `train.py --config configs/demo.yaml` on the embedded phantoms with another start, part or seed, then one
image for each held-out prompt and `eval.classifier`. All rows have the pretrained VAE; "random" has a UNet and a text
encoder with random weights beside it.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sdcxr.io.files import existing_folder, read_json, write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.threads import available_cores

ROOT = Path(__file__).parents[1]
FINDINGS = "Cardiomegaly,Right Effusion,Left Effusion,Right Pneumothorax,Left Pneumothorax"
SAMPLING = ["--num_images_per_prompt", "1", "--num_inference_steps", "15", "--scheduler", "dpm++", "--batch_size", "32"]
LOG_LINES = 8  # of a failed training that are shown
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t for 2, 3, … values


class Row(NamedTuple):
    start: str  # pretrained or random
    tune: str  # of train.py; "" for the base itself
    seeds: int


ROWS = (
    Row("pretrained", "unet+text", 3),
    Row("random", "unet+text", 3),
    Row("pretrained", "unet", 3),
    Row("random", "unet", 3),
    Row("pretrained", "text", 3),
    Row("pretrained", "vae", 3),
    Row("pretrained", "", 3),
)


@dataclass
class EmbeddedBaseConfig:
    """What to compare."""

    output_dir: Path
    """Folder for the runs."""
    steps: int = 250
    """Optimizer steps of each run; a quarter for the VAE, whose steps cost several times as much."""
    guidance_scale: float = 4.0
    """Of the samples."""
    jobs: int = 1
    """Runs at the same time; they share the cores."""
    images: Path | None = None
    """Folder of images for the VAE's error, beside held-out phantoms."""
    output: Path | None = None
    """JSON file for the figures."""


@dataclass
class StudyConfig:
    """What the studies that train this base in many ways are told alike."""

    steps: int = EmbeddedBaseConfig.steps
    """Optimizer steps of each training."""
    seeds: int = 3
    """Seeds 0, 1, … of training, of weights that begin random, and of the samples."""
    jobs: int = 1
    """Trainings at the same time; they share the cores."""
    max_prompts: int | None = None
    """Held-out prompts to sample. Default: all."""
    classifier: Path | None = None
    """Run folder of the demo's classifier. Default: one is trained."""
    output: Path | None = None
    """JSON file for the figures, written anew after each training. Default: one of the study's name in --output_dir."""
    table: Path | None = None
    """Print the tables of such a file, and do nothing else."""

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= len(T_975) + 1 or self.jobs < 1 or self.steps < 1:
            raise UserError(f"--steps and --jobs must be at least 1, --seeds 1 to {len(T_975) + 1}")


def main(config: EmbeddedBaseConfig) -> int:
    from sdcxr.embedded import phantoms
    from sdcxr.io.files import user_cache

    dataset = phantoms.ensure_phantoms()
    labels = user_cache() / "phantom" / "phantom-truth.csv"
    root = config.output_dir.expanduser().resolve()
    bases = make_bases(root)
    folders = {"held-out phantoms": dataset / "test"} | ({"other images": config.images} if config.images else {})
    figures: dict[str, Any] = {
        "vae_l1": {name: vae_error(bases["pretrained"], path) for name, path in folders.items()},
        "steps": config.steps,
    }
    for name, error in figures["vae_l1"].items():
        print(f"VAE, L1 on {name}: {error:.4f}", flush=True)
    judge = train_classifier(root / "classifier", dataset, labels)
    encode_images(bases["pretrained"], dataset, root)  # before anything else runs that would write them, too
    jobs: dict[str, Callable[..., Any]] = {
        f"{row.start}-{row.tune or 'untuned'}-{seed}": partial(
            measure, config, root, bases, row, seed, dataset, labels, judge
        )
        for row in ROWS
        for seed in range(row.seeds)
    }
    failed = {name: error for name, error in at_once(jobs, config.jobs, root) if error}
    for name, error in failed.items():
        print(f"failed: {name}\n{error}", flush=True)
    scored = {row: [scores_file(config, root, row, seed) for seed in range(row.seeds)] for row in ROWS}
    results = {row: [read_scores(file) for file in files if file.is_file()] for row, files in scored.items()}
    figures["rows"] = [row._asdict() | {"scores": scores} for row, scores in results.items()]
    print("| start | --tune | seeds | macro AUROC | average precision |")
    print("\n".join(line(row, scores) for row, scores in results.items() if scores), flush=True)
    if config.output is not None:
        write_json(config.output, figures)
    return 1 if failed else 0


def make_bases(root: Path) -> dict[str, Path]:
    """The pipeline folders to start from, by name."""
    from sdcxr import backbones
    from sdcxr.embedded.base import WEIGHTS, tiny, unpack

    folders = {name: root / f"base-{name}" for name in ("pretrained", "random")}
    if not all((folder / "model_index.json").is_file() for folder in folders.values()):
        pretrained, random = unpack(WEIGHTS), tiny(1)
        random.parts["vae"].load_state_dict(pretrained.parts["vae"].state_dict())
        backbones.save(pretrained, folders["pretrained"])
        backbones.save(random, folders["random"])
    return folders


def vae_error(base: Path, images: Path) -> float:
    """Mean absolute error of the images decoded from the posterior's mean: pixels in [-1, 1], 128 px."""
    import torch

    from sdcxr import backbones
    from sdcxr.embedded.base import RESOLUTION
    from sdcxr.io.pixels import read_pixels

    vae: Any = backbones.load(str(base)).parts["vae"]
    folder = existing_folder(images, "--images")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise UserError(f"--images {folder}: holds no PNG or JPEG")
    with torch.no_grad():
        errors = []
        for path in paths:
            pixels = read_pixels(path, RESOLUTION)[None].expand(-1, 3, -1, -1)
            decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.mean(dim=1)
            errors.append((decoded - pixels[:, 0]).abs().mean().item())
    return float(np.mean(errors))


def scores_file(config: EmbeddedBaseConfig, root: Path, row: Row, seed: int) -> Path:
    settled = f"{config.steps}-{config.guidance_scale:g}"  # other settings are other rows
    return root / f"{row.start}-{row.tune or 'untuned'}-{seed}-{settled}" / "scores.json"


def measure(
    config: EmbeddedBaseConfig,
    root: Path,
    bases: dict[str, Path],
    row: Row,
    seed: int,
    dataset: Path,
    labels: Path,
    judge: Path,
    **how: Any,
) -> None:
    """Score the samples of one run; kept in its folder, so that the benchmark resumes. `how`: see `command`."""
    scores = scores_file(config, root, row, seed)
    run_folder, samples = scores.parent / "run", scores.parent / "samples"
    if scores.is_file():
        return
    model = bases[row.start]
    if row.tune:
        steps = config.steps // 4 if row.tune == "vae" else config.steps
        latents = None if row.tune == "vae" else root / "latents"
        train(model, dataset, run_folder, steps, latents, "--tune", row.tune, "--seed", seed, **how)
        model = run_folder
    score_samples(model, dataset / "test", samples, scores, judge, labels, seed, config.guidance_scale, **how)


def train(
    base: Path, data: Path, run_folder: Path, steps: int, latents: Path | None, *options: object, **how: Any
) -> None:
    """A training of the demo's kind.

    Args:
        base: pipeline folder to start from.
        data: dataset folder.
        run_folder: where to.
        steps: optimizer steps.
        latents: folder of the latents, which runs on the same images share; None where none are read.
        options: more flags of train.py.
        how: see `command`.
    """
    settings = ["--config", "configs/demo.yaml", "--max_train_steps", steps, "--checkpointing_steps", steps]
    # Compilation takes longer than the training.
    lean: list[object] = ["--validation_steps", 0, "--report_to", "none", "--torch_compile", "false"]
    lean += ["--dataloader_num_workers", 0]
    lean += ["--latents_dir", latents, "--cache_in_memory", "true"] if latents else []
    command("train.py", *settings, *lean, "--base", base, "--data", data, "--output_dir", run_folder, *options, **how)


def encode_images(base: Path, data: Path, root: Path, **how: Any) -> None:
    """Cache the latents of a dataset in the folder `latents` below `root`, by a training of one step."""
    if not (root / "encoded" / "pipeline").is_dir():
        train(base, data, root / "encoded", 1, root / "latents", "--tune", "text", **how)


def train_classifier(folder: Path, dataset: Path, labels: Path, **how: Any) -> Path:
    """The demo's classifier, trained first where it is absent; `how`: see `command`."""
    if not (folder / "classifier").is_dir():
        judged = ["--config", "configs/demo-classifier.yaml", "--labels", labels]
        command("train.py", *judged, "--data", dataset, "--output_dir", folder, **how)
    return folder


def score_samples(
    model: Path,
    split: Path,
    samples: Path,
    scores: Path,
    judge: Path,
    labels: Path,
    seed: int,
    guidance_scale: float,
    options: Sequence[object] = (),
    **how: Any,
) -> None:
    """Sample an image for each prompt of a split, and write the scores of the classifier.

    Args:
        model: run or pipeline folder.
        split: of a dataset, with the prompts.
        samples: folder for the images.
        scores: JSON file to write.
        judge: folder of the classifier.
        labels: table of the truth.
        seed: of the images.
        guidance_scale: of the images.
        options: more flags of generate.py.
        how: see `command`.
    """
    prompts = ["--prompts", split, "--output_dir", samples, "--seed", seed, *SAMPLING, *options]
    command("generate.py", "--model", model, *prompts, "--guidance_scale", guidance_scale, **how)
    compared = ["--real", split, "--synthetic", samples, "--labels", labels, "--findings", FINDINGS]
    command("-m", "eval.classifier", "--classifier", judge, *compared, "--output", scores, **how)


def read_scores(scores: Path, label: str = "macro") -> dict[str, float]:
    """AUROC and average precision of the synthetic images, of one finding or their mean."""
    rows = [entry for entry in read_json(scores) if entry["images"] == "synthetic" and entry["label"] == label]
    return {entry["metric"]: round(entry["value"], 4) for entry in rows if entry["value"] is not None}


def command(*arguments: object, log: Path | None = None, threads: int | None = None) -> float:
    """Run one of the project's commands from the repository's root; the processor time that it took, in seconds.

    Args:
        arguments: of Python.
        log: file to which its output is added. Default: it goes to this one's standard output.
        threads: of OpenMP. Default: what the environment says.

    Raises:
        CalledProcessError: it failed.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    texts = [sys.executable, *map(str, arguments)]
    with log.open("a", encoding="utf-8") if log else nullcontext(sys.stdout) as output:
        errors = subprocess.STDOUT if log else None
        process = subprocess.Popen(texts, cwd=ROOT, env=environment, stdout=output, stderr=errors)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, texts)
    return round(usage.ru_utime + usage.ru_stime, 1)


def at_once(jobs: dict[str, Callable[..., Any]], n: int, root: Path) -> Iterable[tuple[str, str]]:
    """Run functions that take `log` and `threads`, n at the same time; yields each name and "" or what went wrong."""
    threads = max(1, available_cores() // max(1, min(n, len(jobs))))
    (root / "logs").mkdir(parents=True, exist_ok=True)
    logs = {name: root / "logs" / f"{name}.txt" for name in jobs}
    pool = ThreadPoolExecutor(n)
    try:
        running = {pool.submit(job, log=logs[name], threads=threads): name for name, job in jobs.items()}
        for future in as_completed(running):
            name, error = running[future], future.exception()
            failed = isinstance(error, subprocess.CalledProcessError)
            yield name, last_lines(logs[name]) if failed else repr(error) if error else ""
    finally:
        pool.shutdown(cancel_futures=True)  # of an interrupted study nothing else begins


def last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([line for line in lines if "%|" not in line][-LOG_LINES:])  # without progress bars


def half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of a mean (Student's t), of 2 to 10 values."""
    return float(T_975[len(values) - 2] * np.std(values, ddof=1) / len(values) ** 0.5)


def line(row: Row, scores: list[dict[str, float]]) -> str:
    """A row of the table: mean and 95 % interval over the seeds (Student's t)."""
    cells = []
    for metric in ("auroc", "average_precision"):
        values = [score[metric] for score in scores]
        cells.append(f"{np.mean(values):.3f}" + (f" ± {half_width(values):.3f}" if len(values) > 1 else ""))
    return f"| {row.start} | {row.tune or 'not tuned'} | {len(scores)} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    run(main)
