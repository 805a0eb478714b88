"""Tasks by the parts that they train (`--tune`): a task is one module with all parts and the loss."""

from typing import Any

import torch

from sdcxr.config import TrainConfig


def count_images(config: TrainConfig) -> int:
    """Images of an epoch."""
    from sdcxr.tasks.base import training_rows

    rows = training_rows(config)
    if config.parts == {"segmenter"}:
        from sdcxr.tasks.segmenter import known_masks

        return int(known_masks(rows, config.structure_names)[2].sum())
    return len(rows)


def build(config: TrainConfig, device: torch.device) -> Any:
    """The task that `--tune` names, on a device, with exactly the chosen parts trainable."""
    torch.manual_seed(config.seed)
    if config.parts == {"classifier"}:
        from sdcxr.tasks.classifier import ClassifierTask

        return ClassifierTask(config).to(device)
    if config.parts == {"segmenter"}:
        from sdcxr.tasks.segmenter import SegmenterTask

        return SegmenterTask(config).to(device)
    if config.parts == {"clip"}:
        from sdcxr.tasks.contrastive import ClipTask

        return ClipTask(config).to(device)
    if config.parts == {"vae"}:
        from sdcxr.tasks.autoencoder import AutoencoderTask

        return AutoencoderTask(config).to(device)
    from sdcxr.tasks.diffusion import DiffusionTask

    return DiffusionTask(config, device).to(device)
