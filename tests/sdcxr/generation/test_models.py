"""What --model names: results of runs, checkpoints of runs that were stopped, and bases that have changed since."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sdcxr.generation.config import GenerateConfig
from sdcxr.generation.models import locate_model, with_adapters
from sdcxr.generation.samples_folder import load_sampler, note_on_size, note_on_template
from sdcxr.io.run_folder import read_config, write_config
from sdcxr.runtime.errors import UserError


@pytest.fixture(scope="module", params=[{"tune": "unet+text"}, {"tune": "unet", "use_ema": False}, {"tune": "vae"}])
def finished(request, train_micro, tmp_path_factory) -> Path:
    """A finished run with checkpoints of both of its steps; trained averages, raw weights, or a decoder."""
    folder = tmp_path_factory.mktemp("models") / "run"
    assert train_micro(folder, checkpointing_steps=1, **request.param) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def states(model: str) -> dict[str, dict[str, torch.Tensor]]:
    parts = locate_model(model).load(torch.float32).parts
    return {name: part.state_dict() for name, part in parts.items()}


def differing(one: str, other: str) -> set[str]:
    first, second = states(one), states(other)
    return {name for name in first if any(not torch.equal(first[name][key], second[name][key]) for key in first[name])}


def test_the_newest_checkpoint_of_a_stopped_run_is_its_result_so_far(run):
    shutil.copytree(run / "pipeline", run.parent / "pipeline")
    shutil.rmtree(run / "pipeline")
    model = locate_model(str(run))
    assert model.checkpoint == run / "checkpoints" / "checkpoint-2" and model.name == str(model.checkpoint)
    averaged = "averaged weights" if (model.checkpoint / "ema.safetensors").is_file() else "weights"
    assert model.about == f"{run}: {averaged} of step 2 of 2"
    assert differing(str(run), str(run.parent / "pipeline")) == set()
    shutil.rmtree(run / "checkpoints" / "checkpoint-2")
    assert locate_model(str(run)).about.endswith("of step 1 of 2")


def test_any_checkpoint_can_be_named(run):
    tuned = set(read_config(run / "config.yaml")["tune"].split("+"))
    first, last = (str(run / "checkpoints" / f"checkpoint-{step}") for step in (1, 2))
    assert differing(first, str(run)) == tuned and differing(last, str(run)) == set()
    assert locate_model(str(run / "checkpoints")).name == last
    assert locate_model(first).weights_sha256() != locate_model(last).weights_sha256()


def test_a_finished_run_says_its_step_and_that_training_went_on(run):
    assert locate_model(str(run)).about == f"{run}: pipeline of step 2"
    (run / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | {"finished_steps": 1}))
    newer = run / "checkpoints" / "checkpoint-2"
    assert locate_model(str(run)).about.endswith(
        f"pipeline of step 1 (its training went on: --model {newer} is of step 2)"
    )


@pytest.mark.parametrize("templates", ["[{view} view. ]{text}", ["{text}", "a photo[ with {finding}]"]])
def test_a_model_knows_the_template_that_it_was_trained_with(run, micro_base, templates):
    assert {locate_model(name).prompt_template for name in (str(run), str(run / "pipeline"), str(micro_base))} == {""}
    settings = read_config(run / "config.yaml")
    write_config(run / "config.yaml", settings | {"tune": "unet", "prompt_template": templates})
    checkpoint = run / "checkpoints" / "checkpoint-1"
    for name in (run, run / "pipeline", checkpoint):
        assert locate_model(str(name)).prompt_template == templates
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter.json").write_text("{}")
    for named in (run, run / "adapter"):
        assert with_adapters(locate_model(str(micro_base)), str(named)).prompt_template == templates


@pytest.mark.parametrize(
    ("trained", "given", "said"),
    [
        ("", "", ""),
        ("", "a {text}", ""),
        ("a {text}", "a {text}", ""),
        ("a {text}", "", "RUN was trained with --prompt_template 'a {text}'; the prompts are taken as they are"),
        (["a", "b"], "b", "RUN was trained with --prompt_template 'a' 'b'; the prompts are written by another"),
    ],
)
def test_a_template_that_is_not_used_is_said(trained, given, said):
    assert note_on_template("RUN", trained, given) == said


def test_images_have_the_size_of_the_training(run, micro_base, tmp_path):
    """A base of 1024 px that was tuned at 512 px would otherwise be sampled at 1024."""

    def side(model: Path, **settings: Any) -> int:
        config = GenerateConfig(str(model), "any", str(tmp_path / "out"), **settings)
        return int(load_sampler(config)[1].resolution)

    own = side(micro_base)
    settings = read_config(run / "config.yaml")
    write_config(run / "config.yaml", settings | {"resolution": None})
    assert side(run) == own
    write_config(run / "config.yaml", settings | {"resolution": 2 * own})
    tuned = own if settings["tune"] == "vae" else 2 * own  # a VAE may have been trained on smaller images
    assert {side(run / name) for name in ("", "pipeline", "checkpoints/checkpoint-1")} == {tuned}
    assert side(run, resolution=3 * own) == 3 * own
    (run / "adapter").mkdir(exist_ok=True)
    (run / "adapter" / "adapter.json").write_text("{}")
    assert with_adapters(locate_model(str(micro_base)), str(run)).resolution == (None if tuned == own else tuned)


@pytest.mark.parametrize(
    ("trained", "taken", "said"),
    [(None, 512, ""), (512, 512, ""), (512, 1024, "RUN was trained at 512 px; --resolution 1024 is another")],
)
def test_another_size_than_that_of_the_training_is_said(trained, taken, said):
    assert note_on_size("RUN", trained, taken) == said


def refuse(model: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        locate_model(str(model)).load(torch.float32)


def test_what_cannot_be_sampled_from_is_one_line(run, micro_base):
    shutil.rmtree(run / "pipeline")
    newest = run / "checkpoints" / "checkpoint-2"
    (newest / "optimizer.safetensors").unlink()
    refuse(newest, "is no complete checkpoint")
    assert locate_model(str(run)).about.endswith("step 1 of 2")
    write_config(run / "config.yaml", read_config(run / "config.yaml") | {"base": str(run.parent / "gone")})
    refuse(run, r"the rest is in its base: .*gone: no such folder")
    write_config(run / "config.yaml", read_config(run / "config.yaml") | {"base": str(micro_base)})
    state = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(state | {"base_sha256": state["base_sha256"] | {"unet": "0"}}))
    refuse(run, r"is not the base that .* was begun on \(unet differs\)")
    shutil.rmtree(run / "checkpoints")
    refuse(run, "a run without a pipeline and without a complete checkpoint yet")
    (run / "classifier").mkdir()
    write_config(run / "config.yaml", {"tune": "classifier"})
    refuse(run, "is the run of a classifier: it generates nothing")


def test_a_checkpoint_that_its_training_removes_meanwhile_is_one_line(run):
    shutil.rmtree(run / "pipeline")
    model = locate_model(str(run))
    shutil.rmtree(run / "checkpoints" / "checkpoint-2")
    with pytest.raises(UserError, match=r"checkpoint-2 is gone, its training goes on .*: run the same command"):
        model.load(torch.float32)


def test_a_damaged_checkpoint_is_one_line(run):
    weights = run / "checkpoints" / "checkpoint-2" / "model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    refuse(run / "checkpoints" / "checkpoint-2", "checkpoint-2 is damaged")


def test_a_checkpoint_of_other_parts_is_refused(run):
    settings = read_config(run / "config.yaml")
    missing = "vae" if settings["tune"] != "vae" else "unet"
    write_config(run / "config.yaml", settings | {"tune": missing})
    refuse(run / "checkpoints" / "checkpoint-2", f"does not hold the weights of {missing} that its settings name")
