"""Textual projection: what it is fitted to, what is measured, and the pipeline that it gives."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sdcxr import backbones
from sdcxr.commands.fit_projection import ProjectionConfig, main
from sdcxr.generation.sampler import Sampler
from sdcxr.runtime.errors import UserError
from sdcxr.training.projection import measure
from tests.sdcxr.backbones.small_encoders import save_encoder

WORDS = ["small", "large", "left", "right", "effusion", "pneumothorax", "no", "stable"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """60 different texts."""
    draws = np.random.default_rng(0)
    texts = {" ".join(draws.choice(WORDS, size=4)) for _ in range(90)}
    file = tmp_path_factory.mktemp("texts") / "prompts.txt"
    file.write_text("\n".join(sorted(texts)[:60]))
    return file


def test_measures_of_states():
    torch.manual_seed(0)
    states = torch.randn(30, 5, 8)
    assert measure(states, states) == {"explained": 1.0, "top1": 1.0, "mean_reciprocal_rank": 1.0}
    mean = states.mean(dim=0).expand_as(states)
    assert measure(mean, states)["explained"] == pytest.approx(0, abs=1e-6)
    blind = measure(torch.zeros_like(states), states)  # all texts tie
    assert blind["top1"] == pytest.approx(1 / 30) and blind["mean_reciprocal_rank"] == pytest.approx(1 / 15.5)
    shifted = states.roll(1, dims=0)
    assert measure(shifted, states)["top1"] == 0 and measure(shifted, states)["explained"] < -0.5


def fit(base: Path, encoder: Path, prompts: Path, output: Path, **settings: object) -> dict[str, float]:
    named = {"base": str(base), "text_encoder": str(encoder), "prompts": str(prompts), "output_dir": str(output)}
    assert main(ProjectionConfig(**named | {"train_batch_size": 16, "learning_rate": 1e-2} | settings)) == 0
    return json.loads((output / "projection.json").read_text())


def test_a_projection_learns_and_its_pipeline_generates(micro_base, prompts, tmp_path, capsys):
    encoder = save_encoder("bert", tmp_path / "bert", width=24)
    begun = fit(micro_base, encoder, prompts, tmp_path / "begun", max_train_steps=1)
    trained = fit(micro_base, encoder, prompts, tmp_path / "trained", max_train_steps=25)
    solved = fit(micro_base, encoder, prompts, tmp_path / "solved", text_projection="linear")
    assert begun["explained"] < trained["explained"] and begun["explained"] < solved["explained"]
    assert "of 6 held-out texts" in capsys.readouterr().out
    base = backbones.load(str(micro_base))
    for name in ("trained", "solved"):
        loaded = backbones.load(str(tmp_path / name))
        assert torch.equal(base.unet.conv_in.weight, loaded.unet.conv_in.weight)
        assert np.ptp(Sampler(loaded, num_inference_steps=2).sample(["small effusion"], [0])) > 0


def test_the_same_command_again_is_finished_and_one_that_was_stopped_begins_anew(micro_base, prompts, tmp_path, capsys):
    encoder, out = save_encoder("bert", tmp_path / "bert", width=24), tmp_path / "out"
    first = fit(micro_base, encoder, prompts, out, text_projection="linear")
    assert fit(micro_base, encoder, prompts, out, text_projection="linear") == first
    assert capsys.readouterr().out.endswith(f"{out} is finished\n")
    with pytest.raises(UserError, match=r"was begun with other settings .*seed 0 → 1"):
        fit(micro_base, encoder, prompts, out, text_projection="linear", seed=1)
    (out / "projection.json").write_text(json.dumps({k: v for k, v in first.items() if k != "explained"}))
    shutil.rmtree(out / "pipeline")
    assert fit(micro_base, encoder, prompts, out, text_projection="linear") == first and (out / "pipeline").is_dir()
    (out / "projection.json").unlink()
    with pytest.raises(UserError, match="is not empty"):
        fit(micro_base, encoder, prompts, out, text_projection="linear")


def test_an_encoder_fitted_to_itself_gives_the_bases_images(micro_base, prompts, tmp_path):
    found = fit(micro_base, micro_base, prompts, tmp_path / "out", text_projection="linear")
    assert found["explained"] > 0.999 and found["top1"] == 1
    images = [
        Sampler.load(str(model), num_inference_steps=3).sample(["small effusion"], [0]).astype(int)
        for model in (micro_base, tmp_path / "out")
    ]
    assert np.abs(images[0] - images[1]).max() <= 1


def test_too_few_texts_are_refused(micro_base, tmp_path):
    (tmp_path / "few.txt").write_text("a\nb\nb")
    named = {"base": str(micro_base), "text_encoder": str(micro_base), "prompts": str(tmp_path / "few.txt")}
    with pytest.raises(UserError, match="holds 2 different texts, at least 20 are needed"):
        main(ProjectionConfig(**named, output_dir=str(tmp_path / "out")))
