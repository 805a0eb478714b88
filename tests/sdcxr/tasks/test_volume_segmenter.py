"""Runs of `--tune segmenter` on volumes: methods, what is saved, adapters, resuming, scores, refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

pytest.importorskip("monai")
pytest.importorskip("nibabel")
pytest.importorskip("einops")

from data_prep.volume_phantom import VolumePhantomConfig, main
from eval.scores import read_scores
from eval.segmentation import SegmentationConfig
from eval.segmentation import main as evaluate
from sdcxr import tasks
from sdcxr.backbones.image_classifier import Description
from sdcxr.backbones.segmenter import Segmenter
from sdcxr.backbones.volume_networks import NETWORKS, UNETR, untrained
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.segmenter import SegmenterTask
from sdcxr.tuning.adapter_folder import read_adapter
from tests.sdcxr.tasks.test_segmenter import save_squares
from tests.torchrun import train_in_two_processes

CPU = torch.device("cpu")
SIDE = 32


@pytest.fixture(scope="module", autouse=True)
def micro():
    """A UNETR of 0.4 million parameters."""
    sizes = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "unetr_micro", (UNETR, sizes))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("volumes") / "data"
    main(VolumePhantomConfig(folder, volumes=8, side=24))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Weights of an encoder alone, as self-supervised pretraining has them."""
    torch.manual_seed(1)
    network, _ = untrained("unetr_micro", Description("", ["a"], SIDE))
    file = tmp_path_factory.mktemp("base") / "encoder.safetensors"
    save_file(network.get_submodule("vit").state_dict(), file)
    return file


def settings(data: Path, **more) -> dict:
    return {"tune": "segmenter", "data": str(data), "resolution": SIDE, "use_ema": False, "train_batch_size": 2} | more


def of_file(data: Path, base: Path, **more) -> dict:
    return settings(data, base=str(base), architecture="unetr_micro", **more)


FURTHER = [pytest.param(name, marks=pytest.mark.slow) for name in ("norm", "ssf", "attention")]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "bias", "linear", "full", *FURTHER])
def test_a_method_trains_the_encoder_and_its_adapter_gives_the_saved_network(train_micro, tmp_path, data, base, method):
    run = tmp_path / "run"
    begun = tasks.build(TrainConfig(**of_file(data, base)), CPU)
    before = {name: value.clone() for name, value in begun.network.state_dict().items()}
    train_micro(run, **of_file(data, base, method=method, learning_rate=0.01))
    whole = load_file(run / "segmenter/model.safetensors")  # saving has compared it with what was trained
    moved = {name for name in before if not torch.equal(before[name], whole[name])}
    of_encoder = {name for name in moved if name.startswith("vit.")}
    assert {name for name in before if not name.startswith("vit.")} <= moved
    assert bool(of_encoder) == (method != "linear")
    own = {"bias": "bias$", "lora": r"\.qkv\.weight$", "attention": r"\.attn\.|position_embeddings$", "norm": r"\.norm"}
    assert all(re.search(own.get(method, ""), name) for name in of_encoder)
    assert (run / "adapter").exists() == (method != "full")
    if method != "full":
        adapter = read_adapter(run / "adapter")
        again = adapter.fold_into("segmenter", tasks.build(TrainConfig(**of_file(data, base)), CPU).network)
        for name, value in again.state_dict().items():
            assert torch.allclose(value, whole[name], atol=1e-6), name
        del adapter.states["segmenter"][next(iter(adapter.states["segmenter"]))]
        with pytest.raises(UserError, match="lacks"):
            adapter.inject_into("segmenter", tasks.build(TrainConfig(**of_file(data, base)), CPU).network)


@pytest.mark.parametrize("method", ["lora", "bias", "norm", "ssf"])
def test_what_trains_has_gradients_and_nothing_else(data, base, method):
    task = tasks.build(TrainConfig(**of_file(data, base, method=method)), CPU)
    fresh = tasks.build(TrainConfig(**of_file(data, base)), CPU)
    example = task.examples().example(0, np.random.default_rng(0))
    batch = {name: value[None] for name, value in example.items()}
    for name, value in fresh.network.named_parameters():
        if not name.startswith("vit."):
            task.network.get_parameter(name).data.copy_(value)  # the decoder's own draws
    assert torch.allclose(task.eval().logits(batch), fresh.eval().logits(batch), atol=1e-5)
    for parameter in task.parameters():  # LoRA begins with zeros, behind which there is no gradient
        if parameter.requires_grad:
            parameter.data += 0.01
    task.train()(batch).sum().backward()
    for name, parameter in task.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


