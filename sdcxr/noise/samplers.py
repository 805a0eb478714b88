"""Samplers by the names of `--scheduler`: PNDM, DDIM, DPM-Solver++ and Euler for diffusion, the last two for flow."""

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
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler

    kinds: dict[str, Any] = {"pndm": PNDMScheduler, "ddim": DDIMScheduler}
    kinds |= {"dpm++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}
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


def flow_sampler(scheduler: Any, name: str, shift: float) -> Any:
    """A diffusers scheduler over σ, which takes any number of steps.

    Args:
        scheduler: another one; where it is of the same class it is taken as it is.
        name: as in `--scheduler`.
        shift: of the times, where the scheduler is of another class: diffusers would not carry it over.

    Raises:
        UserError: there is no such sampler for this flow.
    """
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    kinds: dict[str, Any] = {"euler": FlowMatchEulerDiscreteScheduler, "dpm++": DPMSolverMultistepScheduler}
    fixed = name not in kinds or not dict(scheduler.config).get("use_dynamic_shifting")
    if name not in kinds or (name == "dpm++" and not fixed):  # whose shift does not follow the size of the image
        raise UserError(f"--scheduler {name}: this model is sampled with {', '.join(kinds) if fixed else 'euler'}")
    if isinstance(scheduler, kinds[name]):
        return kinds[name].from_config(dict(scheduler.config))
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler.config), shift=shift)
    return DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift)
