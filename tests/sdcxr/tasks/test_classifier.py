"""Runs of `--tune classifier` with tuning methods, classes, colour, and what they save."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from sdcxr.backbones.classifier_base import pretrained
from sdcxr.backbones.image_classifier import Classifier, Description, logits_of
from sdcxr.config import TrainConfig
from sdcxr.io.manifest import LABELS, read_metadata, write_metadata
from sdcxr.io.pixels import load_upright
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.classifier import ClassifierTask, class_table, has_colour
from sdcxr.training import loop
from sdcxr.training.flops import without_gradient
from sdcxr.tuning.adapter_folder import read_adapter
from tests.sdcxr.backbones.test_classifier_base import save_timm, save_transformers
from tests.sdcxr.tuning.test_vision import OPTIONS
from tests.torchrun import train_in_two_processes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {
        "cnn": save_timm(folder / "cnn"),
        "vit": save_timm(folder / "vit", "test_vit"),
        "transformers": save_transformers(folder / "transformers"),
    }


def run_settings(base: Path, method: str, **more):
    return {"tune": "classifier", "base": str(base), "method": method, "resolution": 32, "use_ema": False} | more


def validation_rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("cnn", "tsa"), ("cnn", "ssf"), ("cnn", "norm"), ("vit", "adaptformer"), ("vit", "lora"), ("vit", "vpt-deep"),
        ("transformers", "ssf"), ("transformers", "adaptformer"), ("transformers", "vpt-shallow"),
    ],
)  # fmt: skip
def test_a_run_saves_its_adapter_and_the_network_that_was_trained(train_micro, tmp_path, bases, kind, method):
    more = OPTIONS.get(method, {}) | ({"resolution": 160} if kind == "vit" else {})
    run = tmp_path / "run"
    train_micro(run, **run_settings(bases[kind], method, **more, max_train_steps=1, learning_rate=0.01))
    adapter = load_file(run / "adapter" / "classifier.safetensors")
    checkpoint = load_file(next((run / "checkpoints").iterdir()) / "model.safetensors")
    assert {f"network.{name}" for name in adapter} == {name.replace(".default", "") for name in checkpoint}
    whole = load_file(run / "classifier" / "model.safetensors")
    assert sum(t.numel() for t in adapter.values()) < sum(t.numel() for t in whole.values()) / 1.5
    assert Classifier(run, CPU).labels == list(LABELS[:2])  # that it is the trained one, saving has compared


@pytest.mark.parametrize(
    ("kind", "method"), [("cnn", "ssf"), ("cnn", "norm"), ("vit", "lora"), ("transformers", "vpt-deep")]
)
def test_the_adapter_on_its_base_is_the_network_that_was_trained(train_micro, tmp_path, bases, kind, method):
    run, size = tmp_path / "run", 160 if kind == "vit" else 32
    train_micro(run, **run_settings(bases[kind], method, resolution=size, max_train_steps=1, learning_rate=0.01))
    network, about, sha256 = pretrained(str(bases[kind]), None, Description("", LABELS[:2], size))
    adapter = read_adapter(run / "adapter")
    adapter.check_base({"classifier": sha256})
    with pytest.raises(UserError, match="was trained on another base"):
        adapter.check_base({"classifier": "0"})
    adapted = adapter.inject_into("classifier", network.eval()).eval()
    pixels = torch.rand(2, 1, size, size) * 2 - 1
    with torch.no_grad():
        logits = logits_of(adapted, about.inputs(pixels))
        torch.testing.assert_close(logits, Classifier(run, CPU).logits(pixels), atol=1e-4, rtol=1e-4)


def test_peft_reads_lora_of_an_image_classifier_of_transformers(train_micro, tmp_path, bases):
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    run = tmp_path / "run"
    train_micro(run, **run_settings(bases["transformers"], "lora", max_train_steps=2, learning_rate=0.01))
    base = AutoModelForImageClassification.from_pretrained(bases["transformers"], num_labels=2)
    plain = PeftModel.from_pretrained(base, run / "adapter" / "peft").eval()
    ours = Classifier(run, CPU)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(x).logits, ours.network(x).logits, atol=1e-5, rtol=1e-4)


def test_plain_timm_has_no_place_for_prompts(train_micro, tmp_path, bases):
    run = tmp_path / "run"
    train_micro(run, **run_settings(bases["vit"], "vpt-shallow", resolution=160, max_train_steps=1))
    with pytest.raises(RuntimeError, match=r"prompt\.tokens"):
        timm.create_model(f"local-dir:{run / 'classifier'}", pretrained=True)
    train_micro(tmp_path / "hf", **run_settings(bases["transformers"], "vpt-shallow", max_train_steps=1))
    from transformers import AutoModelForImageClassification

    with pytest.raises((ValueError, OSError, KeyError)):
        AutoModelForImageClassification.from_pretrained(tmp_path / "hf" / "classifier")


def test_validation_has_scores_and_the_thresholds_are_saved(train_micro, tmp_path, bases):
    run = tmp_path / "run"
    validated = {"validation_steps": 1, "use_ema": True, "ema_decay": 0.5}
    train_micro(run, **run_settings(bases["cnn"], "norm", **validated))
    row = validation_rows(run)[-1]
    name = LABELS[0]
    assert {"loss", "f1", f"f1/{name}", f"auroc/{name}", f"average_precision/{name}", f"ema_f1/{name}"} <= row.keys()
    about = json.loads((run / "classifier" / "config.json").read_text())
    assert about["thresholds"] == {
        key.removeprefix("ema_threshold/"): value for key, value in row.items() if key.startswith("ema_threshold/")
    }
    assert about["validation"]["auroc"] == row["ema_auroc"]


def test_resuming_is_exact(train_micro, read_log, tmp_path, bases):
    stepwise = run_settings(bases["cnn"], "norm", checkpointing_steps=1, use_ema=True)
    train_micro(tmp_path / "whole", **stepwise, max_train_steps=4)
    train_micro(tmp_path / "run", **stepwise, max_train_steps=2)
    train_micro(tmp_path / "run", **stepwise, max_train_steps=4)
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")
    files = [tmp_path / name / "classifier" / "model.safetensors" for name in ("run", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def save_coloured(folder: Path) -> Path:
    """Squares of three colours on black; the column `kind` names the colour."""
    draws = np.random.default_rng(0)
    for split, n in {"train": 24, "validation": 6}.items():
        (folder / split).mkdir(parents=True)
        rows = []
        for i in range(n):
            picture = draws.integers(0, 40, (32, 32, 3), dtype=np.uint8)
            picture[8:24, 8:24, i % 3] = 200
            Image.fromarray(picture).save(folder / split / f"{split}{i}.png")
            rows.append({"file_name": f"{split}{i}.png", "text": "", "kind": ("red", "green", "blue")[i % 3]})
        write_metadata(folder / split, pd.DataFrame(rows))
    return folder


def test_one_class_of_several_from_colour_images(train_micro, tmp_path):
    data = save_coloured(tmp_path / "data")
    many = {"max_train_steps": 25, "train_batch_size": 12, "learning_rate": 3e-3, "validation_steps": 25}
    start = {"base": "test_resnet", "random_weights": True, "class_column": "kind", "resolution": 32}
    run = tmp_path / "run"
    train_micro(run, data=str(data), tune="classifier", use_ema=False, **start | many)
    assert validation_rows(run)[-1]["f1"] == 1.0  # grey they would look alike
    classifier = Classifier(run, CPU)
    assert (classifier.labels, classifier.about.colour) == (["blue", "green", "red"], True)
    pixels = torch.full((1, 3, 32, 32), -0.9)
    pixels[:, 1, 8:24, 8:24] = 0.6
    said = classifier.predict(pixels)
    assert said.sum() == pytest.approx(1) and said.argmax() == 1
    np.testing.assert_allclose(classifier.logits(pixels).detach().sigmoid(), said, atol=1e-6)


def test_another_last_layer_is_asked_for(train_micro, tmp_path, micro_dataset):
    first = tmp_path / "first"
    train_micro(first, tune="classifier", base="test_resnet", random_weights=True, resolution=32)
    rows = read_metadata(micro_dataset / "train")
    table = pd.DataFrame({"dicom_id": rows["dicom_id"], "left side": rows[LABELS[0]]})
    table.to_csv(tmp_path / "labels.csv", index=False)
    settings = {
        "data": str(micro_dataset),
        "tune": "classifier",
        "base": str(first),
        "labels": str(tmp_path / "labels.csv"),
    }
    with pytest.raises(UserError, match=r"the labels of this data are left side .--new_head takes them"):
        ClassifierTask(TrainConfig(**settings))
    task = ClassifierTask(TrainConfig(**settings, new_head=True, method="linear"))
    assert task.labels == ["left side"]
    own = load_file(first / "classifier" / "model.safetensors")
    body = {name: value for name, value in task.network.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(value, own[name]) for name, value in body.items())


@pytest.mark.parametrize(("kind", "size"), [("cnn", 32), ("vit", 160), ("transformers", 32)])
def test_a_run_as_base_takes_another_size_if_its_network_does(train_micro, tmp_path, micro_dataset, bases, kind, size):
    first = tmp_path / "first"
    train_micro(first, **run_settings(bases[kind], "linear", resolution=size, max_train_steps=1))
    settings = {"data": str(micro_dataset), "tune": "classifier", "base": str(first), "resolution": 64}
    if kind == "cnn":
        assert ClassifierTask(TrainConfig(**settings)).resolution == 64
        return
    with pytest.raises(UserError, match=f"--resolution 64: the network of --base .*first takes {size} px"):
        ClassifierTask(TrainConfig(**settings))


def test_a_small_share_of_the_data_keeps_all_labels(micro_dataset, bases):
    settings = {"data": str(micro_dataset), "tune": "classifier", "base": str(bases["cnn"]), "data_fraction": 0.1}
    task = ClassifierTask(TrainConfig(**settings))
    assert task.labels == list(LABELS[:2]) and len(task.rows) == 2


def test_scales_do_not_decay(micro_dataset, bases):
    task = ClassifierTask(
        TrainConfig(
            data=str(micro_dataset), tune="classifier", base=str(bases["cnn"]), method="ssf", learning_rate=1e-3
        )
    )
    decay = {group["name"]: group.get("weight_decay") for group in task.groups()}
    sizes = {group["name"]: {p.ndim for p in group["params"]} for group in task.groups()}
    assert decay == {"classifier": None, "its vectors": 0.0}
    assert sizes == {"classifier": {2}, "its vectors": {1}}


def test_what_has_no_effect_is_an_error_before_the_first_step(train_micro, tmp_path, micro_dataset, bases, monkeypatch):
    settings = {"data": str(micro_dataset), "tune": "classifier", "base": str(bases["cnn"]), "method": "ssf"}
    task = ClassifierTask(TrainConfig(**settings))
    batch = {"pixels": torch.rand(2, 1, 32, 32), "labels": torch.ones(2, 2)}
    assert without_gradient(task, batch) == []
    task.network.bn1._forward_hooks.clear()  # as where a network reads weights and does not call the layer
    idle = without_gradient(task, batch)
    assert idle == ["network.bn1.ssf.gamma", "network.bn1.ssf.beta"]
    monkeypatch.setattr(loop, "without_gradient", lambda *_: idle)
    with pytest.raises(UserError, match=r"--method ssf: bn1\.ssf\.gamma has no effect in this ResNet"):
        train_micro(tmp_path / "run", **settings, use_ema=False)
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize(("colours", "coloured"), [((0, 0, 0, 9, 9, 9), False), ((0, 0, 0, 9, 9, 8), True)])
def test_a_palette_of_greys_is_no_colour(tmp_path, colours, coloured):
    image = Image.fromarray(np.eye(32, dtype=np.uint8), mode="P")
    image.putpalette(colours)
    image.save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    assert has_colour([tmp_path / "a.png"]) == coloured
    assert load_upright(tmp_path / "a.png").image.mode == ("RGB" if coloured else "L")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter_width": 0}, "--adapter_width 0: must be positive"),
        ({"prompt_tokens": 0}, "--prompt_tokens 0: must be positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(tune="classifier", **settings)


def test_a_method_needs_trained_weights(micro_dataset):
    settings = {"data": str(micro_dataset), "tune": "classifier", "method": "norm"}
    with pytest.raises(UserError, match="--method norm: needs trained weights: name them with --base"):
        ClassifierTask(TrainConfig(**settings))
    ClassifierTask(TrainConfig(**settings, random_weights=True))
    with pytest.raises(UserError, match="--architecture is for weights in a file"):
        ClassifierTask(TrainConfig(**settings, random_weights=True, architecture="resnet18"))


def test_a_column_of_classes_that_is_none(micro_dataset):
    for column, message in {"kind": "no such column", "view": "has 1 class"}.items():
        settings = {"data": str(micro_dataset), "tune": "classifier", "class_column": column}
        with pytest.raises(UserError, match=message):
            ClassifierTask(TrainConfig(**settings))


def test_images_of_a_class_that_is_not_trained_are_told(capsys):
    rows = pd.DataFrame({"file_name": ["a.png", "b.png", "c.png"], "kind": ["nevus", "Melanoma", ""]})
    values = class_table(rows, "kind", None, ["melanoma", "nevus"])[1]
    assert np.isnan(values).all(axis=1).tolist() == [False, True, True]
    told = capsys.readouterr().err
    assert told.startswith("warning: 1 images have a class that is not learnt") and "such as 'Melanoma'" in told
    class_table(rows[:1], "kind", None, ["melanoma", "nevus"])
    assert not capsys.readouterr().err


@pytest.mark.multiprocess
def test_two_processes_train_the_same(train_micro, read_log, tmp_path, micro_dataset, bases):
    """In one launch for methods of both kinds of networks; batch normalisation does not move with these."""
    methods = {"cnn": ("linear", "bias", "ssf", "tsa"), "vit": ("attention", "lora", "adaptformer", "vpt-deep")}
    runs, split = [(kind, name) for kind, names in methods.items() for name in names], []
    for kind, name in runs:
        own = run_settings(bases[kind], name, data=str(micro_dataset), max_train_steps=3, adam_epsilon=1e-6)
        train_micro(tmp_path / name, **own, train_batch_size=8)
        one = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        split.append(one | {"train_batch_size": 4, "output_dir": str(tmp_path / f"{name} in two")})
    train_in_two_processes(split, tmp_path)
    for _, name in runs:
        one, two = tmp_path / name, tmp_path / f"{name} in two"
        np.testing.assert_allclose(*([row["loss"] for row in read_log(run)] for run in (one, two)), rtol=1e-5)
        expected, found = (load_file(run / "adapter" / "classifier.safetensors") for run in (one, two))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")
