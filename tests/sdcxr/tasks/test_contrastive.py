"""The CLIP task: its loss by hand, what a run saves and loads, what it learns, and what it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.extractors import find_extractor
from eval.extractors.cache import extract
from eval.extractors.texts import extract_texts
from eval.inputs.folders import read_folder
from sdcxr import backbones, tasks
from sdcxr.backbones.image_text_towers import Clip
from sdcxr.backbones.text_encoders import tokenize
from sdcxr.config import TrainConfig
from sdcxr.data.stream import Positions, Stream, loader
from sdcxr.runtime.errors import UserError
from sdcxr.tasks import contrastive
from sdcxr.tasks.contrastive import info_nce
from tests.conftest import SENTENCES, micro_tokenizer

CPU = torch.device("cpu")
CLIP = {"tune": "clip", "base": "test_resnet", "resolution": 64, "lr_warmup_steps": 1}


@pytest.fixture(autouse=True)
def small_vocabulary(monkeypatch):
    """The tokenizer that loads quickly."""
    monkeypatch.setattr(contrastive, "clip_tokenizer", micro_tokenizer)


def unit(n: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_with_distinct_captions_the_loss_is_clips():
    images, texts, scale = unit(5, 0), unit(5, 1), torch.tensor(7.0)
    logits = scale * images @ texts.T
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, torch.arange(5)) + cross_entropy(logits.T, torch.arange(5))) / 2
    loss = info_nce(images, texts, torch.arange(5), scale)
    assert loss.shape == (5,)
    torch.testing.assert_close(loss.mean(), expected)


def test_rows_of_one_caption_are_not_pushed_apart():
    """Two images of one caption, perfectly told from a third: the loss is the least there is, ln 2 for the pair."""
    vectors = torch.eye(2)[[0, 0, 1]]
    loss = info_nce(vectors, vectors, torch.tensor([4, 4, 9]), torch.tensor(1e3))
    torch.testing.assert_close(loss, torch.tensor([math.log(2), math.log(2), 0.0]))
    worse = info_nce(torch.eye(3), torch.eye(3), torch.tensor([4, 4, 9]), torch.tensor(1e3))
    assert worse[0] > 100  # an image is far from its caption's other row


def task_of(data: Path, **changes: object) -> contrastive.ClipTask:
    return tasks.build(TrainConfig(**(CLIP | {"data": str(data), "train_batch_size": 4} | changes)).filled(), CPU)


def test_a_sample_is_pixels_caption_and_its_number(micro_dataset):
    task = task_of(micro_dataset)
    stream = Stream(task.examples(), 0)
    batch = next(iter(loader(stream, Positions(0, 8, 8, 0, 1), 0, False)))
    assert batch["pixels"].shape == (8, 1, 64, 64) and batch["pixels"].abs().max() <= 1
    texts = [task.rows["text"].iloc[stream.index(i)] for i in range(8)]
    for i in range(8):
        same = [texts[j] == texts[i] for j in range(8)]
        assert (batch["caption"] == batch["caption"][i]).tolist() == same
    ids = tokenize(task.tokenizer, texts).ids
    longest = batch["input_ids"].shape[1]
    np.testing.assert_array_equal(batch["input_ids"], ids[:, :longest])
    assert longest < 77 and (ids[:, longest:] == task.tokenizer.eos_token_id).all()
    task.eval()
    with torch.no_grad():  # the cut tokens change nothing
        whole = task.towers.encode_texts(torch.from_numpy(ids))
        torch.testing.assert_close(task.towers.encode_texts(batch["input_ids"]), whole)


def test_the_temperature_stays_above_its_bound_and_is_not_decayed(micro_dataset):
    task = task_of(micro_dataset, text_encoder_lr=1e-6)
    assert task.towers.scale().item() == pytest.approx(1 / 0.07)
    task.towers.log_scale.data += 100
    assert task.towers.scale().item() == pytest.approx(100)
    groups = {group["name"]: group for group in task.groups()}
    assert groups["temperature"]["weight_decay"] == 0
    assert groups["text tower"]["lr"] == 1e-6 and groups["image tower"]["lr"] == 5e-5
    assert {id(p) for group in groups.values() for p in group["params"]} == {id(p) for p in task.parameters()}


@pytest.fixture(scope="module")
def clip_run(train_micro, tmp_path_factory):
    """A run that has seen the eleven images some thirty times."""
    run = tmp_path_factory.mktemp("clip") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "clip_tokenizer", micro_tokenizer)
        assert train_micro(run, **CLIP, max_train_steps=45, train_batch_size=8, use_ema=False, learning_rate=3e-3) == 0
    return run


@pytest.mark.slow
def test_a_run_learns_which_texts_belong_to_which_images(clip_run, micro_dataset):
    folder = read_folder(micro_dataset / "train", "--real")
    images = extract(folder, find_extractor(str(clip_run))).values  # noqa: PD011 (not a table)
    texts = extract_texts(SENTENCES, find_extractor(str(clip_run))).values  # noqa: PD011
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, rtol=1e-5)
    nearest = (images @ texts.T).argmax(axis=1)
    own = [SENTENCES.index(text) for text in folder.rows["text"]]
    assert np.mean(nearest % 2 == np.array(own) % 2) > 0.85  # the side of the disc, which two sentences each share


def test_the_saved_towers_are_the_trained_ones(clip_run):
    clip = Clip(clip_run, CPU)
    assert (clip.resolution, clip.dimension) == (64, 64)
    torch.manual_seed(0)
    pixels = torch.rand(3, 1, 64, 64) * 2 - 1
    together, alone = clip.encode_images(pixels), np.concatenate([clip.encode_images(p[None]) for p in pixels])
    np.testing.assert_allclose(together, alone, atol=1e-5)  # not of the batch: the towers are in evaluation mode
    assert clip.encode_texts([]).shape == (0, 64)
    long = "effusion " * 100
    assert clip.encode_texts([long, "Clear."], batch_size=1).shape == (2, 64)
    again = Clip(clip_run / "clip", CPU)
    np.testing.assert_array_equal(again.encode_texts(["Clear."]), clip.encode_texts(["Clear."]))


def test_texts_come_back_in_their_order(clip_run):
    texts = ["b", "a", "b", "c"]
    np.testing.assert_allclose(
        extract_texts(texts, find_extractor(str(clip_run))).values,
        Clip(clip_run, CPU).encode_texts(texts),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(UserError, match="pixels-8 has no text tower"):
        extract_texts(["a"], find_extractor("pixels-8"))
    assert find_extractor(str(clip_run)).dimension == 64


def test_the_batch_is_part_of_what_is_learnt(clip_run, train_micro):
    settings = CLIP | {"max_train_steps": 50, "use_ema": False, "learning_rate": 3e-3}
    with pytest.raises(UserError, match="train_batch_size 8 → 4"):
        train_micro(clip_run, **settings, train_batch_size=4, gradient_accumulation_steps=2)


@pytest.mark.parametrize("damage", ["config", "weights", "absent", "network"])
def test_damaged_folders_are_one_line(clip_run, tmp_path, damage):
    import shutil

    folder = tmp_path / "clip"
    shutil.copytree(clip_run / "clip", folder)
    if damage == "config":
        (folder / "config.json").write_text("{}")
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes(b"nothing")
    elif damage == "absent":
        (folder / "model.safetensors").unlink()
    else:
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(about | {"architecture": "test_vit"}))
    with pytest.raises(UserError, match="holds no trained CLIP" if damage == "absent" else "damaged or of another"):
        Clip(tmp_path, CPU)


def test_missing_weights_are_not_made_up(clip_run, tmp_path):
    import shutil

    shutil.copytree(clip_run / "clip", tmp_path / "clip")
    tensors = load_file(tmp_path / "clip" / "model.safetensors")
    tensors.pop("text.text_projection.weight")
    save_file(tensors, tmp_path / "clip" / "model.safetensors")
    with pytest.raises(UserError, match="damaged or of another network"):
        Clip(tmp_path, CPU)


def test_what_cannot_be_trained_is_refused(micro_dataset, tmp_path):
    with pytest.raises(UserError, match="--train_batch_size 1"):
        task_of(micro_dataset, train_batch_size=1)
    with pytest.raises(UserError, match="clip train alone"):
        task_of(micro_dataset, tune="clip+text")
    with pytest.raises(UserError, match="timm has no such model"):
        task_of(micro_dataset, base="test_resnt")
    (tmp_path / "train").mkdir()
    rows = pd.read_csv(micro_dataset / "train" / "metadata.csv", dtype=str)
    rows.assign(text=["Clear.", " clear", ""] + ["1. CLEAR"] * 8).to_csv(tmp_path / "train" / "metadata.csv")
    with pytest.raises(UserError, match="at least 2 different captions, train has 1"):
        task_of(tmp_path)


def test_a_clip_run_generates_nothing(clip_run):
    with pytest.raises(UserError, match="is the run of a clip"):
        backbones.locate_pipeline(str(clip_run))
