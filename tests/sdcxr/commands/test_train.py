"""The entry points: what train.py fills in, and that one command trains, goes on and says when it has finished."""

import json
import os
import signal
import sys
from functools import partial
from types import ModuleType

import pytest

from sdcxr import backbones
from sdcxr.commands import generate, train
from sdcxr.config import PUBLISHED, TrainConfig
from sdcxr.data import shard_cache
from sdcxr.embedded import base as tiny
from sdcxr.embedded import phantoms
from sdcxr.runtime import cli
from sdcxr.runtime.errors import UserError
from sdcxr.training import loop


def command(module: ModuleType, *argv: str) -> int | None:
    with pytest.raises(SystemExit) as stopped:
        cli.run(module.main, list(argv))
    code = stopped.value.code
    assert code is None or isinstance(code, int)
    return code


FLAGS = ("--tune", "unet+text", "--max_train_steps", "2", "--train_batch_size", "2", "--validation_steps", "0")


def test_one_command_trains_and_the_same_again_says_so(micro_base, micro_dataset, tmp_path, capfd):
    argv = (*FLAGS, "--base", str(micro_base), "--data", str(micro_dataset), "--output_dir", str(tmp_path / "run"))
    assert command(train, *argv) == 0
    assert "finished: " in capfd.readouterr().out
    assert command(train, *argv) == 0
    assert "is finished: 2 steps" in capfd.readouterr().out
    config = tmp_path / "run" / "config.yaml"
    assert command(train, "--config", str(config)) == 0
    assert "is finished: 2 steps" in capfd.readouterr().out
    # … and generate.py takes it from there.
    samples = tmp_path / "samples"
    argv = ("--model", str(tmp_path / "run"), "--prompts", "Left effusion.", "--output_dir", str(samples))
    assert command(generate, *argv, "--num_inference_steps", "1", "--num_images_per_prompt", "1") == 0
    assert (samples / "prompt_0.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("moment", [(loop.Run, "prepare"), (shard_cache, "save_file"), (backbones, "save")])
def test_a_scheduler_may_ask_at_any_moment(micro_base, micro_dataset, tmp_path, monkeypatch, moment):
    """Before the first step and after the last, too: code 75, nothing half written, and the same command goes on."""
    argv = (*FLAGS, "--base", str(micro_base), "--data", str(micro_dataset), "--output_dir", str(tmp_path / "run"))
    argv = (*argv, "--latents_dir", str(tmp_path / "latents"), "--report_to", "none")
    with monkeypatch.context() as patched:
        patched.setattr(*moment, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
        assert command(train, *argv) == 75
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert command(train, *argv) == 0
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--base", "nowhere", "--data", "DATA"), "nowhere: no such folder"),
        (("--base", "BASE", "--data", "nowhere"), "nowhere: does not exist"),
        (("--base", "BASE", "--data", "DATA", "--tune", "unett"), "--tune unett"),
        (("--base", "BASE", "--data", "DATA", "--learning_rate", "-1"), "--learning_rate -1.0: must be positive"),
        (("--base", "BASE", "--data", "DATA", "--resolution", "33"), "--resolution 33"),
    ],
)
def test_mistakes_are_one_line(micro_base, micro_dataset, tmp_path, capfd, flags, message):
    named = {"BASE": str(micro_base), "DATA": str(micro_dataset)}
    argv = [named.get(flag, flag) for flag in flags]
    assert command(train, *argv, "--output_dir", str(tmp_path / "run")) == 2
    err = capfd.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_named_base_takes_the_published_settings(micro_base, micro_dataset):
    config = train.fill_in(TrainConfig(base=str(micro_base), data=str(micro_dataset))).filled()
    assert {name: getattr(config, name) for name in PUBLISHED} == PUBLISHED
    assert config.output_dir == "runs/unet+text"


