"""Flags of ablate.py."""

from dataclasses import dataclass
from typing import Literal

from sdcxr.runtime.errors import UserError


@dataclass
class AblateConfig:
    """Which grid, where, and how many commands at a time."""

    grid: str
    """Grid file (configs/grids/*.yaml)."""
    output_dir: str
    """Folder of the grid; the same command again does what is missing."""
    scale: str | None = None
    """One of the scales in the grid file, such as demo. Default: as published."""
    set: list[str] | str = ""
    """Fixed flags of stages, over those of the file: --set prepare.images=DIR --set train.base=ID."""
    launcher: Literal["local", "slurm"] = "local"
    """Where the commands run: here, or as jobs of a SLURM cluster (pip install sdcxr[slurm])."""
    jobs: int | None = None
    """Commands at the same time. Default: one for each GPU (or --gpus_per_job of them), without GPUs one; in SLURM's
    queue all that can run."""
    gpus_per_job: int = 1
    """GPUs of a command; of training and generation each runs a process. With SLURM its options say that."""
    sbatch: list[str] | str = ""
    """Options of SLURM's sbatch, for all stages or one, over those of the file: --sbatch partition=gpu --sbatch
    train.gpus-per-node=8."""
    dry_run: bool = False
    """Print cells, commands, how many images they take, and the GPU-hours of those; run nothing."""
    gpu_tflops: float = 100.0
    """With --dry_run: 1e12 operations a second that a GPU keeps up. Published trainings: 87 (A100), 305 (H100)."""
    retry_failed: bool = False
    """Run again what failed in an earlier call."""
    show_prompts: bool = False
    """Show the texts of prompts in the report. Those of phantoms are always shown; others can be patients' texts."""

    def __post_init__(self) -> None:
        for name in ("jobs", "gpus_per_job"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: must be at least 1")
        if not 0 < self.gpu_tflops < float("inf"):
            raise UserError(f"--gpu_tflops {self.gpu_tflops}: must be above 0")
        if self.launcher == "slurm" and self.gpus_per_job != 1:
            raise UserError("--gpus_per_job: with --launcher slurm use --sbatch gpus-per-node=… and ntasks-per-node=…")
        if self.launcher != "slurm" and self.sbatch:
            raise UserError("--sbatch needs --launcher slurm")

    @property
    def settings(self) -> list[str]:
        """The entries of `set`."""
        return _entries(self.set)

    @property
    def sbatch_options(self) -> list[str]:
        """The entries of `sbatch`."""
        return _entries(self.sbatch)


def _entries(given: list[str] | str) -> list[str]:
    return [given] if isinstance(given, str) and given else list(given)
