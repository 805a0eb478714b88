"""Bases that cannot be used: one line that says what is wrong and what to do."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdcxr import backbones
from sdcxr.backbones.registry import UNSUPPORTED
from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from tests.sdcxr.backbones.families.conftest import change, save_base


@pytest.fixture(scope="module")
def sana(tmp_path_factory) -> Path:
    return save_base("sana", tmp_path_factory.mktemp("sana") / "base")


@pytest.fixture
def copy(sana, tmp_path) -> Path:
    return Path(shutil.copytree(sana, tmp_path / "base"))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        backbones.load(str(folder))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("pipeline_class", UNSUPPORTED)
def test_families_that_are_not_supported_are_known_by_name(tmp_path, pipeline_class):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline_class}))
    assert refused(tmp_path).endswith(f"is a {pipeline_class}, which is not supported: {UNSUPPORTED[pipeline_class]}")


def test_an_unknown_family_gets_the_list(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    assert "is a KandinskyPipeline: supported are StableDiffusionPipeline, " in refused(tmp_path)
    assert "SanaPipeline" in refused(tmp_path)


@pytest.mark.parametrize("at", [".", "transformer"])
def test_a_denoiser_alone_needs_its_pipeline(sana, tmp_path, at):
    shutil.copytree(sana / "transformer", tmp_path / "alone" / at)
    message = refused(tmp_path / "alone")
    assert "has a denoiser only (SanaTransformer2DModel)" in message
    assert "put it in place of that one's transformer/" in message


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "vae", "transformer"])
def test_a_missing_part_is_named(copy, part):
    shutil.rmtree(copy / part)
    assert f"has no part '{part}': copy the whole pipeline" in refused(copy)


def test_a_part_of_another_class_is_named(copy):
    change(copy / "vae" / "config.json", _class_name="AutoencoderKL")
    assert "the class of its vae is AutoencoderKL, not AutoencoderDC" in refused(copy)


def test_a_scheduler_without_a_flow_is_named(copy):
    change(copy / "scheduler" / "scheduler_config.json", use_flow_sigmas=False, prediction_type="epsilon")
    assert "its DPMSolverMultistepScheduler has no shift of a rectified flow" in refused(copy)


def test_a_name_behind_a_licence_says_how_to_get_it(monkeypatch):
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import GatedRepoError

    def gated(*_: object, **__: object) -> None:
        try:
            raise GatedRepoError(
                "401 Client Error", response=SimpleNamespace(headers={}, request=None, status_code=401)
            )
        except GatedRepoError as error:
            raise OSError("cannot load model, see https://huggingface.co") from error

    monkeypatch.setattr(DiffusionPipeline, "download", gated)
    with pytest.raises(UserError, match=r"is only for those who accepted its licence: .* `hf auth login`"):
        backbones.load("somebody/gated")


@pytest.fixture
def no_weights(monkeypatch):
    """Files of the hub are the index alone: whoever asks for more has downloaded gigabytes."""
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: pytest.fail("downloaded all of it"))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"_class_name": "FluxPipeline"}, "^somebody/other is a FluxPipeline, which is not supported: "),
        ({"_class_name": "KandinskyPipeline"}, "^somebody/other is a KandinskyPipeline: supported are "),
        ({"_class_name": "Flux2KleinPipeline", "is_distilled": True}, "^somebody/other: it is distilled to a few"),
    ],
)
def test_a_name_that_is_not_supported_is_refused_before_its_weights_are_downloaded(
    no_weights, tmp_path, monkeypatch, index, message
):
    import huggingface_hub

    (tmp_path / "model_index.json").write_text(json.dumps(index))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda _, file: str(tmp_path / file))
    with pytest.raises(UserError, match=message):
        backbones.load("somebody/other")


def test_a_name_of_a_denoiser_alone_needs_its_pipeline(no_weights, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    def without_index(*_: object) -> str:
        raise EntryNotFoundError("404 Client Error.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", without_index)
    with pytest.raises(UserError, match=r"^somebody/alone has no model_index.json: .* a denoiser alone \(put it into"):
        backbones.load("somebody/alone")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"text_attention_mask": False}, "--text_attention_mask: SanaPipeline does not take it, .* Diffusion 1 and 2"),
        ({"text_length": 99}, "--text_length: SanaPipeline does not take it, only Stable Diffusion 1, 2 and 3 do"),
        ({"lora_format": "kohya"}, "--lora_format kohya: is for Stable Diffusion 1 and 2"),
        (
            {"tune": "token", "placeholder_token": "<a>", "initializer_token": "lung"},
            "--tune token: SanaPipeline does not take it",
        ),
    ],
)
def test_what_a_family_does_not_have_is_refused_before_anything_trains(sana, setting, message):
    with pytest.raises(UserError, match=message):
        backbones.load(str(sana)).adapt(TrainConfig(**{"tune": "unet"} | setting))


def test_its_encoder_is_not_taken_out_of_it(sana):
    with pytest.raises(UserError, match="SanaPipeline: its text encoders cannot be taken out"):
        _ = backbones.load(str(sana)).text_encoder
