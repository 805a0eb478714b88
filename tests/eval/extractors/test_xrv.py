"""torchxrayvision's networks: weights as upstream keeps them, pickles read without running them, and what is fed."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval import extractors
from eval.extractors import xrv
from eval.extractors.pickles import OLD, load_state
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.memory import peak_resident_bytes
from tests.eval.pictures import CPU, features, radiograph

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def densenet():
    torch.manual_seed(0)
    network = xrv.torchxrayvision().models.DenseNet(weights=None)
    for module in network.modules():  # running statistics that a checkpoint would have
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def xrv_weights(densenet, tmp_path_factory):
    """A folder with the pickled module in the format of torch 1.3, as upstream's files are."""
    folder = tmp_path_factory.mktemp("xrv")
    old = pickle.loads(pickle.dumps(densenet))
    for module in old.modules():
        del module.__dict__["_non_persistent_buffers_set"]
    torch.save(old, folder / xrv.FILES["densenet121-res224-all"].file, _use_new_zipfile_serialization=False)
    return folder


def test_file_names_are_those_of_torchxrayvision():
    urls = xrv.torchxrayvision().models.model_urls
    for name, file in xrv.FILES.items():
        assert urls[name]["weights_url"] == file.url


def test_features_of_a_pickled_densenet_are_its_features2(densenet, xrv_weights):
    extractor = extractors.find_extractor("xrv-all", xrv_weights)
    assert extractor.name == "xrv-all@xrv" and extractor.dimension == 1024
    image = radiograph(256, 256)
    with torch.inference_mode():
        expected = densenet.features2(torch.from_numpy(extractor.prepare(image))[None])
    np.testing.assert_allclose(features(extractor, image), expected, atol=1e-5)
    assert xrv.network_of("densenet121-res224-all", extractor.weights[0]).pathologies[10] == "Cardiomegaly"


@pytest.mark.parametrize("size", [(300, 300), (320, 256), (250, 311)])
def test_a_densenet_is_fed_what_torchxrayvision_feeds(xrv_weights, size):
    library = xrv.torchxrayvision().datasets
    image = radiograph(*size)
    values = library.normalize(np.asarray(image), 255)[None]
    expected = library.XRayResizer(224)(library.XRayCenterCrop()(values))
    fed = extractors.find_extractor("xrv-all", xrv_weights).prepare(image)
    np.testing.assert_allclose(fed, expected, atol=1e-3)
    square = library.XRayCenterCrop()(values)
    with torch.no_grad():
        inside = torch.nn.functional.interpolate(
            torch.from_numpy(square)[None], (224, 224), mode="bilinear", antialias=True
        )[0]
    other = extractors.find_extractor("xrv-all@torch", xrv_weights).prepare(image)
    np.testing.assert_allclose(other, inside, atol=1e-2)
    assert np.abs(other - fed).max() > 1


