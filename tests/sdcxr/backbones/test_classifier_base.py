"""What a classifier begins from: weights of timm and transformers in files and folders, their own normalisation."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from sdcxr.backbones.classifier_base import pretrained, untrained
from sdcxr.backbones.image_classifier import Classifier, Description, log_odds, read_description, write_classifier
from sdcxr.runtime.errors import UserError

WANTED = Description("", ["a", "b", "c"], 0)
CPU = torch.device("cpu")


def save_timm(folder: Path, name: str = "test_resnet", outputs: int = 5, **more) -> Path:
    """A folder as timm's repositories on the hub."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=outputs, **more)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    about = {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "num_classes": outputs}
    cfg = {key: network.pretrained_cfg[key] for key in ("first_conv", "classifier")}
    config = {"architecture": name, "num_classes": outputs, "pretrained_cfg": about | cfg}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def save_transformers(folder: Path, headless: bool = False, kind: str = "ViT") -> Path:
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    if kind == "ViT":
        sizes["intermediate_size"] = 64
    network = getattr(transformers, kind + ("Model" if headless else "ForImageClassification"))
    network(getattr(transformers, f"{kind}Config")(**sizes)).save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.4] * 3, "image_std": [0.3] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"size": {"height": 32, "width": 32}}))
    return folder


