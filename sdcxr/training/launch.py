"""The start of a run: the accelerator, precision and kernels, and what `accelerate launch` may say about them."""

import dataclasses
import os

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, GradientAccumulationPlugin

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.processes import native_precision, on_cpu

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
PRECISION = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Of accelerate's environment: what would change a run beside its settings, the value that does not, and our flag.
IGNORED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "--gradient_accumulation_steps"),
    "ACCELERATE_DYNAMO_BACKEND": ("NO", "--torch_compile"),
}
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM": "MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}


def build_accelerator(config: TrainConfig) -> Accelerator:
    """The accelerator of a run; of its environment only devices, processes and an open precision count.

    Raises:
        UserError: the launch shards weights, or the precision is not one of ours.
    """
    sharded = next((name for variable, name in REFUSED.items() if _is_true(os.environ.get(variable, ""))), None)
    if sharded is None:
        accelerator = Accelerator(
            cpu=on_cpu(),
            mixed_precision=precision(config.mixed_precision),
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop divides the loss itself
            dynamo_backend="no",
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        sharded = accelerator.distributed_type.value if accelerator.distributed_type in SHARDED else None
    if sharded is not None:
        raise UserError(
            f"{sharded}: checkpoints of sharded weights are not written here; launch without it, and for small cards "
            "use --gradient_checkpointing, --use_8bit_adam, --use_ema false"
        )
    for variable, (harmless, flag) in IGNORED.items():
        value = os.environ.get(variable, harmless)
        if value.upper() != harmless:
            print(f"{variable}={value} is ignored: a run depends on its own settings, use {flag}")
    if accelerator.device.type == "cuda":
        set_up_cuda(config.deterministic)
    return accelerator


def _is_true(value: str) -> bool:
    return value.lower() in ("1", "true", "yes", "y", "on", "t")


def precision(flag: str | None) -> str:
    """`--mixed_precision`, or where it is left open that of `accelerate launch`: no, bf16 or fp16.

    Raises:
        UserError: fp16 on a CPU, where it would compute in fp32, or a precision that is not supported (fp8).
    """
    name = flag or os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if name == "auto":
        return native_precision()
    if name not in PRECISION:
        raise UserError(f"mixed_precision {name} of accelerate launch: use {', '.join(PRECISION)}")
    if name == "fp16" and on_cpu():
        if flag is not None:
            raise UserError("--mixed_precision fp16: a CPU does not train in it: use no or bf16")
        print("mixed_precision fp16 of accelerate launch is ignored: a CPU does not train in it")
        return "no"
    return name


def set_up_cuda(deterministic: bool) -> None:
    """TensorFloat-32 outside autocast; the fastest convolution kernels, or bitwise reproducible ones."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def split_batch(config: TrainConfig, processes: int) -> TrainConfig:
    """The settings with the micro-steps that `total_train_batch_size` needs on this many processes.

    Raises:
        UserError: the total is not a multiple of the images in one micro-step.
    """
    total, at_once = config.total_train_batch_size, config.train_batch_size * processes
    if total is None:
        return config
    if total % at_once:
        raise UserError(
            f"--total_train_batch_size {total} is no multiple of {processes} processes × --train_batch_size "
            f"{config.train_batch_size}: change one of them"
        )
    return dataclasses.replace(config, gradient_accumulation_steps=total // at_once)


def memory_advice(config: TrainConfig) -> str:
    """What makes a training step smaller, for `out_of_memory`."""
    ways = [f"lower --train_batch_size (now {config.train_batch_size}; raise --gradient_accumulation_steps to match)"]
    if "gradient_checkpointing" not in config.unused and not config.gradient_checkpointing:
        ways.append("add --gradient_checkpointing")
    if not config.use_8bit_adam:
        ways.append("--use_8bit_adam")
    if config.use_ema:
        ways.append("--use_ema false")
    return ", or ".join([ways[0], ", ".join(ways[1:])]) if ways[1:] else ways[0]


def validation_advice(config: TrainConfig) -> str:
    """What makes a validation smaller, for `out_of_memory`."""
    pictures = "" if "preview_images" in config.unused else f"lower --preview_images (now {config.preview_images}), "
    return f"in validation: {pictures}lower --train_batch_size (now {config.train_batch_size}), or --validation_steps 0"
