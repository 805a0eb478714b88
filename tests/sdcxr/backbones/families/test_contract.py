"""What every family keeps: its conventions are the plain pipeline's, and the one loop trains it exactly."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import default_collate

from sdcxr import backbones, tasks
from sdcxr.backbones import pipeline_files
from sdcxr.backbones.base import Conditioning
from sdcxr.backbones.family import Family
from sdcxr.backbones.registry import FAMILIES
from sdcxr.config import TrainConfig
from sdcxr.data.stream import Stream, tensors
from sdcxr.generation.config import GenerateConfig
from sdcxr.generation.samples_folder import generate
from sdcxr.runtime.errors import UserError
from sdcxr.tasks import diffusion
from sdcxr.training.flops import flop_counter
from sdcxr.tuning import find_method
from sdcxr.tuning.targets import target_layers
from tests.sdcxr.backbones.families.conftest import NAMES, save_base, tiny
from tests.sdcxr.backbones.families.tiny import Tiny, noise_of
from tests.torchrun import train_in_two_processes

ROOT = Path(__file__).parents[4]
CPU = torch.device("cpu")
TEXTS = ["Small LEFT pleural effusion.", " No acute cardiopulmonary process"]
SIX: dict[str, Any] = {"max_train_steps": 6, "checkpointing_steps": 3, "caption_dropout": 0.5}


@pytest.fixture(scope="module")
def backbone(base: Path) -> Any:
    return backbones.load(str(base))


@pytest.fixture(scope="module")
def plain(base: Path) -> Any:
    """The folder as anybody opens it."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def data(micro_dataset: Path, tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns(".latents", ".conditioning")
    return Path(shutil.copytree(micro_dataset, tmp_path / "data", ignore=ignored))


@pytest.fixture
def settings(family: Tiny, base: Path, data: Path) -> dict[str, Any]:
    return {"tune": "unet", "base": str(base), "data": str(data), "resolution": family.resolution} | family.trains


def network(backbone: Any, pipe: Any) -> Any:
    """The pipeline's denoiser."""
    return getattr(pipe, backbone.components["unet"])


def on_device(backbone: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(ids) for name, ids in backbone.tokenize(texts)[0].items()}


