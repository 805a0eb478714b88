"""torchxrayvision's DenseNets as a beginning for this project's classifiers: the same network under timm's name."""

from collections.abc import Sequence
from pathlib import Path

from eval.extractors import xrv
from sdcxr.io.files import atomic, write_json
from sdcxr.runtime.errors import UserError

ARCHITECTURE = "densenet121"


def weights_of(name: str, weights_dir: Path | None) -> Path | None:
    """The file of one of torchxrayvision's DenseNets; None for any other name, which is left to timm.

    Raises:
        UserError: the file is absent, or the network is no DenseNet.
    """
    if not xrv.matches(name):
        return None
    if name == xrv.RESNET:
        raise UserError(f"--backbone {name}: of torchxrayvision's networks only the DenseNets can be trained on")
    return xrv.FILES[xrv.ALIASES.get(name, name)].find(weights_dir)


def begin(folder: Path, name: str, file: Path, findings: Sequence[str], resolution: int) -> None:
    """Write a classifier folder with the weights of a file and a last layer of zeros, for `train.py --base`.

    Args:
        folder: where to.
        name: name of the network.
        file: its weights.
        findings: what the last layer shall name.
        resolution: side of the images it shall see.

    Raises:
        UserError: the file holds something else.
    """
    from safetensors.torch import save_file

    from sdcxr.backbones.image_classifier import network

    given = xrv.network_of(xrv.ALIASES.get(name, name), file).state_dict()
    # These weights are for pixels in ±1024, and the classifier task feeds ±1.
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
