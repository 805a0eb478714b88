"""The protocols of a backbone: parts, latent codec, text conditioning, noise process, pipeline."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.noise.base import NoiseProcess


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser attends to."""

    hidden: Tensor
    """Token states of the text encoder, shape (batch, tokens, width)."""
    mask: Tensor | None = None
    """1 for tokens that count, 0 for padding, shape (batch, tokens); None where the family attends to all."""
    pooled: Tensor | None = None
    """One vector a text, shape (batch, width)."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What else a family takes (sizes, ratios), batch first."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, without those that are None."""
        named = {"hidden": self.hidden, "mask": self.mask, "pooled": self.pooled} | self.extra
        return {name: value for name, value in named.items() if value is not None}

    def rows(self, indices: list[int]) -> Self:
        """The conditioning of these rows of the batch, in this order, also repeatedly."""
        return self.of({name: value[indices] for name, value in self.tensors().items()})

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Self:
        """The inverse of `tensors`."""
        known = {name: tensors.get(name) for name in ("mask", "pooled")}
        return cls(tensors["hidden"], **known, extra={k: v for k, v in tensors.items() if k not in {"hidden", *known}})


@dataclass(frozen=True)
class Defaults:
    """How a family is sampled unless something else is asked for."""

    scheduler: str
    """A name of `--scheduler`."""
    num_inference_steps: int
    guidance_scale: float


class LatentCodec(Protocol):
    """Between pixels (batch, 1, H, W) in [-1, 1] and latents as the denoiser sees them."""

    factor: int
    """Pixels per latent along a side."""

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation of the posterior before scaling; None where the encoder is deterministic."""

    def to_model(self, latents: Tensor) -> Tensor:
        """A posterior sample scaled and shifted (and packed) for the denoiser."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents of the denoiser to pixels (batch, 3, H, W) in [-1, 1]."""

    def posterior_shape(self, resolution: int) -> tuple[int, int, int]:
        """(channels, h, w) of what `encode` returns for an image of this side."""

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(channels, h, w) of what the denoiser sees."""

    def fingerprint(self) -> str:
        """Hash of the weights that `encode` depends on."""


class Backbone(Protocol):
    """A family of text-to-image models: one class in one file, found by the `_class_name` of model_index.json.

    It may have a class method `check_index(index)`, which refuses members of it by that file, before weights are there.
    """

    pipeline_class: ClassVar[str]
    """Name of the diffusers pipeline."""
    components: ClassVar[dict[str, str]]
    """The pipeline's component of every part: {"unet": "transformer", "text": "text_encoder", "vae": "vae"}.

    Of several text encoders the second is "text_2", the third "text_3".
    """
    tokenizers: ClassVar[tuple[str, ...]]
    """The pipeline's components that are tokenizers."""
    tunable_text: ClassVar[tuple[str, ...]]
    """The text encoders that `--tune text` trains; none: it is refused."""
    one_text_encoder: ClassVar[bool]
    """Whether `text_encoder` gives the one encoder with its tokenizer, to be exchanged, compared and projected."""
    defaults: ClassVar[Defaults]
    stored: dict[str, Path]
    """By component, the folder of a network that nothing changes: a saved pipeline links or copies its files."""

    parts: dict[str, nn.Module]
    """By the names of `--tune`: "unet" (the denoiser, also where it is a transformer), "text", "vae".

    That of "vae" has a method `decode`, which the pipeline calls.
    A part may have an attribute `unreached`: names of its submodules that no step needs, which then stay frozen.
    """
    codec: LatentCodec
    untrained: dict[str, nn.Module]
    """Modules with random weights that `adapt` put into parts, by name; they train whatever `--tune` says."""

    @classmethod
    def load(cls, folder: Path, dtype: Any) -> Self:
        """From a checked pipeline folder; raises OSError, ValueError, … where it cannot.

        All weights in `dtype`; only encoders that never train keep the type that they are stored in where `dtype` is
        float32.
        """

    @property
    def caches_text(self) -> bool:
        """Whether frozen text encoders are large enough for their outputs to be cached instead of computed every step.

        A family that has `encode_frozen`, from tokens to a `Conditioning`, has that of the encoders outside of
        `tunable_text` cached. The others run in every step, and `encode_text` takes the cached rows as `frozen`.
        """

    def adapt(self, config: TrainConfig) -> None:
        """Exchange or change parts as the settings ask: text encoder, projection, words (`TrainConfig.adapts_base`).

        Called once after loading, before anything trains or is hashed; what is random depends on `--seed` alone.

        Raises:
            UserError: a setting does not apply to this family, or what it names does not fit.
        """

    @property
    def resolution(self) -> int:
        """The side in pixels that the denoiser was made for.

        Raises:
            UserError: it is not known: it has to be given.
        """

    @property
    def multiple(self) -> int:
        """A side in pixels has to be a multiple of this."""

    def noise_process(self, config: TrainConfig) -> NoiseProcess:
        """The process that it is trained with under these settings; changes the pipeline's scheduler to fit.

        Raises:
            UserError: a setting does not apply to this process.
        """

    def inference_process(self) -> NoiseProcess:
        """The process of the weights as they are, for sampling."""

    def tokenize(self, texts: list[str]) -> tuple[dict[str, np.ndarray], int]:
        """Arrays for `encode_text`, batch first, and how many texts were cut.

        The first has a column per token of a text; "input_ids" are those of the first encoder.
        """

    def tokenize_null(self) -> dict[str, np.ndarray]:
        """One row of the same arrays, for which `encode_text` gives the unconditional input: a dropped caption."""

    def encode_text(self, tokens: dict[str, Tensor]) -> Conditioning:
        """The states of what `tokenize` returned; families with a CLIP encoder also take `clip_skip`."""

    def unconditional(self, n: int) -> Conditioning:
        """The unconditional input of classifier-free guidance, n times."""

    def text_fingerprint(self) -> dict[str, Any]:
        """What the outputs of a frozen encoder depend on beside token ids: weights, configuration; as JSON."""

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's prediction, of the shape of x_t; `t` as `NoiseProcess.model_time` gives it."""

    def pipeline(self) -> Any:
        """A plain diffusers pipeline over these very modules; also what is saved."""

    def call_arguments(self, conditioning: Conditioning, null: Conditioning) -> dict[str, Any]:
        """Both conditionings as keywords of the pipeline's call."""

    def shared_guidance(self, guided: bool) -> AbstractContextManager[None]:
        """Inside, the pipeline's denoiser computes once what repeats over steps and halves of guidance, or all anew."""

    def prepare_for_bf16_on_cpu(self) -> None:
        """Make autocast to bfloat16 on CPUs fast and exact; nothing where there is nothing to do."""
