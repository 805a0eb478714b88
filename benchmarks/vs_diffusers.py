"""This trainer against diffusers' own script, on the same data, model, resolution, batch and steps, in turn.

    git clone https://github.com/huggingface/diffusers
    python benchmarks/vs_diffusers.py --diffusers_repo diffusers                        # embedded model and phantoms
    python benchmarks/vs_diffusers.py --diffusers_repo diffusers --base ID --data DIR --theirs_precision bf16
    python benchmarks/vs_diffusers.py --diffusers_repo diffusers --output benchmarks/results/vs-diffusers-NAME.json

Only the UNet trains, since their examples/text_to_image/train_text_to_image.py can do no more. Each run is a process of
its own and starts cold: an empty cache of latents here, an empty cache of `datasets` there. The speed is that of the
steady state: images/s over every 5 steps, without the first 5, start-up and caching; the column of seconds includes
these. Theirs is read from the times in its TensorBoard file. It fetches and logs the loss at every step, whatever its
flags; ours is asked to log every 5 steps.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, astuple, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml

from sdcxr.io.files import existing_folder, read_json, write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.threads import WAITING, available_cores

TRAINER = Path(__file__).resolve().parents[1] / "train.py"
SCRIPT = Path("examples/text_to_image/train_text_to_image.py")
WINDOW = 5  # optimizer steps over which a speed is taken
PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "datasets")

Precision = Literal["no", "bf16", "fp16"]
Key = tuple[str, str]  # "ours" or "theirs", and the precision


@dataclass
class VsDiffusersConfig:
    """Measure this trainer against diffusers' script."""

    diffusers_repo: Path
    """checkout of diffusers that fits the installed version"""
    base: str | None = None
    """hub name, pipeline folder or run folder to start from; the embedded tiny model by default"""
    data: str | None = None
    """dataset folder made by data_prep; the embedded phantoms by default"""
    steps: int = 40
    """optimizer steps per run; a multiple of 5"""
    batch_size: int = 16
    """images per step"""
    rounds: int = 2
    """times everything is run; the median counts"""
    ours_precision: Precision = "bf16"
    """what a user would choose for this trainer"""
    theirs_precision: Precision = "no"
    """what a user would choose for theirs; the comparison of each side's fastest precision depends on neither choice"""
    ema: bool = False
    """keep an average of the weights on both sides"""
    dataloader_num_workers: int = 0
    """processes that read data, on both sides"""
    threads: int | None = None
    """processor threads of each process; all cores by default"""
    output: Path | None = None
    """JSON file to write"""

    def __post_init__(self) -> None:
        if self.steps < 2 * WINDOW or self.steps % WINDOW:
            raise UserError(f"--steps {self.steps}: must be a multiple of {WINDOW} and at least {2 * WINDOW}")
        for name, minimum in {"batch_size": 1, "rounds": 1, "threads": 1, "dataloader_num_workers": 0}.items():
            if (value := getattr(self, name)) is not None and value < minimum:
                raise UserError(f"--{name} {value}: must be at least {minimum}")
        if self.threads is None:
            self.threads = available_cores()


@dataclass
class Subject:
    """What both sides train on: a plain pipeline folder, a dataset folder, pixels per side."""

    base: Path
    data: Path
    resolution: int


@dataclass
class Measured:
    """One process: speed in the steady state, largest resident memory, growth of GPU memory, time from start to end."""

    images_per_s: float
    peak_mb: float
    gpu_mb: float
    wall_s: float


def main(config: VsDiffusersConfig) -> int:
    """Measure, print, and write."""
    repo = existing_folder(config.diffusers_repo, "--diffusers_repo")
    if not (repo / SCRIPT).is_file():
        raise UserError(
            f"--diffusers_repo {repo}: has no {SCRIPT}; give the folder of a clone of huggingface/diffusers"
        )
    precisions = dict.fromkeys((config.ours_precision, config.theirs_precision, "no"))
    rounds: dict[Key, list[Measured]] = {(side, p): [] for p in precisions for side in ("ours", "theirs")}
    with tempfile.TemporaryDirectory(prefix="vs-diffusers-") as folder:
        subject = prepare(config, Path(folder) / "start")
        for number in range(config.rounds):
            for side, precision in rounds:
                work = Path(folder) / "work"
                result = measure(side, arguments(side, precision, config, subject, work), config, work)
                shutil.rmtree(work)  # the next one starts cold, and a disk need not hold every checkpoint
                print(f"round {number + 1}: {side} {precision}: {result.images_per_s:.1f} images/s", flush=True)
                rounds[side, precision].append(result)
    medians = {key: median(results) for key, results in rounds.items()}
    comparisons = compare(rounds, config.ours_precision, config.theirs_precision)
    print("\n" + table(medians, rounds) + "\n\n" + "\n".join(sentence(row) for row in comparisons))
    if config.output is not None:
        named = Subject(Path("BASE"), Path("DATA"), subject.resolution)  # no paths of this machine
        scripts = {"ours": TRAINER.name, "theirs": str(SCRIPT)}
        runs = [
            {
                "command": " ".join(["python", scripts[side], *arguments(side, p, config, named, Path("WORK"))]),
                "median": asdict(medians[side, p]),
                "rounds": [asdict(result) for result in results],
            }
            for (side, p), results in rounds.items()
        ]
        record: dict[str, Any] = {"hardware": hardware(), "threads": config.threads, "base": config.base or "embedded"}
        record |= {"versions": versions(), "diffusers_commit": commit(repo), "comparisons": comparisons, "runs": runs}
        config.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(config.output, record)
    return 0