def test_a_folder_of_timm_gives_its_weights_size_and_normalisation(tmp_path):
    folder = save_timm(tmp_path / "base")
    network, about, sha256 = pretrained(str(folder), None, WANTED)
    assert (about.channels, about.resolution, about.mean, about.std) == (3, 96, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    own, saved = network.state_dict(), load_file(folder / "model.safetensors")
    assert own["fc.weight"].shape[0] == 3
    assert all(torch.equal(own[name], value) for name, value in saved.items() if not name.startswith("fc."))
    assert len(sha256) == 64 and pretrained(str(folder), None, WANTED)[2] == sha256
    pixels = torch.rand(2, 1, 8, 8) * 2 - 1
    x = about.inputs(pixels)
    assert x.shape == (2, 3, 8, 8)
    torch.testing.assert_close(x[:, 1], (pixels[:, 0] / 2 + 0.5 - 0.2) / 0.5)


@pytest.mark.parametrize("headless", [False, True])
def test_a_folder_of_transformers(tmp_path, headless):
    folder = save_transformers(tmp_path / "base", headless)
    network, about, _ = pretrained(str(folder), None, WANTED)
    assert (about.library, about.architecture, about.resolution, about.channels) == ("transformers", "vit", 32, 3)
    assert about.mean == (0.4,) * 3 and about.std == (0.3,) * 3
    with torch.no_grad():
        assert network(about.inputs(torch.zeros(2, 1, 32, 32))).logits.shape == (2, 3)


def test_a_file_needs_the_name_of_its_network(tmp_path):
    file = save_timm(tmp_path / "base") / "model.safetensors"
    file = file.rename(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="name it with --architecture"):
        pretrained(str(file), None, WANTED)
    network, about, _ = pretrained(str(file), "test_resnet", WANTED)
    known = timm.get_pretrained_cfg("test_resnet")
    assert (about.resolution, tuple(about.mean)) == (known.input_size[-1], tuple(known.mean))
    assert torch.equal(network.state_dict()["bn1.weight"], load_file(file)["bn1.weight"])


def test_position_embeddings_follow_the_resolution(tmp_path):
    folder = save_timm(tmp_path / "base", "test_vit")
    network, about, _ = pretrained(str(folder), None, Description("", ["a"], 64))
    assert about.resolution == 64 and about.model_args["img_size"] == 64
    write_classifier(tmp_path / "out", network, about)
    assert Classifier(tmp_path / "out", CPU).predict(torch.zeros(1, 1, 64, 64)).shape == (1, 1)


def test_what_is_wrong_with_a_base_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torn = save_timm(tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(b"1234")
    other = save_timm(tmp_path / "other")
    about = json.loads((other / "config.json").read_text()) | {"architecture": "test_vit"}
    (other / "config.json").write_text(json.dumps(about))
    lacking = save_timm(tmp_path / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    tensors.pop("bn1.weight")
    save_file(tensors, lacking / "model.safetensors")
    pickled = save_timm(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    unnormalised = save_transformers(tmp_path / "unnormalised")
    (unnormalised / "preprocessor_config.json").unlink()
    for base, message in {
        str(torn): "--base .*torn: ",
        str(other): "--base .*other: VisionTransformer has no",
        str(lacking): "Missing key.*bn1.weight",
        str(pickled): "no model.safetensors: pickled weights are not read",
        str(unnormalised): "no preprocessor_config.json",
        "resnet-50": r"--base resnet-50: timm has no such model \(near: ",
        "no/such/folder": "no such file or folder",
        "resnet50": r"--base resnet50: neither a folder here nor to be had from the Hugging Face hub",
        "timm/resnet50.a1_in1k": "to be had from the Hugging Face hub",
        "google/vit-base-patch16-224": "to be had from the Hugging Face hub",
    }.items():
        with pytest.raises(UserError, match=message) as refused:
            pretrained(base, None, WANTED)
        assert "\n" not in str(refused.value)


def test_position_embeddings_of_transformers_keep_their_resolution(tmp_path):
    folder = save_transformers(tmp_path / "base")
    with pytest.raises(UserError, match="--resolution 64: this base takes images of 32 px"):
        pretrained(str(folder), None, Description("", ["a"], 64))


def test_plain_timm_reads_the_folder(tmp_path):
    network, about, _ = pretrained(str(save_timm(tmp_path / "base")), None, WANTED)
    write_classifier(tmp_path / "out", network, about)
    plain = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    ours = Classifier(tmp_path / "out", CPU)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), ours.network(x))
    data = timm.data.resolve_model_data_config(plain)
    assert (list(data["mean"]), list(data["std"]), data["input_size"]) == (
        [0.1, 0.2, 0.3],
        [0.4, 0.5, 0.6],
        (3, 96, 96),
    )
    assert plain.pretrained_cfg["label_names"] == ["a", "b", "c"]


def test_plain_transformers_reads_the_folder(tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    network, about, _ = pretrained(str(save_transformers(tmp_path / "base")), None, WANTED)
    write_classifier(tmp_path / "out", network, about)
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert plain.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert plain.config.problem_type == "multi_label_classification"
    ours = Classifier(tmp_path / "out", CPU)
    assert read_description(tmp_path / "out") == about
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(x).logits, ours.network(x).logits)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.4] * 3, [0.3] * 3)


def test_features_are_what_the_last_layer_takes(tmp_path):
    for save in (save_timm, save_transformers):
        folder = tmp_path / save.__name__
        network, about, _ = pretrained(str(save(folder)), None, WANTED)
        write_classifier(folder / "out", network, about)
        classifier = Classifier(folder / "out", CPU)
        pixels = torch.rand(2, 1, about.resolution, about.resolution) * 2 - 1
        last = classifier.network.get_submodule("fc" if save is save_timm else "classifier")
        with torch.no_grad():
            torch.testing.assert_close(last(classifier.features(pixels)), classifier.logits(pixels))


def test_a_random_network_keeps_grey_images_as_they_are():
    network, about = untrained(None, WANTED)
    pixels = torch.rand(2, 1, 64, 64)
    assert about.inputs(pixels) is pixels
    assert network(pixels).shape == (2, 3) and (about.architecture, about.resolution) == ("resnet10t", 64)


def test_the_sigmoid_of_a_classs_log_odds_is_its_probability():
    logits = torch.randn(5, 4)
    torch.testing.assert_close(log_odds(logits, "multi_class").sigmoid(), logits.softmax(dim=1))
    assert log_odds(logits, "multi_label") is logits