def test_the_embedded_base_takes_its_own_and_keeps_what_is_given(monkeypatch, tmp_path):
    monkeypatch.setattr(phantoms, "ensure_phantoms", lambda masks: tmp_path / "phantoms")
    monkeypatch.setattr(tiny, "ensure_base", lambda cache: tmp_path / "tiny")
    config = train.fill_in(TrainConfig(learning_rate=0.5))
    assert config.base == str(tmp_path / "tiny") and config.data == str(tmp_path / "phantoms")
    assert {name: getattr(config, name) for name in tiny.DEFAULTS} == tiny.DEFAULTS | {"learning_rate": 0.5}
    epochs = train.fill_in(TrainConfig(num_train_epochs=1.0))
    assert epochs.max_train_steps is None


def test_a_run_that_goes_on_takes_base_and_data_of_its_parent(monkeypatch, tmp_path):
    monkeypatch.setattr(phantoms, "ensure_phantoms", lambda masks: pytest.fail("built the phantoms"))
    (tmp_path / "config.yaml").write_text("base: there\ndata: here\n")
    for parent in (tmp_path, tmp_path / "checkpoints" / "checkpoint-2"):
        config = train.fill_in(TrainConfig(continue_from=str(parent), data="elsewhere"))
        assert (config.base, config.data) == ("there", "elsewhere")
    with pytest.raises(UserError, match="nothing: is no run folder"):
        train.fill_in(TrainConfig(continue_from=str(tmp_path / "nothing")))


def test_a_tracker_that_is_not_installed_is_refused_before_the_base_is_built(monkeypatch, capfd):
    monkeypatch.setattr(phantoms, "ensure_phantoms", lambda masks: pytest.fail("built the phantoms"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert command(train, "--report_to", "wandb") == 2
    assert capfd.readouterr().err.startswith("error: --report_to wandb: ")


def test_an_unknown_method_is_refused_before_the_base_is_built(monkeypatch, capfd):
    monkeypatch.setattr(phantoms, "ensure_phantoms", lambda masks: pytest.fail("built the phantoms"))
    assert command(train, "--tune", "unet", "--method", "fulll", "--report_to", "none") == 2
    assert "error: --method fulll: unknown (near: full)" in capfd.readouterr().err


@pytest.mark.parametrize("tune", ["classifier", "segmenter", "clip"])
def test_the_judges_need_no_base(monkeypatch, micro_dataset, tune):
    monkeypatch.setattr(tiny, "ensure_base", lambda *_: pytest.fail("built the base"))
    config = train.fill_in(TrainConfig(tune=tune, data=str(micro_dataset)))
    assert config.base is None and config.learning_rate == tiny.DEFAULTS["learning_rate"]


@pytest.mark.slow  # four processes
def test_embedded_phantoms_are_prepared_once_like_real_data(monkeypatch, tmp_path, capfd):
    few = partial(phantoms.prepare_phantoms, options=("--studies", "30", "--resolution", "64", "--workers", "1"))
    monkeypatch.setattr(phantoms, "prepare_phantoms", few)
    monkeypatch.setenv("SDCXR_CACHE", str(tmp_path))
    data = phantoms.ensure_phantoms()
    assert data.parent.parent == tmp_path and json.loads((data / "prep.json").read_text())["usable"]
    assert json.loads((data / "prep.json").read_text())["phantom"]
    assert len(list((data / "train").glob("**/*.png"))) > 5
    assert "building the embedded phantoms once" in capfd.readouterr().out
    record = json.loads((data / "prep.json").read_text())
    (data / "prep.json").write_text(json.dumps(record | {"usable": False}))  # as a preparation leaves it that is killed
    (data / "train" / "metadata.csv").unlink()
    assert (phantoms.ensure_phantoms() / "train" / "metadata.csv").is_file()
    masked = phantoms.ensure_phantoms(masks=True)  # of the same drawings, in a folder of its own
    assert len(list((masked / "train/masks/lungs").iterdir())) == len(list((data / "train").glob("*.png")))
    monkeypatch.setattr(phantoms, "prepare_phantoms", lambda *_, **__: pytest.fail("prepared again"))
    assert (phantoms.ensure_phantoms(), phantoms.ensure_phantoms(masks=True)) == (data, masked)


def test_phantoms_that_cannot_be_prepared_are_one_line(tmp_path):
    (tmp_path / "raw").write_text("a file")
    with pytest.raises(UserError, match="the embedded phantoms are not ready"):
        phantoms.prepare_phantoms(tmp_path / "raw", tmp_path / "dataset")
