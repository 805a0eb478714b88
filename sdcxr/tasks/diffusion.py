"""The denoising task: UNet and text encoder, either or both trained, on cached latents."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr import components, latents, losses, sampling
from sdcxr.config import TrainConfig
from sdcxr.data import LatentExamples
from sdcxr.errors import UserError
from sdcxr.pixels import grid
from sdcxr.tasks import preview_rows, training_rows

PREVIEW_STEPS = 25  # of DPM-Solver++, enough for a validation picture
PREVIEW_GUIDANCE = 4.0


class DiffusionTask(nn.Module):
    """Mean squared error of the prediction (epsilon, v or sample, as the base's scheduler says), per sample."""

    alphas_cumprod: Tensor

    def __init__(self, config: TrainConfig, device: torch.device):
        from diffusers import DDPMScheduler

        super().__init__()
        assert config.base is not None
        self.config = config
        self.validation = preview_rows(config)
        self.components = components.load(config.base)
        self.unet: Any = self.components.unet
        self.text_encoder: Any = self.components.text_encoder
        self.components.vae.requires_grad_(False).eval().to(device)
        schedule = DDPMScheduler.from_config(self.components.scheduler.config)
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
                self.text_encoder.gradient_checkpointing_enable()

    def groups(self) -> list[dict[str, Any]]:
        rates = {"unet": self.config.learning_rate, "text": self.config.text_encoder_lr or self.config.learning_rate}
        parts = {"unet": self.unet, "text": self.text_encoder}
        return [
            {"name": name, "params": list(parts[name].parameters()), "lr": rates[name]}
            for name in ("unet", "text")
            if name in self.config.parts
        ]

    def examples(self) -> LatentExamples:
        rows = training_rows(self.config)
        ids, cut = components.token_ids(self.components.tokenizer, rows["text"].tolist())
        no_caption, _ = components.token_ids(self.components.tokenizer, [""])
        if cut:
            print(f"{cut} of {len(rows)} captions are cut to {ids.shape[1]} tokens ({cut / len(rows):.1%})")
        assert self.config.data is not None
        cache = latents.cached(
            self.components.vae,
            rows["path"].tolist(),
            rows["id"].tolist(),
            self.resolution,
            Path(self.config.latents_dir) if self.config.latents_dir else None,
            default=Path(self.config.data) / ".latents",
        )
        return LatentExamples(cache, ids, no_caption[0], len(self.alphas_cumprod), self.config.caption_dropout)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x0 = batch["mean"].float() + batch["std"].float() * batch["posterior_noise"]
        x0 = x0 * self.components.vae.config.scaling_factor
        alpha = self.alphas_cumprod[batch["timestep"]]
        noisy = losses.noised(x0, batch["noise"], alpha)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "text" in self.config.parts):
            context = self.text_encoder(batch["input_ids"])[0]
        predicted = self.unet(noisy, batch["timestep"], context, return_dict=False)[0]
        wanted = losses.target(x0, batch["noise"], alpha, self.prediction)
        loss = (predicted.float() - wanted).square().mean(dim=(1, 2, 3))
        if self.config.snr_gamma is not None:
            loss = loss * losses.min_snr_weight(alpha / (1 - alpha), self.config.snr_gamma, self.prediction)
        return loss

    def preview(self) -> np.ndarray | None:
        if self.validation is None:
            return None
        rows = self.validation
        pipeline = self.components.pipeline()
        sampling.use_scheduler(pipeline, "dpm++")
        seeds = [sampling.image_seed(self.config.seed, f"validation/{name}", 0) for name in rows["id"]]
        images = sampling.sample(
            pipeline, rows["text"].tolist(), seeds, PREVIEW_STEPS, PREVIEW_GUIDANCE, self.resolution
        )
        return grid(list(images), columns=4)

    def save(self, run: Path) -> None:
        components.save(self.components, run / "pipeline")
