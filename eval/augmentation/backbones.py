"""torchxrayvision's DenseNets as initial weights of this project's classifiers: the same network in timm."""

from collections.abc import Sequence
from pathlib import Path

from eval.extractors import xrv
from sdcxr.io.files import atomic, write_json
from sdcxr.runtime.errors import UserError

ARCHITECTURE = "densenet121"


def weights_of(name: str, weights_dir: Path | None) -> Path | None:
    """The weights file of one of torchxrayvision's DenseNets; None for any other name (a model of timm).

    Raises:
        UserError: the file is absent, or the network is not a DenseNet.
    """
    if not xrv.matches(name):
        return None
    if name == xrv.RESNET:
        raise UserError(f"--backbone {name}: only the DenseNets of torchxrayvision can be trained further")
    return xrv.FILES[xrv.ALIASES.get(name, name)].find(weights_dir)


def write_initial_classifier(folder: Path, name: str, file: Path, findings: Sequence[str], resolution: int) -> None:
    """Write a classifier folder with the weights of a file and a last layer of zeros, for `train.py --base`.

    The outputs are `findings`, the input images have a side of `resolution` pixels.

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
        for key, value in network(ARCHITECTURE, len(findings)).state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    about = {"architecture": ARCHITECTURE, "labels": list(findings), "resolution": resolution}
    write_json(folder / "config.json", about)
