"""Images depend on their prompt and seed alone, and are those that plain diffusers makes."""

import re

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st

from sdcxr import backbones
from sdcxr.generation.plan import image_seed
from sdcxr.generation.sampler import Sampler
from sdcxr.noise.samplers import diffusion_sampler, late_start
from sdcxr.runtime.errors import UserError

SCHEDULERS = ("pndm", "ddim", "dpm++")
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request, micro_base, micro_base_v):
    base = {"epsilon": micro_base, "v_prediction": micro_base_v}[request.param]
    return backbones.load(str(base))


TEXTS = ["Large left pneumothorax.", "No acute process.", "", "Small effusion. " * 40]


def levels_apart(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference in grey levels."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_batch_does_not_change_an_image(backbone, scheduler):
    sampler = Sampler(backbone, scheduler, 4)
    whole = sampler.sample(TEXTS, [5, 6, 7, 8])
    assert whole.shape == (4, 32, 32) and whole.dtype == np.uint8
    for i, text in enumerate(TEXTS):
        single = sampler.sample([text], [5 + i])
        assert levels_apart(single[0], whole[i]) <= 1
    assert levels_apart(whole[0], whole[1]) > 1


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_images_are_the_plain_pipelines_own(backbone, scheduler, guidance):
    sampler = Sampler(backbone, scheduler, 4, guidance)
    own = sampler.sample(TEXTS[:1], [5])
    plain = sampler.pipeline(
        TEXTS[0], num_inference_steps=4, guidance_scale=guidance, generator=torch.Generator("cpu").manual_seed(5)
    ).images[0]
    assert levels_apart(own[0], np.asarray(plain).mean(axis=2).round()) <= 1


def test_a_negative_prompt_is_the_plain_pipelines_own(backbone):
    own = Sampler(backbone, "ddim", 4, 6.0, negative_prompt="Right effusion.").sample(TEXTS[:1], [5])
    sampler = Sampler(backbone, "ddim", 4, 6.0)
    generator = torch.Generator("cpu").manual_seed(5)
    settings = {"num_inference_steps": 4, "guidance_scale": 6.0, "generator": generator}
    plain = sampler.pipeline(TEXTS[0], negative_prompt="Right effusion.", **settings).images[0]
    assert levels_apart(own[0], np.asarray(plain).mean(axis=2).round()) <= 1
    assert levels_apart(own, sampler.sample(TEXTS[:1], [5])) > 0


def test_clip_skip_is_that_of_diffusers(micro_base, monkeypatch):
    """transformers 5 has no text_model in its CLIPTextModel, where diffusers looks for the normalisation."""
    backbone = backbones.load(str(micro_base))
    encoder, config = type(backbone.parts["text"]), backbone.parts["text"].config
    config.num_hidden_layers = 3
    torch.manual_seed(0)
    backbone.parts["text"] = encoder(config).eval()
    monkeypatch.setattr(encoder, "text_model", property(lambda self: self), raising=False)
    seen = []
    for skip in (0, 1, 2):
        tokens = {name: torch.from_numpy(ids) for name, ids in backbone.tokenize(TEXTS[:1])[0].items()}
        with torch.no_grad():
            own = backbone.encode_text(tokens, clip_skip=skip).hidden
            expected = backbone.pipeline().encode_prompt(TEXTS[:1], "cpu", 1, False, clip_skip=skip or None)[0]
        assert torch.equal(own, expected)
        seen.append(own)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    images = [Sampler(backbone, "ddim", 2, 20.0, clip_skip=skip).sample(TEXTS[:1], [5]) for skip in (None, 2)]
    assert levels_apart(*images) > 0
    with pytest.raises(UserError, match="--clip_skip 3: this text encoder can leave out at most 2"):
        Sampler(backbone, "ddim", 2, clip_skip=3).sample(TEXTS[:1], [5])


@pytest.mark.parametrize(
    ("name", "spacing", "offset", "most"),
    [
        ("pndm", "leading", 1, 999),
        ("ddim", "leading", 1, 999),
        ("pndm", "leading", 0, 1000),
        ("ddim", "trailing", 1, 1000),
        ("dpm++", "linspace", 0, 1000),
    ],
)
def test_more_steps_than_the_schedule_has_are_refused(name, spacing, offset, most):
    base = DDIMScheduler(**SCHEDULE, timestep_spacing=spacing, steps_offset=offset)
    for steps in (most, 75, 1):
        diffusion_sampler(base, name, steps)
    for steps in (most + 1, 2000):
        with pytest.raises(UserError, match=f"--num_inference_steps {steps}: .* takes at most {most} on .* 1000 time"):
            diffusion_sampler(base, name, steps)


def test_the_sigmas_of_karras_may_lie_closer_than_timesteps():
    base = DPMSolverMultistepScheduler(**SCHEDULE, use_karras_sigmas=True)
    assert diffusion_sampler(base, "dpm++", 200).config.use_karras_sigmas


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (1, None),
        (4, None),
        (75, None),
        (400, "400 steps start at timestep 799 of 1000 .*better with 333 steps, which start at 996"),
        (500, None),
        (501, "501 steps start at timestep 501 of 1000 .*better with 500 steps, which start at 998"),
        (990, None),
    ],
)
def test_steps_that_start_below_pure_noise_are_told(steps, said):
    sampler = diffusion_sampler(DDIMScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="leading"), "ddim", steps)
    line = late_start(sampler, steps)
    assert line is None if said is None else re.search(said, line or "")


