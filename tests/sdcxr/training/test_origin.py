"""What a run was begun on: known by content, compared on every call, continued under other settings by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from sdcxr import backbones
from sdcxr.backbones.pipeline_files import describe_schedule
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.training import checkpoint, origin

UNET: dict[str, Any] = {"tune": "unet", "lr_warmup_steps": 0}


@pytest.fixture(scope="module")
def other_base(micro_base, tmp_path_factory) -> Path:
    """The micro base with another VAE."""
    base = backbones.load(str(micro_base))
    with torch.no_grad():
        next(base.vae.decoder.parameters())[0] += 1e-3
    folder = tmp_path_factory.mktemp("other") / "base"
    backbones.save(base, folder)
    return folder


@pytest.fixture(scope="module")
def finished(train_micro, tmp_path_factory) -> Path:
    """A run of two steps."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert train_micro(run, **UNET) == 0
    return run


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("steps", [2, 3], ids=["finished", "resumed"])
def test_a_base_of_other_weights_is_refused_under_any_path(train_micro, run, other_base, micro_base, tmp_path, steps):
    log = (run / "log.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"was begun on another base than --base .* is now \(changed: vae\)"):
        train_micro(run, **UNET, base=str(other_base), max_train_steps=steps)
    assert (run / "log.jsonl").read_bytes() == log
    moved = shutil.copytree(micro_base, tmp_path / "moved")
    assert train_micro(run, **UNET, base=f"{moved}/", max_train_steps=steps) == 0
    shutil.rmtree(moved)
    shutil.copytree(other_base, moved)  # the path is now that of the run, its content is not
    with pytest.raises(UserError, match="was begun on another base"):
        train_micro(run, **UNET, base=f"{moved}/", max_train_steps=steps)


def test_a_finished_run_needs_neither_base_nor_data(train_micro, micro_base, micro_dataset, tmp_path, capfd):
    base, data = (shutil.copytree(each, tmp_path / each.name) for each in (micro_base, micro_dataset))
    assert train_micro(tmp_path / "run", **UNET, base=str(base), data=str(data)) == 0
    for folder in (base, data):
        shutil.rmtree(folder)
    assert train_micro(tmp_path / "run", **UNET, base=str(base), data=str(data)) == 0
    assert "is finished: 2 steps" in capfd.readouterr().out


@pytest.mark.parametrize("steps", [2, 3], ids=["finished", "resumed"])
def test_changed_images_are_refused_and_moved_ones_are_not(train_micro, run, micro_dataset, tmp_path, steps):
    data = shutil.copytree(micro_dataset, tmp_path / "data")
    assert train_micro(run, **UNET, data=str(data)) == 0
    image = data / "train" / "train3.png"
    ImageOps.invert(Image.open(image)).save(image)
    with pytest.raises(UserError, match=r"was begun on other images or captions .*changed: images"):
        train_micro(run, **UNET, data=str(data), max_train_steps=steps)


def test_runs_of_earlier_versions_go_on(train_micro, run):
    record = json.loads((run / "run.json").read_text())
    old = {name: record[name] for name in ("images_per_step", "finished_steps", "examples_sha256")}
    (run / "run.json").write_text(json.dumps(old))
    assert train_micro(run, **UNET, max_train_steps=3) == 0
    assert json.loads((run / "run.json").read_text()).keys() == record.keys()


def test_a_finished_run_without_checkpoints_does_not_start_again(train_micro, run):
    shutil.rmtree(run / "checkpoints")
    before = (run / "log.jsonl").read_bytes()
    with pytest.raises(
        UserError, match=r"has 2 finished steps but no good checkpoint to go on from: .* --base .*run and"
    ):
        train_micro(run, **UNET, max_train_steps=3)
    assert (run / "log.jsonl").read_bytes() == before


def test_a_folder_without_checkpoint_is_begun_again_under_any_settings_and_says_so(train_micro, tmp_path, capfd):
    with pytest.raises(UserError, match=r"lower --learning_rate; .*run has no checkpoint yet: begin again in it"):
        train_micro(tmp_path / "run", **UNET, learning_rate=1e25, max_train_steps=20)
    assert train_micro(tmp_path / "run", **UNET, seed=3) == 0
    assert "no checkpoint in" in capfd.readouterr().out
    assert not origin.is_begun(tmp_path)


@pytest.mark.parametrize("where", ["base", "base/pipeline", "data", "data/runs/a"])
def test_an_output_folder_in_base_or_data_is_refused(train_micro, micro_base, micro_dataset, tmp_path, where):
    shutil.copytree(micro_base, tmp_path / "base" / "pipeline")
    shutil.copytree(micro_dataset, tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"is the folder of --{where[:4]} .*: give another"):
        train_micro(tmp_path / where, **UNET, base=str(tmp_path / "base"), data=str(tmp_path / "data"))
    with pytest.raises(UserError, match="is the folder of --base"):  # its result would replace the base
        train_micro(tmp_path / "base", **UNET, base=str(tmp_path / "base" / "pipeline"))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_base_that_is_one_file_is_noticed_when_it_is_replaced(tmp_path):
    file = tmp_path / "resnet.safetensors"
    file.write_bytes(b"a")
    before = origin.base_state(str(file))
    assert origin.base_state(str(file)) == before
    file.write_bytes(b"bc")
    assert origin.base_state(str(file)) != before


def test_a_pipeline_of_the_user_is_not_replaced(train_micro, micro_base, tmp_path):
    shutil.copytree(micro_base, tmp_path / "run" / "pipeline")
    with pytest.raises(UserError, match=r"run: holds pipeline, which no run\.json accounts for"):
        train_micro(tmp_path / "run", **UNET)
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["pipeline"]


def tensors(run: Path, step: int) -> dict[str, bytes]:
    folder = run / "checkpoints" / f"checkpoint-{step}"
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def test_a_continuation_under_the_same_settings_is_the_run_resumed(train_micro, run, tmp_path, read_log):
    child = tmp_path / "child"
    assert train_micro(child, **UNET, continue_from=str(run), max_train_steps=4) == 0
    assert train_micro(run, **UNET, max_train_steps=4) == 0
    assert tensors(child, 4) == tensors(run, 4)
    assert read_log(child) == read_log(run)[2:]
    assert not (tmp_path / "child" / "checkpoints" / "checkpoint-2").exists()


def test_a_continuation_takes_another_learning_rate_and_names_its_parent(train_micro, run, tmp_path, read_log):
    child = tmp_path / "child"
    lower = UNET | {"learning_rate": 1e-5, "max_train_steps": 3, "continue_from": str(run)}
    assert train_micro(child, **lower) == 0
    assert read_log(child)[0]["lr"] == 1e-5 and read_log(child)[0]["step"] == 3
    noted = json.loads((child / "run.json").read_text())["continued_from"]
    assert (noted["run"], noted["step"], len(noted["sha256"])) == (str(run), 2, 64)
    shutil.rmtree(run)
    assert train_micro(child, **lower | {"max_train_steps": 4}) == 0  # it has its own checkpoints now
    with pytest.raises(UserError, match=r"continue_from .*run → None"):
        train_micro(child, **lower | {"max_train_steps": 5, "continue_from": None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_train_steps": 2}, "is at step 2 already: give more than --max_train_steps 2"),
        ({"train_batch_size": 2}, "takes 4 images per step, these settings 2"),
        ({"tune": "text"}, "is of another run"),
        ({"method": "lora", "lora_alpha": 8.0}, "was trained with --lora_alpha None, not 8.0: give the same"),
        ({"continue_from": "PARENT/checkpoints/checkpoint-1"}, "has no complete checkpoint-1"),
        ({"continue_from": "BASE"}, "is no run folder of train.py"),
        ({"base": "OTHER"}, r"was begun on another base than --base .*changed: vae"),
    ],
)
def test_what_cannot_be_continued_is_one_line(
    train_micro, finished, micro_base, other_base, tmp_path, changes, message
):
    names = {"PARENT": str(finished), "BASE": str(micro_base), "OTHER": str(other_base)}
    settings = UNET | {"continue_from": str(finished), "max_train_steps": 4} | changes
    for name, path in names.items():
        settings = {key: v.replace(name, path) if isinstance(v, str) else v for key, v in settings.items()}
    with pytest.raises(UserError, match=message):
        train_micro(tmp_path / "child", **settings)
    assert not (tmp_path / "child").exists()


def test_a_parent_without_average_says_what_to_do(train_micro, tmp_path):
    assert train_micro(tmp_path / "run", **UNET, use_ema=False) == 0
    child = UNET | {"continue_from": str(tmp_path / "run" / "checkpoints" / "checkpoint-2"), "max_train_steps": 3}
    with pytest.raises(UserError, match="holds no average of the weights: add --use_ema false"):
        train_micro(tmp_path / "child", **child)
    assert train_micro(tmp_path / "child", **child, use_ema=False) == 0


def test_images_that_are_enlarged_are_counted(micro_dataset, tmp_path):
    paths = sorted((micro_dataset / "train").glob("*.png"))
    assert origin.enlarged(paths, 64) == ""
    assert "images are enlarged 64 → 512 px (11 of 11 looked at)" in origin.enlarged(paths, 512)
    Image.open(paths[0]).resize((512, 512)).save(tmp_path / "large.png")
    assert "64 → 512 px (11 of 12 looked at)" in origin.enlarged([*paths, tmp_path / "large.png"], 512)
    assert origin.enlarged([tmp_path / "missing.png"], 512) == ""  # is reported where it is read


def test_a_run_on_enlarged_images_says_so_once(train_micro, tmp_path, capfd):
    assert train_micro(tmp_path, **UNET, resolution=128, max_train_steps=1) == 0
    assert capfd.readouterr().out.count("images are enlarged 64 → 128 px") == 1


def test_the_schedule_of_a_base_is_part_of_it(micro_base, micro_base_v):
    described = [describe_schedule(backbones.load(str(base))) for base in (micro_base, micro_base_v)]
    assert described[0] != described[1]
    config = TrainConfig(base=str(micro_base))
    assert origin.base_state(config.base) == origin.base_state(f"{micro_base}/")
    assert origin.base_state("owner/name") == "owner/name" and origin.base_state(None) == ""


def test_memory_that_does_not_suffice_for_a_step_is_one_line(train_micro, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "save", lambda *_: torch.empty(1 << 50))
    with pytest.raises(
        UserError, match=r"^out of memory .*: lower --train_batch_size \(now 4; .*--gradient_checkpointing"
    ):
        train_micro(tmp_path / "run", **UNET)


def test_memory_that_does_not_suffice_for_a_validation_is_one_line(train_micro, tmp_path, monkeypatch):
    monkeypatch.setattr("sdcxr.training.loop.previews", lambda *_: torch.empty(1 << 50))
    with pytest.raises(UserError, match=r"in validation: lower --preview_images \(now 8\), lower --train_batch_size"):
        train_micro(tmp_path / "run", **UNET, validation_steps=1)


def test_a_disk_without_room_for_a_checkpoint_is_known_before_the_first_step(train_micro, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 10**5))
    with pytest.raises(UserError, match=r"a checkpoint with the result takes .* GB and its disk has 0.0001 GB left"):
        train_micro(tmp_path / "run", **UNET, latents_dir=None, cache_latents=False)
    assert not (tmp_path / "run").exists()
