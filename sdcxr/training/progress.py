"""Logging and speed of a run: log.jsonl, validation.jsonl, trackers, images/s, FLOP/s, MFU, memory."""

import importlib
import inspect
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sdcxr.io.files import write_text
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.memory import peak_resident_bytes


def require_tracker(name: str) -> None:
    """Refuse a tracker that cannot start, before anything is built.

    Raises:
        UserError: its package is missing or broken, or nobody is logged in.
    """
    if name == "none":
        return
    try:
        module: Any = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"--report_to {name}: {error}; pip install {name}, or use --report_to none") from None
    if name == "wandb" and os.environ.get("RANK", "0") == "0" and not _logged_in(module):
        raise UserError(
            "--report_to wandb: nobody is logged in: run `wandb login` or set WANDB_API_KEY, keep the logs here with "
            "WANDB_MODE=offline, or use --report_to none"
        )


def _logged_in(wandb: Any) -> bool:
    """Whether wandb has a key for its server, or needs none; never asks, and sends nothing."""
    if wandb.setup().settings.mode in ("offline", "dryrun", "disabled"):
        return True
    if "prompt" in inspect.signature(wandb.login).parameters:  # of newer versions
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)


def start_tracker(name: str, folder: Path, start: int = 0, run_id: str = "") -> Any:
    """The started tracker, or None for "none".

    Args:
        name: as `--report_to`.
        folder: of the run.
        start: steps already done; rows of later ones are replaced.
        run_id: at wandb and trackio, so that a resumed run is the same one there.

    Raises:
        UserError: it does not start; says why.
    """
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    if name == "none":
        return None
    if name == "tensorboard":
        tracker = TensorBoardTracker(run_name="logs", logging_dir=folder, purge_step=start + 1)
    elif name == "wandb":
        tracker = WandBTracker(run_name="sdcxr", name=folder.name, id=run_id, resume="allow")
    else:
        tracker = TrackioTracker(run_name="sdcxr", name=f"{folder.name}-{run_id}", resume="allow")
    try:
        tracker.start()
    except Exception as error:
        if type(error).__module__.partition(".")[0] != name:  # wandb and trackio have their own errors
            raise
        raise UserError(f"--report_to {name}: {' '.join(str(error).split())}; or use --report_to none") from None
    return tracker


class Log:
    """A JSON-lines file and the tracker. Only numbers are logged."""

    def __init__(self, path: Path, start: int, tracker: Any = None, prefix: str = ""):
        self.path, self.tracker, self.prefix = path, tracker, prefix
        self._drop_rows_after(start)

    def _drop_rows_after(self, start: int) -> None:
        """Drop rows that a killed run logged after its last checkpoint, and an incomplete last row."""
        if self.path.is_file():
            rows = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            write_text(self.path, "".join(row for row in rows if json.loads(row)["step"] <= start))

    def write(self, row: dict[str, Any]) -> None:
        """Append a row, which has a `step`."""
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.tracker is not None:
            values = {self.prefix + key: value for key, value in row.items() if key != "step" and value is not None}
            self.tracker.log(values, step=int(row["step"]))


class Meter:
    """Images per second, FLOP/s, waiting for data and memory since the last reading.

    Args:
        device: where the run computes.
        flops_per_image: of the model, forward and backward; 0 where unknown.
        peak: FLOP/s that a plain matrix product reaches on one device; 0 where unknown.
        devices: number of them.
    """

    def __init__(self, device: torch.device, flops_per_image: float, peak: float, devices: int):
        self.device, self.flops_per_image, self.peak, self.devices = device, flops_per_image, peak, devices
        self.restart()

    def restart(self) -> None:
        """Begin a new interval here."""
        self.began, self.waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out (validation, checkpoints)."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.began += time.perf_counter() - began

    def read(self, images: int) -> dict[str, float | None]:
        """Columns of a log row for an interval in which all devices together took in `images`, and a new interval."""
        seconds = time.perf_counter() - self.began
        rate = images / seconds
        flops = rate * self.flops_per_image / self.devices
        row = {
            "images_per_s": round(rate, 2),
            "tflops_per_s": round(flops / 1e12, 4),  # per device
            "mfu": round(flops / self.peak, 4) if self.peak else None,
            "data_wait": round(self.waited / seconds, 4),
            "peak_memory_gb": round(peak_memory(self.device) / 1e9, 3),
        }
        self.restart()
        return row


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: allocated on a CUDA device, else resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()


def status(row: dict[str, Any]) -> str:
    """A log row as text for the progress bar."""
    mfu = f" ({row['mfu']:.0%} of a matrix product)" if row["mfu"] else ""
    return (
        f"loss {row['loss']:.4f}, {row['images_per_s']:.0f} images/s, {row['tflops_per_s']:.3g} TFLOP/s{mfu}, "
        f"{row['data_wait']:.0%} waiting, {row['peak_memory_gb']:.1f} GB"
    )
