"""Classifiers for evaluation: probabilities of findings by a run of this project or by torchxrayvision.

The logits of all outputs are cached. Probabilities follow from them:

- a run of train.py --tune classifier: the sigmoid;
- torchxrayvision: the default output of its models, a piecewise-linear function of the sigmoid that maps the operating
  point (`op_threshs`, chosen by its authors on validation data) to 0.5. Without it some findings never exceed 0.5. It
  does not change the AUROC of a finding, but agreement, Pearson's r and means over findings. Outputs without a name or
  without an operating point were not trained and are omitted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval import extractors
from eval.extractors import xrv
from eval.extractors.base import Extractor
from eval.extractors.cache import extract
from eval.inputs.folders import ImageFolder
from sdcxr.io.files import read_json
from sdcxr.io.labels import chexpert_name
from sdcxr.runtime.errors import UserError


@dataclass(frozen=True)
class EvalClassifier:
    """A classifier whose weights were found but are not loaded yet."""

    name: str
    """As shown in score rows."""
    labels: tuple[str, ...]
    """Name of each output, CheXpert's name if it has one; "" for untrained outputs."""
    extractor: Extractor
    """Images to logits (n, outputs)."""
    thresholds: np.ndarray | None = None
    """Operating point of each output's sigmoid, mapped to 0.5; None: no mapping."""

    @property
    def findings(self) -> list[str]:
        """Names of the trained outputs."""
        return [label for label in self.labels if label]

    def probabilities(self, images: ImageFolder, cache_dir: Path | None = None) -> pd.DataFrame:
        """Probability of each finding (columns) for each image (rows, in the order of the folder).

        Raises:
            UserError: images are unreadable or the weights are damaged.
        """
        features = extract(images, self.extractor, cache_dir=cache_dir)
        logits = np.asarray(features.values, dtype=np.float64)
        probabilities = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        if self.thresholds is not None:
            probabilities = at_operating_point(probabilities, self.thresholds)
        frame = pd.DataFrame(probabilities, columns=pd.Index(self.labels))
        return frame[self.findings]


def at_operating_point(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Probabilities (n, outputs) mapped piecewise linearly: the threshold to 0.5, 0 and 1 to themselves (`op_norm`).

    Thresholds (outputs,) are in (0, 1), NaN for untrained outputs.
    """
    return np.where(values < thresholds, values / (2 * thresholds), 1 - (1 - values) / (2 * (1 - thresholds)))


def find_classifier(name: str, weights_dir: Path | None = None) -> EvalClassifier:
    """The classifier of a run folder, or one of torchxrayvision by name, such as `xrv-all`.

    Raises:
        UserError: there is no such classifier, its weights are absent, or two of its outputs have the same name.
    """
    folder = Path(name).expanduser()
    base = name.partition("@")[0]
    if folder.is_dir() or not xrv.matches(base):
        classifier = _of_run(name, folder)
    else:
        classifier = _of_torchxrayvision(name, base, weights_dir)
    repeated = [label for label in classifier.findings if classifier.findings.count(label) > 1]
    if repeated:
        raise UserError(f"--classifier {name}: two of its outputs are called {repeated[0]}")
    return classifier


def _of_run(name: str, folder: Path) -> EvalClassifier:
    from eval.extractors import run_classifier

    if not run_classifier.matches(name):
        known = ", ".join(sorted(xrv.ALIASES))
        if folder.is_dir():
            raise UserError(
                f"--classifier {folder} holds no trained classifier: make one with train.py --tune classifier"
            )
        raise UserError(f"--classifier {name}: neither a run folder of train.py --tune classifier nor one of {known}")
    features = extractors.find_extractor(name)
    labels = read_json(features.weights[1])["labels"]
    load = partial(_load_run, features.weights[0].parent)
    extractor = replace(features, name=f"{name}, logits", load=load, dimension=len(labels))
    return EvalClassifier(name, tuple(chexpert_name(label) for label in labels), extractor)


def _load_run(folder: Path, device: Any) -> Callable[[Any], Any]:
    from sdcxr.backbones.image_classifier import Classifier

    return Classifier(folder, device).logits


def _of_torchxrayvision(name: str, base: str, weights_dir: Path | None) -> EvalClassifier:
    features = extractors.find_extractor(name, weights_dir)
    network = xrv.ALIASES.get(base, base)
    about = xrv.torchxrayvision().models.model_urls[network]
    thresholds = np.array(about["op_threshs"], dtype=np.float64)
    labels = [
        chexpert_name(label) if label and np.isfinite(threshold) else ""
        for label, threshold in zip(about["labels"], thresholds, strict=True)
    ]
    extractor = replace(
        features,
        name=f"{features.name}, logits",
        load=partial(_load_torchxrayvision, network, features.weights[0]),
        dimension=len(labels),
    )
    return EvalClassifier(features.name, tuple(labels), extractor, thresholds)


def _load_torchxrayvision(network: str, file: Path, device: Any) -> Callable[[Any], Any]:
    loaded: Callable[[Any], Any] = xrv.network_of(network, file).to(device)
    return loaded