@torch.no_grad()
def test_a_denoiser_that_knows_the_data_returns_it(family, backbone, plain, monkeypatch):
    """Sign, time, shift and scale of ours are those of the plain pipeline: else it would end elsewhere."""
    process = backbone.inference_process()
    shape = (1, *backbone.codec.latent_shape(family.resolution))
    x0 = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def oracle(*inputs: Any, **named: Any) -> tuple[torch.Tensor]:
        x_t = family.unpacked(inputs[0] if inputs else named.get("hidden_states", named.get("sample")))
        t = torch.as_tensor(named["timestep"] if "timestep" in named else inputs[1]).reshape(-1)
        noise, own = noise_of(process, x_t, x0, t)
        return (family.answer(process.target(x0, noise, own)),)

    conditioning = backbone.encode_text(on_device(backbone, TEXTS[:1]))
    with monkeypatch.context() as patched:
        patched.setattr(network(backbone, plain), "forward", oracle)
        images = plain(
            **backbone.call_arguments(conditioning, backbone.unconditional(1)) | family.call,
            num_inference_steps=30,
            guidance_scale=1.0,
            height=family.resolution,
            width=family.resolution,
            generator=torch.Generator().manual_seed(3),
            output_type="latent",
        ).images
    assert (family.latents(backbone, images) - x0).abs().max() <= family.oracle
    # The same network under our own corruption and time gives our own target.
    with monkeypatch.context() as patched:
        patched.setattr(backbone.parts["unet"], "forward", oracle)
        t = torch.as_tensor([process.draw_time(np.random.default_rng(0))])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        x_t = process.corrupt(x0, noise, t)
        answer = backbone.denoise(x_t, process.model_time(t), conditioning)
    torch.testing.assert_close(answer, process.target(x0, noise, t), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_embeddings_are_those_of_the_plain_pipeline_to_the_bit(family, backbone, plain):
    for ours, theirs in (
        (backbone.encode_text(on_device(backbone, TEXTS)), family.embed(plain, TEXTS)),
        (backbone.unconditional(2), family.null(plain, 2)),
    ):
        assert ours.tensors().keys() == theirs.keys()
        for name, value in ours.tensors().items():
            assert torch.equal(value, theirs[name].to(value.dtype)), name


@torch.no_grad()
def test_a_dropped_caption_is_the_unconditional_input(backbone):
    row = {name: torch.from_numpy(array) for name, array in backbone.tokenize_null().items()}
    shapes = {name: array.shape[1:] for name, array in on_device(backbone, TEXTS).items()}
    assert {name: array.shape[1:] for name, array in row.items()} == shapes  # both go into one batch
    ours, null = backbone.encode_text(row).tensors(), backbone.unconditional(1).tensors()
    valid = null["mask"].bool()[..., None] if "mask" in null else torch.ones(1)
    torch.testing.assert_close(ours["hidden"] * valid, null["hidden"] * valid)
    for name in null.keys() - {"hidden"}:
        torch.testing.assert_close(ours[name], null[name])


def batch_of(task: Any, positions: tuple[int, ...] = (0, 1), stream: Stream | None = None) -> dict[str, torch.Tensor]:
    stream = stream or Stream(task.examples(), seed=5)
    return tensors(default_collate([stream[i] for i in positions]))


def build_task(settings: dict[str, Any], **more: Any) -> Any:
    return tasks.build(TrainConfig(**settings | {"validation_steps": 0} | more).filled(), CPU)


def test_gradient_checkpointing_changes_nothing(settings):
    gradients = []
    for checkpointing in (False, True):
        task = build_task(settings, gradient_checkpointing=checkpointing)
        task.forward(batch_of(task)).mean().backward()
        gradients.append({name: p.grad for name, p in task.named_parameters() if p.requires_grad})
    assert all(grad is not None for grad in gradients[0].values())  # which DDP needs
    assert all(torch.equal(grad, gradients[1][name]) for name, grad in gradients[0].items())


@pytest.mark.slow
def test_a_run_resumes_to_the_bit_and_only_its_part_moves(base, settings, train_micro, read_log, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train_micro(whole, **settings | SIX) == 0
    assert train_micro(halves, **settings | SIX | {"max_train_steps": 3}) == 0
    assert train_micro(halves, **settings | SIX) == 0
    assert read_log(whole) == read_log(halves)
    for name in ("model", "ema", "optimizer"):
        path = f"checkpoints/checkpoint-6/{name}.safetensors"
        assert (whole / path).read_bytes() == (halves / path).read_bytes(), name
    denoiser = backbones.load(str(base)).components["unet"]
    assert moved_parts(base, whole) == {denoiser}
    # Neither checkpoint nor average repeats what the base has: tables of positions, frozen parts.
    trained = {f"{denoiser}.{name}" for name, _ in backbones.load(str(base)).parts["unet"].named_parameters()}
    assert load_file(whole / "checkpoints/checkpoint-6/ema.safetensors").keys() == trained


def moved_parts(base: Path, run: Path) -> set[str]:
    """Components whose weights a run changed."""
    moved = set()
    for folder in (path.parent for path in base.glob("*/config.json")):
        before, after = weights(folder), weights(run / "pipeline" / folder.name)
        assert before.keys() == after.keys()
        if any(not torch.equal(value, after[key]) for key, value in before.items()):
            moved.add(folder.name)
    return moved


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a part; CLIP's by the names that transformers 4 has, too."""
    files = [load_file(file) for file in sorted(folder.glob("*.safetensors"))]
    return {key.removeprefix("text_model."): value for file in files for key, value in file.items()}


@pytest.mark.slow
@torch.no_grad()
def test_cached_batches_are_those_without_a_cache_by_sample(settings, monkeypatch):
    """Whatever the order: a row of a cache belongs to its image and to its caption."""
    cached = build_task(settings)
    stream = Stream(cached.examples(), seed=5)
    batch = batch_of(cached, positions := (9, 2, 17, 4), stream)
    assert len({stream.index(i) for i in positions} - set(positions)) > 1  # it is shuffled
    with monkeypatch.context() as patched:
        patched.setattr(type(cached.backbone), "caches_text", False)
        live = build_task(settings, cache_latents=False)
        other = batch_of(live, positions)
        hidden, mask = (live.conditioning(other).tensors().get(name) for name in ("hidden", "mask"))
    assert torch.equal(batch["timestep"], other["timestep"]) and torch.equal(batch["noise"], other["noise"])
    torch.testing.assert_close(cached.latents(batch), live.latents(other), rtol=2e-3, atol=2e-3)  # stored as float16
    ours = cached.conditioning(batch).tensors()
    tokens = ours["hidden"].shape[1]
    valid = torch.ones(1) if mask is None else mask[:, :tokens, None]
    torch.testing.assert_close(ours["hidden"] * valid, hidden[:, :tokens] * valid, rtol=1e-4, atol=1e-5)
    assert mask is None or (torch.equal(ours["mask"], mask[:, :tokens]) and not mask[:, tokens:].any())


@pytest.mark.slow
def test_a_step_is_one_compiled_graph(family, settings):
    """As on GPUs by default; traced without a C++ compiler."""
    task = build_task(settings, tune=family.modes[-1])
    batch = batch_of(task)
    compiled = torch.compile(task.forward, backend="eager", fullgraph=True)
    assert torch.equal(compiled(batch), task.forward(batch))


@torch.no_grad()
def test_the_autoencoder_computes_in_float32_under_autocast(settings, family, monkeypatch):
    """Images of a run without cached latents, and the decoded ones of its previews."""
    monkeypatch.setattr(diffusion, "PREVIEW_STEPS", 2)
    task = build_task(settings, cache_latents=False, mixed_precision="bf16", validation_steps=1, preview_images=1)
    batch, vae = batch_of(task), task.backbone.parts["vae"]
    expected, seen = task.latents(batch), []
    for part in (vae.encoder, vae.decoder):
        last = [module for module in part.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        last.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(task.latents(batch), expected)
        assert task.preview([0])[0].shape == (family.resolution, family.resolution)
    assert seen == [(torch.float32, torch.float32)] * 2
    assert "decode" not in vars(vae)


def test_encoders_that_never_train_are_hashed_once_in_a_process(settings, monkeypatch):
    """For run.json, and for the caches of training and validation texts: T5-XXL has 19 GB in float32."""
    hashed: list[Any] = []
    real = pipeline_files.hash_weights
    for module in (pipeline_files, importlib.import_module(Family.__module__)):
        counted = lambda part, *of: (hashed.append(part), real(part, *of))[1]  # noqa: E731
        monkeypatch.setattr(module, "hash_weights", counted, raising=False)
    task = build_task(settings, validation_steps=1, validation_loss_images=2)
    task.examples(), task.validation_examples()
    texts = [name for name in task.backbone.parts if name.startswith("text")]
    frozen = [task.backbone.parts[name] for name in texts if name not in task.backbone.tunable_text]
    assert all(sum(part is each for each in hashed) == 1 for part in frozen)


def test_cached_texts_outlive_an_update_of_transformers(backbone, monkeypatch):
    """The fingerprint has its major version."""
    from transformers import configuration_utils

    before = backbone.text_fingerprint()
    monkeypatch.setattr(configuration_utils, "__version__", "5.999.0")
    assert backbone.text_fingerprint() == before


@pytest.mark.parametrize("flag", ["text_encoder", "text_length", "text_skip_layers", "random_unet"])
def test_a_setting_without_a_seat_is_refused_by_name(backbone, flag):
    if not isinstance(backbone, Family) or flag in backbone.seats:  # Stable Diffusion 1 and 2 take all
        return
    given = {"text_encoder": "some/encoder", "text_length": 99, "text_skip_layers": 1, "random_unet": True}
    with pytest.raises(UserError, match=f"--{flag}: .* does not take it"):
        backbone.adapt(TrainConfig(tune="unet", **{flag: given[flag]}))


@pytest.mark.parametrize(
    "setting",
    [{"snr_gamma": 5.0}, {"prediction_type": "epsilon"}, {"noise_offset": 0.1}, {"rescale_betas_zero_snr": True}],
)
def test_settings_of_diffusion_are_refused_under_flow(backbone, setting):
    config = TrainConfig(tune="unet", **setting)
    if hasattr(backbone.inference_process(), "alphas_cumprod"):
        if "rescale_betas_zero_snr" not in setting:  # which needs v-prediction
            backbone.noise_process(config)
        return
    with pytest.raises(UserError, match=f"--{next(iter(setting))} is for diffusion"):
        backbone.noise_process(config)


def test_a_text_encoder_that_is_no_clip_is_not_tuned(family, settings):
    if "text" in family.modes:
        assert {"unet", "text"} <= build_task(settings, tune="unet+text").methods.keys()
        return
    with pytest.raises(UserError, match=r"--tune unet\+text: the \w+ of this base is not tuned"):
        build_task(settings, tune="unet+text")


@pytest.mark.slow
def test_a_vae_is_tuned_where_it_is_a_kl_one(base, backbone, settings, train_micro, tmp_path):
    config = settings | {"tune": "vae", "max_train_steps": 1, "validation_steps": 0, "method": "full"}
    config |= {"gradient_checkpointing": False}
    kind = type(backbone.parts["vae"]).__name__
    if kind != "AutoencoderKL":
        with pytest.raises(UserError, match=f"--tune vae: the {kind} of this base is no AutoencoderKL"):
            train_micro(tmp_path / "run", **config)
        return
    assert train_micro(tmp_path / "run", **config) == 0
    folders = [path.parent.name for path in base.glob("*/config.json")]
    states = {name: (weights(base / name), weights(tmp_path / "run" / "pipeline" / name)) for name in folders}
    moved = {
        f"{name}.{key.partition('.')[0]}"
        for name, (before, after) in states.items()
        for key, value in before.items()
        if not torch.equal(value, after[key])
    }
    assert moved and moved <= {"vae.decoder", "vae.post_quant_conv"}


def test_half_precision_that_overflows_is_refused(base, backbone):
    if not isinstance(backbone, Family) or backbone.half:
        return
    with pytest.raises(UserError, match="float16: use --mixed_precision bf16 or no"):
        backbones.load(str(base), torch.float16)
    with pytest.raises(UserError, match="--mixed_precision fp16: overflows"):
        backbone.adapt(TrainConfig(tune="unet", mixed_precision="fp16"))


@pytest.mark.slow
def test_published_sizes_cost_what_is_known_of_them(family, base):
    for size, about in family.published.items():
        backbone = backbones.load(str(base))
        backbone.parts["unet"] = denoiser = about.build()
        assert sum(p.numel() for p in denoiser.parameters()) == about.parameters, size
        conditioning = Conditioning.of(about.conditioning())
        x_t, t = torch.empty(1, *about.latent, device="meta"), torch.empty(1, device="meta")
        with flop_counter() as forward, torch.no_grad():
            backbone.denoise(x_t, t, conditioning)
        with flop_counter() as both:
            backbone.denoise(x_t, t, conditioning).mean().backward()
        work = forward.get_total_flops(), both.get_total_flops()
        assert [round(each / 1e9) for each in work] == [about.forward_gflop, about.training_gflop], size
        assert 2.9 <= work[1] / work[0] <= 3.0
        # LoRA of rank 16 on the layers that it chooses by itself.
        layers = dict(denoiser.named_modules())
        targets = target_layers(denoiser, TrainConfig(tune="unet", method="lora"), find_method("lora"))
        assert (len(targets), sum(16 * sum(layers[name].weight.shape[:2]) for name in targets)) == about.lora, size


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_fresh_process_with_plain_diffusers_makes_the_images_of_generate(tmp_path, train_micro, micro_dataset):
    """One process for all families: each is trained, saved, and opened without a line of ours."""
    plan = []
    for name in NAMES:
        family, folder = tiny(name), tmp_path / name
        base = save_base(name, folder / "base")
        settings = {"tune": family.modes[-1], "resolution": family.resolution, "max_train_steps": 2} | family.trains
        assert train_micro(folder / "run", base=str(base), data=str(micro_dataset), **settings) == 0
        config = GenerateConfig(
            str(folder / "run"),
            TEXTS[0],
            str(folder / "samples"),
            num_images_per_prompt=2,
            num_inference_steps=4,
            scheduler=family.scheduler,
            resolution=family.resolution,
        )
        assert generate(config) == 0
        rows = pd.read_csv(folder / "samples" / "metadata.csv")
        call = {"prompt": TEXTS[0], "num_inference_steps": 4, "guidance_scale": float(rows["guidance_scale"][0])}
        call |= {"height": family.resolution, "width": family.resolution} | family.call
        plan.append({"folder": str(folder), "call": call, "seeds": rows["seed"].tolist()})
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("plain_images.py")), "plan.json"]
    environment = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in NAMES:
        for k in range(2):
            ours, theirs = (
                np.asarray(Image.open(tmp_path / name / path)).astype(float)
                for path in (f"samples/prompt_{k}.png", f"plain_{k}.png")
            )
            assert np.abs(ours - theirs.mean(axis=2).round()).max() <= 1 and np.ptp(ours) > 2, name


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_killed_run_ends_in_the_same_bits(tmp_path, train_micro, micro_dataset, read_log):
    """One process for all families, of which every life of a run is a fork."""
    settings = []
    for name in NAMES:
        family, base = tiny(name), save_base(name, tmp_path / name)
        shared = {"tune": "unet", "base": str(base), "data": str(micro_dataset), "resolution": family.resolution}
        whole = tmp_path / f"{name}-whole"
        assert train_micro(whole, **shared | SIX | family.trains, latents_dir=str(tmp_path / f"{name}-one")) == 0
        config = yaml.safe_load((whole / "config.yaml").read_text())
        own = {"output_dir": str(tmp_path / f"{name}-killed"), "latents_dir": str(tmp_path / f"{name}-two")}
        settings.append(config | own)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("killed.py")), "settings.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in NAMES:
        whole, killed = tmp_path / f"{name}-whole", tmp_path / f"{name}-killed"
        assert read_log(killed) == read_log(whole), name
        for file in ("model", "ema", "optimizer"):
            path = f"checkpoints/checkpoint-6/{file}.safetensors"
            assert (killed / path).read_bytes() == (whole / path).read_bytes(), f"{name} {file}"


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_change_nothing(tmp_path, train_micro, micro_dataset, read_log):
    """Of every family in every mode; the two cache latents and texts together, and move what is tuned alone."""
    runs, settings = [], []
    for name in NAMES:
        family, base = tiny(name), save_base(name, tmp_path / name)
        for mode in family.modes:
            shared: dict[str, Any] = {"base": str(base), "data": str(micro_dataset), "tune": mode}
            shared |= {"max_train_steps": 4, "caption_dropout": 0.5, "adam_epsilon": 1e-6} | family.trains
            shared |= {"resolution": family.resolution}
            one, two = tmp_path / f"{name}-{mode}-one", tmp_path / f"{name}-{mode}-two"
            assert train_micro(one, **shared, latents_dir=str(tmp_path / f"{name}-one")) == 0
            config = yaml.safe_load((one / "config.yaml").read_text()) | {"train_batch_size": 2}
            settings.append(config | {"output_dir": str(two), "latents_dir": str(tmp_path / f"{name}-two")})
            runs.append((one, two))
            kind = type(backbones.load(str(base)))
            tuned = [name for name in kind.components if name in ("unet", *kind.tunable_text)]
            expected = {kind.components[name] for name in tuned if name.partition("_")[0] in mode.split("+")}
            assert moved_parts(base, one) == expected, one.name
    train_in_two_processes(settings, tmp_path)
    for one, two in runs:
        for row, other in zip(read_log(one), read_log(two), strict=True):
            assert row == pytest.approx(other, rel=1e-5), one.name
        path = "checkpoints/checkpoint-4/model.safetensors"
        expected, found = load_file(one / path), load_file(two / path)
        for key, value in expected.items():
            if "k_proj.bias" not in key and "to_k.bias" not in key:  # which softmax does not feel
                assert (found[key] - value).norm() <= 1e-3 * value.norm() + 1e-5, f"{one.name} {key}"


