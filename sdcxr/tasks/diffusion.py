"""The denoising task: UNet and text encoder, either or both trained, on latents."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr.backbones import stable_diffusion as components
from sdcxr.config import TrainConfig
from sdcxr.data import shard_cache as latents
from sdcxr.data.stream import DenoisingExamples, Pixels, Source
from sdcxr.generation import sampler as sampling
from sdcxr.noise import ddpm as losses
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import training_rows, validation_rows

PREVIEW_STEPS = 25  # of DPM-Solver++, enough for a validation picture
PREVIEW_GUIDANCE = 4.0
STRATA = 8  # equal parts of the timesteps, over which the validation loss is spread and reported


class DiffusionTask(nn.Module):
    """Mean squared error of the prediction (epsilon, v or sample), per sample."""

    alphas_cumprod: Tensor

    def __init__(self, config: TrainConfig, device: torch.device):
        super().__init__()
        assert config.base is not None
        self.config = config
        self.preview_rows = validation_rows(config, config.num_validation_images)
        self.components = components.load(config.base)
        self.unet: Any = self.components.unet
        self.text_encoder: Any = self.components.text_encoder
        self.components.vae.requires_grad_(False).eval().to(device)
        schedule = training_schedule(self.components, config)
        self.prediction: losses.Prediction = schedule.config.prediction_type
        self.register_buffer("alphas_cumprod", schedule.alphas_cumprod.float(), persistent=False)
        self.resolution = config.resolution or self.components.resolution
        if self.resolution % (self.components.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)):
            raise UserError(f"--resolution {self.resolution}: this base needs a multiple of its downsampling")
        for name, part in (("unet", self.unet), ("text", self.text_encoder)):
            part.requires_grad_(name in config.parts).train(name in config.parts)
        if config.gradient_checkpointing:
            self.unet.train().enable_gradient_checkpointing()  # only a module in training mode recomputes
            if "text" in config.parts:
                self.text_encoder.activation_checkpointing_enable()
        if device.type == "cpu" and config.mixed_precision == "bf16":
            suit_bf16_on_cpus(self.unet, self.text_encoder)
        if config.channels_last or (config.channels_last is None and device.type == "cuda"):
            self.unet.to(memory_format=torch.channels_last)

    def groups(self) -> list[dict[str, Any]]:
        rates = {"unet": self.config.learning_rate, "text": self.config.text_encoder_lr or self.config.learning_rate}
        parts = {"unet": self.unet, "text": self.text_encoder}
        return [
            {"name": name, "params": list(parts[name].parameters()), "lr": rates[name]}
            for name in ("unet", "text")
            if name in self.config.parts
        ]

    def examples(self) -> DenoisingExamples:
        rows = training_rows(self.config)
        examples = self._examples(rows, self.config.caption_dropout, self.config.noise_offset)
        self.source: Any = examples.source
        return examples

    def validation_examples(self) -> DenoisingExamples | None:
        rows = validation_rows(self.config, self.config.num_validation_samples)
        return None if rows is None else self._examples(rows, caption_dropout=0.0, strata=STRATA)

    def _examples(
        self, rows: Any, caption_dropout: float, noise_offset: float = 0.0, strata: int = 0
    ) -> DenoisingExamples:
        ids, cut = components.token_ids(self.components.tokenizer, rows["text"].tolist())
        no_caption, _ = components.token_ids(self.components.tokenizer, [""])
        if cut and not strata:
            print(f"{cut} of {len(rows)} captions are cut to {ids.shape[1]} tokens ({cut / len(rows):.1%})")
        timesteps = len(self.alphas_cumprod)
        return DenoisingExamples(
            self._source(rows, strata > 0), ids, no_caption[0], timesteps, caption_dropout, noise_offset, strata
        )

    def _source(self, rows: Any, held_out: bool) -> Source:
        paths, ids = rows["path"].tolist(), rows["id"].tolist()
        if not self.config.cache_latents:
            side = self.resolution // self.components.vae_factor
            return Pixels(paths, ids, self.resolution, (self.components.vae.config.latent_channels, side, side))
        assert self.config.data is not None
        named = Path(self.config.latents_dir) if self.config.latents_dir else None
        if named is not None and held_out:
            named /= "validation"  # a cache holds one set of images
        cache = latents.cached(
            self.components.vae, paths, ids, self.resolution, named, default=Path(self.config.data) / ".latents"
        )
        return cache

    def hold_latents(self) -> None:
        """Copy the training latents to the device, from where batches then take them by index."""
        self.source.hold(self.alphas_cumprod.device)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        mean, std = self.moments(batch)
        x0 = mean.float() + std.float() * batch["posterior_noise"]
        x0 = x0 * self.components.vae.config.scaling_factor
        alpha = self.alphas_cumprod[batch["timestep"]]
        noisy = losses.noised(x0, batch["noise"], alpha)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "text" in self.config.parts):
            context = self.text_encoder(batch["input_ids"])[0]
        predicted = self.unet(noisy, batch["timestep"], context, return_dict=False)[0]
        wanted = losses.target(x0, batch["noise"], alpha, self.prediction)
        loss = (predicted.float() - wanted).square().mean(dim=(1, 2, 3))
        if self.config.snr_gamma is not None and self.training:
            loss = loss * losses.min_snr_weight(alpha / (1 - alpha), self.config.snr_gamma, self.prediction)
        return loss

    def moments(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latents' posteriors, from wherever they come in this run."""
        if "mean" in batch:
            return batch["mean"], batch["std"]
        if "index" in batch:
            moments: tuple[Tensor, Tensor] = self.source.moments(batch["index"])
            return moments
        with torch.no_grad():
            posterior = self.components.vae.encode(batch["pixels"].expand(-1, 3, -1, -1)).latent_dist
        return posterior.mean, posterior.std

    @property
    def n_previews(self) -> int:
        return 0 if self.preview_rows is None else len(self.preview_rows)

    def preview(self, indices: list[int]) -> list[np.ndarray]:
        assert self.preview_rows is not None
        rows = self.preview_rows.iloc[indices]
        pipeline = self.components.pipeline()
        sampling.use_scheduler(pipeline, "dpm++")
        seeds = [sampling.image_seed(self.config.seed, f"validation/{name}", 0) for name in rows["id"]]
        images = sampling.sample(
            pipeline, rows["text"].tolist(), seeds, PREVIEW_STEPS, PREVIEW_GUIDANCE, self.resolution
        )
        return list(images)

    def save(self, run: Path) -> None:
        self.unet.to(memory_format=torch.contiguous_format)  # safetensors knows no other
        components.save(self.components, run / "pipeline")


