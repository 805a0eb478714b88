"""The latent codec: scale and shift there and back, shapes, and a fingerprint of what encodes."""

import pytest
import torch

from sdcxr import backbones


@torch.no_grad()
@pytest.mark.parametrize("shift", [None, 0.25])
def test_latents_of_the_denoiser_decode_to_the_vaes_own_image(micro_base, shift):
    codec = backbones.load(str(micro_base)).codec
    codec.vae.register_to_config(shift_factor=shift, scaling_factor=0.5)
    mean, std = codec.encode(torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert mean.shape == std.shape == (2, *codec.posterior_shape(32)) and (std > 0).all()
    scaled = codec.to_model(mean)
    torch.testing.assert_close(scaled, (mean - (shift or 0)) * 0.5)
    torch.testing.assert_close(codec.decode(scaled), codec.vae.decode(mean).sample, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_fingerprint_is_of_the_encoder_alone(micro_base):
    codec = backbones.load(str(micro_base)).codec
    before = codec.fingerprint()
    next(codec.vae.decoder.parameters())[0] += 1
    assert codec.fingerprint() == before
    next(codec.vae.encoder.parameters())[0] += 1
    assert codec.fingerprint() != before
