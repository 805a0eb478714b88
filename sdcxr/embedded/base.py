"""The embedded base model: Stable Diffusion's classes at a few million parameters, for machines without network or GPU.

Its tokenizer is CLIP's own. UNet and text encoder start from random weights; the VAE is trained once, by this project's
own trainer, on phantoms. Numbers obtained with it say that the machinery works, nothing about radiographs.
"""

import gzip
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from sdcxr.backbones import stable_diffusion as components
from sdcxr.backbones.stable_diffusion import Components
from sdcxr.config import TrainConfig
from sdcxr.io.files import inside
from sdcxr.io.manifest import read_metadata, split_folder
from sdcxr.io.pixels import read_pixels
from sdcxr.runtime.errors import UserError

VERSION = 1  # raise when the architecture or the VAE's training changes
RESOLUTION = 128

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


def tokenizer(max_length: int = 77) -> Any:
    """CLIP's tokenizer, its vocabulary built from the merges that ship inside open_clip_torch.

    Raises:
        UserError: the installed open_clip_torch has no such file.
    """
    import importlib.util

    from transformers import CLIPTokenizer

    package = importlib.util.find_spec("open_clip")
    path = Path(package.origin or "").parent / "bpe_simple_vocab_16e6.txt.gz" if package else Path()
    if not path.is_file():
        raise UserError("open_clip_torch with its CLIP vocabulary is not installed: pip install open_clip_torch")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1:]  # the first line is a version
    merges = [tuple(line.split()) for line in lines[: 49152 - 256 - 2]]
    letters = byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


def byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def assemble(seed: int = 0) -> Components:
    """The tiny parts with random weights: UNet and text encoder as they stay, the VAE yet to be trained."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    width = 64
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 8,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        sample_size=RESOLUTION,
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
    return Components(unet, vae, text_encoder, tokenizer(), scheduler)


def ensure(data: Path, cache: Path) -> Path:
    """The folder of the embedded base below `cache`, built first where it is absent.

    Args:
        data: a dataset folder of phantoms, on which the VAE is trained.
        cache: the user's cache folder.
    """
    final = cache / f"tiny-v{VERSION}"
    if (final / "model_index.json").is_file():
        return final
    from accelerate.state import AcceleratorState

    from sdcxr.runtime.processes import processes
    from sdcxr.training.loop import train

    state = processes()
    start, run = cache / f"tiny-v{VERSION}-random", cache / f"tiny-v{VERSION}-vae"
    if state.is_main_process:
        print(f"building the embedded tiny base once, in {final}")
        if not (start / "model_index.json").is_file():
            components.save(assemble(), start)
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
        parts = components.load(str(run))
        standardise(parts.vae, data)
        components.save(parts, final)
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
    pixels = torch.stack([read_pixels(path, RESOLUTION) for path in paths])
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
