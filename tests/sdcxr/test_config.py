"""Settings: what is refused, what is filled in, and what may change between two calls of a run."""

import dataclasses
import re
import sys

import pytest

from sdcxr.config import PUBLISHED, USED_BY, TrainConfig
from sdcxr.generation.config import GenerateConfig
from sdcxr.runtime import cli
from sdcxr.runtime.errors import UserError


@pytest.mark.parametrize("tune", ["unet", "text", "unet+text", "text+unet", "vae", "classifier", "clip"])
def test_parts_are_what_tune_joins(tune):
    assert TrainConfig(tune=tune).parts == set(tune.split("+"))


@pytest.mark.parametrize(
    "tune", ["", "unett", "unet+", "unet+unet", "unet+vae", "text+classifier", "clip+vae", "unet,text"]
)
def test_other_combinations_are_refused(tune):
    with pytest.raises(UserError, match="--tune"):
        TrainConfig(tune=tune)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_batch_size", 0),
        ("learning_rate", float("nan")),
        ("lr_warmup_steps", -1),
        ("checkpoints_total_limit", 0),
        ("caption_dropout", 1.1),
        ("ema_decay", 1.0),
        ("seed", -1),
        ("seed", 1 << 64),
        ("learning_rate", float("inf")),
    ],
)
def test_values_out_of_range_name_their_flag(name, value):
    with pytest.raises(UserError, match=f"--{name}"):
        TrainConfig(**{name: value})


def test_steps_and_epochs_exclude_each_other():
    with pytest.raises(UserError, match="--max_train_steps and --num_train_epochs"):
        TrainConfig(max_train_steps=1, num_train_epochs=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images_per_prompt", 0),
        ("num_inference_steps", 0),
        ("batch_size", 0),
        ("seed", -1),
        ("guidance_scale", -0.5),
        ("resolution", 0),
        ("max_prompts", 0),
    ],
)
def test_values_of_sampling_out_of_range_name_their_flag(name, value):
    with pytest.raises(UserError, match=f"--{name}"):
        GenerateConfig(model="m", prompts="p", output_dir="o", **{name: value})


def test_only_what_is_open_is_filled_in():
    config = TrainConfig(learning_rate=1.0, lr_warmup_steps=0).filled()
    assert (config.learning_rate, config.lr_warmup_steps) == (1.0, 0)
    assert (config.max_train_steps, config.ema_decay) == (PUBLISHED["max_train_steps"], PUBLISHED["ema_decay"])


def test_epochs_leave_the_steps_open():
    assert TrainConfig(num_train_epochs=2).filled().max_train_steps is None


def test_the_published_configurations_are_valid(pytestconfig):
    def main(config: TrainConfig) -> int:
        return 0

    files = sorted((pytestconfig.rootpath / "configs").glob("*.yaml"))
    assert files, sys.path
    for file in files:
        cli.parse(main, ["--config", str(file)])


@pytest.mark.parametrize(
    ("tune", "setting", "parts"),
    [
        ("classifier", {"snr_gamma": 5.0}, "unet, text or token"),
        ("clip", {"caption_dropout": 0.2}, "unet or text"),
        ("vae", {"cache_in_memory": True}, "unet, text or token"),
        ("unet", {"text_encoder_lr": 1e-6}, "text or clip"),
        ("unet+text", {"vae_part": "all"}, "vae"),
        ("text", {"labels": "labels.csv"}, "classifier"),
        ("classifier", {"preview_images": 2}, "unet, text, token or vae"),
        ("clip", {"validation_loss_images": 2}, "unet, text, token, vae, classifier or segmenter"),
    ],
)
def test_settings_of_another_task_are_refused_by_name(tune, setting, parts):
    (name,) = setting
    with pytest.raises(UserError, match=f"--{name} is for --tune {parts}, not for {re.escape(tune)}: leave it out"):
        TrainConfig(tune=tune, **setting)


def test_home_is_expanded_in_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = TrainConfig(data="~/data", output_dir="~/run", latents_dir="~/latents")
    assert (config.data, config.output_dir) == ("/home/somebody/data", "/home/somebody/run")
    assert config.latents_dir == "/home/somebody/latents"


def test_every_setting_of_some_tasks_exists_and_is_given_once():
    names = [name for group in USED_BY.values() for name in group.split()]
    assert len(names) == len(set(names))
    assert set(names) < {field.name for field in dataclasses.fields(TrainConfig)}
