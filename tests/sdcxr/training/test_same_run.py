"""Which settings of a run may change when it goes on, and which make it another run."""

import dataclasses

import pytest
import yaml

from sdcxr.config import TrainConfig
from sdcxr.io.files import write_json
from sdcxr.io.run_folder import RUN_STATE, write_config
from sdcxr.runtime import cli
from sdcxr.runtime.errors import UserError
from sdcxr.training.origin import check_same_run


@pytest.fixture
def begun(tmp_path):
    """A run folder with settings, and these settings."""
    config = TrainConfig(
        tune="unet", base="b", data="d", output_dir=str(tmp_path), max_train_steps=100, lr_warmup_steps=10
    ).filled()
    write_config(tmp_path / "config.yaml", dataclasses.asdict(config))
    write_json(tmp_path / RUN_STATE, {"images_per_step": 8, "finished_steps": 0})
    return tmp_path, config


def test_the_same_settings_go_on(begun):
    check_same_run(*begun, 8)
    check_same_run(begun[0] / "new", begun[1], 99)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"learning_rate": 1e-3},
        {"tune": "text"},
        {"base": "c"},
        {"caption_dropout": 0.2},
        {"use_ema": False},
        {"snr_gamma": 5.0},
        {"mixed_precision": "bf16"},
        {"resolution": 64},
        {"max_train_samples": 5},
        {"lr_scheduler": "cosine"},
        {"max_train_steps": 5},  # shorter than the warm-up, which would have been shorter too
    ],
)
def test_other_settings_are_refused_by_name_with_both_values(begun, change):
    run, config = begun
    ((key, value),) = change.items()
    with pytest.raises(UserError) as refused:
        check_same_run(run, dataclasses.replace(config, **change), 8)
    assert f"({key} {getattr(config, key)} → {value})" in str(refused.value)


def test_a_base_that_is_known_by_its_weights_may_be_elsewhere(begun):
    """Its weights are compared once they are loaded."""
    run, config = begun
    write_json(run / RUN_STATE, {"images_per_step": 8, "finished_steps": 0, "base_sha256": {"unet": "0"}})
    check_same_run(run, dataclasses.replace(config, base="moved"), 8)


def test_another_number_of_images_per_step_is_refused(begun):
    with pytest.raises(UserError, match=r"images_per_step 8 → 16"):
        check_same_run(*begun, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"data": "moved"},
        {"checkpointing_steps": 7, "logging_steps": 3, "validation_steps": 1},
        {"max_train_steps": 200},
    ],
)
def test_what_does_not_alter_the_learning_may_change(begun, change):
    run, config = begun
    check_same_run(run, dataclasses.replace(config, **change), 8)


@pytest.mark.parametrize(
    ("change", "steps"),
    [({"lr_scheduler": "cosine"}, 100), ({"max_train_steps": 5}, 5)],
    ids=["the schedule depends on them", "they lengthen the warm-up"],
)
def test_more_steps_may_be_another_run(begun, change, steps):
    run, config = begun
    changed = dataclasses.replace(config, **change)
    write_config(run / "config.yaml", dataclasses.asdict(changed))
    with pytest.raises(UserError, match=f"max_train_steps {steps} → 200"):
        check_same_run(run, dataclasses.replace(changed, max_train_steps=200), 8)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", b"seed: [1\n", "is damaged"),
        ("config.yaml", b"seed: 0\n\xff", "is damaged"),
        ("config.yaml", b"2020-13-45\n", "is damaged"),
        ("config.yaml", b"some words\n", "is damaged .it holds no settings by name"),
        ("config.yaml", b"", "is damaged .it holds no settings by name"),
        ("config.yaml", b"max_train_steps: many\n", "max_train_steps many"),
        (RUN_STATE, b'{"images_per_step": 8,', "is not valid JSON"),
        (RUN_STATE, b"[8]", "is damaged .no whole number images_per_step"),
        (RUN_STATE, b'{"images_per_step": 8, "finished_steps": "all"}', "is damaged .no whole number finished_steps"),
    ],
)
def test_damaged_notes_of_a_run_are_one_line(begun, name, content, message):
    run, config = begun
    (run / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        check_same_run(run, config, 8)
    assert str(run) in str(refused.value) and "\n" not in str(refused.value)


def test_settings_that_the_task_does_not_use_do_not_make_another_run(tmp_path):
    """Version 0.1 took them and recorded them."""
    config = TrainConfig(tune="classifier").filled()
    write_config(tmp_path / "config.yaml", dataclasses.asdict(config) | {"caption_dropout": 0.0, "vae_lr": 1e-4})
    write_json(tmp_path / RUN_STATE, {"images_per_step": 8, "finished_steps": 0})
    check_same_run(tmp_path, config, 8)
    with pytest.raises(UserError, match="caption_dropout"):
        check_same_run(tmp_path, TrainConfig(tune="unet").filled(), 8)


def test_a_runs_config_is_taken_again(begun):
    run, config = begun

    def main(config: TrainConfig) -> int:
        return 0

    assert cli.parse(main, ["--config", str(run / "config.yaml")]) == config
    assert yaml.safe_load((run / "config.yaml").read_text())["learning_rate"] == 5e-5
