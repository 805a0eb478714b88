"""A DenseNet of torchxrayvision as a base for `train.py --tune classifier`: the same network in timm, no last layer.

    python -m eval.xrv_base --network xrv-nih --weights_dir DIR --output_dir BASE
    python train.py --tune classifier --base BASE --new_head true --data DATASET

train.py reads no pickled weights, which those of torchxrayvision are. They have seen their data sets: no radiograph of
the validation or test split should be among them (xrv-all knows MIMIC-CXR, NIH and Open-i).
"""

from dataclasses import dataclass
from pathlib import Path

from eval.command import weights_folder
from eval.extractors import xrv
from sdcxr.io.files import atomic, write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

ARCHITECTURE = "densenet121"
NO_LABELS = ["a new last layer"]  # so that a forgotten --new_head is named


@dataclass
class XrvBaseConfig:
    """Which network, and where to."""

    network: str
    """A DenseNet of torchxrayvision, such as xrv-nih."""
    output_dir: str
    """Folder to write."""
    weights_dir: str | None = None
    """Folder with torchxrayvision's weights."""
    resolution: int = 224
    """Side in pixels of the images that it will take."""


def main(config: XrvBaseConfig) -> int:
    folder = Path(config.output_dir).expanduser()
    weights = weights_of(config.network, weights_folder(config.weights_dir))
    write_base(folder, config.network, weights, config.resolution)
    print(f"{folder}: for train.py --tune classifier --base {folder} --new_head true")
    return 0


def weights_of(name: str, weights_dir: Path | None) -> Path:
    """The weights file of one of torchxrayvision's DenseNets.

    Raises:
        UserError: the file is absent, or the network is not a DenseNet.
    """
    if not xrv.matches(name) or name == xrv.RESNET:
        known = ", ".join(sorted(alias for alias, of in xrv.ALIASES.items() if of != xrv.RESNET))
        raise UserError(f"--network {name}: only the DenseNets of torchxrayvision can be trained further ({known})")
    return xrv.FILES[xrv.ALIASES.get(name, name)].find(weights_dir)


def write_base(folder: Path, name: str, file: Path, resolution: int) -> None:
    """Write a classifier folder with the weights of a file and a last layer of zeros.

    Raises:
        UserError: the file contains something else.
    """
    from safetensors.torch import save_file

    from sdcxr.backbones.image_classifier import network

    given = xrv.network_of(xrv.ALIASES.get(name, name), file).state_dict()
    # These weights expect pixels in ±1024, the classifier task uses ±1.
    given["features.conv0.weight"] = given["features.conv0.weight"] * 1024
    tensors = {
        key: value.zero_() if key.startswith("classifier.") else given[key]
        for key, value in network(ARCHITECTURE, len(NO_LABELS)).state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    write_json(folder / "config.json", {"architecture": ARCHITECTURE, "labels": NO_LABELS, "resolution": resolution})


if __name__ == "__main__":
    run(main)