def test_the_path_of_roentgen_is_299_first(xrv_weights):
    """The steps by other means: torchvision's luma and resize on what clean-fid's float bicubic gives."""
    from torchvision.transforms import functional

    image = radiograph(256, 320)
    float_image = Image.fromarray(np.asarray(image, np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    colour = torch.from_numpy(np.asarray(float_image).clip(0, 255))[None, None].expand(1, 3, -1, -1)
    grey = 2048 * (functional.rgb_to_grayscale(colour, 1) / 255) - 1024
    expected = functional.resize(grey, 224, antialias=True)[0]
    fed = extractors.find_extractor("xrv-all@roentgen", xrv_weights).prepare(image)
    np.testing.assert_allclose(fed, expected, atol=1e-2)


def test_a_pickle_that_holds_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    file = tmp_path / xrv.FILES["densenet121-res224-nih"].file
    for content, zipped in ((Evil(), True), ({"model": Evil()}, True), (Evil(), False)):
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"something else than .*DenseNet.* not (?:an )?allowed"):
            extractors.find_extractor("densenet121-res224-nih", tmp_path).load(CPU)
    assert not (tmp_path / "was-here").exists()
    file.write_bytes(b"cut")
    with pytest.raises(UserError, match="damaged"):
        extractors.find_extractor("densenet121-res224-nih", tmp_path).load(CPU)
    torch.save(torch.nn.Linear(2, 2).state_dict(), file)
    with pytest.raises(UserError, match="does not fit"):
        extractors.find_extractor("densenet121-res224-nih", tmp_path).load(CPU)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_constructor_is_called_for_a_pickle(tmp_path, zipped):
    """torchxrayvision's DenseNet, which has to be known, would unpickle the file that its arguments lead to."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    class Call:
        def __reduce__(self):
            small = (2, (1,), 2, 1, 0, 18, 1)
            return (xrv.torchxrayvision().models.DenseNet, (*small, "densenet121-res224-all", str(tmp_path / "inner")))

    file = xrv.FILES["densenet121-res224-all"].file
    (tmp_path / "inner").mkdir()
    torch.save(Evil(), tmp_path / "inner" / file)
    torch.save(Call(), tmp_path / file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="something else"):
        extractors.find_extractor("xrv-all", tmp_path).load(CPU)
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_state_of_a_pickled_module_is_what_the_module_says(tmp_path, zipped):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.BatchNorm1d(3))
    module.register_buffer("passing", torch.zeros(1), persistent=False)
    torch.save(module, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    state = load_state(tmp_path / "net.pt", [torch.nn.Sequential, torch.nn.Linear, torch.nn.BatchNorm1d])
    expected = module.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_without_a_state_is_one_line(tmp_path, zipped):
    for content in ([1, 2], torch.zeros(2), torch.nn.Linear(2, 2)):
        torch.save(content, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match="something else than tensors"):
            load_state(tmp_path / "net.pt")


@settings(max_examples=60)
@given(place=st.floats(0, 1), value=st.integers(0, 255), cut=st.booleans(), zipped=st.booleans())
def test_damage_is_told_or_changes_numbers_only(tmp_path_factory, place, value, cut, zipped):
    file = tmp_path_factory.mktemp("damage") / "net.pt"
    torch.save(torch.nn.Linear(2, 2), file, _use_new_zipfile_serialization=zipped)
    content = bytearray(file.read_bytes())
    i = int(place * (len(content) - 1))
    content[i] = value
    file.write_bytes(content[:i] if cut else content)
    try:
        state = load_state(file, [torch.nn.Linear])
    except UserError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


def test_a_damaged_index_takes_no_memory(tmp_path):
    """C's unpickler would make a place for each object up to it: 800 MB here, and 64 GB at worst."""
    index = (50_000_000).to_bytes(4, "little")
    content = [OLD, pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.LONG_BINPUT, index, pickle.STOP]
    (tmp_path / "net.pt").write_bytes(b"".join(content))
    before = peak_resident_bytes()
    with pytest.raises(UserError, match="is damaged"):
        load_state(tmp_path / "net.pt")
    assert peak_resident_bytes() < before + 2e8


def test_the_resnet_reads_a_state_dict_at_512_px(tmp_path):
    import torchvision

    network = torchvision.models.resnet50(weights=None, num_classes=18)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    torch.save(network.state_dict(), tmp_path / xrv.FILES["resnet50-res512-all"].file)
    extractor = extractors.find_extractor("resnet50-res512-all@torch", tmp_path)
    image = radiograph(128, 128)
    fed = torch.from_numpy(extractor.prepare(image))[None]
    assert fed.shape == (1, 1, 512, 512)
    seen = []
    network.eval().avgpool.register_forward_hook(lambda module, given, output: seen.append(output.flatten(1)))
    with torch.inference_mode():
        network(fed)
    np.testing.assert_allclose(features(extractor, image), seen[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="no such variant"):
        extractors.find_extractor("resnet50-res512-all@roentgen", tmp_path)
