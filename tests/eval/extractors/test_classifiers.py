"""Judges: outputs by name, at the operating point, from a run folder and from torchxrayvision's files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from eval.extractors import classifiers, xrv
from eval.inputs.folders import read_folder
from sdcxr.backbones.image_classifier import Classifier, network
from sdcxr.io.files import write_json
from sdcxr.runtime.errors import UserError


def save_run(folder: Path, labels: list[str], seed: int = 0) -> Path:
    torch.manual_seed(seed)
    (folder / "classifier").mkdir(parents=True)
    save_file(network("test_resnet", len(labels)).state_dict(), folder / "classifier" / "model.safetensors")
    write_json(
        folder / "classifier" / "config.json", {"architecture": "test_resnet", "labels": labels, "resolution": 64}
    )
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64), dtype=np.uint8)).save(folder / f"{i}.png")
    return read_folder(folder, "--real")


def test_a_run_gives_what_its_classifier_predicts_under_chexperts_names(tmp_path, pictures):
    from sdcxr.io.pixels import read_pixels

    run = save_run(tmp_path / "run", ["Effusion", "Left Effusion"])
    judge = classifiers.find_classifier(str(run))
    seen = judge.probabilities(pictures, tmp_path / "cache")
    assert list(seen.columns) == ["Pleural Effusion", "Left Effusion"] == judge.findings
    wanted = Classifier(run, torch.device("cpu")).predict(torch.stack([read_pixels(p, 64) for p in pictures.paths]))
    np.testing.assert_allclose(seen, wanted, rtol=1e-4)


def test_the_operating_point_is_torchxrayvisions():
    values = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    thresholds = torch.tensor([0.01, 0.2, 0.516])
    wanted = xrv.torchxrayvision().models.op_norm(values, thresholds)
    np.testing.assert_allclose(classifiers.at_operating_point(values.numpy(), thresholds.numpy()), wanted, rtol=1e-6)
    assert classifiers.at_operating_point(np.array([[0.25]]), np.array([0.25])) == 0.5


@pytest.mark.slow
def test_torchxrayvision_is_judged_by_name_without_untrained_outputs(tmp_path, pictures):
    library = xrv.torchxrayvision().models
    torch.manual_seed(0)
    model = library.DenseNet(weights=None).eval()
    model.classifier.weight.data *= 1e-3  # logits near 0
    for short in ("nih", "all"):
        name = f"densenet121-res224-{short}"
        torch.save(model.state_dict(), tmp_path / xrv.FILES[name].file)
    judge = classifiers.find_classifier("xrv-nih", tmp_path)
    assert "Pleural Effusion" in judge.findings and "Pleural Thickening" in judge.findings
    assert len(judge.findings) == 14 and "Lung Opacity" not in judge.findings  # four outputs were not trained
    assert judge.name == "xrv-nih@xrv"
    seen = classifiers.find_classifier("xrv-all", tmp_path).probabilities(pictures, tmp_path / "cache")
    inputs = torch.from_numpy(np.stack([xrv.prepare_xrv(Image.open(path), 224) for path in pictures.paths]))
    model.op_threshs = torch.tensor(library.model_urls["all"]["op_threshs"])
    with torch.no_grad():
        wanted = pd.DataFrame(model(inputs).numpy(), columns=library.model_urls["all"]["labels"])
    np.testing.assert_allclose(seen["Pleural Effusion"], wanted["Effusion"], rtol=1e-4)
    np.testing.assert_allclose(seen["Cardiomegaly"], wanted["Cardiomegaly"], rtol=1e-4)


def test_the_resnet_judges_by_its_last_layer(tmp_path):
    import torchvision

    network = torchvision.models.resnet50(weights=None, num_classes=18)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    file = tmp_path / xrv.FILES[xrv.RESNET].file
    torch.save(network.state_dict(), file)
    judge = classifiers.find_classifier(xrv.RESNET, tmp_path)
    assert judge.labels.count("") == 2 and "Pneumonia" in judge.findings  # two have no operating point
    inputs = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        logits = judge.extractor.load(torch.device("cpu"))(inputs)
        torch.testing.assert_close(logits, network.eval()(inputs))


def test_what_is_no_classifier_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"neither a run folder of train.py --tune classifier nor one of .*xrv-all"):
        classifiers.find_classifier("xrv-al")
    with pytest.raises(UserError, match="holds no trained classifier"):
        classifiers.find_classifier(str(tmp_path))
    with pytest.raises(UserError, match="not in --weights_dir"):
        classifiers.find_classifier("xrv-all", tmp_path)
    with pytest.raises(UserError, match="two of its outputs are called Pleural Effusion"):
        classifiers.find_classifier(str(save_run(tmp_path / "run", ["Effusion", "Pleural Effusion"])))