@pytest.mark.slow
def test_resuming_is_exact_and_a_run_begins_from_a_run(train_micro, read_log, tmp_path, data, base):
    stepwise = of_file(data, base, method="norm", checkpointing_steps=1)
    train_micro(tmp_path / "whole", **stepwise, max_train_steps=3)
    train_micro(tmp_path / "run", **stepwise, max_train_steps=2)
    train_micro(tmp_path / "run", **stepwise, max_train_steps=3)
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")
    files = [tmp_path / name / "segmenter/model.safetensors" for name in ("run", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    again = SegmenterTask(TrainConfig(**settings(data, base=str(tmp_path / "run"), method="bias")))
    own = load_file(files[0])
    assert all(torch.equal(value, own[name]) for name, value in again.network.state_dict().items())
    with pytest.raises(UserError, match=r"--resolution 48: the network of --base .* takes 32 px"):
        SegmenterTask(TrainConfig(**settings(data, base=str(tmp_path / "run"), resolution=48)))


@pytest.mark.multiprocess
def test_two_processes_train_the_same(train_micro, read_log, tmp_path, data):
    """In one launch; that of images only ends, as its decoder normalises the images of each process by themselves."""
    train_micro(tmp_path / "base", **settings(data, base="unetr_tiny", random_weights=True, max_train_steps=1))
    squares = save_squares(tmp_path / "squares", {"train": 8, "validation": 2})
    own = {"max_train_steps": 3, "adam_epsilon": 1e-6, "train_batch_size": 4}
    runs = {name: settings(data, base=str(tmp_path / "base"), method=name) | own for name in ("lora", "ssf", "norm")}
    runs["images"] = settings(squares, base="test_resnet", random_weights=True, method="ssf") | own
    split = []
    for name, of_run in runs.items():
        train_micro(tmp_path / name, **of_run)
        one = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        split.append(one | {"train_batch_size": 2, "output_dir": str(tmp_path / f"{name} in two")})
    train_in_two_processes(split, tmp_path)
    assert (tmp_path / "images in two" / "segmenter" / "model.safetensors").is_file()
    for name in runs.keys() - {"images"}:
        one, two = tmp_path / name, tmp_path / f"{name} in two"
        np.testing.assert_allclose(*([row["loss"] for row in read_log(run)] for run in (one, two)), rtol=1e-5)
        expected, found = (load_file(run / "adapter" / "segmenter.safetensors") for run in (one, two))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")


@pytest.mark.slow
def test_whole_volumes_are_scored(train_micro, tmp_path, data):
    run = tmp_path / "run"
    train_micro(run, **settings(data, base="unetr_micro", random_weights=True, validation_steps=2))
    assert "dice/lungs" in json.loads((run / "validation.jsonl").read_text().splitlines()[-1])
    evaluate(SegmentationConfig(str(run), str(data / "test"), output=str(tmp_path / "scores.json"), device="cpu"))
    rows = {(row["metric"], row["label"]): row for row in read_scores(tmp_path / "scores.json")}
    assert 0 <= rows["dice", "lungs"]["value"] <= 1
    assert 0 < rows["hausdorff95_mm", "heart"]["value"] <= 320 * 3**0.5 + 20
    about = json.loads((run / "segmenter/config.json").read_text())
    assert about["spacing_mm"] == pytest.approx([320 / 24] * 3, rel=0.15)
    from monai.networks import nets

    plain = getattr(nets, about["decoder"].rpartition(".")[2])(1, len(about["labels"]), **about["model_args"])
    plain.load_state_dict(load_file(run / "segmenter/model.safetensors"))
    patch = torch.rand(1, 1, SIDE, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(plain.eval()(patch), Segmenter(run, CPU).network(patch))


@pytest.mark.slow
def test_a_network_learns_and_its_encoder_is_tuned_on(train_micro, tmp_path, data):
    own = settings(data)
    many = {"max_train_steps": 100, "learning_rate": 3e-3, "validation_steps": 100}
    train_micro(tmp_path / "first", **own, base="unetr_tiny", random_weights=True, **many)
    row = json.loads((tmp_path / "first/validation.jsonl").read_text().splitlines()[-1])
    assert row["dice/lungs"] > 0.7
    for method in ("lora", "bias", "norm", "ssf"):
        run = tmp_path / method
        train_micro(run, **own, base=str(tmp_path / "first"), method=method, max_train_steps=2)
        adapter = load_file(run / "adapter/segmenter.safetensors")
        assert any(name.startswith("vit.") for name in adapter)
    evaluate(SegmentationConfig(str(run), str(data / "test"), output=str(tmp_path / "scores.json"), device="cpu"))
    rows = {(row["metric"], row["label"]): row["value"] for row in read_scores(tmp_path / "scores.json")}
    assert rows["dice", "lungs"] > 0.6


@pytest.mark.slow  # cubes of 64 voxels
@pytest.mark.parametrize("method", ["lora", "bias", "norm", "ssf"])
def test_swin_unetr_is_tuned_and_merged(tmp_path, data, method):
    torch.manual_seed(0)
    network, _ = untrained("swin_unetr_tiny", Description("", ["a"], 64))
    save_file(network.state_dict(), tmp_path / "whole.safetensors")
    own = {"base": str(tmp_path / "whole.safetensors"), "architecture": "swin_unetr_tiny", "resolution": 64}
    task = tasks.build(TrainConfig(**settings(data, method=method, **own)), CPU)
    batch = {name: value[None] for name, value in task.examples().example(0, np.random.default_rng(0)).items()}
    for parameter in task.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01
    task.train()(batch).sum().backward()
    for name, parameter in task.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name
    assert any(name.startswith("swinViT.") for name in task.method.state(task.network))
    with torch.no_grad():
        merged, adapted = task.method.merge(task.network).eval()(batch["pixels"]), task.eval().logits(batch)
    assert torch.allclose(merged, adapted, atol=1e-3)


# ---------------------------------------------------------------------------------------------------------------------
# Networks and refusals


@pytest.mark.parametrize(
    ("name", "width", "device"),
    [("unetr", 768, "meta"), ("unetr_tiny", 96, "meta"), ("swin_unetr", 48, "cpu"), ("swin_unetr_tiny", 12, "cpu")],
)
def test_networks_have_their_sizes(name, width, device):
    with torch.device(device):
        network, about = untrained(name, Description("", ["a", "b"], 64))
    encoder = network.get_submodule(NETWORKS[name][0].encoder)
    first = next(value for _, value in encoder.named_parameters() if value.ndim == 5)
    assert len(first) == width and about.of_volumes
    assert not any("norm_cross_attn" in key for key, _ in network.named_parameters())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"base": "unetr", "random_weights": True, "resolution": 40}, "--resolution 40: unetr takes .* multiple of 16"),
        ({"base": "swin_unetr", "random_weights": True}, "--resolution 32: .* of 32 voxels, 64 at least"),
        ({"base": "resnet50", "random_weights": True}, "resnet50: is no network for volumes: use unetr"),
        ({"base": "unetr"}, "has no weights of its own: give one with --architecture unetr"),
        ({"base": "nothing"}, "nothing: is no safetensors file"),
        ({"base": "FILE"}, r"name its network with --architecture \(unetr, "),
        ({"base": "FILE", "architecture": "unetr_tiny"}, r"is no unetr_tiny .* lacks vit\.\S+ of shape"),
        ({"base": "FILE", "architecture": "unetr_micro", "resolution": 48}, "for patches of 48 voxels"),
        ({"base": "FILE", "architecture": "unetr_micro", "method": "tsa"}, "tsa: does not fit UNETR, .*lora.*ssf"),
        ({"method": "norm"}, "--method norm: needs trained weights"),
    ],
)
def test_what_cannot_be_is_one_line(data, base, more, message):
    more = more | ({"base": str(base)} if more.get("base") == "FILE" else {})
    with pytest.raises(UserError, match=message) as error:
        SegmenterTask(TrainConfig(**settings(data, **more)))
    assert "\n" not in str(error.value)


def test_a_segmenter_of_images_and_one_of_volumes_are_not_mixed_up(tmp_path, data):
    squares = save_squares(tmp_path / "squares", {"train": 4})
    with pytest.raises(UserError, match="unetr: is for volumes"):
        SegmenterTask(TrainConfig(**settings(squares, base="unetr", random_weights=True)))
    network, about = untrained("unetr_micro", Description("", ["bright"], SIDE, spacing_mm=(1.0, 1.0, 1.0)))
    from sdcxr.backbones.segmenter import write_segmenter

    write_segmenter(tmp_path / "segmenter", network, about)
    with pytest.raises(UserError, match=r"is a segmenter of volumes .* and these are none"):
        evaluate(SegmentationConfig(str(tmp_path), str(squares / "train"), device="cpu"))
    with pytest.raises(UserError, match="one is of volumes, the other of images"):
        SegmenterTask(TrainConfig(**settings(squares, base=str(tmp_path), structures="bright")))


@pytest.mark.parametrize("package", ["monai", "nibabel", "einops"])
def test_a_missing_package_is_one_line(monkeypatch, data, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=rf"pip install sdcxr\[volumes\]: {package} is not installed"):
        SegmenterTask(TrainConfig(**settings(data)))
