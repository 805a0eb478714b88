"""What the families after Stable Diffusion 1 and 2 have in common: loading, saving, refusals, arguments of the call."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sdcxr.backbones.base import Conditioning, Defaults
from sdcxr.backbones.latent_codec import KLCodec
from sdcxr.backbones.pipeline_files import describe_config, hash_part, load_part, never_trains, variant_of
from sdcxr.backbones.stable_diffusion import normalise_in_float32
from sdcxr.config import TrainConfig
from sdcxr.noise.base import NoiseProcess
from sdcxr.runtime.errors import UserError

# Settings that change parts of a base. Only Stable Diffusion 1 and 2 take all of them.
ADAPTING = (
    "text_encoder", "text_projection", "text_length", "text_skip_layers", "text_attention_mask", "random_unet",
    "placeholder_token",
)  # fmt: skip
# Names of a conditioning's tensors as the pipelines' calls have them; of the unconditional ones with "negative_".
ARGUMENTS = {"hidden": "prompt_embeds", "mask": "prompt_attention_mask", "pooled": "pooled_prompt_embeds"}


class Family:
    """See `base.Backbone`, of which a family adds the processes, the way from text to conditioning, and `denoise`.

    Args:
        parts: networks by part.
        tokenizers: by component.
        scheduler: the inference scheduler.
    """

    pipeline_class: ClassVar[str]
    components: ClassVar[dict[str, str]] = {"unet": "transformer", "text": "text_encoder", "vae": "vae"}
    networks: ClassVar[dict[str, str]]
    """By part, the class in diffusers or transformers."""
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    tunable_text: ClassVar[tuple[str, ...]] = ()
    one_text_encoder: ClassVar[bool] = False
    caches_text: ClassVar[bool] = True
    defaults: ClassVar[Defaults]
    half: ClassVar[bool] = False
    """Whether float16 is known to suffice."""
    seats: ClassVar[tuple[str, ...]] = ()
    """Settings among `ADAPTING` that the family takes."""
    pipeline_options: ClassVar[dict[str, Any]] = {}
    """Further keywords of the pipeline's constructor, such as optional components that are None."""
    call_options: ClassVar[dict[str, Any]] = {}
    """Further keywords of the pipeline's call."""

    def __init__(self, parts: dict[str, Any], tokenizers: dict[str, Any], scheduler: Any):
        self.parts, self.tokenizer_of, self.scheduler = parts, tokenizers, scheduler
        self.codec: Any = self.build_codec(parts["vae"])
        self.untrained: dict[str, nn.Module] = {}
        self.stored: dict[str, Path] = {}

    @staticmethod
    def build_codec(vae: Any) -> Any:
        return KLCodec(vae)

    @classmethod
    def check_index(cls, index: dict[str, Any]) -> None:
        """Refuse members of the family that its model_index.json tells.

        Raises:
            UserError: what is wrong with it.
        """

    @classmethod
    def load(cls, folder: Path, dtype: Any) -> Self:
        import diffusers
        import transformers

        parts: dict[str, Any] = {}
        stored: dict[str, Path] = {}
        for name, component in cls.components.items():
            kind = getattr(diffusers, cls.networks[name], None) or getattr(transformers, cls.networks[name])
            frozen = never_trains(cls, name)
            parts[name] = load_part(kind, folder, component, None if frozen and dtype == torch.float32 else dtype)
            parts[name].requires_grad_(False).eval()
            if frozen and variant_of(folder / component) is None:
                stored[component] = folder / component
        given = {component: parts[name] for name, component in cls.components.items()} | cls.pipeline_options
        pipeline = getattr(diffusers, cls.pipeline_class).from_pretrained(folder, **given)
        loaded = cls(parts, {name: getattr(pipeline, name) for name in cls.tokenizers}, pipeline.scheduler)
        loaded.stored = stored
        loaded.check_parts()
        return loaded

    def check_parts(self) -> None:
        """Refuse parts that do not fit each other.

        Raises:
            UserError: what does not fit.
        """
        channels, latent = self.denoiser.config.in_channels, self.codec.latent_shape(self.multiple)[0]
        if channels != latent:
            raise UserError(
                f"its denoiser takes {channels} channels, its VAE gives {latent}: parts of different models"
            )
        self.inference_process()

    def inference_process(self) -> NoiseProcess:
        """See `base.Backbone`."""
        raise NotImplementedError

    def adapt(self, config: TrainConfig) -> None:
        for name in ADAPTING:
            if name not in self.seats and getattr(config, name) != getattr(TrainConfig, name):  # the default
                flag = "tune token" if name == "placeholder_token" else name
                others = "Stable Diffusion 1, 2 and 3" if name == "text_length" else "Stable Diffusion 1 and 2"
                raise UserError(f"--{flag}: {self.pipeline_class} does not take it, only {others} do")
        if config.lora_format == "kohya":
            raise UserError("--lora_format kohya: is for Stable Diffusion 1 and 2; --lora_format diffusers serves all")
        if config.mixed_precision == "fp16" and not self.half:
            raise UserError(f"--mixed_precision fp16: overflows in {type(self.denoiser).__name__}: use bf16 or no")

    @property
    def text_encoder(self) -> Any:
        """What Stable Diffusion 1 and 2 give to be compared and projected."""
        raise UserError(
            f"{self.pipeline_class}: its text encoders cannot be taken out, only that of Stable Diffusion 1, 2"
        )

    @property
    def denoiser(self) -> Any:
        return self.parts["unet"]

    @property
    def resolution(self) -> int:
        return int(self.denoiser.config.sample_size) * int(self.codec.factor)

    @property
    def multiple(self) -> int:
        return int(self.codec.factor) * int(getattr(self.denoiser.config, "patch_size", None) or 1)

    def text_fingerprint(self) -> dict[str, Any]:
        text = [name for name in self.parts if name.startswith("text")]
        fingerprint: dict[str, Any] = {}
        for name in [name for name in text if never_trains(self, name)] or text:  # what is cached, where others run
            component, part = self.components[name], self.parts[name]
            fingerprint[component] = hash_part(self, name)
            fingerprint[f"{component}.config"] = f"{part.dtype} {describe_config(part)}"
        return fingerprint

    def on_device(self, arrays: dict[str, Any]) -> dict[str, Tensor]:
        """Arrays as tensors where the text encoder is."""
        device = next(self.parts["text"].parameters()).device
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}

    def pipeline(self) -> Any:
        import diffusers

        networks = {component: self.parts[name] for name, component in self.components.items()}
        given = networks | self.tokenizer_of | {"scheduler": self.scheduler} | self.pipeline_options
        return getattr(diffusers, self.pipeline_class)(**given)

    def call_arguments(self, conditioning: Conditioning, null: Conditioning) -> dict[str, Any]:
        dtype = self.denoiser.dtype

        def named(prefix: str, each: Conditioning) -> dict[str, Tensor]:
            known = {prefix + ARGUMENTS[name]: value for name, value in each.tensors().items() if name in ARGUMENTS}
            return {name: value if name.endswith("mask") else value.to(dtype) for name, value in known.items()}

        return named("", conditioning) | named("negative_", null) | self.call_options

    def shared_guidance(self, guided: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def prepare_for_bf16_on_cpu(self) -> None:
        """Layer normalisations in float32, as CUDA's autocast has them."""
        for name in ("unet", *self.tunable_text):
            normalise_in_float32(self.parts[name])
