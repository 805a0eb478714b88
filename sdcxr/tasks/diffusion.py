"""The denoising task: UNet (or transformer) and text encoder, either or both trained, on latents."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr import backbones
from sdcxr.backbones.base import Conditioning
from sdcxr.backbones.pipeline_files import hash_parts
from sdcxr.config import TrainConfig
from sdcxr.data.denoising import Captions, DenoisingExamples, Pixels, Source, TokenIds
from sdcxr.data.latents import Latents, cached_latents
from sdcxr.data.text_cache import cached_captions, conditioning_of
from sdcxr.generation.plan import image_seed
from sdcxr.generation.sampler import Sampler
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import check_resolution, training_rows, validation_rows
from sdcxr.tuning import find_method
from sdcxr.tuning.adapter_folder import save_adapter
from sdcxr.tuning.base import apply_method

PREVIEW_STEPS = 25  # of DPM-Solver++, enough for a validation picture
PREVIEW_GUIDANCE = 4.0
STRATA = 8  # equal parts of the timesteps, over which the validation loss is spread and reported


class DiffusionTask(nn.Module):
    """Mean squared error of the prediction (noise, velocity or data), per sample."""

    def __init__(self, config: TrainConfig, device: torch.device):
        super().__init__()
        assert config.base is not None
        self.config = config
        self.preview_rows = validation_rows(config, config.preview_images)
        self.method = find_method(config.method)
        self.backbone = backbones.load(config.base)
        self.base_sha256 = hash_parts(self.backbone) | {"schedule": describe_schedule(self.backbone)}
        self.process = self.backbone.noise_process(config)
        self.resolution = config.resolution or self.backbone.resolution
        check_resolution(self.resolution, self.backbone.multiple)
        if missing := config.parts - self.backbone.parts.keys():
            raise UserError(f"--tune {config.tune}: this base has no part {', '.join(sorted(missing))} to tune")
        for name, part in self.backbone.parts.items():
            part.requires_grad_(False).eval()
            if name in config.parts:
                apply_method(self.method, part.train(), config)
            # Neither the VAE nor an encoder whose outputs are cached belongs to the module: no step needs them.
            if name != "vae" and not (name.startswith("text") and self.caches_text):
                self.add_module(self.backbone.components[name], part)
        self.backbone.parts["vae"].to(device)
        if config.gradient_checkpointing:
            for part in (self.denoiser.train(), *(self.backbone.parts[name] for name in config.parts - {"unet"})):
                enable_gradient_checkpointing(part)  # only a module in training mode recomputes
        if device.type == "cpu" and config.mixed_precision == "bf16":
            self.backbone.prepare_for_bf16_on_cpu()
        if config.channels_last or (config.channels_last is None and device.type == "cuda"):
            self.denoiser.to(memory_format=torch.channels_last)

    @property
    def denoiser(self) -> Any:
        return self.backbone.parts["unet"]

    @property
    def caches_text(self) -> bool:
        return self.backbone.caches_text and "text" not in self.config.parts

    @contextmanager
    def encoders_on_device(self) -> Iterator[torch.device]:
        """Text encoders whose outputs are cached lie on the CPU outside of this block."""
        device = next(self.denoiser.parameters()).device
        encoders = [part for name, part in self.backbone.parts.items() if name.startswith("text") and self.caches_text]
        for encoder in encoders:
            encoder.to(device)
        try:
            yield device
        finally:
            for encoder in encoders:
                encoder.cpu()

    def groups(self) -> list[dict[str, Any]]:
        rates = {"unet": self.config.learning_rate, "text": self.config.text_encoder_lr or self.config.learning_rate}
        return [
            {
                "name": name,
                "params": [p for p in self.backbone.parts[name].parameters() if p.requires_grad],
                "lr": rates[name],
            }
            for name in ("unet", "text")
            if name in self.config.parts
        ]

    def examples(self) -> DenoisingExamples:
        rows = training_rows(self.config)
        examples = self._examples(rows, self.config.caption_dropout, self.config.noise_offset)
        self.source = examples.source
        return examples

    def validation_examples(self) -> DenoisingExamples | None:
        rows = validation_rows(self.config, self.config.validation_loss_images)
        return None if rows is None else self._examples(rows, caption_dropout=0.0, strata=STRATA)

    def _examples(
        self, rows: Any, caption_dropout: float, noise_offset: float = 0.0, strata: int = 0
    ) -> DenoisingExamples:
        captions = self._captions(rows["text"].tolist(), held_out=strata > 0)
        source = self._source(rows, held_out=strata > 0)
        noise_shape = self.backbone.codec.latent_shape(self.resolution)
        return DenoisingExamples(source, captions, self.process, caption_dropout, noise_shape, noise_offset, strata)

    def _captions(self, texts: list[str], held_out: bool) -> Captions:
        tokens, cut = self.backbone.tokenize(texts)
        if cut and not held_out:
            length = next(iter(tokens.values())).shape[1]
            print(f"{cut} of {len(texts)} captions are cut to {length} tokens ({cut / len(texts):.1%})")
        if self.caches_text:
            assert self.config.data is not None
            with self.encoders_on_device() as device:
                folder = Path(self.config.latents_dir or self.config.data) / ".conditioning"
                return cached_captions(self.backbone, device, texts, folder)
        return TokenIds(tokens, self.backbone.tokenize([""])[0])

    def _source(self, rows: Any, held_out: bool) -> Source:
        paths, ids = rows["path"].tolist(), rows["id"].tolist()
        codec = self.backbone.codec
        if not self.config.cache_latents:
            return Pixels(paths, ids, self.resolution, codec.posterior_shape(self.resolution))
        assert self.config.data is not None
        named = Path(self.config.latents_dir) if self.config.latents_dir else None
        if named is not None and held_out:
            named /= "validation"  # a cache holds one set of images
        device = next(self.backbone.parts["vae"].parameters()).device
        default = Path(self.config.data) / ".latents"
        return cached_latents(codec, device, paths, ids, self.resolution, named, default)

    def latents_to_device(self) -> None:
        """Copy the training latents to the device, from where batches then take them by index."""
        assert isinstance(self.source, Latents)
        self.source.to_device(next(self.denoiser.parameters()).device)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x0, t = self.latents(batch), batch["timestep"]
        x_t = self.process.corrupt(x0, batch["noise"], t)
        predicted = self.backbone.denoise(x_t, self.process.model_time(t), self.conditioning(batch))
        target = self.process.target(x0, batch["noise"], t)
        loss = (predicted.float() - target).square().mean(dim=(1, 2, 3))
        weight = self.process.weight(t) if self.training else None
        return loss if weight is None else loss * weight

    def latents(self, batch: dict[str, Tensor]) -> Tensor:
        """A sample of each image's posterior as the denoiser sees it, from wherever the moments come in this run."""
        if "mean" in batch:
            mean, std = batch["mean"], batch.get("std")
        elif "index" in batch:
            assert isinstance(self.source, Latents)
            moments = self.source.moments(batch["index"])
            mean, std = moments["mean"], moments.get("std")
        else:
            with torch.no_grad():
                mean, std = self.backbone.codec.encode(batch["pixels"])
        latents = mean.float() if std is None else mean.float() + std.float() * batch["posterior_noise"]
        x0: Tensor = self.backbone.codec.to_model(latents)
        return x0

    def conditioning(self, batch: dict[str, Tensor]) -> Conditioning:
        """From the cache, or from token ids by the text encoder."""
        cached = conditioning_of(batch)
        if cached is not None:
            return cached
        with torch.set_grad_enabled(torch.is_grad_enabled() and "text" in self.config.parts):
            encoded: Conditioning = self.backbone.encode_text(batch)
        return encoded

    @property
    def n_previews(self) -> int:
        return 0 if self.preview_rows is None else len(self.preview_rows)

    def preview(self, indices: list[int]) -> list[np.ndarray]:
        assert self.preview_rows is not None
        rows = self.preview_rows.iloc[indices]
        sampler = Sampler(
            self.backbone,
            scheduler=self.process.preview_sampler,
            num_inference_steps=PREVIEW_STEPS,
            guidance_scale=PREVIEW_GUIDANCE,
            resolution=self.resolution,
        )
        seeds = [image_seed(self.config.seed, f"validation/{name}", 0) for name in rows["id"]]
        with self.encoders_on_device():
            return list(sampler.sample(rows["text"].tolist(), seeds))

    def save(self, run: Path) -> None:
        """Write pipeline/ with the merged parts, and adapter/ where the method has one."""
        self.denoiser.to(memory_format=torch.contiguous_format)  # safetensors knows no other
        tuned = {name: self.backbone.parts[name] for name in sorted(self.config.parts)}
        save_adapter(run / "adapter", self.method, tuned)
        self.backbone.parts |= {name: self.method.merge(part) for name, part in tuned.items()}
        try:
            backbones.save(self.backbone, run / "pipeline")
        finally:
            self.backbone.parts |= tuned


def describe_schedule(backbone: Any) -> str:
    """Some values of a base's noise process and latent scale, which its weights do not tell, to three digits.

    x₀ = 1 and noise = 2 corrupted, and what the network then predicts, at two times; a latent of 1 for the denoiser.
    """
    process, codec = backbone.inference_process(), backbone.codec
    t = torch.as_tensor([process.stratum_start(part, 4) for part in (1, 3)])
    x0 = torch.ones(2, 1, 1, 1)
    latent = torch.ones(1, *codec.posterior_shape(backbone.multiple))
    values = [process.corrupt(x0, 2 * x0, t), process.target(x0, 2 * x0, t), codec.to_model(latent).mean()]
    return " ".join(f"{value:.3g}" for tensor in values for value in tensor.flatten().tolist())


def enable_gradient_checkpointing(part: Any) -> None:
    """By the name that it has in diffusers, in transformers from 5.23 on, or before.

    Raises:
        UserError: the part has none of them.
    """
    names = ("enable_gradient_checkpointing", "activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next((getattr(part, name) for name in names if hasattr(part, name)), None)
    if enable is None:
        raise UserError(f"--gradient_checkpointing: the {type(part).__name__} of this base does not support it")
    enable()
