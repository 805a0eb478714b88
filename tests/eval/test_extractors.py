"""Tests of eval.extractors: names, weights files in their real formats, and what each network is fed."""

import dataclasses
import io
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval import extractors
from eval.extractors import inception, xrv
from eval.extractors.pickles import load_state
from eval.fidelity import PRESETS
from sdcxr.errors import UserError

pytestmark = pytest.mark.usefixtures("no_network")

CPU = torch.device("cpu")


def radiograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth structure with noise on it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return Image.fromarray((np.asarray(coarse, float) + rng.normal(0, 8, (height, width))).clip(0, 255).astype("uint8"))


def features(extractor: extractors.Extractor, *images: Image.Image) -> np.ndarray:
    with torch.inference_mode():
        batch = torch.from_numpy(np.stack([extractor.prepare(image) for image in images]))
        return extractor.load(CPU)(batch).numpy()


def test_unknown_names_variants_and_folders_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"inceptoin: unknown .did you mean inception"):
        extractors.find("inceptoin")
    with pytest.raises(UserError, match=r"pixels-8@clean: no such variant .it has: default"):
        extractors.find("pixels-8@clean")
    with pytest.raises(UserError, match="a side from 1 to 999"):
        extractors.find("pixels-0")
    with pytest.raises(UserError, match="none with a model in it"):
        extractors.find(str(tmp_path))


def test_every_family_names_itself_and_claims_only_its_own():
    assert {"xrv-all", "inception", "biomedclip", "rad-dino", "clip:ViT-L-14-336"} <= set(extractors.names())
    for name in ("xrv-all", "densenet121-res224-mimic_ch", "resnet50-res512-all", "inception", "rad-dino"):
        with pytest.raises(UserError, match=r"weights_dir|pip install"):
            extractors.find(name)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_extractors_of_all_presets_exist(preset):
    with pytest.raises(UserError, match=r"weights_dir|pip install"):
        extractors.find(preset.extractor)


def test_grey_values_keep_their_place():
    image = Image.fromarray(np.kron(np.array([[0, 255], [51, 102]], np.uint8), np.ones((8, 8), np.uint8)))
    found = features(extractors.find("pixels-16"), image)
    assert found.shape == (1, 256)
    assert found.reshape(16, 16)[0, 0] == 0 and found.reshape(16, 16)[0, 15] == 1
    assert found.reshape(16, 16)[15, 0] == pytest.approx(0.2)


# ------------------------------------------------------------------------------------------- torchxrayvision


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
    extractor = extractors.find("xrv-all", xrv_weights)
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
    fed = extractors.find("xrv-all", xrv_weights).prepare(image)
    np.testing.assert_allclose(fed, expected, atol=1e-3)
    square = library.XRayCenterCrop()(values)
    with torch.no_grad():
        inside = torch.nn.functional.interpolate(
            torch.from_numpy(square)[None], (224, 224), mode="bilinear", antialias=True
        )[0]
    other = extractors.find("xrv-all@torch", xrv_weights).prepare(image)
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
    fed = extractors.find("xrv-all@roentgen", xrv_weights).prepare(image)
    np.testing.assert_allclose(fed, expected, atol=1e-2)


def test_a_pickle_that_holds_code_is_not_run(densenet, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    file = tmp_path / xrv.FILES["densenet121-res224-nih"].file
    for content, zipped in ((Evil(), True), ({"model": Evil()}, True), (Evil(), False)):
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=r"something else than .*DenseNet.* not (?:an )?allowed"):
            extractors.find("densenet121-res224-nih", tmp_path).load(CPU)
    assert not (tmp_path / "was-here").exists()
    file.write_bytes(b"cut")
    with pytest.raises(UserError, match="damaged"):
        extractors.find("densenet121-res224-nih", tmp_path).load(CPU)
    torch.save(torch.nn.Linear(2, 2).state_dict(), file)
    with pytest.raises(UserError, match="does not fit"):
        extractors.find("densenet121-res224-nih", tmp_path).load(CPU)


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
        extractors.find("xrv-all", tmp_path).load(CPU)
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


@settings(max_examples=60, deadline=None)
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


