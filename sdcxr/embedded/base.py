"""The embedded base model: a tiny Stable Diffusion of 6 million parameters, for machines without network or GPU.

Its weights, pretrained on procedural scenes (`pretraining`), are in the package; its tokenizer is CLIP's. It has seen
no radiograph: numbers obtained with it say that the machinery works, nothing about radiographs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdcxr import backbones
from sdcxr.backbones.stable_diffusion import StableDiffusion
from sdcxr.io.files import atomic, checksum, inside
from sdcxr.io.manifest import read_metadata, split_folder
from sdcxr.io.pixels import read_pixels
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.processes import processes
from sdcxr.text.clip_tokens import clip_tokenizer

RESOLUTION = 128
VERSION = 2  # raise when the architecture or the weights change
WEIGHTS = Path(__file__).parent / "weights" / "base.safetensors"
PARTS = ("unet", "vae", "text")

# What fine-tuning this small a model needs instead of the published defaults.
DEFAULTS = {"learning_rate": 2e-3, "max_train_steps": 1000, "lr_warmup_steps": 50, "ema_decay": 0.995}


def ensure_base(cache: Path) -> Path:
    """The pipeline folder of the embedded base below `cache`, unpacked first where it is absent.

    Raises:
        UserError: the package's weights are damaged.
    """
    folder = cache / f"tiny-v{VERSION}"
    with processes().main_process_first():
        if not (folder / "model_index.json").is_file():
            backbones.save(unpack(WEIGHTS), folder)
    return folder


def pack(model: StableDiffusion, path: Path, seed: int) -> None:
    """Write the weights as float16 to one safetensors file: of the words' embeddings those that pretraining moved."""
    from safetensors.torch import save_file

    tensors = {f"{part}.{name}": value for part in PARTS for name, value in model.parts[part].state_dict().items()}
    (words,) = [name for name in tensors if name.endswith("token_embedding.weight")]
    moved = (tensors.pop(words) - word_embeddings(seed)).abs().amax(dim=1) > 1e-6
    rows = model.parts["text"].get_input_embeddings().weight.detach()[moved]
    tensors = {name: value.half().contiguous().cpu() for name, value in (tensors | {"words": rows}).items()}
    tensors["word_ids"] = moved.nonzero().flatten().int().cpu()
    about = json.dumps({"seed": seed, "scaling_factor": model.parts["vae"].config.scaling_factor})
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"about": about})  # one entry: the order of several is random


def unpack(path: Path) -> StableDiffusion:
    """The model whose weights `pack` wrote, in float32.

    Raises:
        UserError: the file is missing or not what SHA256SUMS.txt beside it says.
    """
    from safetensors import safe_open

    if not path.is_file() or checksum(path) not in (path.parent / "SHA256SUMS.txt").read_text(encoding="utf-8"):
        raise UserError(f"{path} is missing or damaged: install sdcxr again")
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = tiny(about["seed"])
    model.vae.register_to_config(scaling_factor=about["scaling_factor"])
    words = model.parts["text"].get_input_embeddings().weight.data
    words[tensors.pop("word_ids").long()] = tensors.pop("words").float()
    for part in PARTS:
        state = {
            name.removeprefix(f"{part}."): value.float() for name, value in tensors.items() if name.startswith(part)
        }
        if part == "text":
            state |= {name: words for name in model.parts[part].state_dict() if name.endswith("token_embedding.weight")}
        model.parts[part].load_state_dict(state)
    return model


def word_embeddings(seed: int, width: int = 64, words: int = 49408) -> torch.Tensor:
    """Initial embeddings of the words, which the package does not carry: (words, width), standard deviation 0.02."""
    return torch.from_numpy(0.02 * np.random.default_rng(seed).standard_normal((words, width), dtype=np.float32))


def tiny(seed: int = 0) -> StableDiffusion:
    """The embedded base's architecture: 6 million parameters for 128 px, with random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    width = 64
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 4,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    vae = AutoencoderKL(
        sample_size=RESOLUTION,
        latent_channels=4,
        block_out_channels=(16, 32, 64),  # factor 4: at 8, mean errors were 1.7 times as large (docs/decisions.md)
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
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
    text_encoder.get_input_embeddings().weight.data = word_embeddings(seed)
    return StableDiffusion(unet, vae, text_encoder, clip_tokenizer(), schedule())


def schedule(shift: float = 4.0) -> Any:
    """Stable Diffusion's sampler and schedule with `shift` times the noise variance of a step, for v-prediction.

    The latents of 128 px at factor 4 are so smooth that Stable Diffusion's last timestep still shows the layout (the
    first principal component of phantoms has a signal-to-noise ratio of 1 there), which sampling from noise then
    invents. Four times the variance is the shift for twice the resolution (Hoogeboom et al. 2023, arXiv 2301.11093,
    sec. 2.1) and leaves no signal at the end. v-prediction learns the layout sooner.
    """
    from diffusers import PNDMScheduler

    return PNDMScheduler(
        beta_start=0.00085 * shift,
        beta_end=0.012 * shift,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )


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
