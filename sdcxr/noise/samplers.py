"""Samplers by the names of `--scheduler`: PNDM, DDIM and DPM-Solver++ for diffusion, Euler for rectified flow."""

from typing import Any

from sdcxr.runtime.errors import UserError


def diffusion_sampler(scheduler: Any, name: str) -> Any:
    """A diffusers scheduler with the noise schedule and prediction type of another.

    Raises:
        UserError: there is no such sampler for diffusion, or it cannot follow the schedule.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler

    kinds = {"pndm": PNDMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
    if name not in kinds:
        raise UserError(f"--scheduler {name}: this model is sampled with {', '.join(kinds)}")
    own = dict(scheduler.config)
    if name == "pndm":
        if own.get("rescale_betas_zero_snr"):
            raise UserError("--scheduler pndm: this model was trained to start from pure noise; use ddim or dpm++")
        own["skip_prk_steps"] = True  # as in Stable Diffusion: without the Runge-Kutta start
    return kinds[name].from_config(own)


def flow_sampler(scheduler: Any, name: str) -> Any:
    """A diffusers scheduler of Euler's method over σ, with the shift of another.

    Raises:
        UserError: another name than euler.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    if name != "euler":
        raise UserError(f"--scheduler {name}: this model is sampled with euler")
    return FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler.config))
