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
from sdcxr.backbones.latent_codec import decoding_without_autocast
from sdcxr.backbones.new_words import require_words
from sdcxr.backbones.pipeline_files import hash_base
from sdcxr.backbones.text_encoders import describe_cut
from sdcxr.config import TrainConfig
from sdcxr.data.denoising import (
    Captions,
    DenoisingExamples,
    Pixels,
    Source,
    Together,
    TokenIds,
    WithPrior,
    WrittenCaptions,
    prior_of,
)
from sdcxr.data.latents import Latents, cached_latents, hash_images
from sdcxr.data.text_cache import cached_captions, conditioning_of
from sdcxr.generation.plan import image_seed
from sdcxr.generation.sampler import Sampler
from sdcxr.io.manifest import split_folder
from sdcxr.runtime.processes import without_autocast
from sdcxr.tasks.base import (
    check_resolution,
    class_rows,
    enable_gradient_checkpointing,
    training_rows,
    validation_rows,
)
from sdcxr.text.prompt_writer import PromptWriter, note_on_text, prompts_of
from sdcxr.tuning import tune
from sdcxr.tuning.adapter_folder import save_adapter
from sdcxr.tuning.lora_files import export_adapter

PREVIEW_STEPS = 25  # of DPM-Solver++, enough for a validation picture
STRATA = 8  # equal parts of the timesteps, over which the validation loss is spread and reported