def prepare(config: VsDiffusersConfig, folder: Path) -> Subject:
    """One step of this trainer on one image: it builds what is embedded, or refuses what was named.

    The pipeline that it saves is the base of both sides, so that theirs, too, starts from a run folder or a hub name.

    Raises:
        UserError: base or data will not do; or so few images that their epochs' last, short batch moves the median.
    """
    from sdcxr.io.manifest import read_metadata, split_folder

    flags = {"tune": "unet", "max_train_steps": 1, "max_train_samples": 1, "train_batch_size": 1, "use_ema": "false"}
    flags |= {"mixed_precision": "no", "learning_rate": 1e-9, "validation_steps": 0, "report_to": "none"}
    flags |= {"output_dir": folder / "run", "latents_dir": folder / "latents"}
    flags |= {name: value for name in ("base", "data") if (value := getattr(config, name)) is not None}
    execute("ours", words(flags), config, folder)
    base = folder / "run" / "pipeline"
    unet, vae = (read_json(base / part / "config.json") for part in ("unet", "vae"))
    data = Path(yaml.safe_load((folder / "run" / "config.yaml").read_text(encoding="utf-8"))["data"])
    n, needed = len(read_metadata(split_folder(data, "train"))), 10 * config.batch_size
    if n < needed:
        raise UserError(f"--data {data}: has {n} training images; --batch_size {config.batch_size} needs {needed}")
    return Subject(base, data, unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1))


def words(flags: dict[str, Any]) -> list[str]:
    """Flags as a command line has them."""
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def arguments(side: str, precision: str, config: VsDiffusersConfig, subject: Subject, work: Path) -> list[str]:
    """What follows the script's name on the command line of a side."""
    flags = {"output_dir": work / "run", "resolution": subject.resolution, "train_batch_size": config.batch_size}
    flags |= {"max_train_steps": config.steps, "checkpointing_steps": config.steps + 1, "mixed_precision": precision}
    flags |= {"learning_rate": 1e-4, "lr_warmup_steps": 0, "seed": 0, "report_to": "tensorboard"}
    flags |= {"dataloader_num_workers": config.dataloader_num_workers}
    if side == "ours":
        flags |= {"tune": "unet", "base": subject.base, "data": subject.data, "latents_dir": work / "latents"}
        flags |= {"use_ema": str(config.ema).lower(), "caption_dropout": 0}
        return words(flags | {"logging_steps": WINDOW, "validation_steps": 0})
    flags |= {"pretrained_model_name_or_path": subject.base, "train_data_dir": subject.data / "train"}
    flags |= {"image_column": "image", "caption_column": "text", "tracker_project_name": "tracker"}
    return [*words(flags), "--center_crop", *(["--use_ema", "--foreach_ema"] if config.ema else [])]


def measure(side: str, command: list[str], config: VsDiffusersConfig, work: Path) -> Measured:
    """Run one side and read its speed from what it wrote."""
    wall_s, peak_mb, gpu_mb = execute(side, command, config, work)
    if side == "ours":
        speeds = logged_speeds(work / "run" / "log.jsonl")
    else:
        speeds = speeds_between(event_times(work / "run" / "logs" / "tracker", "train_loss"), config.batch_size)
    return Measured(statistics.median(speeds), peak_mb, gpu_mb, wall_s)


