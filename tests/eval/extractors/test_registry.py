"""Names, presets, grey values, and a classifier of this project as an extractor."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from eval import extractors
from eval.metrics.presets import PRESETS
from sdcxr.runtime.errors import UserError
from tests.eval.pictures import CPU, features, radiograph

pytestmark = pytest.mark.usefixtures("no_network")


def test_unknown_names_variants_and_folders_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"inceptoin: unknown .did you mean inception"):
        extractors.find_extractor("inceptoin")
    with pytest.raises(UserError, match=r"pixels-8@clean: no such variant .it has: default"):
        extractors.find_extractor("pixels-8@clean")
    with pytest.raises(UserError, match="a side from 1 to 999"):
        extractors.find_extractor("pixels-0")
    with pytest.raises(UserError, match="none with a model in it"):
        extractors.find_extractor(str(tmp_path))


def test_every_family_names_itself_and_claims_only_its_own():
    assert {"xrv-all", "inception", "biomedclip", "rad-dino", "clip:ViT-L-14-336"} <= set(extractors.names())
    for name in ("xrv-all", "densenet121-res224-mimic_ch", "resnet50-res512-all", "inception", "rad-dino"):
        with pytest.raises(UserError, match=r"weights_dir|pip install"):
            extractors.find_extractor(name)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_extractors_of_all_presets_exist(preset):
    with pytest.raises(UserError, match=r"weights_dir|pip install"):
        extractors.find_extractor(preset.extractor)


def test_grey_values_keep_their_place():
    image = Image.fromarray(np.kron(np.array([[0, 255], [51, 102]], np.uint8), np.ones((8, 8), np.uint8)))
    found = features(extractors.find_extractor("pixels-16"), image)
    assert found.shape == (1, 256)
    assert found.reshape(16, 16)[0, 0] == 0 and found.reshape(16, 16)[0, 15] == 1
    assert found.reshape(16, 16)[15, 0] == pytest.approx(0.2)


def test_a_classifiers_features_are_what_its_last_layer_reads(tmp_path):
    from safetensors.torch import save_file

    from sdcxr.backbones.image_classifier import Classifier, network
    from sdcxr.io.pixels import read_pixels

    folder = tmp_path / "classifier"
    folder.mkdir()
    save_file(network("resnet10t", 3).state_dict(), folder / "model.safetensors")
    about = {"architecture": "resnet10t", "labels": ["a", "b", "c"], "resolution": 32}
    (folder / "config.json").write_text(json.dumps(about))
    extractor = extractors.find_extractor(str(tmp_path))
    radiograph(48, 48).save(tmp_path / "image.png")
    fed = extractor.prepare(Image.open(tmp_path / "image.png"))
    np.testing.assert_array_equal(fed, read_pixels(tmp_path / "image.png", 32))
    classifier = Classifier(tmp_path, CPU)
    found = torch.from_numpy(features(extractor, radiograph(48, 48)))
    with torch.inference_mode():
        logits = classifier.network.get_classifier()(found)
    np.testing.assert_allclose(logits.sigmoid(), classifier.predict(torch.from_numpy(fed)[None]), atol=1e-5)
