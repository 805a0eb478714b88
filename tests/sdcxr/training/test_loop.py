"""The training loop: what moves, what a run leaves behind, what it refuses."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from sdcxr import tasks
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.training import checkpoint, loop

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"

# Settings, parts of the pipeline that move (by prefixes of their weights), parts that stay.
MODES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "unet": ({"tune": "unet"}, {"unet"}),
    "text": ({"tune": "text"}, {"text_encoder"}),
    "unet+text": ({"tune": "unet+text", "text_encoder_lr": 1e-4}, {"unet", "text_encoder"}),
    "unet-snr": ({"tune": "unet", "snr_gamma": 5.0, "lr_scheduler": "cosine"}, {"unet"}),
    "unet-v": ({"tune": "unet"}, {"unet"}),
    "vae-decoder": ({"tune": "vae"}, {"vae/decoder", "vae/post_quant_conv"}),
    "vae-all": (
        {"tune": "vae", "vae_part": "all"},
        {"vae/decoder", "vae/post_quant_conv", "vae/encoder", "vae/quant_conv"},
    ),
    "classifier": ({"tune": "classifier", "base": None}, set()),
    "clip": ({"tune": "clip", "base": None}, set()),
}


@pytest.fixture(scope="module")
def runs(train_micro, tmp_path_factory, micro_base_v) -> dict[str, Path]:
    """A run of four steps in every mode."""
    folder = tmp_path_factory.mktemp("runs")
    for mode, (settings, _) in MODES.items():
        base = {"base": str(micro_base_v)} if mode == "unet-v" else {}
        code = train_micro(folder / mode, max_train_steps=4, checkpointing_steps=3, **base, **settings)
        assert code == 0
    return {mode: folder / mode for mode in MODES}


def weights(pipeline: Path) -> dict[str, torch.Tensor]:
    """All weights of a pipeline folder, as `part/name` with the name that a checkpoint has."""
    return {
        f"{file.parent.name}/{name.removeprefix('text_model.')}": tensor
        for file in sorted(pipeline.glob("*/*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("mode", [mode for mode, (_, parts) in MODES.items() if parts])
def test_exactly_the_chosen_parts_differ_from_the_base(runs, mode, micro_base, micro_base_v):
    before = weights(micro_base_v if mode == "unet-v" else micro_base)
    after = weights(runs[mode] / "pipeline")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    prefixes = {
        name if (name := "/".join(n.split("/")[:2]).split(".")[0]) in MODES[mode][1] else n.split("/")[0] for n in moved
    }
    assert prefixes == MODES[mode][1]


@pytest.mark.parametrize("mode", list(MODES))
def test_the_loss_curve_is_the_golden_one(runs, mode, read_log):
    """`REWRITE_GOLDEN=1 pytest …` writes the curves anew, after a change that is meant to alter them."""
    file = GOLDEN / f"{mode}.json"
    losses = [row["loss"] for row in read_log(runs[mode])]
    if os.environ.get("REWRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(json.dumps(losses) + "\n")
    np.testing.assert_allclose(losses, json.loads(file.read_text()), rtol=1e-4)


def test_the_result_is_the_average_of_the_weights(runs, micro_base):
    last = runs["unet+text"] / "checkpoints" / "checkpoint-4"
    average, raw = load_file(last / "ema.safetensors"), load_file(last / "model.safetensors")
    saved, base = weights(runs["unet+text"] / "pipeline"), weights(micro_base)
    for name, tensor in average.items():
        key = name.replace(".", "/", 1)
        assert torch.equal(saved[key], tensor)
    name = "unet/conv_in.weight"
    assert not torch.equal(raw["unet.conv_in.weight"], saved[name])
    assert not torch.equal(base[name], saved[name])


def test_the_average_follows_from_the_first_step_on(train_micro, tmp_path, micro_base):
    """After step 1 the decay is 2 / 11, after step 2 it is 3 / 12."""
    train_micro(tmp_path, tune="unet", checkpointing_steps=1)
    weight = weights(micro_base)["unet/conv_in.weight"]
    for step, decay in ((1, 2 / 11), (2, 3 / 12)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        raw, average = (load_file(folder / f"{name}.safetensors")["unet.conv_in.weight"] for name in ("model", "ema"))
        weight = decay * weight + (1 - decay) * raw
        torch.testing.assert_close(average, weight, rtol=1e-5, atol=1e-7)


def test_without_average_the_result_is_the_weights_themselves(train_micro, tmp_path):
    train_micro(tmp_path, tune="unet", use_ema=False)
    last = tmp_path / "checkpoints" / "checkpoint-2"
    assert not (last / "ema.safetensors").exists()
    raw, saved = load_file(last / "model.safetensors"), weights(tmp_path / "pipeline")
    assert all(torch.equal(saved[name.replace(".", "/", 1)], tensor) for name, tensor in raw.items())


def test_a_run_folder_has_what_it_promises(runs):
    run = runs["unet"]
    assert {path.name for path in run.iterdir()} == {"config.yaml", "run.json", "log.jsonl", "checkpoints", "pipeline"}
    assert [path.name for path in checkpoint.existing(run / "checkpoints")] == ["checkpoint-3", "checkpoint-4"]
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["images"] for row in rows] == [4, 8, 12, 16]
    assert [row["lr"] for row in rows] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])
    assert all(row["images_per_s"] > 0 for row in rows)
    record = json.loads((run / "run.json").read_text())
    assert len(record.pop("examples_sha256")) == len(record.pop("base_state")) == 64
    assert record.pop("data_sha256").keys() == {"images", "captions"}
    assert record.pop("base_sha256").keys() == {"unet", "text_encoder", "vae", "schedule"}
    assert record.pop("captions") == {"cut": 0, "of": 11, "tokens": 77}
    assert record == {"images_per_step": 4, "finished_steps": 4}
    assert yaml.safe_load((run / "config.yaml").read_text())["mixed_precision"] == "no"


def test_two_learning_rates_reach_their_parts(runs):
    """Adam's first steps are as long as the learning rate."""
    last = runs["unet+text"] / "checkpoints" / "checkpoint-3"
    raw = load_file(last / "model.safetensors")
    base = yaml.safe_load((runs["unet+text"] / "config.yaml").read_text())["base"]
    start = weights(Path(base))
    length = {
        part: max(
            (raw[name] - start[name.replace(".", "/", 1)]).abs().max().item() for name in raw if name.startswith(part)
        )
        for part in ("unet", "text_encoder")
    }
    assert length["unet"] == pytest.approx(2.5e-3, rel=0.2)
    assert length["text_encoder"] == pytest.approx(2.5e-4, rel=0.2)