def test_the_resnet_reads_a_state_dict_at_512_px(tmp_path):
    import torchvision

    network = torchvision.models.resnet50(weights=None, num_classes=18)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    torch.save(network.state_dict(), tmp_path / xrv.FILES["resnet50-res512-all"].file)
    extractor = extractors.find("resnet50-res512-all@torch", tmp_path)
    image = radiograph(128, 128)
    fed = torch.from_numpy(extractor.prepare(image))[None]
    assert fed.shape == (1, 1, 512, 512)
    seen = []
    network.eval().avgpool.register_forward_hook(lambda module, given, output: seen.append(output.flatten(1)))
    with torch.inference_mode():
        network(fed)
    np.testing.assert_allclose(features(extractor, image), seen[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="no such variant"):
        extractors.find("resnet50-res512-all@roentgen", tmp_path)


# ------------------------------------------------------------------------------------------- Inception


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


def test_inception_gives_what_torch_fidelity_gives(inception_weights, any_checksum):
    network, folder = inception_weights
    image = radiograph(120, 100)
    pixels = torch.from_numpy(np.asarray(image).copy())[None, None].expand(-1, 3, -1, -1)
    expected = network(pixels)[0].numpy()
    found = features(extractors.find("inception@tensorflow", folder), image)
    assert found.shape == (1, 2048) and np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_inceptions_ways_of_an_image_differ_and_are_what_they_say(inception_weights, any_checksum):
    _, folder = inception_weights
    image = radiograph(400, 333)
    fed = {
        variant: extractors.find(f"inception@{variant}", folder).prepare(image)
        for variant in ("clean", "torchmetrics", "tensorflow", "chexgenbench")
    }
    assert extractors.find("inception", folder).name == "inception@clean"
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
        extractors.find("inception", inception_weights[1])


def test_inception_without_torch_fidelity_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install"):
        extractors.find("inception")


# ------------------------------------------------------------------------------------------- transformers


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    """A small Dinov2 with RAD-DINO's processor at 28 px."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7, mlp_ratio=2
    )
    model = Dinov2Model(config).eval()
    model.save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_mean=[0.5307] * 3,
        image_std=[0.2583] * 3,
    ).save_pretrained(folder)
    return folder, model


def test_a_dinov2_folder_gives_its_pooled_cls_token(dino):
    folder, model = dino
    extractor = extractors.find(str(folder))
    image = radiograph(56, 56)
    fed = torch.from_numpy(extractor.prepare(image))[None]
    exact = image.resize((28, 28), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(fed[0, 0], (np.asarray(exact) / 255 - 0.5307) / 0.2583, atol=1e-5)
    with torch.inference_mode():
        expected = model(pixel_values=fed).pooler_output
    np.testing.assert_allclose(features(extractor, image), expected, atol=1e-5)
    assert "28" in extractor.resize and extractor.name.endswith("@native")


def test_the_path_of_chexgenbench_is_299_first(dino):
    extractor = extractors.find(f"{dino[0]}@chexgenbench")
    image = radiograph(100, 56)
    first = image.resize((299, 299), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(extractor.prepare(image), extractors.find(str(dino[0])).prepare(first))
    assert extractor.resize.startswith("pil-bilinear 299")


def test_rad_dino_is_found_in_the_weights_folder_by_its_name(dino, tmp_path):
    (tmp_path / "rad-dino").symlink_to(dino[0])
    assert extractors.find("rad-dino", tmp_path).name == "rad-dino@native"
    assert extractors.find("microsoft/rad-dino@chexgenbench", tmp_path).name == "microsoft/rad-dino@chexgenbench"


def test_absent_weights_are_never_replaced_by_random_ones(dino, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    model = ViTModel(config).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    image = radiograph(40, 40)

    save_file(
        {k: v for k, v in state.items() if not k.startswith("pooler.")},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    extractor = extractors.find(str(tmp_path))
    with torch.inference_mode():
        tokens = model(pixel_values=torch.from_numpy(extractor.prepare(image))[None]).last_hidden_state
    np.testing.assert_allclose(features(extractor, image), tokens[:, 0], atol=1e-5)

    absent = next(name for name in state if "layernorm" in name)
    save_file({k: v for k, v in state.items() if k != absent}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are absent.*layernorm"):
        extractors.find(str(tmp_path)).load(CPU)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \.safetensors weights"):
        extractors.find(str(tmp_path))


def test_a_model_with_text_gives_its_projected_image_embedding(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 50},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    found = features(extractors.find(str(tmp_path)), radiograph(40, 40))
    assert found.shape == (1, 8)


# ------------------------------------------------------------------------------------------- open_clip


SMALL_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def save_clip(folder, about: dict, state: dict, pickled: bool = False) -> None:
    from safetensors.torch import save_file

    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": about, "preprocess_cfg": PREPROCESS}))
    if pickled:
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, folder / "open_clip_model.safetensors")


@pytest.mark.parametrize("pickled", [False, True])
def test_a_local_open_clip_folder_gives_what_open_clip_gives(tmp_path, pickled):
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(**SMALL_CLIP).eval()
    save_clip(tmp_path, SMALL_CLIP, model.state_dict(), pickled)
    whole, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    whole.eval()
    image, texts = radiograph(48, 40), ["no pneumothorax", "cardiomegaly"]
    extractor = extractors.find(str(tmp_path))
    assert extractors.find(f"clip:{tmp_path}").resize == extractor.resize
    with torch.inference_mode():
        expected = whole.encode_image(transform(image)[None])
        expected_texts = whole.encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(texts))
    np.testing.assert_allclose(features(extractor, image), expected, atol=1e-5)
    np.testing.assert_allclose(extractor.load_texts(CPU)(texts), expected_texts, atol=1e-5)


def test_openais_weights_take_quick_gelu_whatever_the_configuration_says(tmp_path):
    import open_clip

    model = open_clip.CLIP(**SMALL_CLIP, quick_gelu=True).eval()
    (tmp_path / "ViT-B-32").mkdir()
    (tmp_path / "vit_base_patch32_clip_224.openai").mkdir()
    save_clip(tmp_path / "vit_base_patch32_clip_224.openai", SMALL_CLIP, model.state_dict())
    extractor = extractors.find("clip:ViT-B-32", tmp_path)
    image = radiograph(32, 32)
    with torch.inference_mode():
        expected = model.encode_image(torch.from_numpy(extractor.prepare(image))[None])
    np.testing.assert_allclose(features(extractor, image), expected, atol=1e-5)


def test_biomedclips_text_encoder_is_built_without_the_hub(tmp_path, monkeypatch):
    """A timm image tower and a BERT text tower that names a repository, as in BiomedCLIP's folder."""
    import open_clip
    from transformers import BertConfig

    encoder = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
    bert = tmp_path / "BiomedNLP-BiomedBERT-base-uncased-abstract"
    folder = tmp_path / "BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
    folder.mkdir()
    BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    ).save_pretrained(bert)
    about = {
        "embed_dim": 8,
        "vision_cfg": {
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": True,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {
            "hf_model_name": encoder,
            "hf_tokenizer_name": encoder,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 16,
        },
    }
    here = about | {
        "vision_cfg": about["vision_cfg"] | {"timm_model_pretrained": False},
        "text_cfg": about["text_cfg"] | {"hf_model_name": str(bert), "hf_model_pretrained": False},
    }
    model = open_clip.CustomTextCLIP(**here).eval()
    state = dict(model.state_dict()) | {"text.transformer.embeddings.position_ids": torch.arange(512)[None]}
    save_clip(folder, about, state, pickled=True)
    write_tokenizer(folder)

    extractor = extractors.find("biomedclip", tmp_path)
    image = radiograph(32, 32)
    with torch.inference_mode():
        expected = model.encode_image(torch.from_numpy(extractor.prepare(image))[None])
    np.testing.assert_allclose(features(extractor, image), expected, atol=1e-5)
    found = extractor.load_texts(CPU)(["a b", "b"])
    assert found.shape == (2, 8) and np.abs(found[0] - found[1]).max() > 1e-4
    bert.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"{encoder}.*config.json is enough"):
        extractor.load_texts(CPU)


