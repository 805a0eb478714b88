"""Parts that do not fit each other are refused in one line when a folder is loaded."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdcxr import backbones
from sdcxr.backbones.compatibility import fit_tokenizer, misfit
from sdcxr.runtime.errors import UserError

UNET = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 16}
VAE = {"in_channels": 3, "out_channels": 3, "latent_channels": 4}
SCHEDULER = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", "_class_name": "PNDMScheduler"}


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("unet", {}, None),
        ("unet", {"in_channels": 9}, r"takes 9 channels, its VAE gives 4 \(an inpainting model"),
        ("unet", {"in_channels": 8}, "InstructPix2Pix"),
        ("unet", {"in_channels": 7}, "an upscaler"),
        ("unet", {"in_channels": 5}, "a depth map"),
        ("unet", {"in_channels": 16}, "takes 16 channels, its VAE gives 4: parts of different models"),
        ("vae", {"latent_channels": 16}, "takes 4 channels, its VAE gives 16: parts of different models"),
        ("vae", {"in_channels": 1}, "its VAE takes 1 channels and gives 3"),
        ("vae", {"shift_factor": 0.1159}, "shift_factor"),
        ("unet", {"out_channels": 8}, "a learned variance is not supported"),
        ("unet", {"addition_embed_type": "text_time"}, "takes more than a text"),
        ("unet", {"class_embed_type": "timestep"}, "takes more than a text"),
        ("unet", {"num_class_embeds": 1000}, "takes more than a text"),
        ("unet", {"time_cond_proj_dim": 256}, "a distilled model"),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler", "beta_schedule": None}, "no noise schedule"),
        ("scheduler", {"use_flow_sigmas": True}, "no noise schedule"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "where noise cannot be predicted"),
        ("scheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, None),
    ],
)
def test_configurations_that_do_not_fit(part, change, said):
    configs: dict[str, dict[str, Any]] = {"unet": dict(UNET), "vae": dict(VAE), "scheduler": dict(SCHEDULER)}
    configs[part] |= change
    scheduler = {name: value for name, value in configs["scheduler"].items() if value is not None}
    problem = misfit(SimpleNamespace(**configs["unet"]), SimpleNamespace(**configs["vae"]), scheduler)
    assert problem is None if said is None else re.search(said, problem or "")


@pytest.fixture
def copy(micro_base: Path, tmp_path: Path) -> Path:
    """A pipeline folder to break."""
    return Path(shutil.copytree(micro_base, tmp_path / "pipeline"))


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        backbones.load(str(folder))
    assert "\n" not in str(refused.value)


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "DELETE"}))


def replace_text_encoder(folder: Path, kind: str = "CLIPTextModel", **settings: Any) -> None:
    import transformers

    config = transformers.CLIPTextConfig.from_pretrained(folder / "text_encoder")
    for name, value in settings.items():
        setattr(config, name, value)
    getattr(transformers, kind)(config).save_pretrained(folder / "text_encoder")
    edit(folder / "model_index.json", text_encoder=["transformers", kind])


def test_a_text_encoder_of_another_width_is_refused(copy):
    replace_text_encoder(copy, hidden_size=32)
    refuse(copy, "UNet attends to states 16 wide .cross_attention_dim., those of its text encoder are 32 wide")


def test_a_text_encoder_of_sdxl_is_refused(copy):
    replace_text_encoder(copy, "CLIPTextModelWithProjection", projection_dim=16)
    refuse(copy, "gives no state per token")


def test_words_without_embedding_are_refused(copy):
    loaded = backbones.load(str(copy))
    loaded.tokenizer.add_tokens(["<cxr-style>"])
    loaded.tokenizer.save_pretrained(copy / "tokenizer")
    words = len(loaded.tokenizer)
    refuse(copy, rf"tokenizer has {words} words, its text encoder {words - 1}: .*resize_token_embeddings\({words}\)")


def test_a_tokenizer_of_another_model_is_refused(copy):
    replace_text_encoder(copy, vocab_size=49408)
    refuse(copy, "text encoder 49408: parts of different models")


@pytest.mark.parametrize(("length", "expected"), [("DELETE", 77), (512, 77), (40, 40)])
def test_the_length_of_texts_is_what_tokenizer_and_encoder_both_take(copy, length, expected):
    edit(copy / "tokenizer" / "tokenizer_config.json", model_max_length=length)
    loaded = backbones.load(str(copy))
    assert loaded.tokenize(["Left effusion."])[0]["input_ids"].shape == (1, expected)
    backbones.save(loaded, copy.parent / "saved")
    saved = json.loads((copy.parent / "saved" / "tokenizer" / "tokenizer_config.json").read_text())
    assert saved["model_max_length"] == expected


class Tokenizer(SimpleNamespace):
    model_max_length, pad_token_id = 10**30, 0

    def get_vocab(self):
        return {"a": 0, "b": 9}


@pytest.mark.parametrize(
    ("tokenizer", "config", "message"),
    [
        ({}, {}, "has no model_max_length"),
        ({"pad_token_id": None}, {"max_position_embeddings": 77}, "has no pad_token"),
    ],
)
def test_tokenizers_that_cannot_pad_or_cut_are_refused(tokenizer, config, message):
    rows = SimpleNamespace(weight=torch.zeros(10, 4))
    encoder = torch.nn.Module()
    encoder.config, encoder.get_input_embeddings = SimpleNamespace(**config), lambda: rows
    with pytest.raises(UserError, match=message):
        fit_tokenizer(Tokenizer(**tokenizer), encoder)


@pytest.mark.parametrize("size", [[4, 4], [4]])
def test_a_square_sample_size_is_its_side(copy, size):
    edit(copy / "unet" / "config.json", sample_size=size)
    assert backbones.load(str(copy)).resolution == 32


@pytest.mark.parametrize("size", [None, [4, 8]])
def test_a_side_that_is_not_known_has_to_be_given(copy, size):
    edit(copy / "unet" / "config.json", sample_size=size)
    loaded = backbones.load(str(copy))
    with pytest.raises(UserError, match="give --resolution"):
        _ = loaded.resolution


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("scheduler/scheduler_config.json", {"beta_schedule": "unheard of"}, "cannot be loaded: .*unheard of"),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "flow_prediction"},
            "prediction type 'flow_predic",
        ),
        ("model_index.json", {"scheduler": ["diffusers", "FutureScheduler"]}, "cannot be loaded: .*FutureScheduler"),
        (
            "unet/config.json",
            {"_class_name": "UNet3DConditionModel"},
            "class of its unet is UNet3DCond",
        ),
        (
            "vae/config.json",
            {"_class_name": "AutoencoderTiny"},
            "class of its vae is AutoencoderTiny, not ",
        ),
        ("unet/config.json", {"block_out_channels": "x"}, "cannot be loaded"),
    ],
)
def test_settings_that_no_library_knows_are_one_line(copy, file, changes, message):
    edit(copy / file, **changes)
    refuse(copy, message)


def test_a_safety_checker_and_an_image_encoder_are_left_out(copy):
    edit(
        copy / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        image_encoder=["transformers", "CLIPVisionModelWithProjection"],
        requires_safety_checker=True,
    )
    pipeline = backbones.load(str(copy)).pipeline()
    assert pipeline.safety_checker is None and pipeline.image_encoder is None


def test_a_base_with_attention_mask_trains_and_its_work_is_counted(copy, train_micro, tmp_path):
    edit(copy / "text_encoder" / "config.json", use_attention_mask=True)
    settings = {"tune": "unet+text", "max_train_steps": 1, "lr_warmup_steps": 0}
    assert train_micro(tmp_path / "run", base=str(copy), count_work=True, **settings) == 0
    saved = json.loads((tmp_path / "run" / "pipeline" / "text_encoder" / "config.json").read_text())
    assert saved["use_attention_mask"] is True


def test_an_attention_mask_is_passed_where_the_pipeline_passes_one(copy, micro_base):
    edit(copy / "text_encoder" / "config.json", use_attention_mask=True)
    masked, plain = backbones.load(str(copy)), backbones.load(str(micro_base))
    arrays, _ = masked.tokenize(["Left effusion."])
    assert arrays["attention_mask"].sum() < 77 and set(plain.tokenize(["x"])[0]) == {"input_ids"}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad():
        own, negative = masked.encode_text(tensors).hidden, masked.unconditional(1).hidden
        expected = masked.pipeline().encode_prompt(["Left effusion."], "cpu", 1, True)
        assert torch.equal(own, expected[0]) and torch.equal(negative, expected[1])
        assert not torch.equal(own, plain.encode_text(tensors).hidden)
