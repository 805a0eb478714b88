"""Runs of `--tune segmenter`: masks and their images move together, methods, what is saved, resuming, refusals."""

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

pytest.importorskip("segmentation_models_pytorch")

from sdcxr import tasks
from sdcxr.backbones.image_classifier import Description
from sdcxr.backbones.segmenter import Segmenter, unet, with_encoder
from sdcxr.config import TrainConfig
from sdcxr.data.examples import SegmentationImages
from sdcxr.io.manifest import write_metadata
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.segmenter import SegmenterTask, dice, known_masks, segmentation_loss
from tests.sdcxr.backbones.test_classifier_base import save_timm

CPU = torch.device("cpu")
NAN = float("nan")
METHODS = ["bias", "norm", "ssf", "tsa", "svdiff", "lora", "linear", "full"]


def save_squares(folder: Path, sizes: dict[str, int], side: int = 32) -> Path:
    """A bright and a dim square in noise, with a mask of each; every fifth image has none of the dim one."""
    for seed, (split, n) in enumerate(sizes.items()):
        draws = np.random.default_rng(seed)
        rows = []
        for name in ("bright", "dim"):
            (folder / split / "masks" / name).mkdir(parents=True)
        for i in range(n):
            picture = draws.integers(0, 40, (side, side), dtype=np.uint8)
            file, row = f"{split}{i}.png", {"subject_id": f"p{i // 2}", "text": "", "file_name": f"{split}{i}.png"}
            for name, grey in {"bright": 230, "dim": 120}.items():
                top, left = draws.integers(0, side - 10, 2)
                mask = np.zeros_like(picture)
                mask[top : top + 10, left : left + 10] = 255
                picture[mask > 0] = grey
                row[f"mask_{name}"] = "" if name == "dim" and i % 5 == 4 else f"masks/{name}/{file}"
                Image.fromarray(mask).save(folder / split / "masks" / name / file)
            Image.fromarray(picture).save(folder / split / file)
            rows.append(row)
        write_metadata(folder / split, pd.DataFrame(rows))
    return folder


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    return save_squares(tmp_path_factory.mktemp("squares") / "data", {"train": 24, "validation": 6})


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_timm(tmp_path_factory.mktemp("base") / "cnn")


def settings(data: Path, **more) -> dict:
    return {"tune": "segmenter", "data": str(data), "resolution": 32, "use_ema": False} | more


def validation_rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_learns_and_its_folder_loads_with_the_library_alone(train_micro, tmp_path, squares):
    run = tmp_path / "run"
    many = {"max_train_steps": 24, "train_batch_size": 6, "learning_rate": 5e-3, "validation_steps": 24}
    train_micro(run, **settings(squares, base="test_resnet", random_weights=True, **many))
    row = validation_rows(run)[-1]
    assert row["dice/bright"] > 0.6
    assert row["dice"] == pytest.approx((row["dice/bright"] + row["dice/dim"]) / 2, abs=1e-6)

    import segmentation_models_pytorch as smp

    about = json.loads((run / "segmenter/config.json").read_text())
    assert about["labels"] == ["bright", "dim"]
    network = smp.Unet(
        f"tu-{about['architecture']}",
        encoder_weights=None,
        in_channels=about["channels"],
        classes=2,
        **about["model_args"],
    )
    network.load_state_dict(load_file(run / "segmenter/model.safetensors"))
    pixels = torch.rand(2, 1, 32, 32) * 2 - 1
    expected = (network.eval()(pixels) > 0).numpy()
    assert (Segmenter(run, CPU).predict(pixels) == expected).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_the_encoder_and_the_decoder_always_trains(train_micro, tmp_path, squares, base, method):
    run = tmp_path / "run"
    # Of the stem: blocks of an untrained ResNet of timm end in a scale of 0, and what is before it has no gradient.
    own = {"lora_targets": "conv1.3"} if method == "lora" else {}
    begun = tasks.build(TrainConfig(**settings(squares, base=str(base))), CPU)
    before = {name: value.clone() for name, value in begun.network.state_dict().items()}
    train_micro(run, **settings(squares, base=str(base), method=method, learning_rate=0.01, **own))
    checkpoint = load_file(next((run / "checkpoints").iterdir()) / "model.safetensors")
    whole = load_file(run / "segmenter/model.safetensors")  # saving has compared it with what was trained
    decoder = [name for name in whole if not name.startswith("encoder.") and name in before]
    moved = {name for name in before if name in whole and not torch.equal(before[name], whole[name])}
    assert {name for name in decoder if name.endswith("weight")} <= moved
    of_encoder = {name for name in moved if name.startswith("encoder.")}
    assert bool(of_encoder) == (method != "linear")
    if method == "full":
        assert not (run / "adapter").exists()
        return
    adapter = load_file(run / "adapter/segmenter.safetensors")
    # peft leaves the name of an adapter out of its files.
    assert {f"network.{name}" for name in adapter} == {name.replace(".default", "") for name in checkpoint}
    if method == "bias":
        assert all(name.endswith("bias") for name in of_encoder)


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "densenet121"])
def test_the_encoder_computes_what_the_classifier_did(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=2, in_chans=3).eval()
    encoder = with_encoder(Description(name, ["a"], 64, channels=3), network).eval().encoder
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = network.forward_intermediates(pixels, intermediates_only=True)
        found = encoder(pixels)[-1]
    assert found.abs().max() > 0
    assert any(one.shape == found.shape and torch.allclose(one, found, atol=1e-4) for one in maps)


