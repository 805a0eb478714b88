"""The classifier task: a timm network with one sigmoid output per finding."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdcxr.backbones.image_classifier import ARCHITECTURE, RESOLUTION, Classifier, network
from sdcxr.config import TrainConfig
from sdcxr.data.examples import LabelledImages
from sdcxr.io.files import atomic, write_json
from sdcxr.io.manifest import LABELS, with_labels
from sdcxr.io.tables import read_csv
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
    if file is None:
        found = rows[[label for label in LABELS if label in rows]]
    else:
        table = read_labels(file)
        found = table[_binary(table)].reindex(rows["id"])
    values = found.astype(float).where(lambda frame: frame.isin([0.0, 1.0]))
    learnable = labels or [name for name in values.columns if values[name].nunique() == 2]
    if not learnable:
        raise UserError(f"no label has both positive and negative images in {file or 'metadata.csv'}")
    return learnable, values[learnable].to_numpy()


def read_labels(file: str) -> pd.DataFrame:
    """The table of `--labels`, by dicom_id; of rows with the same labels the first.

    Raises:
        UserError: it is missing, no CSV table, has no dicom_id or labels that are none, or contradicts itself.
    """
    table = read_csv(file, "--labels", dtype={"dicom_id": str}, keep_default_na=True)
    if "dicom_id" not in table:
        raise UserError(f"--labels {file}: no column dicom_id (it has: {', '.join(table.columns)})")
    table = with_labels(table, table["dicom_id"], f"--labels {file}")
    ids = table[["dicom_id", *_binary(table)]].drop_duplicates()["dicom_id"]
    if ids.duplicated().any():
        raise UserError(f"--labels {file}: rows of {ids[ids.duplicated()].iloc[0]} contradict each other")
    return table.drop_duplicates("dicom_id").set_index("dicom_id")


def _binary(table: pd.DataFrame) -> list[str]:
    """The columns that hold labels; others are texts or measurements."""
    return [name for name in table.columns if set(table[name].dropna().unique()) <= {0, 1, -1}]
