"""The embedded base model: a tiny Stable Diffusion of 6 million parameters, for machines without network or GPU.

Its tokenizer is CLIP's own. UNet and text encoder start from random weights; the VAE is trained once, by this project's
own trainer, on phantoms. Numbers obtained with it say that the machinery works, nothing about radiographs.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from sdcxr import backbones
from sdcxr.backbones.stable_diffusion import StableDiffusion
from sdcxr.backbones.text_encoders import clip_tokenizer
from sdcxr.config import TrainConfig
from sdcxr.io.files import inside
from sdcxr.io.manifest import read_metadata, split_folder
from sdcxr.io.pixels import read_pixels
from sdcxr.runtime.processes import processes
from sdcxr.training.loop import train

TINY_RESOLUTION = 128
VERSION = 1  # raise when the architecture or the VAE's training changes

# What training it from random weights needs instead of the published fine-tuning defaults.
DEFAULTS = {"learning_rate": 2e-3, "max_train_steps": 1000, "lr_warmup_steps": 50, "ema_decay": 0.995}

VAE_TRAINING: dict[str, Any] = {
    "learning_rate": 2e-3,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 30,
    "adam_beta2": 0.99,
    "max_train_steps": 1300,
    "mixed_precision": "no",
    "use_ema": False,
    "checkpointing_steps": 400,
    "logging_steps": 50,
    "validation_steps": 0,
    "report_to": "none",
}


def tiny(seed: int = 0) -> StableDiffusion:
    """The embedded base's architecture: 6 million parameters for 128 px, with random weights."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    width = 64
    unet = UNet2DConditionModel(
        sample_size=TINY_RESOLUTION // 8,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        sample_size=TINY_RESOLUTION,
        latent_channels=4,
        block_out_channels=(8, 16, 32, 64),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )
    # Stable Diffusion's schedule and sampler; v-prediction as in 2.x, because it learns the layout of a picture sooner.
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusion(unet, vae, text_encoder, clip_tokenizer(), scheduler)


def ensure_base(data: Path, cache: Path) -> Path:
    """The folder of the embedded base below `cache`, built first where it is absent.

    Args:
        data: a dataset folder of phantoms, on which the VAE is trained.
        cache: the user's cache folder.
    """
    final = cache / f"tiny-v{VERSION}"
    if (final / "model_index.json").is_file():
        return final
    from accelerate.state import AcceleratorState

    state = processes()
    start, run = cache / f"tiny-v{VERSION}-random", cache / f"tiny-v{VERSION}-vae"
    if state.is_main_process:
        print(f"building the embedded tiny base once, in {final}")
        if not (start / "model_index.json").is_file():
            backbones.save(tiny(), start)
    state.wait_for_everyone()
    config = TrainConfig(
        tune="vae",
        vae_part="all",
        base=str(start),
        data=str(data),
        output_dir=str(run),
        train_batch_size=max(1, 2 // state.num_processes),  # small steps: see docs/decisions.md
        **VAE_TRAINING,
    )
    code = train(config)
    if code:
        sys.exit(code)
    AcceleratorState._reset_state()  # the run that asked for the base may use another precision
    if state.is_main_process:
        parts = backbones.load(str(run))
        standardise(parts.vae, data)
        backbones.save(parts, final)
        shutil.rmtree(start)
        shutil.rmtree(run)
    state.wait_for_everyone()
    return final


@torch.no_grad()
def standardise(vae: Any, data: Path, images: int = 256) -> None:
    """Give the latents zero mean and unit variance per channel, by folding the change into the 1×1 convolutions around.

    Stable Diffusion's one scaling factor cannot do that, and a UNet learns faster on even channels.
    """
    folder = split_folder(data, "train")
    paths = [inside(folder, name) for name in read_metadata(folder)["file_name"][:images]]
    pixels = torch.stack([read_pixels(path, TINY_RESOLUTION) for path in paths])
    means = torch.cat([vae.encode(chunk.expand(-1, 3, -1, -1)).latent_dist.mean for chunk in pixels.split(16)])
    mean, std = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    into, out = vae.quant_conv, vae.post_quant_conv
    n = len(mean)
    into.weight[:n] /= std.view(-1, 1, 1, 1)
    into.bias[:n] = (into.bias[:n] - mean) / std
    into.bias[n:] -= 2 * std.log()  # the second half is the logarithm of the variance
    out.bias += (out.weight[:, :, 0, 0] @ mean.view(-1, 1)).flatten()
    out.weight *= std.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)