def test_the_same_command_on_a_finished_run_builds_nothing(train_micro, runs, monkeypatch, capfd):
    monkeypatch.setattr(tasks, "build", lambda *_: pytest.fail("built the task"))
    before = {path: path.stat().st_mtime_ns for path in runs["unet"].rglob("*")}
    assert train_micro(runs["unet"], max_train_steps=4, checkpointing_steps=3, tune="unet") == 0
    assert "is finished: 4 steps" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in runs["unet"].rglob("*")} == before


def test_changed_settings_are_refused_by_name(train_micro, runs):
    with pytest.raises(UserError, match=r"seed 0 → 3; learning_rate 0.001 → 0.1"):
        train_micro(runs["unet"], max_train_steps=4, tune="unet", seed=3, learning_rate=0.1)
    with pytest.raises(UserError, match=r"images_per_step 4 → 6"):
        train_micro(runs["unet"], max_train_steps=4, tune="unet", train_batch_size=6)


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line_with_the_images(train_micro, tmp_path, monkeypatch):
    """Two images of step 3 (from 1) have broken latents; the run notices at the end of the interval."""
    real = loop.Run.step

    def step(self: loop.Run, number: int, batches: Any) -> Any:
        def broken() -> Any:
            batch = next(batches)
            if number == 2:
                batch["mean"][1:3] = float("nan")
                self.broken = [self.stream.examples.ids[self.stream.index(int(p))] for p in batch["position"][1:3]]
            yield batch

        return real(self, number, broken())

    monkeypatch.setattr(loop.Run, "step", step)
    monkeypatch.setattr(loop.Run, "run", lambda self, run=loop.Run.run: runs_.append(self) or run(self))
    runs_: list[Any] = []
    with pytest.raises(UserError, match="the loss is not finite at step 4") as stopped:
        train_micro(tmp_path, tune="unet", max_train_steps=20, logging_steps=4)
    assert f"(first in step 3, images {', '.join(runs_[0].broken)})" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "pipeline").exists()


