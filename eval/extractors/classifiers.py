"""Classifiers that judge images: findings by name and probabilities, from this project or from torchxrayvision.

What is cached of an image are the logits of all outputs. From them follow the probabilities:

- a run of train.py --tune classifier: the sigmoid;
- torchxrayvision: what its models return by default, the sigmoid bent piecewise-linearly so that 0.5 is the operating
  point chosen on the validation data of its authors (`op_threshs`). Without that no output of some findings ever
  passes 0.5. No AUROC of a finding depends on it; agreement, Pearson's r and means over findings do. Outputs without a
  name, or without an operating point, were not trained and are left out.
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
from eval.inputs.labels import chexpert_name
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError


@dataclass(frozen=True)
class EvalClassifier:
    """A classifier whose weights have been found, but not loaded."""

    name: str
    """As in score rows."""
    labels: tuple[str, ...]
    """Name of each output, CheXpert's where it has one; "" where an output was not trained."""
    extractor: Extractor
    """Images to logits (n, outputs)."""
    thresholds: np.ndarray | None = None
    """Operating point of each output's sigmoid, which becomes 0.5; None: 0.5 is it already."""

    @property
    def findings(self) -> list[str]:
        """What it can name."""
        return [label for label in self.labels if label]

    def probabilities(self, images: ImageFolder, cache_dir: Path | None = None) -> pd.DataFrame:
        """A column in [0, 1] for each finding, in the order of the folder.

        Raises:
            UserError: images are unreadable, or the weights are damaged.
        """
        features = extract(images, self.extractor, cache_dir=cache_dir)
        logits = np.asarray(features.values, dtype=np.float64)
        probabilities = 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
        if self.thresholds is not None:
            probabilities = at_operating_point(probabilities, self.thresholds)
        frame = pd.DataFrame(probabilities, columns=pd.Index(self.labels))
        return frame[self.findings]


def at_operating_point(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Probabilities bent at a threshold, so that it becomes 0.5 while 0 and 1 stay: torchxrayvision's `op_norm`.

    Args:
        values: in [0, 1], shape (n, outputs).
        thresholds: in (0, 1), shape (outputs,), NaN where the result does not matter.
    """
    return np.where(values < thresholds, values / (2 * thresholds), 1 - (1 - values) / (2 * (1 - thresholds)))


def find_classifier(name: str, weights_dir: Path | None = None, flag: str = "--classifier") -> EvalClassifier:
    """The classifier of a run folder, or torchxrayvision's of a name such as `xrv-all`.

    Raises:
        UserError: there is none; its weights are absent or two of its outputs have one name.
    """
    folder = Path(name).expanduser()
    base = name.partition("@")[0]
    if folder.is_dir() or not xrv.matches(base):
        judge = _of_run(name, folder, flag)
    else:
        judge = _of_torchxrayvision(name, base, weights_dir)
    repeated = [label for label in judge.findings if judge.findings.count(label) > 1]
    if repeated:
        raise UserError(f"{flag} {name}: two of its outputs are called {repeated[0]}")
    return judge


def _of_run(name: str, folder: Path, flag: str) -> EvalClassifier:
    from eval.extractors import run_classifier as classifier

    if not classifier.matches(name):
        known = ", ".join(sorted(xrv.ALIASES))
        if folder.is_dir():
            raise UserError(f"{flag} {folder} holds no trained classifier: make one with train.py --tune classifier")
        raise UserError(f"{flag} {name}: neither a run folder of train.py --tune classifier nor one of {known}")
    features = extractors.find_extractor(name)
    labels = read_json(features.weights[1])["labels"]
    load = partial(_load_run, features.weights[0].parent)
    extractor = replace(features, name=f"{name}, logits", load=load, dimension=len(labels))
    return EvalClassifier(name, tuple(chexpert_name(label) for label in labels), extractor)


def _load_run(folder: Path, device: Any) -> Callable[[Any], Any]:
    from sdcxr.tasks.classifier import Classifier

    network: Callable[[Any], Any] = Classifier(folder, device).network
    return network


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
