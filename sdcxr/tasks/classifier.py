"""The classifier task: a timm network that names findings, one sigmoid output a label."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.data.stream import LabelledImages
from sdcxr.io.files import atomic, read_json, write_json
from sdcxr.io.labels import fill_labels, read_labels
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import training_rows, validation_rows

ARCHITECTURE = "resnet10t"
RESOLUTION = 64


class ClassifierTask(nn.Module):
    """Binary cross-entropy over the known labels of a sample; unknown ones (empty or -1) do not count."""

    def __init__(self, config: TrainConfig):
        super().__init__()
        self.config = config
        self.rows = training_rows(config)
        self.labels, self.targets = label_table(self.rows, config.labels)
        self.architecture = config.base or ARCHITECTURE
        if Path(self.architecture).expanduser().is_dir():
            begun = Classifier(Path(self.architecture).expanduser(), torch.device("cpu"))
            if set(begun.labels) != set(self.labels):
                own, other = ", ".join(begun.labels), ", ".join(self.labels)
                raise UserError(f"--base {config.base} names {own}; the labels of this data are {other}")
            self.labels, self.targets = label_table(self.rows, config.labels, begun.labels)  # in the base's order
            self.resolution = config.resolution or begun.resolution
            self.architecture, self.network = begun.architecture, begun.network.train()
        else:
            self.resolution = config.resolution or RESOLUTION
            self.network = network(self.architecture, len(self.labels))

    def groups(self) -> list[dict[str, Any]]:
        return [{"name": "classifier", "params": list(self.network.parameters()), "lr": self.config.learning_rate}]

    def examples(self) -> LabelledImages:
        return LabelledImages(self.rows["path"].tolist(), self.rows["id"].tolist(), self.targets, self.resolution)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        known = batch["labels"].isfinite()
        logits = self.network(batch["pixels"]).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"].nan_to_num(0.0), reduction="none")
        return (loss * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)

    def validation_examples(self) -> LabelledImages | None:
        rows = validation_rows(self.config, self.config.num_validation_samples)
        if rows is None:
            return None
        targets = label_table(rows, self.config.labels, self.labels)[1]
        return LabelledImages(rows["path"].tolist(), rows["id"].tolist(), targets, self.resolution)

    n_previews = 0

    def preview(self, indices: list[int]) -> list[np.ndarray]:
        return []

    def save(self, run: Path) -> None:
        folder = run / "classifier"
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        with atomic(folder / "model.safetensors") as temporary:
            save_file(tensors, temporary)
        about = {"architecture": self.architecture, "labels": list(self.labels), "resolution": self.resolution}
        write_json(folder / "config.json", about)


def network(architecture: str, outputs: int) -> nn.Module:
    """An untrained timm network for grey images.

    Raises:
        UserError: timm does not know the name; the nearest names are listed.
    """
    import timm

    if architecture not in timm.list_models():
        import difflib

        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise UserError(f"--base {architecture}: timm has no such model (near: {', '.join(near) or 'none'})")
    return timm.create_model(architecture, pretrained=False, in_chans=1, num_classes=outputs)


def label_table(rows: pd.DataFrame, file: str | None, labels: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Names of the labels and their values (n, labels): 1, 0 or NaN, from a CSV joined by dicom_id or from the rows.

    Where none are named, those that are never positive, or never negative, cannot be learnt and are left out.
    """
    values = fill_labels(read_labels(rows, file))
    learnable = labels or [name for name in values.columns if values[name].nunique() == 2]
    if not learnable:
        raise UserError(f"no label has both positive and negative images in {file or 'metadata.csv'}")
    return learnable, values[learnable].to_numpy()


class Classifier:
    """A trained classifier folder, ready to read images: `labels` and `predict`."""

    def __init__(self, folder: Path, device: torch.device):
        folder = folder / "classifier" if (folder / "classifier").is_dir() else folder
        if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
            raise UserError(f"{folder} holds no trained classifier: make one with train.py --tune classifier")
        about = read_json(folder / "config.json")
        self.labels: list[str] = about["labels"]
        self.resolution: int = about["resolution"]
        self.architecture: str = about["architecture"]
        self.device = device
        self.network = network(self.architecture, len(self.labels))
        try:
            self.network.load_state_dict(load_file(folder / "model.safetensors"))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"{folder / 'model.safetensors'} is damaged or of another network ({error})") from None
        self.network.eval().to(device)

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> np.ndarray:
        """Probabilities (batch, labels) of images (batch, 1, resolution, resolution) in [-1, 1]."""
        return self.network(pixels.to(self.device)).float().sigmoid().cpu().numpy()
