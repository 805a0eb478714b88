"""The classifier task: a timm network with one sigmoid output per finding."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdcxr.backbones.image_classifier import ARCHITECTURE, RESOLUTION, Classifier, network
from sdcxr.backbones.pipeline_files import hash_weights
from sdcxr.config import TrainConfig
from sdcxr.data.examples import LabelledImages
from sdcxr.io.files import atomic, write_json
from sdcxr.io.labels import fill_labels, read_labels
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import training_rows, validation_rows


class ClassifierTask(nn.Module):
    """Binary cross-entropy over the known labels of a sample; unknown ones (empty or -1) do not count."""

    def __init__(self, config: TrainConfig):
        super().__init__()
        self.config = config
        self.rows = training_rows(config)
        self.labels, self.targets = label_table(self.rows, config.labels)
        self.architecture = config.base or ARCHITECTURE
        self.base_sha256: dict[str, str] = {}
        self.notes: dict[str, Any] = {}
        if Path(self.architecture).expanduser().is_dir():
            begun = Classifier(Path(self.architecture).expanduser(), torch.device("cpu"))
            if set(begun.labels) != set(self.labels):
                own, other = ", ".join(begun.labels), ", ".join(self.labels)
                raise UserError(f"--base {config.base} names {own}; the labels of this data are {other}")
            self.labels, self.targets = label_table(self.rows, config.labels, begun.labels)  # in the base's order
            self.resolution = config.resolution or begun.resolution
            self.architecture, self.network = begun.architecture, begun.network.train()
            self.base_sha256 = {"classifier": hash_weights(self.network)}
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
        rows = validation_rows(self.config, self.config.validation_loss_images)
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


def label_table(rows: pd.DataFrame, file: str | None, labels: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Names of the labels and their values (n, labels): 1, 0 or NaN, from a CSV joined by dicom_id or from the rows.

    Where none are named, those that are never positive, or never negative, cannot be learnt and are left out.
    """
    values = fill_labels(read_labels(rows, file))
    learnable = labels or [name for name in values.columns if values[name].nunique() == 2]
    if not learnable:
        raise UserError(f"no label has both positive and negative images in {file or 'metadata.csv'}")
    return learnable, values[learnable].to_numpy()