class DiffusionTask(nn.Module):
    """Mean squared error of the prediction (noise, velocity or data), per sample."""

    def __init__(self, config: TrainConfig, device: torch.device):
        super().__init__()
        assert config.base is not None
        self.config = config
        self.preview_rows = validation_rows(config, config.preview_images)
        self.preview_texts = [] if self.preview_rows is None else self.texts(self.preview_rows)
        self.backbone = backbones.load(config.base)
        self.backbone.adapt(config)
        if config.adapts_base:
            print(describe_text(self.backbone) + ("; the UNet has random weights" if config.random_unet else ""))
        self.base_sha256 = hash_base(self.backbone)
        self.notes: dict[str, Any] = {}
        self.process = self.backbone.noise_process(config)
        self.resolution = config.resolution or self.backbone.resolution
        check_resolution(self.resolution, self.backbone.multiple)
        self.methods = tune(self.backbone, config)
        for name, part in self.backbone.parts.items():
            # Neither the VAE nor an encoder whose outputs are cached belongs to the module: no step needs them.
            if name != "vae" and name not in self.cached_text:
                self.add_module(self.backbone.components[name], part)
        self.backbone.parts["vae"].to(device)
        if config.gradient_checkpointing:
            for part in (
                self.denoiser.train(),
                *(self.backbone.parts[name] for name in self.methods.keys() - {"unet"}),
            ):
                enable_gradient_checkpointing(part)  # only a module in training mode recomputes
        if device.type == "cpu" and config.mixed_precision == "bf16":
            self.backbone.prepare_for_bf16_on_cpu()
        if config.channels_last or (config.channels_last is None and device.type == "cuda"):
            self.denoiser.to(memory_format=torch.channels_last)

    @property
    def denoiser(self) -> Any:
        return self.backbone.parts["unet"]

    @property
    def encodes_text(self) -> bool:
        """Whether text encoders run in every step: they train, or are small beside those whose outputs are cached."""
        return "text" in self.methods or hasattr(self.backbone, "encode_frozen")

    @property
    def cached_text(self) -> list[str]:
        """The text encoders whose outputs are cached: none, all, or those that never train beside others that run."""
        encoders = [name for name in self.backbone.parts if name.startswith("text")]
        if self.config.templates or not self.backbone.caches_text:
            return []
        kept = self.backbone.tunable_text if self.encodes_text else ()
        return [name for name in encoders if name not in kept]

    @contextmanager
    def encoders_on_device(self) -> Iterator[torch.device]:
        """Text encoders whose outputs are cached lie on the CPU outside of this block."""
        device = next(self.denoiser.parameters()).device
        encoders = [self.backbone.parts[name] for name in self.cached_text]
        for encoder in encoders:
            encoder.to(device)
        try:
            yield device
        finally:
            for encoder in encoders:
                encoder.cpu()

    def groups(self) -> list[dict[str, Any]]:
        of_text = self.config.text_encoder_lr or self.config.learning_rate
        new = self.backbone.untrained
        apart = {id(p) for module in new.values() for p in module.parameters()}
        modules = {name: self.backbone.parts[name] for name in sorted(self.methods, reverse=True)} | new
        groups: list[dict[str, Any]] = []
        for name, module in modules.items():
            params = [p for p in module.parameters() if p.requires_grad and (name in new or id(p) not in apart)]
            group = {"name": name, "lr": of_text if name.startswith("text") else self.config.learning_rate}
            # Decay draws to 0; the scales of norms begin at 1, and the adapter of nothing is the base itself.
            whole = name in new or self.methods[name].name == "full"
            decayed = [p for p in params if whole or is_matrix(p)]
            others = [] if whole else [p for p in params if not is_matrix(p)]
            groups += [group | {"params": decayed}, group | {"params": others, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def after_step(self, step: int) -> None:
        """What methods do after optimizer step `step` (from 1), while the gradients are there."""
        for name, method in self.methods.items():
            method.after_step(self.backbone.parts[name], step, self.config)

    def examples(self) -> DenoisingExamples | WithPrior:
        rows = training_rows(self.config)
        # A caption without the new words of textual inversion would train nothing.
        dropout = 0.0 if "caption_dropout" in self.config.unused else self.config.caption_dropout
        examples = self._examples(rows, dropout, self.config.noise_offset)
        self.source = examples.source
        held_to = class_rows(self.config)
        if held_to is None:
            return examples
        prior = self._examples(held_to, dropout, self.config.noise_offset, kind="class")
        return WithPrior(examples, prior, hash_images(held_to["path"].tolist()))

    def validation_examples(self) -> DenoisingExamples | None:
        rows = validation_rows(self.config, self.config.validation_loss_images)
        return None if rows is None else self._examples(rows, 0.0, strata=STRATA, kind="validation")

    def _examples(
        self, rows: Any, caption_dropout: float, noise_offset: float = 0.0, strata: int = 0, kind: str = "train"
    ) -> DenoisingExamples:
        captions = self._captions(rows.drop(columns="path"), kind)
        source = self._source(rows, kind)
        noise_shape = self.backbone.codec.latent_shape(self.resolution)
        return DenoisingExamples(source, captions, self.process, caption_dropout, noise_shape, noise_offset, strata)

    def texts(self, rows: Any, kind: str = "validation") -> list[str]:
        """The captions of rows, in the form of `--token_caption` or by the templates; class images keep their own."""
        if self.config.templates and kind != "class":
            return prompts_of(rows, self.config.templates, self.config.seed)
        form = self.config.token_caption
        return [text if form is None else form.replace("{text}", text) for text in rows["text"]]

    def _captions(self, rows: Any, kind: str) -> Captions:
        if kind == "train" and self.config.templates:
            return self._written_captions(rows)
        texts = self.texts(rows, kind)
        tokens, cut = self.backbone.tokenize(texts)
        if kind == "train":
            self._account_for(cut, len(texts), tokens)
            require_words(tokens["input_ids"], getattr(self.backbone.parts.get("text"), "new_words", {}))
        live = TokenIds(tokens, self.backbone.tokenize_null())
        if not self.cached_text:
            return live
        assert self.config.data is not None
        partly = self.encodes_text
        with self.encoders_on_device() as device:
            folder = Path(self.config.latents_dir or self.config.data) / ".conditioning"
            cached = cached_captions(self.backbone, device, texts, folder, frozen_only=partly)
        return Together(live, cached) if partly else cached

    def _written_captions(self, rows: Any) -> WrittenCaptions:
        """Captions that are drawn anew each time; all templates are tried on all rows first."""
        config = self.config
        assert config.data is not None
        if note := note_on_text(split_folder(config.data, "train"), config.templates):
            print(note)
        writer = PromptWriter(rows, config.templates, config.seed, config.field_dropout)
        texts = [text for template in config.templates for text in prompts_of(rows, [template], config.seed)]
        tokens, cut = self.backbone.tokenize(texts)
        self._account_for(cut, len(texts), tokens)
        return WrittenCaptions(writer, self.backbone.tokenize, self.backbone.tokenize_null(), texts)

    def _account_for(self, n_cut: int, n: int, tokens: dict[str, np.ndarray]) -> None:
        """Print and record the share of the captions that is cut."""
        length = next(iter(tokens.values())).shape[1]
        self.notes["captions"] = {"cut": n_cut, "of": n, "tokens": length}
        if line := describe_cut(n_cut, n, length):
            print(line)

    def _source(self, rows: Any, kind: str) -> Source:
        paths, ids = rows["path"].tolist(), rows["id"].tolist()
        codec = self.backbone.codec
        if not self.config.cache_latents:
            return Pixels(paths, ids, self.resolution, codec.posterior_shape(self.resolution))
        assert self.config.data is not None
        named = Path(self.config.latents_dir) if self.config.latents_dir else None
        if named is not None and kind != "train":
            named /= kind  # a cache holds one set of images
        device = next(self.backbone.parts["vae"].parameters()).device
        default = Path(str(self.config.class_data_dir if kind == "class" else self.config.data)) / ".latents"
        return cached_latents(codec, device, paths, ids, self.resolution, named, default)

    def latents_to_device(self) -> None:
        """Copy the training latents to the device, from where batches then take them by index."""
        assert isinstance(self.source, Latents)
        self.source.to_device(next(self.denoiser.parameters()).device)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        loss = self.error(batch)
        prior = prior_of(batch)
        return loss + self.config.prior_preservation_weight * self.error(prior) if prior else loss

    def error(self, batch: dict[str, Tensor]) -> Tensor:
        """The weighted squared error of the prediction, shape (batch,)."""
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
            # In float32, as the cached ones: autocast would give moments that are off by 1 %.
            with torch.no_grad(), without_autocast(batch["pixels"].device):
                mean, std = self.backbone.codec.encode(batch["pixels"])
        latents = mean.float() if std is None else mean.float() + std.float() * batch["posterior_noise"]
        x0: Tensor = self.backbone.codec.to_model(latents)
        return x0

    def conditioning(self, batch: dict[str, Tensor]) -> Conditioning:
        """From the cache, or from token ids by the text encoder."""
        cached = conditioning_of(batch)
        if cached is not None and not self.encodes_text:
            return cached
        frozen = {} if cached is None else {"frozen": cached}
        with torch.set_grad_enabled(torch.is_grad_enabled() and "text" in self.methods):
            encoded: Conditioning = self.backbone.encode_text(batch, **frozen)
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
            resolution=self.resolution,
        )
        seeds = [image_seed(self.config.seed, f"validation/{name}", 0) for name in rows["id"]]
        with self.encoders_on_device(), decoding_without_autocast(self.backbone.parts["vae"]):
            return list(sampler.sample([self.preview_texts[i] for i in indices], seeds))

    def save(self, run: Path) -> None:
        """Write pipeline/ with the merged parts, and adapter/ where the method has one."""
        self.denoiser.to(memory_format=torch.contiguous_format)  # safetensors knows no other
        tuned = {name: self.backbone.parts[name] for name in self.methods}
        # A family that takes some of these settings changes no weight by them.
        changed = self.config.adapts_base and not getattr(self.backbone, "seats", ())
        if changed and "token" not in self.config.parts:
            print("no adapter/: the base was changed before it was tuned, so the pipeline is all there is")
        else:
            save_adapter(run / "adapter", self.methods, tuned, self.config, self.base_sha256)
            export_adapter(run / "adapter", self.methods, tuned, self.backbone.components, self.config)
        self.backbone.parts |= {name: self.methods[name].merge(part) for name, part in tuned.items()}
        try:
            backbones.save(self.backbone, run / "pipeline")
        finally:
            self.backbone.parts |= tuned


def is_matrix(parameter: Tensor) -> bool:
    """Whether more than one side is longer than 1: not a bias, nor the gains of IA3 (out, 1) or DoRA (1, out, 1, 1)."""
    return sum(side > 1 for side in parameter.shape) > 1


@torch.no_grad()
def describe_text(backbone: Any) -> str:
    """The text encoder in a line: class, tokens, attention mask, width; what has random weights."""
    _, tokens, width = backbone.unconditional(1).hidden.shape
    mask = "with" if "attention_mask" in backbone.tokenize([""])[0] else "without"
    new = "".join(f"; {name} with random weights" for name in backbone.untrained)
    kind = type(backbone.parts["text"]).__name__
    return f"text encoder: {kind}, {tokens} tokens, {mask} attention mask, states {width} wide{new}"
