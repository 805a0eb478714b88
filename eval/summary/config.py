"""Flags of `python -m eval`."""

import os
from dataclasses import dataclass
from typing import ClassVar

from sdcxr.runtime.errors import UserError


@dataclass
class EvalConfig:
    """What to measure, and with which networks."""

    DEPRECATED: ClassVar[dict[str, str]] = {
        "clip": "image_text_model",
        "generator": "report_model",
        "resamples": "interval_draws",
    }
    real: str
    """Split of a dataset folder with patients that the model was not trained on, or a folder of images."""
    synthetic: list[str] | str
    """Samples folder, or a folder of images. Several are compared on one page: --synthetic A --synthetic B; differences
    are to the first."""
    output_dir: str
    """Folder for scores.json, report.html and nearest.csv; with several models also differences.json."""
    train: str | None = None
    """Split that the model was trained on, for privacy."""
    reid: str | None = None
    """Re-identification network, for privacy: name of an extractor, or a folder with one. Default: none."""
    classifier: str | None = None
    """Run folder of `train.py --tune classifier`, or a classifier that eval.classifier knows by name."""
    image_text_model: str | None = None
    """Run folder of `train.py --tune clip`, or another extractor with a text tower, for alignment and retrieval."""
    report_model: str | None = None
    """Image-to-text model that generates reports: a folder, or the name of one in the hub's cache."""
    model: str | None = None
    """Run folder of the model that made the samples: its text encoder is compared with that of its base."""
    labels: str | None = None
    """CSV with a dicom_id column and 0/1 columns, for the classifier. Default: the labels in metadata.csv."""
    findings: str | None = None
    """Findings for the classifier, separated by commas. Default: all that it and the labels have in common."""
    extractor: str | None = None
    """Extractors for distances between the distributions, separated by commas. Default: all whose weights are found."""
    preset: str | None = None
    """Published presets for these distances, separated by commas. Default: all whose weights are found."""
    weights_dir: str | None = None
    """Folder with the weights of named extractors."""
    interval_draws: int = 100
    """Random half-samples behind the intervals of these distances; 0 for no intervals."""
    show_prompts: bool = False
    """Show the texts of prompts in the report. Those of phantoms are always shown; others can be patients' texts."""
    seed: int = 0
    """Seed of all random draws."""

    @property
    def models(self) -> list[str]:
        """The folders of `synthetic`."""
        return [self.synthetic] if isinstance(self.synthetic, str) else self.synthetic

    def __post_init__(self) -> None:
        from eval.fid import check_interval_draws  # pandas only once the flags are parsed

        check_interval_draws(self.interval_draws)
        if not self.models:
            raise UserError("--synthetic: name a samples folder")
        if (self.labels or self.findings) and not self.classifier:
            raise UserError("--labels and --findings are for --classifier: name one")
        if self.reid and not self.train:
            raise UserError("--reid looks for the patients of --train: name it")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "python -m eval is one process: extract features with accelerate launch -m eval.features, then run it"
            )
