"""Pretrain the embedded base on procedural scenes: VAE, then UNet and text encoder, then pack the weights.

    python -m sdcxr.embedded.pretraining --output_dir DIR     # hours on two CPU cores, minutes on a GPU

The same command again resumes. The last step writes `base.safetensors`, which the package carries as
sdcxr/embedded/weights/base.safetensors. No network, no file but this package: see `scenes`.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from sdcxr.config import TrainConfig
from sdcxr.embedded.scenes import scene
from sdcxr.io.files import existing_folder
from sdcxr.io.manifest import write_metadata
from sdcxr.io.pixels import write_png
from sdcxr.runtime.cli import run
from sdcxr.runtime.threads import available_cores

COMMON: dict[str, Any] = {
    "lr_scheduler": "cosine",
    "adam_beta2": 0.99,
    "adam_weight_decay": 0.0,  # words that no caption has keep their rows, which are not stored
    "mixed_precision": "no",
    "checkpointing_steps": 1000,
    "logging_steps": 100,
    "report_to": "none",
}
VAE: dict[str, Any] = {
    "tune": "vae",
    "vae_part": "all",
    "train_batch_size": 16,
    "max_train_steps": 10000,
    "learning_rate": 1e-3,
    "lr_warmup_steps": 200,
    "use_ema": False,
    "validation_steps": 0,
}
DENOISER: dict[str, Any] = {
    "tune": "unet+text",
    "train_batch_size": 32,
    "max_train_steps": 20000,
    "learning_rate": 1e-3,
    "lr_warmup_steps": 500,
    "ema_decay": 0.999,
    "validation_steps": 4000,
}


@dataclass
class PretrainingConfig:
    """Pretrain the embedded base."""

    output_dir: Path
    """folder for scenes, runs and base.safetensors"""
    scenes: int = 40000
    """scenes to draw"""
    seed: int = 0
    """seed of the scenes, the initial weights and both trainings"""
    vae_steps: int = VAE["max_train_steps"]
    """optimizer steps of the VAE"""
    denoiser_steps: int = DENOISER["max_train_steps"]
    """optimizer steps of UNet and text encoder"""
    torch_compile: bool | None = None
    """compile the networks; default: on a GPU"""
    cuda_graphs: bool = False
    """with --torch_compile: replay recorded CUDA graphs"""


def main(config: PretrainingConfig) -> int:
    """Draw, train, pack; returns the exit code of a training that stopped, else 0."""
    from sdcxr import backbones
    from sdcxr.embedded.base import pack, schedule, standardise, tiny

    root = config.output_dir.expanduser()
    data = draw_scenes(root / "scenes", config.scenes, config.seed)
    start, ready = root / "random", root / "vae-ready"
    if not (start / "model_index.json").is_file():
        backbones.save(tiny(config.seed), start)
    if code := _train(config, VAE, start, data, root / "vae", config.vae_steps):
        return code
    if not (ready / "model_index.json").is_file():
        model = backbones.load(str(root / "vae"))
        standardise(model.parts["vae"], data)
        model.scheduler = schedule(shift=1.0)  # the base's own is for fine-tuning (docs/decisions.md)
        backbones.save(model, ready)
    if code := _train(config, DENOISER, ready, data, root / "denoiser", config.denoiser_steps):
        return code
    pack(backbones.load(str(root / "denoiser")), root / "base.safetensors", config.seed)
    return 0


def draw_scenes(folder: Path, n: int, seed: int, n_validation: int = 256) -> Path:
    """A dataset folder of `n` training scenes and some for validation; splits that are complete are kept."""
    for split, first, count in (("train", 0, n), ("validation", n, n_validation)):
        if (folder / split / "metadata.csv").is_file():
            continue
        (folder / split).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(available_cores()) as pool:
            texts = list(pool.map(partial(_draw, folder / split, seed), range(first, first + count), chunksize=64))
        names = [f"{index:06d}" for index in range(first, first + count)]
        table = {"file_name": [f"{name}.png" for name in names], "text": texts, "dicom_id": names}
        write_metadata(folder / split, pd.DataFrame(table))
    return existing_folder(folder, "--output_dir")


def _draw(folder: Path, seed: int, index: int) -> str:
    grey, caption = scene(seed, index)
    write_png(folder / f"{index:06d}.png", grey)
    return caption


def _train(
    config: PretrainingConfig, recipe: dict[str, Any], base: Path, data: Path, run_folder: Path, steps: int
) -> int:
    from sdcxr.training.loop import train

    settings = COMMON | recipe | {"max_train_steps": steps, "seed": config.seed}
    settings |= {"torch_compile": config.torch_compile, "cuda_graphs": config.cuda_graphs}
    return train(TrainConfig(base=str(base), data=str(data), output_dir=str(run_folder), **settings))


if __name__ == "__main__":
    run(main)
