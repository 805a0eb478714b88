"""Latent codecs: AutoencoderKL with its scale and shift, AutoencoderDC without a variance, and patched latents."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sdcxr.backbones.pipeline_files import hash_weights
from sdcxr.runtime.processes import without_autocast


@contextmanager
def decoding_without_autocast(vae: Any) -> Iterator[None]:
    """Inside, a VAE decodes in the type of its weights also under autocast, when a plain pipeline calls it.

    In bfloat16 pictures are off by a percent, in float16 Stable Diffusion XL's VAE overflows.
    """
    decode = vae.decode

    def exact(latents: Tensor, *args: Any, **named: Any) -> Any:
        with without_autocast(latents.device):
            return decode(latents.to(next(vae.parameters()).dtype), *args, **named)

    vae.decode = exact  # in front of the method of its class
    try:
        yield
    finally:
        del vae.decode


class KLCodec:
    """diffusers' AutoencoderKL: posterior moments, then (z - shift)·scale. One grey channel in, three to the VAE."""

    def __init__(self, vae: Any):
        self.vae = vae

    @property
    def factor(self) -> int:
        """8 in Stable Diffusion."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        posterior = self.vae.encode(pixels.expand(-1, 3, -1, -1)).latent_dist
        return posterior.mean, posterior.std

    def to_model(self, latents: Tensor) -> Tensor:
        shift = getattr(self.vae.config, "shift_factor", None)
        return (latents - shift if shift else latents) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        latents = latents / self.vae.config.scaling_factor + (getattr(self.vae.config, "shift_factor", None) or 0.0)
        decoded: Tensor = self.vae.decode(latents).sample
        return decoded

    def posterior_shape(self, resolution: int) -> tuple[int, int, int]:
        side = resolution // self.factor
        return int(self.vae.config.latent_channels), side, side

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return self.posterior_shape(resolution)

    def fingerprint(self) -> str:
        return hash_weights(self.vae, ("encoder.", "quant_conv."))


class DCCodec(KLCodec):
    """diffusers' AutoencoderDC (Chen et al. 2024, arXiv 2410.10733): no variance, so that no deviation is stored."""

    @property
    def factor(self) -> int:
        """32 in Sana."""
        return int(2 ** (len(self.vae.config.encoder_block_out_channels) - 1))

    def encode(self, pixels: Tensor) -> tuple[Tensor, None]:
        return self.vae.encode(pixels.expand(-1, 3, -1, -1)).latent, None


class PatchedCodec(KLCodec):
    """diffusers' AutoencoderKLFlux2: patches of 2 × 2 latents as channels, standardised by statistics of the VAE.

    So a sample of the posterior has another shape than what the denoiser sees.
    """

    @property
    def factor(self) -> int:
        return int(2 ** len(self.vae.config.block_out_channels))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel of the patches, each (1, channels, 1, 1)."""
        bn = self.vae.bn
        variance = bn.running_var.view(1, -1, 1, 1)
        return bn.running_mean.view(1, -1, 1, 1), (variance + self.vae.config.batch_norm_eps).sqrt()

    def to_model(self, latents: Tensor) -> Tensor:
        mean, std = self.statistics()
        return (nn.functional.pixel_unshuffle(latents, 2) - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        mean, std = self.statistics()
        decoded: Tensor = self.vae.decode(nn.functional.pixel_shuffle(latents * std + mean, 2)).sample
        return decoded

    def posterior_shape(self, resolution: int) -> tuple[int, int, int]:
        side = 2 * (resolution // self.factor)
        return int(self.vae.config.latent_channels), side, side

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        channels, side, _ = self.posterior_shape(resolution)
        return 4 * channels, side // 2, side // 2