def write_tokenizer(folder) -> None:
    """A BERT tokenizer of a few words."""
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)


def test_weights_of_another_clip_are_refused(tmp_path):
    import open_clip

    model = open_clip.CLIP(**SMALL_CLIP)
    save_clip(tmp_path, SMALL_CLIP | {"embed_dim": 16}, model.state_dict())
    with pytest.raises(UserError, match=r"does not fit its open_clip_config\.json"):
        extractors.find(str(tmp_path)).load(CPU)


# ------------------------------------------------------------------------------------------- our own classifier


def test_a_classifiers_features_are_what_its_last_layer_reads(tmp_path):
    from safetensors.torch import save_file

    from sdcxr.pixels import read_pixels
    from sdcxr.tasks.classifier import Classifier, network

    folder = tmp_path / "classifier"
    folder.mkdir()
    save_file(network("resnet10t", 3).state_dict(), folder / "model.safetensors")
    about = {"architecture": "resnet10t", "labels": ["a", "b", "c"], "resolution": 32}
    (folder / "config.json").write_text(json.dumps(about))
    extractor = extractors.find(str(tmp_path))
    radiograph(48, 48).save(tmp_path / "image.png")
    fed = extractor.prepare(Image.open(tmp_path / "image.png"))
    np.testing.assert_array_equal(fed, read_pixels(tmp_path / "image.png", 32))
    classifier = Classifier(tmp_path, CPU)
    found = torch.from_numpy(features(extractor, radiograph(48, 48)))
    with torch.inference_mode():
        logits = classifier.network.get_classifier()(found)
    np.testing.assert_allclose(logits.sigmoid(), classifier.predict(torch.from_numpy(fed)[None]), atol=1e-5)