@pytest.mark.slow
def test_resuming_is_exact(train_micro, read_log, tmp_path, squares, base):
    stepwise = settings(squares, base=str(base), method="norm", checkpointing_steps=1)
    train_micro(tmp_path / "whole", **stepwise, max_train_steps=4)
    train_micro(tmp_path / "run", **stepwise, max_train_steps=2)
    train_micro(tmp_path / "run", **stepwise, max_train_steps=4)
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")
    files = [tmp_path / name / "segmenter/model.safetensors" for name in ("run", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_other_masks_of_the_same_images_are_another_run(train_micro, tmp_path, base):
    data = save_squares(tmp_path / "data", {"train": 8, "validation": 2})
    train_micro(tmp_path / "run", **settings(data, base=str(base), method="linear", max_train_steps=2))
    mask = data / "train/masks/bright/train0.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    with pytest.raises(UserError, match="was begun on other images, captions or labels"):
        train_micro(tmp_path / "run", **settings(data, base=str(base), method="linear", max_train_steps=3))


def test_what_has_no_effect_is_an_error(squares, base):
    task = SegmenterTask(TrainConfig(**settings(squares, base=str(base), method="ssf")))
    with pytest.raises(UserError, match=r"--method ssf: encoder\.a has no effect in this Unet"):
        task.check_gradients(["network.encoder.a"])


def test_an_epoch_is_of_the_images_that_have_a_mask(train_micro, tmp_path, base):
    data = save_squares(tmp_path / "data", {"train": 20, "validation": 2})
    one = settings(data, base=str(base), method="linear", structures="dim", max_train_steps=None, num_train_epochs=1)
    train_micro(tmp_path / "run", **one, train_batch_size=8)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["max_train_steps"] == 2  # 16 of 20 have it


def test_a_run_begins_from_a_segmenter_or_a_classifier(train_micro, tmp_path, squares):
    first = tmp_path / "first"
    train_micro(first, **settings(squares, base="test_resnet", random_weights=True))
    again = SegmenterTask(TrainConfig(**settings(squares, base=str(first), method="bias")))
    own = load_file(first / "segmenter/model.safetensors")
    assert all(torch.equal(value, own[name]) for name, value in again.network.state_dict().items())
    with pytest.raises(UserError, match="draws bright, dim; the masks of this data are dim"):
        SegmenterTask(TrainConfig(**settings(squares, base=str(first), structures="dim")))

    classifier = {"tune": "classifier", "base": "test_resnet", "random_weights": True, "resolution": 32}
    train_micro(tmp_path / "classifier", **classifier, use_ema=False)
    task = SegmenterTask(TrainConfig(**settings(squares, base=str(tmp_path / "classifier"))))
    weights = load_file(tmp_path / "classifier/classifier/model.safetensors")
    found = task.network.state_dict()
    assert torch.equal(found["encoder.model.conv1.0.weight"], weights["conv1.0.weight"])


# ---------------------------------------------------------------------------------------------------------------------
# Examples, loss, scores


def test_masks_move_with_their_image_and_an_unknown_one_is_nan(squares):
    folder = squares / "train"
    masks: list[list[Path | None]] = [[folder / "masks/bright/train0.png", None]]
    examples = SegmentationImages([folder / "train0.png"], ["0"], masks, 32)
    shifts = set()
    for seed in range(8):
        example = examples.example(0, np.random.default_rng(seed))
        pixels, mask = example["pixels"][0], example["masks"][0]
        assert pixels[mask == 1].min() > pixels[mask == 0].max() - 1e-6 or pixels[mask == 1].mean() > 0.5
        assert mask.sum() == 100 and example["masks"][1].isnan().all()
        shifts.add(int(mask.argmax()))
    assert len(shifts) > 2


def test_images_without_any_mask_are_left_out_and_one_missing_mask_is_none(tmp_path):
    rows = pd.DataFrame({"mask_a": ["masks/a/0.png", "", ""], "mask_b": ["masks/b/0.png", "masks/b/1.png", ""]})
    rows["path"] = [tmp_path / f"{i}.png" for i in range(3)]
    structures, masks, known = known_masks(rows)
    assert structures == ["a", "b"] and known.tolist() == [True, True, False]
    assert masks == [[tmp_path / "masks/a/0.png", tmp_path / "masks/b/0.png"], [None, tmp_path / "masks/b/1.png"]]
    assert known_masks(rows, ["b"])[0] == ["b"]
    with pytest.raises(UserError, match="no masks of lungs"):
        known_masks(rows, ["lungs"])


def test_loss_and_dice_of_known_masks():
    masks = torch.zeros(3, 2, 4, 4)
    masks[:, 0, :2] = 1
    masks[1, 1] = NAN
    logits = torch.where(masks == 1, 20.0, -20.0)
    right = segmentation_loss(logits, masks)
    assert torch.allclose(right, torch.zeros(3), atol=1e-5)  # the empty mask of structure 2 included
    wrong = segmentation_loss(-logits, masks)
    # Entropy 20; Dice of nothing in common: (0 + 1) / (8 + 8 + 1) of structure 1, (0 + 1) / (16 + 1) of the empty one.
    assert torch.allclose(wrong, torch.full((3,), 20 + 1 - 1 / 17), atol=1e-3)
    half = torch.full_like(logits, -20.0)
    half[:, 0, 1:3] = 20.0
    found = dice(half > 0, masks)
    assert found[:, 0].tolist() == [0.5, 0.5, 0.5] and found[:, 1].isnan().all()


def test_gradients_ignore_what_is_unknown():
    masks = torch.full((1, 2, 4, 4), NAN)
    masks[0, 0] = 0
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    segmentation_loss(logits, masks).sum().backward()
    assert logits.grad is not None and logits.grad[0, 0].abs().min() > 0 and not logits.grad[0, 1].any()


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"base": "test_vit", "random_weights": True}, "test_vit: is no encoder of a U-Net .* such as resnet50"),
        ({"base": "test_resnet", "random_weights": True, "resolution": 40}, "--resolution 40: .* such as 32 or 64"),
        ({"method": "norm"}, "--method norm: needs trained weights"),
        (
            {"base": "CNN", "method": "vpt-deep"},
            "vpt-deep: does not fit Unet, which is convolutional: use .*linear.*tsa",
        ),
        ({"base": "CNN", "method": "norms"}, r"--method norms: unknown \(near: norm"),
        ({"structures": "lungs"}, r"no masks of lungs \(it has: bright, dim\)"),
    ],
)
def test_what_cannot_be_is_one_line(squares, base, more, message):
    more = more | ({"base": str(base)} if more.get("base") == "CNN" else {})
    with pytest.raises(UserError, match=message) as error:
        SegmenterTask(TrainConfig(**settings(squares, **more)))
    assert "\n" not in str(error.value)


