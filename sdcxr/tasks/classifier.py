"""The classifier task: a network of timm or transformers for several labels, or for one class of several."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sdcxr.backbones import classifier_base
from sdcxr.backbones.image_classifier import (
    Classifier,
    Description,
    logits_of,
    probabilities_of,
    write_classifier,
)
from sdcxr.backbones.pipeline_files import hash_weights
from sdcxr.config import TrainConfig
from sdcxr.data.examples import LabelledImages
from sdcxr.io.labels import fill_labels, read_classes, read_labels
from sdcxr.io.manifest import LONGEST_SHOWN
from sdcxr.io.run_folder import best_validation
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.processes import processes
from sdcxr.tasks.base import split_rows, training_rows
from sdcxr.tasks.classification_scores import classification_scores
from sdcxr.tasks.mixture import check_mixture
from sdcxr.tasks.network import NetworkTask, check_saved, has_colour
from sdcxr.tuning.adapter_folder import save_adapter
from sdcxr.tuning.classifiers import tune_classifier, with_rank
from sdcxr.tuning.lora_files import write_peft_folder


class ClassifierTask(NetworkTask):
    """Cross-entropy over what is known of a sample; unknown labels (empty or -1) and classes do not count."""

    part = "classifier"

    def __init__(self, config: TrainConfig):
        super().__init__()
        self.config = config
        if (warning := check_mixture(config)) and processes().is_main_process:
            print(warning, flush=True)
        self.rows = training_rows(config)
        # Of all patients: a small share of them, and synthetic images, may lack a label.
        every = split_rows(dataclasses.replace(config, data_fraction=1, max_train_samples=None))
        self.labels = table_of(every, config, named_labels(every, config))[0]
        self.network, self.about = self._begin()
        self.labels, self.resolution = list(self.about.labels), self.about.resolution
        self.targets = table_of(self.rows, config, self.labels)[1]
        made = self.rows["synthetic"].to_numpy(bool) if config.synthetic else np.zeros(len(self.rows), dtype=bool)
        if config.synthetic is not None:
            check_synthetic(self.targets[made], self.labels)
        self.notes |= {"n_real": int((~made).sum()), "n_synthetic": int(made.sum())}  # of an epoch
        self.tuning = with_rank(config)
        self.method = tune_classifier(self.network.train(), self.tuning)

    def _begin(self) -> tuple[nn.Module, Description]:
        """The network, and how it takes its images."""
        config = self.config
        colour = has_colour(self.rows["path"].tolist())
        wanted = Description(
            "", self.labels, config.resolution or 0, colour=colour, channels=3 if colour else 1,
            problem="multi_class" if config.class_column else "multi_label",
        )  # fmt: skip
        self.base_sha256: dict[str, str] = {}
        self.notes: dict[str, Any] = {}
        begun = None if config.base is None or config.random_weights else classifier_base.of_run(config.base)
        if begun is None and (config.base is None or config.random_weights):
            if config.architecture:
                raise UserError("--architecture is for weights in a file: --base names a network of random weights")
            if config.method != "full" and not config.random_weights:
                raise UserError(f"--method {config.method}: needs trained weights: name them with --base")
            return classifier_base.untrained(config.base, dataclasses.replace(wanted, mean=(0.5,), std=(0.5,)))
        if begun is None:
            assert config.base is not None
            network, about, sha256 = classifier_base.pretrained(config.base, config.architecture, wanted)
            self.base_sha256 = {"classifier": sha256}
            return network, dataclasses.replace(about, colour=colour and about.channels == 3)
        self.base_sha256 = {"classifier": hash_weights(begun.network)}
        labels = begun.labels
        if config.new_head:
            labels = self.labels
            classifier_base.replace_head(begun.network, len(labels))
        elif set(labels) != set(self.labels) or begun.about.problem != wanted.problem:
            own, other = ", ".join(labels), ", ".join(self.labels)
            raise UserError(
                f"--base {config.base} names {own}; the labels of this data are {other} (--new_head takes them)"
            )
        if begun.about.prompt_tokens:
            raise UserError(f"--base {config.base}: has visual prompts: begin from its own base")
        about = dataclasses.replace(
            begun.about, labels=labels, problem=wanted.problem, colour=colour and begun.about.channels == 3,
            resolution=classifier_base.resolution_of(begun, config),
        )  # fmt: skip
        return begun.network, about

    @property
    def architecture(self) -> str:
        """timm's name of the network, or the `model_type` of transformers."""
        return self.about.architecture

    @property
    def selects_by(self) -> str:
        """Score of validation.jsonl by which `--load_best_model_at_end` chooses: that of the weights that are saved."""
        return "ema_auroc" if self.config.use_ema else "auroc"

    def examples(self) -> LabelledImages:
        return self._images(self.rows, self.targets, augmented=True)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.loss(self.logits(batch), batch["labels"])

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (batch, labels), float32."""
        return logits_of(self.network, self.about.inputs(batch["pixels"])).float()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each sample, shape (batch,)."""
        known, labels = labels.isfinite(), labels.nan_to_num(0.0)
        if self.about.problem == "multi_class":
            return -(labels * logits.log_softmax(dim=1)).sum(dim=1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (loss * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)

    def validation_examples(self) -> LabelledImages | None:
        rows = self.validation_rows()
        if rows is None:
            return None
        return self._images(rows, table_of(rows, self.config, self.labels)[1], augmented=False)

    def _images(self, rows: pd.DataFrame, targets: np.ndarray, augmented: bool) -> LabelledImages:
        channels = 3 if self.about.colour else 1
        return LabelledImages(rows["path"].tolist(), rows["id"].tolist(), targets, self.resolution, channels, augmented)

    def observe(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss (batch,) and probabilities (batch, labels) of held-out images."""
        logits = self.logits(batch)
        return self.loss(logits, batch["labels"]), probabilities_of(logits, self.about.problem)

    def scores(self, examples: LabelledImages, probabilities: np.ndarray) -> dict[str, float]:
        """Scores of what was observed of all held-out images, for validation.jsonl."""
        return classification_scores(examples.labels, probabilities, self.labels, self.about.problem)

    def save(self, run: Path) -> None:
        tuned = {"classifier": self.network}
        save_adapter(run / "adapter", {"classifier": self.method}, tuned, self.tuning, self.base_sha256)
        if self.about.library == "transformers" and hasattr(self.network, "peft_config"):
            write_peft_folder(run / "adapter" / "peft", self.network, self.method.state(self.network))
        plain: Any = self.method.merge(self.network)
        args = self.about.model_args | getattr(plain, "changed_model_args", {})
        about = dataclasses.replace(self.about, model_args=args)
        if self.method.name.startswith("vpt"):
            about = dataclasses.replace(
                about, prompt_tokens=self.config.prompt_tokens, deep_prompts=self.method.name == "vpt-deep"
            )
        scores = self._last_scores(run)
        thresholds = {key.partition("/")[2]: value for key, value in scores.items() if key.startswith("threshold/")}
        write_classifier(run / "classifier", plain, about, thresholds=thresholds, validation=scores)
        saved = Classifier(run / "classifier", torch.device("cpu")).network
        check_saved(run / "classifier", saved, self.network, self.about, self.method.name)

    def _last_scores(self, run: Path) -> dict[str, float]:
        """Scores of the saved weights in the last, or best, row of validation.jsonl; none without validation."""
        file = run / "validation.jsonl"
        if not self.config.validation_steps or not file.is_file():
            return {}
        best = best_validation(run, self.selects_by) if self.config.load_best_model_at_end else None
        row = best or json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
        prefix = "ema_" if self.config.use_ema else ""
        names = [
            name.removeprefix(prefix) for name in row if name.startswith(prefix) and name not in ("step", "images")
        ]
        return {name: row[prefix + name] for name in names if not name.startswith("ema_")}


def named_labels(rows: pd.DataFrame, config: TrainConfig) -> list[str] | None:
    """The labels of `--findings`; None where it is not given.

    Raises:
        UserError: one is not among those that images both have and lack.
    """
    if not config.findings:
        return None
    known, wanted = label_table(rows, config.labels)[0], [name.strip() for name in config.findings.split(",")]
    if unknown := next((name for name in wanted if name not in known), None):
        raise UserError(f"--findings: {unknown!r} is not among the labels with both values: {', '.join(known)}")
    return wanted


def check_synthetic(targets: np.ndarray, labels: list[str]) -> None:
    """Refuse synthetic images, of targets 1, 0 or NaN of shape (images, labels), that do not show all labels both ways.

    Raises:
        UserError: names the labels: what is learnt could not be compared with what real images teach.
    """
    if lacking := [name for name, values in zip(labels, targets.T, strict=True) if not {0.0, 1.0} <= set(values)]:
        raise UserError(
            f"--synthetic: {', '.join(lacking)}: not both present and absent in these {len(targets)} images; name the "
            "labels to learn with --findings, the same for all trainings that are compared"
        )


def table_of(rows: pd.DataFrame, config: TrainConfig, labels: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Names of labels or classes and their values (n, names), as the settings say; see `label_table`, `class_table`."""
    if config.class_column is None:
        return label_table(rows, config.labels, labels)
    return class_table(rows, config.class_column, config.labels, labels)


def label_table(rows: pd.DataFrame, file: str | None, labels: list[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Names of the labels and their values (n, labels): 1, 0 or NaN, from a CSV joined by dicom_id or from the rows.

    Where none are named, those that are never positive, or never negative, cannot be learnt and are left out.
    """
    values = fill_labels(read_labels(rows, file))
    learnable = labels or [name for name in values.columns if values[name].nunique() == 2]
    if not learnable:
        raise UserError(f"no label has both positive and negative images in {file or 'metadata.csv'}")
    return learnable, values[learnable].to_numpy()


def class_table(
    rows: pd.DataFrame, column: str, file: str | None, classes: list[str] | None = None
) -> tuple[list[str], np.ndarray]:
    """Names of the classes and a row for each image (n, classes): 1 for its class, else 0; NaN where it is unknown."""
    named = read_classes(rows, column, file)
    known = classes or sorted(set(named) - {""})
    if len(known) < 2:
        raise UserError(f"--class_column {column}: has {len(known)} class in {file or 'metadata.csv'}, 2 are needed")
    unknown = named[(named != "") & ~named.isin(known)]
    if len(unknown) and os.environ.get("RANK", "0") == "0":
        print(
            f"warning: {len(unknown):,} images have a class that is not learnt, as no real image of the training split "
            f"has it (such as {unknown.iloc[0][:LONGEST_SHOWN]!r}): they do not count",
            file=sys.stderr,
        )
    values = (named.to_numpy()[:, None] == np.array(known)).astype(float)
    values[~named.isin(known)] = np.nan
    return known, values
