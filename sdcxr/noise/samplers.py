"""Samplers by the names of `--scheduler`: PNDM, DDIM and DPM-Solver++ for diffusion, Euler for rectified flow."""

from typing import Any

from sdcxr.runtime.errors import UserError


def diffusion_sampler(scheduler: Any, name: str, steps: int) -> Any:
    """A diffusers scheduler with the noise schedule and prediction type of another.

    Args:
        scheduler: the other one.
        name: as in `--scheduler`.
        steps: how many it shall take.

    Raises:
        UserError: there is no such sampler for diffusion, or it cannot follow the schedule in so many steps.
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
    sampler = kinds[name].from_config(own)
    if not can_take(sampler, steps):
        n = int(sampler.config.num_train_timesteps)
        most = next(m for m in range(min(steps, n), 0, -1) if can_take(sampler, m))
        raise UserError(f"--num_inference_steps {steps}: {name} takes at most {most} on this model's {n} timesteps")
    return sampler


def can_take(sampler: Any, steps: int) -> bool:
    """Whether a sampler of diffusion has that many different steps, all within the timesteps of training.

    Beyond, diffusers raises an IndexError, or repeats one timestep and returns noise.
    """
    if steps > sampler.config.num_train_timesteps:
        return False
    try:
        sampler.set_timesteps(steps)
    except (IndexError, ValueError):
        return False
    # Of samplers over sigmas, those of Karras lie closer than the timesteps, and are different all the same.
    places = sampler.timesteps if getattr(sampler, "sigmas", None) is None else sampler.sigmas
    return bool(sampler.timesteps.max() < sampler.config.num_train_timesteps and len(places.unique()) >= steps)


def late_start(sampler: Any, steps: int) -> str | None:
    """A line where diffusers' "leading" spacing starts far below the last timestep: 501 steps of 1000 start at 501.

    None where sampling starts within a tenth of (1 - 1/steps) of the schedule, or over sigmas of a flow.
    """
    n = int(sampler.config.num_train_timesteps)
    if sampler.config.get("timestep_spacing") != "leading":
        return None
    sampler.set_timesteps(steps)
    first = int(sampler.timesteps[0])
    if first >= 0.9 * n * (1 - 1 / steps):
        return None
    better = max(m for m in range(1, steps) if n // m * (m - 1) >= 0.9 * n * (1 - 1 / m))
    return (
        f"{steps} steps start at timestep {first} of {n} (leading spacing), although the images start from pure noise: "
        f"they are better with {better} steps, which start at {n // better * (better - 1)}"
    )


def flow_sampler(scheduler: Any, name: str) -> Any:
    """A diffusers scheduler of Euler's method over σ, with the shift of another; it takes any number of steps.

    Raises:
        UserError: another name than euler.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    if name != "euler":
        raise UserError(f"--scheduler {name}: this model is sampled with euler")
    return FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler.config))
