"""`--text_encoder`: every kind trains, what is saved gives the same images in plain diffusers, misfits are refused."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.utils.data import default_collate
from transformers import BertConfig, BertModel

from sdcxr import backbones
from sdcxr.backbones.text_projection import add_projection, folded
from sdcxr.config import TrainConfig
from sdcxr.data.stream import Stream, tensors
from sdcxr.generation.models import locate_model
from sdcxr.generation.sampler import Sampler
from sdcxr.io.files import read_json
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.diffusion import DiffusionTask
from tests.sdcxr.backbones.small_encoders import ENCODERS, WIDTH, bert_settings, save_encoder, wordpiece

PROMPTS = ["Large left pneumothorax.", "small right effusion"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder of every kind of encoder, and a wide BERT."""
    root = tmp_path_factory.mktemp("encoders")
    made = {kind: save_encoder(kind, root / kind) for kind in ENCODERS}
    return made | {"wide": save_encoder("bert", root / "wide", width=24)}


def config_of(micro_base, micro_dataset, **settings) -> TrainConfig:
    return TrainConfig(base=str(micro_base), data=str(micro_dataset), **settings)


def weights(pipeline: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {part: load_file(next((pipeline / part).glob("*.safetensors"))) for part in ("unet", "text_encoder", "vae")}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture(scope="module")
def begun(folders, micro_base, micro_dataset, tmp_path_factory) -> Callable[[str], dict[str, dict[str, torch.Tensor]]]:
    """The weights that a run with this kind of encoder begins with."""

    @functools.cache
    def weights_of(kind: str) -> dict[str, dict[str, torch.Tensor]]:
        backbone = backbones.load(str(micro_base))
        backbone.adapt(config_of(micro_base, micro_dataset, text_encoder=str(folders[kind])))
        folder = tmp_path_factory.mktemp("begun")
        backbones.save(backbone, folder)
        return weights(folder)

    return weights_of


@pytest.mark.parametrize("tune", ["unet", "text", pytest.param("unet+text", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ENCODERS)
def test_every_encoder_trains_a_step_under_every_tune(folders, begun, train_micro, tmp_path, kind, tune):
    named = {"text_encoder": str(folders[kind]), "tune": tune}
    assert train_micro(tmp_path / "run", max_train_steps=1, lr_warmup_steps=0, use_ema=False, **named) == 0
    before, after = begun(kind), weights(tmp_path / "run" / "pipeline")
    assert (moved(before["unet"], after["unet"]) != set()) == ("unet" in tune)
    encoder = moved(before["text_encoder"], after["text_encoder"])
    assert (encoder != set()) == ("text" in tune) and not any("pooler" in name for name in encoder)
    assert not moved(before["vae"], after["vae"])


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_parameter_that_trains_gets_a_gradient(folders, micro_base, micro_dataset, kind):
    """Or DistributedDataParallel would stop at the second step."""
    task = DiffusionTask(config_of(micro_base, micro_dataset, text_encoder=str(folders[kind])), torch.device("cpu"))
    batch = tensors(default_collate([Stream(task.examples(), 0)[i] for i in range(2)]))
    task(batch).mean().backward()
    trained = {name: p.grad is not None for name, p in task.named_parameters() if p.requires_grad}
    assert any(name.startswith("text_encoder.") for name in trained)
    assert [name for name, has_gradient in trained.items() if not has_gradient] == []


PLAIN = """
import json, sys, torch, numpy as np
from diffusers import StableDiffusionPipeline
for folder in sys.argv[2:]:
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    images = []
    for seed, prompt in enumerate(json.loads(sys.argv[1])):
        seeded = torch.Generator("cpu").manual_seed(seed)
        image = pipe(prompt, num_inference_steps=3, guidance_scale=4.0, height=32, width=32, generator=seeded).images[0]
        images.append(np.asarray(image.convert("RGB")))
    np.save(folder + ".npy", np.stack(images))
assert not [name for name in sys.modules if name.startswith("sdcxr")]
"""


def assert_plain_images(runs: list[Path]) -> None:
    """Images of plain diffusers in a fresh process are those of the sampler, to one grey level."""
    pipelines = [str(run / "pipeline") for run in runs]
    subprocess.run([sys.executable, "-c", PLAIN, json.dumps(PROMPTS), *pipelines], check=True)
    for pipeline in pipelines:
        ours = Sampler.load(pipeline, num_inference_steps=3).sample(PROMPTS, [0, 1])
        theirs = np.load(f"{pipeline}.npy").astype(float).mean(axis=-1)
        assert np.abs(ours - theirs).max() <= 1, pipeline
        assert np.ptp(ours) > 0


@pytest.mark.slow
def test_plain_diffusers_gives_the_same_images_in_a_fresh_process(folders, train_micro, tmp_path):
    settings: dict[str, dict] = {kind: {"text_encoder": str(folders[kind])} for kind in ENCODERS}
    settings["short"] = {"text_encoder": str(folders["bert"]), "text_length": 20, "text_skip_layers": 1}
    settings["unmasked"] = {"text_encoder": str(folders["t5"]), "text_attention_mask": False}
    settings["masked clip"] = {"text_attention_mask": True, "text_length": 30}
    settings["linear"] = {"text_encoder": str(folders["wide"]), "text_projection": "linear"}
    settings["new unet"] = {"text_encoder": str(folders["wide"]), "random_unet": True}
    for name, given in settings.items():
        train_micro(tmp_path / name, **given)
    assert_plain_images([tmp_path / name for name in settings])


LINES = """
def embed(text, window=77):
    text = pipe.maybe_convert_prompt(text, pipe.tokenizer)  # new words of several vectors
    windows = pipe.tokenizer(
        text, max_length=window, truncation=True, padding="max_length", return_overflowing_tokens=True
    ).input_ids
    n = pipe.tokenizer.model_max_length // window
    empty = pipe.tokenizer("", max_length=window, padding="max_length").input_ids
    ids = torch.tensor((windows + n * [empty])[:n])
    return pipe.text_encoder(ids)[0].reshape(1, n * window, -1)
"""


@pytest.mark.slow
def test_long_captions_in_windows_of_clip(train_micro, micro_dataset, tmp_path, capsys):
    """Plain diffusers refuses a prompt instead of cutting it, and with the lines of the documentation agrees."""
    from diffusers import StableDiffusionPipeline

    data = Path(shutil.copytree(micro_dataset, tmp_path / "data"))
    rows = pd.read_csv(data / "train" / "metadata.csv", dtype=str)
    rows.loc[:3, "text"] = [" ".join(["effusion and edema"] * n) for n in (10, 20, 30, 60)]
    rows.to_csv(data / "train" / "metadata.csv", index=False)
    named = {"data": str(data), "text_length": 231, "checkpointing_steps": 1}
    train_micro(tmp_path / "run", **named)
    assert "CLIPTextModel, 231 tokens" in (printed := capsys.readouterr().out)
    assert "1 of 11 captions are cut to 231 tokens (9.1%)" in printed
    assert read_json(tmp_path / "run" / "run.json")["captions"] == {"cut": 1, "of": 11, "tokens": 231}
    long = rows["text"][1]
    pipeline = tmp_path / "run" / "pipeline"
    pipe = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="Sequence length must be less than max_position_embeddings"):
        pipe("effusion", num_inference_steps=1)
    exec(LINES, names := {"pipe": pipe, "torch": torch})
    for text in (PROMPTS[0], long, rows["text"][3]):
        with torch.no_grad():
            embeds = {"prompt_embeds": names["embed"](text), "negative_prompt_embeds": names["embed"]("")}
        seed = torch.Generator("cpu").manual_seed(5)
        size = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": 32, "width": 32}
        theirs = np.asarray(pipe(**embeds, generator=seed, **size).images[0]).astype(float).mean(axis=-1)
        ours = Sampler.load(str(pipeline), num_inference_steps=3).sample([text], [5])[0]
        assert np.abs(theirs - ours).max() <= 1
        part = locate_model(str(tmp_path / "run" / "checkpoints" / "checkpoint-2")).load(torch.float32)
        assert np.abs(Sampler(part, num_inference_steps=3).sample([text], [5])[0].astype(int) - ours).max() <= 1
    assert LINES.strip() in (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    # The base's length, and one that is shorter again.
    train_micro(tmp_path / "next", data=str(data), base=str(tmp_path / "run"))
    assert read_json(tmp_path / "next" / "run.json")["captions"]["tokens"] == 231
    train_micro(tmp_path / "short", data=str(data), base=str(tmp_path / "run"), text_length=77)
    assert read_json(tmp_path / "short" / "run.json")["captions"] == {"cut": 3, "of": 11, "tokens": 77}


def test_other_encoders_take_long_texts_whole(micro_base, micro_dataset, folders, tmp_path):
    """BERT as many as it has positions, T5 with its relative ones any number."""
    torch.manual_seed(0)
    tokenizer = wordpiece()
    bert = BertModel(BertConfig(**bert_settings(tokenizer, WIDTH, 1, positions=512)))
    for part in (bert, tokenizer):
        part.save_pretrained(tmp_path / "bert")
    for folder, length in ((tmp_path / "bert", 512), (folders["t5"], 700)):
        backbone = backbones.load(str(micro_base))
        backbone.adapt(config_of(micro_base, micro_dataset, text_encoder=str(folder), text_length=length))
        text = " ".join(["effusion"] * (length - 2))
        tokens, n_cut = backbone.tokenize([text, text + " large", text + " large right"])
        assert tokens["input_ids"].shape == (3, length) and n_cut in (1, 2)
        ids = {name: torch.from_numpy(array) for name, array in tokens.items()}
        with torch.no_grad():
            assert backbone.encode_text(ids).hidden.shape == (3, length, WIDTH)
        backbones.save(backbone, tmp_path / "saved")
        assert backbones.load(str(tmp_path / "saved")).tokenizer.model_max_length == length
    with pytest.raises(UserError, match="--text_length 513: this text encoder with its tokenizer takes at most 512"):
        backbones.load(str(micro_base)).adapt(
            config_of(micro_base, micro_dataset, text_encoder=str(tmp_path / "bert"), text_length=513)
        )


def test_options_are_printed_and_recorded_in_the_pipeline(folders, train_micro, tmp_path, capsys):
    options = {"text_length": 20, "text_skip_layers": 1, "text_attention_mask": False}
    train_micro(tmp_path / "run", text_encoder=str(folders["bert"]), **options)
    line = "text encoder: BertModel, 20 tokens, without attention mask, states 16 wide\n"
    assert line in capsys.readouterr().out
    loaded = backbones.load(str(tmp_path / "run"))
    assert loaded.tokenizer.model_max_length == 20 and loaded.parts["text"].config.num_hidden_layers == 1
    assert list(loaded.tokenize(["effusion"])[0]) == ["input_ids"] and loaded.unconditional(1).hidden.shape == (
        1,
        20,
        16,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_encoder": "wide"}, r"its states are 24 wide, the UNet attends to 16: add --text_projection linear"),
        ({"text_encoder": "bert", "text_length": 100}, r"--text_length 100: this text encoder .* takes at most 80"),
        ({"text_length": 100}, "takes at most 77, or a multiple of it, such as 231"),
        ({"text_length": 77 * 11}, "takes at most 77"),
        ({"text_length": 2}, "--text_length 2: the tokenizer puts 2 tokens around a text: give at least 3"),
        ({"text_skip_layers": 1}, "--text_skip_layers 1: the text encoder has 1 layers"),
        ({"text_length": 231, "text_attention_mask": True}, "--text_attention_mask: not for texts in windows"),
    ],
)
def test_what_does_not_fit_is_refused(folders, micro_base, micro_dataset, settings, message):
    if "text_encoder" in settings:
        settings = settings | {"text_encoder": str(folders[settings["text_encoder"]])}
    with pytest.raises(UserError, match=message) as refused:
        backbones.load(str(micro_base)).adapt(config_of(micro_base, micro_dataset, **settings))
    assert "\n" not in str(refused.value)


def test_outputs_of_a_large_frozen_encoder_are_cached(folders, train_micro, tmp_path, read_log, monkeypatch):
    named = {"text_encoder": str(folders["t5"]), "tune": "unet", "max_train_steps": 3}
    train_micro(tmp_path / "live", **named)
    monkeypatch.setattr("sdcxr.backbones.stable_diffusion.LIVE", 100)
    train_micro(tmp_path / "cached", **named, latents_dir=str(tmp_path / "cache"))
    assert (tmp_path / "cache" / ".conditioning").is_dir()
    live, cached = ([row["loss"] for row in read_log(tmp_path / name)] for name in ("live", "cached"))
    np.testing.assert_allclose(cached, live, rtol=1e-5)


def test_a_folded_projection_computes_what_the_unfolded_one_does(micro_base):
    unet = backbones.load(str(micro_base)).unet
    torch.manual_seed(3)
    add_projection(unet, "linear", 24)
    x, states = torch.randn(2, 4, 4, 4), torch.randn(2, 9, 24)
    plain = folded(unet)
    assert plain.config.cross_attention_dim == 24 and plain.encoder_hid_proj is None
    with torch.no_grad():
        expected = unet(x, torch.tensor([3, 700]), states).sample
        assert (plain(x, torch.tensor([3, 700]), states).sample - expected).abs().max() < 1e-5
        unet.encoder_hid_proj.bias.add_(1.0)
        assert (folded(unet)(x, torch.tensor([3, 700]), states).sample - expected).abs().max() > 1e-4


def test_a_linear_projection_trains_with_the_text_encoder_alone(folders, train_micro, tmp_path):
    named = {"text_encoder": str(folders["wide"]), "text_projection": "linear", "tune": "text"}
    train_micro(tmp_path / "run", **named)
    saved = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-2" / "model.safetensors")
    assert {name for name in saved if name.startswith("unet.")} == {
        "unet.encoder_hid_proj.weight",
        "unet.encoder_hid_proj.bias",
    }
    whole = Sampler.load(str(tmp_path / "run"), num_inference_steps=3).sample(PROMPTS, [0, 1])
    part = locate_model(str(tmp_path / "run" / "checkpoints" / "checkpoint-2")).load(torch.float32)
    assert np.abs(Sampler(part, num_inference_steps=3).sample(PROMPTS, [0, 1]).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_projection_trains_whole_whatever_the_method(folders, micro_base, micro_dataset, kind):
    named = {"text_encoder": str(folders["wide"]), "text_projection": kind, "tune": "unet", "method": "svdiff"}
    task = DiffusionTask(config_of(micro_base, micro_dataset, **named), torch.device("cpu"))
    weights = dict(task.backbone.unet.encoder_hid_proj.named_parameters())
    assert {name.rsplit(".", 1)[-1] for name in weights} == {"weight", "bias"}
    assert all(p.requires_grad for p in weights.values())
    assert [g["name"] for g in task.groups() if any(p is q for p in weights.values() for q in g["params"])] == [
        "projection"
    ]


def test_an_mlp_is_saved_so_that_plain_diffusers_refuses_it_and_the_documented_lines_load_it(
    folders, train_micro, tmp_path
):
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from torch import nn

    train_micro(tmp_path / "run", text_encoder=str(folders["bert"]), text_projection="mlp")
    folder = tmp_path / "run" / "pipeline"
    with pytest.raises(ValueError, match="text_mlp"):
        StableDiffusionPipeline.from_pretrained(folder)
    settings = UNet2DConditionModel.load_config(folder / "unet")
    width, attended = settings["encoder_hid_dim"], settings["cross_attention_dim"]
    unet = UNet2DConditionModel.from_config(settings | {"encoder_hid_dim_type": "text_proj"})
    unet.encoder_hid_proj = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, attended))
    unet.load_state_dict(load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    pipe = StableDiffusionPipeline.from_pretrained(folder, unet=unet, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator("cpu").manual_seed(5)
    theirs = pipe(PROMPTS[0], num_inference_steps=3, guidance_scale=4.0, generator=seed, height=32, width=32).images[0]
    ours = Sampler.load(str(folder), num_inference_steps=3).sample(PROMPTS[:1], [5])[0]
    assert np.abs(np.asarray(theirs).astype(float).mean(axis=-1) - ours).max() <= 1


def test_a_random_unet_comes_from_the_seed_alone(folders, micro_base, micro_dataset):
    made = []
    named = {"random_unet": True, "text_encoder": str(folders["wide"])}
    for seed in (0, 0, 1):
        backbone = backbones.load(str(micro_base))
        backbone.adapt(config_of(micro_base, micro_dataset, seed=seed, **named))
        made.append(backbone.unet.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert any(not torch.equal(made[0][name], made[2][name]) for name in made[0])
    assert WIDTH != 24 and backbone.unet.config.cross_attention_dim == 24
    with pytest.raises(UserError, match="--random_unet: --method lora would leave its random weights as they are"):
        DiffusionTask(config_of(micro_base, micro_dataset, method="lora", **named), torch.device("cpu"))


def test_a_random_unet_replaces_one_with_an_mlp(folders, micro_base, micro_dataset, tmp_path):
    backbone = backbones.load(str(micro_base))
    backbone.adapt(config_of(micro_base, micro_dataset, text_encoder=str(folders["wide"]), text_projection="mlp"))
    backbones.save(backbone, tmp_path / "mlp")
    other = backbones.load(str(tmp_path / "mlp"))
    other.adapt(config_of(micro_base, micro_dataset, random_unet=True))
    assert other.unet.encoder_hid_proj is None and other.unet.config.cross_attention_dim == 24


@pytest.mark.slow
def test_a_run_with_another_encoder_resumes_and_notices_one_that_was_replaced(folders, train_micro, tmp_path, read_log):
    encoder = save_encoder("bert", tmp_path / "bert")
    named = {"text_encoder": str(encoder), "tune": "text", "checkpointing_steps": 1}
    train_micro(tmp_path / "whole", **named, max_train_steps=4)
    train_micro(tmp_path / "run", **named, max_train_steps=2)
    train_micro(tmp_path / "run", **named, max_train_steps=4)
    assert read_log(tmp_path / "run") == read_log(tmp_path / "whole")
    save_encoder("bert", encoder, layers=1)
    with pytest.raises(UserError, match=r"was begun on another base .*changed: text_encoder"):
        train_micro(tmp_path / "run", **named, max_train_steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_other_encoders_train_in_bf16_with_checkpointing_and_their_work_is_counted(
    folders, train_micro, tmp_path, kind
):
    settings = {"mixed_precision": "bf16", "gradient_checkpointing": True, "count_work": True}
    AcceleratorState._reset_state()
    try:
        assert train_micro(tmp_path / "run", text_encoder=str(folders[kind]), **settings) == 0
    finally:
        AcceleratorState._reset_state()
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in rows)
