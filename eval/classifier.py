"""Do the synthetic radiographs show what their prompts say? A classifier's AUROC per finding, real images beside them.

    python -m eval.classifier --classifier RUN --real DATASET/test --synthetic SAMPLES --output scores.json

The classifier is a run of `train.py --tune classifier`. Synthetic images are judged by the labels of the prompt's row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.scores import interval, macro
from sdcxr.cli import run
from sdcxr.errors import UserError
from sdcxr.files import inside, write_json
from sdcxr.manifest import image_ids, read_metadata


@dataclass
class ClassifierConfig:
    """What to compare."""

    classifier: str
    """Run folder of `train.py --tune classifier`."""
    real: str
    """Split of a dataset folder."""
    synthetic: str
    """Samples folder."""
    output: str
    """JSON file of score rows."""
    labels: str | None = None
    """CSV with a dicom_id column and 0/1 columns. Default: the labels in metadata.csv."""
    findings: str | None = None
    """Names separated by commas. Default: all that the classifier knows and the labels have."""
    batch_size: int = 64
    """Images read at once."""


def main(config: ClassifierConfig) -> int:
    import torch

    from sdcxr.tasks.classifier import Classifier

    classifier = Classifier(Path(config.classifier), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    sides = {}
    for side, folder in (("real", Path(config.real)), ("synthetic", Path(config.synthetic))):
        rows = read_metadata(folder)
        if side == "real" and "seed" in rows:
            raise UserError(f"--real {folder} is a samples folder: are --real and --synthetic swapped?")
        if not len(rows):
            raise UserError(f"--{side} {folder}: metadata.csv lists no images")
        probabilities = predict(classifier, [inside(folder, name) for name in rows["file_name"]], config.batch_size)
        labels, groups = labels_of(rows, config.labels), group_of(rows)
        sides[side] = (labels, pd.DataFrame(probabilities, columns=classifier.labels), groups)
    findings = choose(config.findings, classifier.labels, sides["real"][0], sides["synthetic"][0])
    scores = score(sides, findings, config.classifier)
    Path(config.output).parent.mkdir(parents=True, exist_ok=True)
    # JSON has no NaN, which stands where only one class occurs.
    write_json(
        config.output, [{key: None if value != value else value for key, value in row.items()} for row in scores]
    )
    print(table(scores))
    return 0


def predict(classifier: Any, paths: list[Path], batch_size: int) -> np.ndarray:
    """Probabilities (n, labels) of the images."""
    import torch
    from tqdm import tqdm

    from sdcxr.pixels import read_pixels

    chunks = range(0, len(paths), batch_size)
    return np.concatenate(
        [
            classifier.predict(
                torch.stack([read_pixels(path, classifier.resolution) for path in paths[i : i + batch_size]])
            )
            for i in tqdm(chunks, desc="classifying", unit="batch", leave=False)
        ]
    )


def labels_of(rows: pd.DataFrame, file: str | None) -> pd.DataFrame:
    """Labels (1, 0, NaN) of the rows, from the table or from a CSV joined by the prompt's or the image's dicom_id."""
    if file is None:
        return rows.select_dtypes("number")
    from sdcxr.tasks.classifier import read_labels

    table = read_labels(file)
    keys = rows["id"] if "id" in rows else image_ids(rows)
    missing = keys[~keys.isin(table.index)]
    if len(missing):
        raise UserError(f"--labels {file}: {len(missing)} of {len(keys)} images have no row (first: {missing.iloc[0]})")
    return table.select_dtypes("number").reindex(keys).reset_index(drop=True)


def group_of(rows: pd.DataFrame) -> np.ndarray:
    """What is resampled together: a patient's images, or the images of one prompt."""
    for column in ("subject_id", "id", "file_name"):
        if column in rows:
            return rows[column].to_numpy()
    raise AssertionError("metadata.csv always has file_name")


def choose(wanted: str | None, known: list[str], real: pd.DataFrame, synthetic: pd.DataFrame) -> list[str]:
    """The findings to score.

    Raises:
        UserError: a wanted finding is unknown to the classifier or has no labels; says which there are.
    """
    possible = [name for name in known if name in real and name in synthetic]
    if wanted is None:
        if not possible:
            raise UserError("the classifier's labels and those of the images have none in common")
        return possible
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in possible:
            raise UserError(f"--findings: {name!r} is not among: {', '.join(possible)}")
    return names


def score(sides: dict[str, Any], findings: list[str], extractor: str) -> list[dict[str, Any]]:
    """One row per finding and side, and the macro mean over the findings in which both classes occur."""
    scores: list[dict[str, Any]] = []
    for side, (labels, probabilities, groups) in sides.items():
        truth, predicted = labels[findings].to_numpy(float), probabilities[findings].to_numpy(float)
        truth = np.where(np.isin(truth, (0.0, 1.0)), truth, np.nan)  # uncertain (-1) does not count
        columns = [(name, [j]) for j, name in enumerate(findings)] + [("macro", list(range(len(findings))))]
        for name, chosen in columns:
            low, high = interval_or_nan(truth[:, chosen], predicted[:, chosen], groups)
            scores.append(
                {
                    "metric": "auroc",
                    "label": name,
                    "images": side,
                    "value": macro(truth[:, chosen], predicted[:, chosen]),
                    "ci_low": low,
                    "ci_high": high,
                    "n": len(truth),
                    "n_positive": int(np.nansum(truth[:, chosen])),
                    "extractor": extractor,
                }
            )
    return scores


def interval_or_nan(truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The bootstrap interval, or NaN where no column has both classes."""
    if np.isnan(macro(truth, predicted)):
        return float("nan"), float("nan")
    return interval(truth, predicted, groups)


def table(scores: list[dict[str, Any]]) -> str:
    """The scores as text: a row per finding, real and synthetic side by side."""
    lines = [f"{'AUROC':24}  {'real':>22}  {'synthetic':>22}"]
    cells = {(row["label"], row["images"]): row for row in scores}
    for label in dict.fromkeys(row["label"] for row in scores):
        pair = [cells[label, side] for side in ("real", "synthetic")]
        shown = [f"{row['value']:.3f} ({row['ci_low']:.3f}–{row['ci_high']:.3f})" for row in pair]
        lines.append(f"{label:24}  {shown[0]:>22}  {shown[1]:>22}")
    n = {side: next(row["n"] for row in scores if row["images"] == side) for side in ("real", "synthetic")}
    lines.append(f"{n['real']} real and {n['synthetic']} synthetic images; 95 % bootstrap intervals")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