def test_weights_that_are_not_finite_never_become_a_checkpoint(train_micro, tmp_path):
    """Even where no row of the log has shown it."""
    with pytest.raises(UserError, match="is not finite at step"):
        train_micro(
            tmp_path, tune="unet", max_train_steps=20, learning_rate=1e25, logging_steps=20, checkpointing_steps=1
        )
    for path in checkpoint.existing(tmp_path / "checkpoints"):
        assert all(tensor.isfinite().all() for tensor in load_file(path / "model.safetensors").values())


def test_the_guard_looks_once_after_a_step_that_was_taken(train_micro, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(loop, "assert_only_tuned_parts_moved", lambda task, before: calls.append(before))
    train_micro(tmp_path / "a", tune="unet")
    assert len(calls) == 1
    # Half precision skips its first steps, until the scale of the gradients fits.
    monkeypatch.setattr(loop.Accelerator, "optimizer_step_was_skipped", property(lambda self: True))
    train_micro(tmp_path / "b", tune="unet")
    assert len(calls) == 1


def test_a_part_that_does_not_move_stops_the_run(train_micro, tmp_path):
    with pytest.raises(RuntimeError, match="no parameter of text_encoder moved"):
        train_micro(tmp_path, tune="unet+text", text_encoder_lr=1e-60, adam_weight_decay=0.0)


def test_pictures_and_tracker_are_written_and_hold_no_text(train_micro, tmp_path):
    train_micro(tmp_path, tune="unet", validation_steps=2, preview_images=2, report_to="tensorboard")
    picture = Image.open(tmp_path / "samples" / "step-000002.png")
    assert picture.mode == "L" and picture.size == (66, 32)
    events = b"".join(path.read_bytes() for path in (tmp_path / "logs").rglob("events*"))
    assert b"loss" in events and b"pneumothorax" not in events


def test_epochs_become_steps(train_micro, tmp_path):
    train_micro(tmp_path, tune="unet", max_train_steps=None, num_train_epochs=0.5)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["max_train_steps"] == 2 and config["num_train_epochs"] is None  # ceil(0.5 × 11 / 4)


def test_long_captions_are_never_shown(train_micro, tmp_path, micro_dataset, capfd):
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    (data / "train" / "a.png").write_bytes((micro_dataset / "train" / "train0.png").read_bytes())
    (data / "train" / "metadata.csv").write_text("file_name,text\na.png," + "secretfinding " * 80 + "\n")
    (data / "validation").symlink_to(data / "train")
    train_micro(tmp_path / "run", data=str(data), tune="unet", validation_steps=1, report_to="tensorboard")
    out, err = capfd.readouterr()
    assert "1 of 1 captions are cut" in out and "secretfinding" not in out + err
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"secretfinding" not in path.read_bytes()


def test_precision_of_the_launch_is_part_of_the_run(runs):
    """The record says what the run was made with, so a launch with another precision is another run."""
    with pytest.raises(UserError, match="mixed_precision no → bf16"):
        settings = yaml.safe_load((runs["unet"] / "config.yaml").read_text())
        accelerator = loop.Accelerator()
        fake = type("Fake", (), {"num_processes": 1, "mixed_precision": "bf16", "device": accelerator.device})()
        loop.Run(dataclasses.replace(TrainConfig(**settings), mixed_precision=None), fake)


@pytest.mark.parametrize(("processes", "micro_steps"), [(1, 32), (4, 8), (32, 1)])
def test_a_total_batch_is_split_over_the_processes(processes, micro_steps):
    config = TrainConfig(total_train_batch_size=256, train_batch_size=8)
    assert loop.split_batch(config, processes).gradient_accumulation_steps == micro_steps


def test_a_total_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"256 is no multiple of 3 processes × --train_batch_size 8"):
        loop.split_batch(TrainConfig(total_train_batch_size=256, train_batch_size=8), 3)