def test_a_dataset_without_masks_is_one_line(micro_dataset):
    with pytest.raises(UserError, match=r"has no masks .* prepare the dataset with --masks"):
        SegmenterTask(TrainConfig(**settings(micro_dataset)))


def test_a_missing_or_damaged_mask_names_its_file(squares, tmp_path):
    (tmp_path / "a.png").write_bytes((squares / "train/masks/dim/train0.png").read_bytes()[:-9])
    for mask in (tmp_path / "a.png", tmp_path / "b.png"):
        examples = SegmentationImages([squares / "train/train0.png"], ["0"], [[mask]], 32)
        with pytest.raises(UserError, match=f"{mask.name} is named in metadata.csv and .*run data_prep again"):
            examples.example(0, np.random.default_rng(0))


def test_a_torn_result_is_one_line(tmp_path):
    folder = tmp_path / "segmenter"
    folder.mkdir()
    with pytest.raises(UserError, match="holds no trained segmenter: make one"):
        Segmenter(tmp_path, CPU)
    about = {"architecture": "test_resnet", "labels": ["a"], "resolution": 32}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="is damaged or of another network"):
        Segmenter(tmp_path, CPU)


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match=r"pip install sdcxr\[segmentation\]"):
        unet(Description("test_resnet", ["a"], 32))