def execute(side: str, command: list[str], config: VsDiffusersConfig, work: Path) -> tuple[float, float, float]:
    """Run a side's script to its end; wall time in s, largest resident memory and growth of GPU memory in MB.

    Raises:
        UserError: it failed; says why, or where its log is.
    """
    work.mkdir()
    script = TRAINER if side == "ours" else config.diffusers_repo.expanduser() / SCRIPT
    count = str(config.threads)
    inherited = {name: value for name, value in os.environ.items() if WAITING.get(name) != value}  # ours sets its own
    environment = inherited | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "HF_HUB_OFFLINE": "1"}
    environment["HF_DATASETS_CACHE"] = str(work / "datasets")
    log, before, start = work / "log.txt", gpu_used_mb(), time.perf_counter()
    most = before
    with log.open("wb") as file:
        full = [sys.executable, str(script), *command]
        process = subprocess.Popen(full, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            most = max(most, gpu_used_mb())
            time.sleep(0.1)
    except BaseException:
        process.kill()
        process.wait()
        raise
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(ended[1])  # collected here, so that Popen need not ask
    if process.returncode:
        raise UserError(failure(side, process.returncode, log))
    # A child's peak begins with that of its parent before the exec: little here, where torch is never imported.
    return wall_s, ended[2].ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, most - before


def failure(side: str, code: int, log: Path) -> str:
    """One line about a process that failed: this project's own line, else where its log was kept."""
    last = (log.read_text(encoding="utf-8", errors="replace").splitlines() or [""])[-1]
    if side == "ours" and last.startswith("error: "):
        return last.removeprefix("error: ")
    kept = Path(tempfile.mkdtemp(prefix=f"vs-diffusers-{side}-")) / "log.txt"
    shutil.copyfile(log, kept)
    hint = f" (does the checkout fit diffusers {versions()['diffusers']}?)" if side == "theirs" else ""
    return f"{'diffusers' if side == 'theirs' else 'train.py'} ended with exit code {code}{hint}: see {kept}"


def event_times(folder: Path, tag: str) -> dict[int, float]:
    """When each step logged the scalar `tag` to the TensorBoard file of a folder, in s since the epoch."""
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: all, not a sample
    events.Reload()
    return {event.step: event.wall_time for event in events.Scalars(tag)}


def speeds_between(times: dict[int, float], images_per_step: int) -> list[float]:
    """Images/s from one window's last step to the next one's, hence without the first window."""
    ends = [step for step in sorted(times) if step % WINDOW == 0]
    return [images_per_step * (b - a) / (times[b] - times[a]) for a, b in pairwise(ends)]


def logged_speeds(log: Path) -> list[float]:
    """Images/s of the rows of a log.jsonl, without the first window."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [row["images_per_s"] for row in rows if row["step"] > WINDOW]


def median(results: list[Measured]) -> Measured:
    """The median of each quantity over the rounds."""
    return Measured(*(statistics.median(values) for values in zip(*map(astuple, results), strict=True)))


def compare(rounds: dict[Key, list[Measured]], ours_precision: str, theirs_precision: str) -> list[dict[str, Any]]:
    """Ours over theirs: as chosen, each side's fastest, then each precision; GPU memory only where there is a GPU.

    The median of the ratios within a round: a machine is now faster, now slower, and a round is measured together.
    """
    medians = {key: median(results) for key, results in rounds.items()}
    slow_to_fast = sorted(medians, key=lambda key: medians[key].images_per_s)
    fastest = dict(slow_to_fast)  # of a side's several precisions the last one stays
    pairs = {"as chosen": (ours_precision, theirs_precision), "fastest of each": (fastest["ours"], fastest["theirs"])}
    pairs |= {f"both {'fp32' if p == 'no' else p}": (p, p) for side, p in medians if side == "ours"}
    rows = []
    for name, (mine, other) in pairs.items():
        pairs_of_rounds = zip(rounds["ours", mine], rounds["theirs", other], strict=True)
        ratios = [{k: v / asdict(b)[k] for k, v in asdict(a).items() if asdict(b)[k]} for a, b in pairs_of_rounds]
        row: dict[str, Any] = {"comparison": name, "ours": mine, "theirs": other}
        row |= {key: statistics.median(ratio[key] for ratio in ratios) for key in ratios[0]}
        rows.append(row | {"images_per_s_of_rounds": [ratio["images_per_s"] for ratio in ratios]})
    return rows


def sentence(row: dict[str, Any]) -> str:
    """A comparison in words."""
    gpu = f", {row['gpu_mb']:.2f} × the GPU memory" if "gpu_mb" in row else ""
    every = ", ".join(f"{ratio:.2f}" for ratio in row["images_per_s_of_rounds"])
    speed = f"{row['images_per_s']:.2f} × the images/s ({every}), {row['peak_mb']:.2f} × the peak memory"
    return f"{row['comparison']} (ours {row['ours']}, theirs {row['theirs']}): {speed}{gpu}"


def table(medians: dict[Key, Measured], rounds: dict[Key, list[Measured]]) -> str:
    """A line per side and precision; "all, s" is the whole process with start-up and caching."""
    lines = [f"{'':12}{'images/s':>9}{'peak MB':>9}{'GPU MB':>9}{'all, s':>8}   images/s of the rounds"]
    for (side, precision), m in medians.items():
        every = " ".join(f"{result.images_per_s:.1f}" for result in rounds[side, precision])
        values = f"{m.images_per_s:9,.1f}{m.peak_mb:9,.0f}{m.gpu_mb:9,.0f}{m.wall_s:8,.0f}"
        lines.append(f"{side:7}{precision:5}{values}   {every}")
    return "\n".join(lines)


def gpu_used_mb() -> float:
    """Memory in use on all NVIDIA GPUs together, by whomever; 0 without one."""
    mebibytes = [float(line) for line in nvidia_smi("memory.used") if line.isdigit()]
    return sum(mebibytes) * 2**20 / 1e6


def nvidia_smi(quantity: str) -> list[str]:
    """One line per GPU; none without the program."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={quantity}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()


def hardware() -> str:
    """The GPUs and the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return ", ".join([*nvidia_smi("name"), f"{available_cores()} cores of {model}"])


def versions() -> dict[str, str]:
    """Of python and of what both sides use."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def commit(repo: Path) -> str | None:
    """The commit of a checkout; None where it is no git one."""
    if not (repo / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(repo), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


if __name__ == "__main__":
    run(main)
