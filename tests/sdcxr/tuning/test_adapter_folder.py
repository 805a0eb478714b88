"""Adapters of runs on the base that they were trained on: alone, scaled, several at once; and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdcxr import backbones
from sdcxr.generation.config import GenerateConfig
from sdcxr.generation.models import locate_model, with_adapters
from sdcxr.generation.samples_folder import generate
from sdcxr.runtime.errors import UserError
from tests.conftest import Train, save_micro_base

RUNS: dict[str, dict[str, Any]] = {
    "bias": {"tune": "unet+text", "method": "unet=bias,text=norm"},
    "svdiff": {"tune": "unet", "method": "svdiff"},
    "difffit": {"tune": "unet", "method": "difffit"},
    "words": {
        "tune": "token",
        "placeholder_token": "<lung-xray>",
        "initializer_token": "photo",
        "token_caption": "a <lung-xray>, {text}",
    },
}


@pytest.fixture(scope="module")
def runs(train_micro: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in RUNS.items():
        assert train_micro(folder / name, **settings, learning_rate=1e-2, preview_images=0) == 0
    return folder


def weights_of(model: str, adapters: str | None = None) -> dict[str, Tensor]:
    loaded = with_adapters(locate_model(model), adapters).load(torch.float32)
    parts = {name: part.state_dict() for name, part in loaded.parts.items()}
    return {f"{name}.{key}": value for name, state in parts.items() for key, value in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_an_adapter_on_its_base_is_the_pipeline_of_its_run(runs, micro_base, name):
    base, run = weights_of(str(micro_base)), weights_of(str(runs / name))
    for folder in (runs / name, runs / name / "adapter"):
        adapted = weights_of(str(micro_base), str(folder))
        assert adapted.keys() == run.keys()
        for key, value in run.items():
            torch.testing.assert_close(adapted[key], value, atol=1e-6, rtol=1e-5)
    moved = [
        key for key, value in base.items() if not torch.equal(run[key][: len(value)] if value.ndim else run[key], value)
    ]
    assert bool(moved) == (name != "words")


def test_scaled_adapters_add_their_differences(runs, micro_base):
    base, bias, svdiff = (weights_of(str(model)) for model in (micro_base, runs / "bias", runs / "svdiff"))
    both = weights_of(str(micro_base), f"{runs / 'bias'}:0.5,{runs / 'svdiff' / 'adapter'}:-2")
    for key, value in base.items():
        expected = value + 0.5 * (bias[key] - value) - 2 * (svdiff[key] - value)
        torch.testing.assert_close(both[key], expected, atol=1e-5, rtol=1e-5)
    nothing = weights_of(str(micro_base), f"{runs / 'svdiff'}:0")
    assert all(torch.equal(nothing[key], value) for key, value in base.items())


def test_words_and_an_adapter_of_the_text_encoder_go_together(runs, micro_base):
    words, bias = weights_of(str(runs / "words")), weights_of(str(runs / "bias"))
    both = weights_of(str(micro_base), f"{runs / 'bias'},{runs / 'words'}")
    for key, value in both.items():
        expected = words[key] if "token_embedding" in key else bias[key]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_generate_makes_the_images_of_the_merged_pipeline(runs, micro_base, tmp_path):
    from sdcxr.io.manifest import read_metadata
    from sdcxr.io.pixels import read_pixels

    settings = {"num_images_per_prompt": 1, "num_inference_steps": 3}
    named = {"merged": (str(runs / "svdiff"), None), "adapted": (str(micro_base), str(runs / "svdiff"))}
    for name, (model, adapter) in named.items():
        output = str(tmp_path / name)
        assert generate(GenerateConfig(model, "Effusion.", output, adapter=adapter, **settings)) == 0
    images = [read_pixels(next((tmp_path / name).glob("*.png")), 32).numpy() * 127.5 for name in named]
    assert np.abs(images[0] - images[1]).max() <= 1
    (model,) = read_metadata(tmp_path / "adapted")["model"]
    assert model == f"{micro_base} + {runs / 'svdiff'}"
    with pytest.raises(UserError, match=r"was begun with other settings \(weights_sha256"):
        other = f"{runs / 'svdiff'}:0.5"
        generate(GenerateConfig(str(micro_base), "Effusion.", str(tmp_path / "adapted"), adapter=other, **settings))


def test_what_was_trained_is_all_that_an_adapter_holds(runs):
    about = json.loads((runs / "bias" / "adapter" / "adapter.json").read_text())
    assert {name: part["method"] for name, part in about["parts"].items()} == {"unet": "bias", "text": "norm"}
    assert about["base_sha256"].keys() == {"unet", "text_encoder", "vae", "schedule"}
    unet = load_file(runs / "bias" / "adapter" / "unet.safetensors")
    assert unet and all(name.endswith("bias") for name in unet)
    checkpoint = runs / "bias" / "checkpoints" / "checkpoint-2"
    average = load_file(checkpoint / "ema.safetensors")
    assert len(load_file(checkpoint / "model.safetensors")) == len(average)
    for name, tensor in unet.items():  # the average is what is saved
        assert torch.equal(tensor, average[f"unet.{name}"])


@pytest.mark.parametrize("name", ["bias", "svdiff", "difffit"])
def test_what_was_not_trained_is_the_base_to_the_bit(runs, micro_base, name):
    base, run = weights_of(str(micro_base)), weights_of(str(runs / name))
    moved = {key for key, value in base.items() if not torch.equal(run[key], value)}
    trained = load_file(runs / name / "checkpoints" / "checkpoint-2" / "model.safetensors")
    layers = {key.rpartition(".")[0].replace("text_encoder.", "text.") for key in trained}
    if name == "difffit":  # gains of a whole module lie in the last linear layer of it
        layers |= {f"{layer}{last}" for layer in layers for last in (".to_out.0", ".net.2")}
    assert moved and {key.rpartition(".")[0] for key in moved} <= layers
    assert not any(key.startswith(("vae.", "text." if name != "bias" else "vae.")) for key in moved)


@pytest.fixture
def broken(runs, tmp_path) -> Path:
    shutil.copytree(runs / "bias" / "adapter", tmp_path / "adapter")
    return tmp_path / "adapter"


def rewrite(file: Path, change: Any) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


DAMAGE = {
    "a missing tensor": (lambda unet: unet.pop("conv_in.bias"), "lacks conv_in.bias"),
    "one too many": (lambda unet: unet.update(more=torch.ones(1)), "holds more than fits here: more"),
    "another shape": (lambda unet: unet.update({"conv_in.bias": torch.ones(1)}), "has another shape of conv_in.bias"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_an_adapter_is_taken_whole_or_not_at_all(broken, micro_base, what):
    change, message = DAMAGE[what]
    rewrite(broken / "unet.safetensors", change)
    with pytest.raises(UserError, match=f"--adapter .*: is damaged, or of another version: .* {message}") as refused:
        weights_of(str(micro_base), str(broken))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("unet.safetensors", b"\x10\0\0\0", "unet.safetensors is missing or damaged"),
        ("unet.safetensors", None, "unet.safetensors is missing or damaged"),
        ("adapter.json", b"{", "is not valid JSON"),
        ("adapter.json", b"[]", "adapter.json is damaged"),
        ("adapter.json", None, "has no adapter.json: give the adapter/ of a run"),
    ],
)
def test_torn_files_are_one_line(broken, micro_base, file, content, message):
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        weights_of(str(micro_base), str(broken))
    assert "\n" not in str(refused.value)


def test_a_record_that_leads_out_of_its_folder_is_damaged(broken, micro_base):
    about = json.loads((broken / "adapter.json").read_text())
    about["parts"]["unet"]["files"] = ["../unet"]
    (broken / "adapter.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"adapter\.json is damaged"):
        weights_of(str(micro_base), str(broken))


def test_an_adapter_of_a_classifier_says_what_it_is(broken, micro_base):
    about = json.loads((broken / "adapter.json").read_text())
    about |= {"tune": "classifier", "parts": {"classifier": {"method": "ssf", "options": {}, "files": ["unet"]}}}
    (broken / "adapter.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="is of a classifier, which generates nothing"):
        weights_of(str(micro_base), str(broken))


@pytest.mark.parametrize("adapter", ["", " ", ","])
def test_an_empty_name_is_not_the_base_itself(adapter):
    """As of a variable of the shell that is not set."""
    with pytest.raises(UserError, match="--adapter: is empty"):
        GenerateConfig("base", "Effusion.", "samples", adapter=adapter)


def test_another_base_is_refused(runs, tmp_path, micro_base_v):
    torch.manual_seed(0)
    other = save_micro_base(tmp_path / "other")
    unet = other / "unet" / "diffusion_pytorch_model.safetensors"
    rewrite(unet, lambda weights: weights["conv_in.bias"].add_(1e-3))
    with pytest.raises(UserError, match=r"was trained on another base, named .*base then \(differs in unet\)"):
        weights_of(str(other), str(runs / "svdiff"))
    with pytest.raises(UserError, match=r"another base.*\(differs in schedule\)"):
        weights_of(str(micro_base_v), str(runs / "svdiff"))
    with pytest.raises(UserError, match="another base"):
        weights_of(str(runs / "bias"), str(runs / "svdiff"))


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ("nowhere", "--adapter nowhere: no such folder"),
        ("RUNS/bias:much", "'much' is no scale"),
        ("RUNS/bias:nan", "the scale must be a number"),
        ("RUNS", "has no adapter.json"),
        ("RUNS/difffit:0.5", "--method difffit does not add to the weights: use it alone on the unet, without a scale"),
        ("RUNS/difffit,RUNS/bias", "--method difffit does not add to the weights"),
        ("RUNS/words,RUNS/words", "several with new words"),
        ("RUNS/words:0.5", "holds new words, which have no scale"),
    ],
)
def test_what_cannot_be_used_is_one_line(runs, micro_base, adapters, message):
    with pytest.raises(UserError, match=message) as refused:
        weights_of(str(micro_base), adapters.replace("RUNS", str(runs)))
    assert "\n" not in str(refused.value)


def test_a_checkpoint_takes_no_adapter(runs):
    with pytest.raises(UserError, match="is a checkpoint of a run"):
        weights_of(str(runs / "bias" / "checkpoints" / "checkpoint-2"), str(runs / "svdiff"))


def test_a_changed_base_has_no_adapter(train_micro, tmp_path, capfd):
    train_micro(tmp_path / "run", tune="unet", method="bias", text_length=32)
    assert not (tmp_path / "run" / "adapter").exists()
    assert "no adapter/: the base was changed before it was tuned" in capfd.readouterr().out


def test_a_checkpoint_of_a_tuned_run_can_be_sampled(runs):
    checkpoint = weights_of(str(runs / "svdiff" / "checkpoints" / "checkpoint-2"))
    for key, value in weights_of(str(runs / "svdiff")).items():
        torch.testing.assert_close(checkpoint[key], value, atol=1e-6, rtol=1e-5)


def test_an_adapter_keeps_the_prediction_type_of_its_run(train_micro, micro_base, tmp_path):
    settings = {"tune": "unet", "method": "bias", "prediction_type": "v_prediction", "snr_gamma": 5.0}
    train_micro(tmp_path / "run", **settings)
    loaded = with_adapters(locate_model(str(micro_base)), str(tmp_path / "run")).load(torch.float32)
    for backbone in (loaded, backbones.load(str(tmp_path / "run"))):
        assert backbone.inference_process().prediction == "v_prediction"