def test_a_black_image_is_an_error(micro_base):
    """What overflows in fp16, or a diverged run, gives NaN, which became black images."""
    backbone = backbones.load(str(micro_base))
    with torch.no_grad():
        backbone.vae.decoder.conv_out.bias[0] = torch.nan
    with pytest.raises(UserError, match=r"pixels that are not finite .*mixed_precision"):
        Sampler(backbone, "ddim", 1).sample(TEXTS[:1], [5])


def test_guidance_scheduler_and_steps_matter(backbone):
    settings = [("pndm", 4, 1.0), ("pndm", 4, 9.0), ("pndm", 8, 1.0), ("dpm++", 4, 1.0)]
    images = [Sampler(backbone, *own).sample(TEXTS[:1], [5]) for own in settings]
    assert len({image.tobytes() for image in images}) == 4


def test_swapped_samplers_keep_schedule_and_prediction(backbone):
    scheduler = backbone.scheduler
    before = scheduler.config
    for name in (*SCHEDULERS, "pndm"):
        scheduler = diffusion_sampler(scheduler, name, 10)
        for key in ("prediction_type", "beta_start", "beta_end", "beta_schedule", "num_train_timesteps"):
            assert scheduler.config[key] == before[key], (name, key)
        assert scheduler.config["clip_sample"] is False
    assert scheduler.config.skip_prk_steps is True


def test_every_denoising_step_is_reported(backbone):
    steps: list[int] = []
    Sampler(backbone, "ddim", 5).sample(TEXTS[:2], [1, 2], on_step=steps.append)
    assert steps == [0, 1, 2, 3, 4]


def test_long_texts_are_cut_in_silence(backbone, capfd):
    Sampler(backbone, "ddim", 1, 1.0).sample(["secretfinding " * 90], [1])
    out, err = capfd.readouterr()
    assert "secretfinding" not in out + err


def test_seeds_are_fixed_for_ever():
    """Recorded samples can be made again only as long as these values stay."""
    assert image_seed(0, "prompt", 0) == 255159727052125
    assert image_seed(1, "d-1", 3) == 22106937879050


@given(st.integers(0, 2**63), st.text(max_size=10), st.integers(0, 99))
def test_seeds_are_exact_in_every_table(seed, name, k):
    value = image_seed(seed, name, k)
    assert 0 <= value < 2**48 and int(float(value)) == value


def test_seeds_differ():
    seeds = {image_seed(s, name, k) for s in range(3) for name in ("a", "b", "a/0") for k in range(5)}
    assert len(seeds) == 45
