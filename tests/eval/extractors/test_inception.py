"""Inception of the FID: what it gives is torch-fidelity's, from each of the ways to its 299 pixels."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from eval import extractors
from eval.extractors import inception
from sdcxr.runtime.errors import UserError
from tests.eval.pictures import features, radiograph

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """torch-fidelity's network with random weights, and the folder with its state dict as upstream keeps it."""
    library = pytest.importorskip("torch_fidelity")
    torch.manual_seed(0)
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = library.FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=empty)
    folder = tmp_path_factory.mktemp("inception")
    torch.save(network.state_dict(), folder / inception.WEIGHTS.file)
    return network, folder


@pytest.fixture
def any_checksum(monkeypatch):
    monkeypatch.setattr(inception, "WEIGHTS", dataclasses.replace(inception.WEIGHTS, size=None, sha256=""))


@pytest.mark.slow
def test_inception_gives_what_torch_fidelity_gives(inception_weights, any_checksum):
    network, folder = inception_weights
    image = radiograph(120, 100)
    pixels = torch.from_numpy(np.asarray(image).copy())[None, None].expand(-1, 3, -1, -1)
    expected = network(pixels)[0].numpy()
    found = features(extractors.find_extractor("inception@tensorflow", folder), image)
    assert found.shape == (1, 2048) and np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_inceptions_ways_of_an_image_differ_and_are_what_they_say(inception_weights, any_checksum):
    _, folder = inception_weights
    image = radiograph(400, 333)
    fed = {
        variant: extractors.find_extractor(f"inception@{variant}", folder).prepare(image)
        for variant in ("clean", "torchmetrics", "tensorflow", "chexgenbench")
    }
    assert extractors.find_extractor("inception", folder).name == "inception@clean"
    assert all(values.shape == (1, 299, 299) and values.dtype == np.float32 for values in fed.values())
    exact = Image.fromarray(np.asarray(image, np.float32))
    np.testing.assert_array_equal(fed["clean"][0], np.asarray(exact.resize((299, 299), 3)).clip(0, 255))
    # Pillow's bilinear and torch's antialiased one are the same filter, but for the rounding.
    np.testing.assert_allclose(fed["torchmetrics"], fed["chexgenbench"], atol=1.01)
    assert np.abs(fed["torchmetrics"] - fed["chexgenbench"]).max() > 0.1
    assert np.abs(fed["torchmetrics"] - fed["tensorflow"]).max() > 2
    assert np.abs(fed["torchmetrics"] - fed["clean"]).max() > 2


def test_other_inception_weights_than_the_fids_are_refused(inception_weights):
    with pytest.raises(UserError, match="instead of 95,628,359"):
        extractors.find_extractor("inception", inception_weights[1])


def test_inception_without_torch_fidelity_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        extractors.find_extractor("inception")
