"""`--prompt_template` and `--field_dropout` in training: a caption drawn anew whenever its image is seen."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdcxr import tasks
from sdcxr.config import TrainConfig
from sdcxr.data.stream import Stream
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError

WRITTEN: dict[str, Any] = {
    "prompt_template": ["[{findings}. ][{view} view. ]{text}", "a photo of a lung xray[ with {finding}]"],
    "field_dropout": 0.5,
}


def task_of(base: Path, data: Path, **changes: Any) -> Any:
    return tasks.build(TrainConfig(base=str(base), data=str(data), **changes).filled(), torch.device("cpu"))


def captions(task: Any, positions: range, seed: int = 0) -> list[str]:
    stream, tokenizer = Stream(task.examples(), seed), task.backbone.tokenizer
    return [tokenizer.decode(stream[i]["input_ids"], skip_special_tokens=True) for i in positions]


def test_captions_are_a_function_of_seed_and_position(micro_base, micro_dataset):
    task = task_of(micro_base, micro_dataset, caption_dropout=0.2, **WRITTEN)
    drawn = captions(task, range(220))  # twenty times each image
    again = task_of(micro_base, micro_dataset, caption_dropout=0.2, **WRITTEN)
    assert captions(again, range(100, 110)) == drawn[100:110] != captions(again, range(100, 110), seed=1)
    assert 0.1 < np.mean([text == "" for text in drawn]) < 0.3
    own = [text for text in drawn if text]
    assert 0.35 < np.mean([text.startswith("a photo of a lung xray") for text in own]) < 0.65
    other = [text for text in own if not text.startswith("a photo")]
    assert 0.35 < np.mean(["pa view" in text for text in other]) < 0.65
    kinds = {text for text in drawn if "pneumothorax" in text}
    assert len(kinds) >= 3  # of one impression


def test_noise_and_time_are_those_of_a_run_without_templates(micro_base, micro_dataset):
    plain, written = (task_of(micro_base, micro_dataset, **each) for each in ({}, WRITTEN))
    pairs = [(Stream(plain.examples(), 0)[i], Stream(written.examples(), 0)[i]) for i in range(5)]
    for one, other in pairs:
        assert one["timestep"] == other["timestep"] and torch.equal(one["noise"], other["noise"])
    assert any(not torch.equal(one["input_ids"], other["input_ids"]) for one, other in pairs)


@pytest.mark.slow
def test_a_run_resumes_exactly_and_does_not_feel_its_micro_steps(train_micro, tmp_path, read_log):
    named = WRITTEN | {"checkpointing_steps": 1, "caption_dropout": 0.3}
    train_micro(tmp_path / "whole", **named, max_train_steps=6)
    train_micro(tmp_path / "run", **named, max_train_steps=3)
    train_micro(tmp_path / "run", **named, max_train_steps=6)
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")
    split = {"train_batch_size": 1, "gradient_accumulation_steps": 4}
    train_micro(tmp_path / "split", **(named | split), max_train_steps=6)
    losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("split", "whole")]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for change in ({"field_dropout": 0.4}, {"prompt_template": WRITTEN["prompt_template"][:1]}):
        with pytest.raises(UserError, match=next(iter(change))):
            train_micro(tmp_path / "run", **(named | change), max_train_steps=7)


def test_all_captions_of_all_templates_are_counted(train_micro, tmp_path, capsys):
    long = "xray " * 80 + "{text}"
    train_micro(tmp_path / "run", prompt_template=["{text}", long])
    assert "11 of 22 captions are cut to 77 tokens (50.0%)" in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "run.json")["captions"] == {"cut": 11, "of": 22, "tokens": 77}


def test_validation_has_one_caption_an_image_with_all_fields(micro_base, micro_dataset):
    task = task_of(micro_base, micro_dataset, **WRITTEN, validation_loss_images=3, preview_images=2)
    tokenizer, held_out = task.backbone.tokenizer, task.validation_examples()
    draws = np.random.default_rng(0)
    texts = [
        tokenizer.decode(held_out.example(i, draws)["input_ids"], skip_special_tokens=True) for i in [0, 1, 2, 0, 1, 2]
    ]
    assert texts[:3] == texts[3:]
    assert [text.lower().replace(" ", "") for text in task.preview_texts] == [t.replace(" ", "") for t in texts[:2]]
    assert all("view" in text or text.startswith("a photo") for text in texts)


def test_other_labels_are_other_data(train_micro, micro_dataset, tmp_path):
    data = Path(shutil.copytree(micro_dataset, tmp_path / "data"))
    named = {"data": str(data), "checkpointing_steps": 1} | WRITTEN
    train_micro(tmp_path / "run", **named)
    table = data / "train" / "metadata.csv"
    table.write_text(table.read_text().replace(",PA,", ",AP,", 1))
    with pytest.raises(UserError, match="was begun on other images, captions or labels"):
        train_micro(tmp_path / "run", **named, max_train_steps=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_template": "{vew} {text}"}, r"unknown field 'vew' .*did you mean \{view\}"),
        ({"prompt_template": "{findings}."}, r"a field outside brackets is empty for a00-2 \(3 of 11\)"),
        ({"prompt_template": "{text"}, "expected text with fields in braces"),
        ({"prompt_template": "text"}, r"a field stands in braces, \{text\}"),
        ({"field_dropout": 0.1}, "--field_dropout 0.1: is for fields of a --prompt_template"),
        ({"field_dropout": 2, "prompt_template": "{text}"}, "--field_dropout 2: expected 0 to 1"),
        ({"tune": "classifier", "prompt_template": "{text}"}, "--prompt_template is for --tune unet or text"),
    ],
)
def test_what_cannot_be_written_is_one_line(train_micro, tmp_path, settings, message):
    with pytest.raises(UserError, match=message) as refused:
        train_micro(tmp_path / "run", **settings)
    assert "\n" not in str(refused.value)


def test_templates_are_recorded_and_a_written_text_is_noted(train_micro, micro_dataset, tmp_path, capsys):
    data = Path(shutil.copytree(micro_dataset, tmp_path / "data"))
    (data / "prep.json").write_text(json.dumps({"settings": {"prompt_template": "{findings}."}}))
    named = {"data": str(data), "prompt_template": "[{view} view. ]{text}"}
    train_micro(tmp_path / "run", **named, tune="unet")
    assert "wrote by '{findings}.'" in capsys.readouterr().out
    assert "prompt_template: '[{view} view. ]{text}'" in (tmp_path / "run" / "config.yaml").read_text()