FAMILY_WORDS = re.compile("sdxl|stable_?diffusion|sd3|pixart|sana|klein|flux|gemma|autoencoderdc")
FAMILY_FREE = ("sdcxr/training", "sdcxr/tasks", "sdcxr/data", "sdcxr/generation", "sdcxr/noise", "eval")


def test_no_family_is_named_where_all_are_served():
    """Neither in names nor in strings of the code; docstrings may say where a number comes from."""
    for file in (file for folder in FAMILY_FREE for file in sorted((ROOT / folder).rglob("*.py"))):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            values = [getattr(node, field, None) for field in ("module", "id", "attr", "name", "arg")]
            if isinstance(node, ast.Constant) and id(node) not in prose:
                values.append(node.value)
            named = [word for word in (*names, *values) if isinstance(word, str) and FAMILY_WORDS.search(word.lower())]
            assert not named, f"{file}: {named}"


def test_a_family_is_one_short_file():
    for family in FAMILIES.values():
        module = family.partition(":")[0] if isinstance(family, str) else family.__module__
        file = ROOT / f"{module.replace('.', '/')}.py"
        # The first one also exchanges encoders, projects their states and learns new words.
        assert len(file.read_text(encoding="utf-8").splitlines()) <= (260 if "stable" in module else 150), module