def training_schedule(parts: components.Components, config: TrainConfig) -> Any:
    """The noise schedule to train on; where the settings change the base's, its sampler is changed to fit.

    Raises:
        UserError: a schedule without signal at its end with a prediction of noise, which there would teach nothing.
    """
    from diffusers import DDIMScheduler, DDPMScheduler

    changes: dict[str, Any] = {}
    if config.prediction_type is not None:
        changes["prediction_type"] = config.prediction_type
    if config.rescale_betas_zero_snr:
        prediction = config.prediction_type or parts.scheduler.config.prediction_type
        if prediction == "epsilon":
            raise UserError(
                "--rescale_betas_zero_snr: where no signal is left, the noise is the input itself and its prediction "
                "teaches nothing; add --prediction_type v_prediction"
            )
        # Sampling has to begin at the very last timestep (arXiv 2305.08891, sec. 3.3), which PNDM cannot.
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        parts.scheduler = DDIMScheduler.from_config(parts.scheduler.config, **changes)
    elif changes:
        parts.scheduler = type(parts.scheduler).from_config(parts.scheduler.config, **changes)
    return DDPMScheduler.from_config(parts.scheduler.config)


def suit_bf16_on_cpus(unet: Any, text_encoder: Any) -> None:
    """Make autocast to bfloat16 on CPUs as fast as it can be, and as exact as on CUDA.

    Attention becomes two products and a softmax: a backward call of the fused kernel took 7.7 ms instead of 2.0 on two
    cores with AVX512-BF16. Layer normalisations get float32, as CUDA's autocast has it: in bfloat16 the gradients of
    their biases were off by up to 60 % (docs/decisions.md).
    """
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")
    normalise_in_float32(unet)
    normalise_in_float32(text_encoder)


def normalise_in_float32(network: nn.Module) -> None:
    """Give all layer normalisations float32, whatever autocast would."""
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(_in_float32)


def _in_float32(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.float() for each in inputs)
