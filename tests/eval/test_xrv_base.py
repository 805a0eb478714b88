"""DenseNets of torchxrayvision as bases of training."""

import pytest
import torch

from eval.extractors import xrv
from eval.xrv_base import XrvBaseConfig, main
from sdcxr.backbones.image_classifier import Classifier
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.classifier import ClassifierTask

pytestmark = pytest.mark.slow


def test_it_is_the_same_network_and_train_takes_it(tmp_path, micro_dataset):
    library = xrv.torchxrayvision().models
    torch.manual_seed(0)
    given = library.DenseNet(weights=None).eval()
    for module in given.modules():  # as after training, unlike at initialisation
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    torch.save(given.state_dict(), tmp_path / xrv.FILES["densenet121-res224-nih"].file)
    base = tmp_path / "base"
    assert main(XrvBaseConfig("xrv-nih", str(base), str(tmp_path), 32)) == 0
    begun = Classifier(base, torch.device("cpu"))
    pixels = torch.rand(2, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        features = begun.network.forward_head(begun.network.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(features, given.features2(pixels * 1024))
    settings = {"tune": "classifier", "base": str(base), "data": str(micro_dataset)}
    with pytest.raises(UserError, match=r"names a new last layer; .* \(--new_head takes them\)"):
        ClassifierTask(TrainConfig(**settings))
    task = ClassifierTask(TrainConfig(**settings, new_head=True))
    assert task.resolution == 32
    assert torch.equal(task.network.features.conv0.weight, begun.network.features.conv0.weight)


def test_what_it_cannot_take_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"densenet121-d121.* not in --weights_dir"):
        main(XrvBaseConfig("xrv-nih", str(tmp_path / "new"), str(tmp_path)))
    for name in ("resnet50-res512-all", "resnet50"):
        with pytest.raises(UserError, match=f"--network {name}: only the DenseNets of torchxrayvision"):
            main(XrvBaseConfig(name, str(tmp_path / "new")))
