"""LoRA in the files of other programs: diffusers, kohya's scripts and the web UIs, peft.

In the first two, alpha over rank is folded into the weights. diffusers keeps alpha in metadata, which few others read,
and which its own `save_lora_weights` does not write unless asked to: then the scale is 1.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sdcxr.config import TrainConfig
from sdcxr.io.files import atomic
from sdcxr.tuning.base import TuningMethod
from sdcxr.tuning.peft_methods import Lora, PeftMethod

FILE = "pytorch_lora_weights.safetensors"
KOHYA = {"unet": "unet", "text_encoder": "te"}  # Stable Diffusion 1 and 2
CLIPS = ("CLIPTextModel", "CLIPTextModelWithProjection")  # text encoders into which diffusers loads LoRA
KOHYA_WORDS = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}


def export_adapter(
    folder: Path,
    methods: dict[str, TuningMethod],
    tuned: dict[str, Any],
    components: dict[str, str],
    config: TrainConfig,
) -> None:
    """Write what other programs read beside the project's own files, where there is an adapter folder.

    Args:
        folder: the adapter folder.
        methods: by part.
        tuned: the injected parts.
        components: names of the parts in the pipeline.
        config: the settings of the run.
    """
    if not folder.is_dir():
        return
    states: dict[str, dict[str, Tensor]] = {}
    scales: dict[str, float] = {}
    for name, module in tuned.items():
        method = methods[name]
        if isinstance(method, PeftMethod) and name.startswith("text"):
            write_peft_folder(folder / name, module, method.state(module))
        # Loaded into a text encoder by diffusers, DoRA would lose its gains: transformers expects other names of them.
        fits = not name.startswith("text") or (type(module).__name__ in CLIPS and method.name == Lora.name)
        if isinstance(method, Lora) and fits:
            states[components[name]] = method.state(module)
            rank = config.lora_rank or method.rank
            scales[components[name]] = (config.lora_alpha or rank) / rank
    if states:
        write_lora_file(folder, states, scales, config.lora_format)


def write_lora_file(folder: Path, states: dict[str, dict[str, Tensor]], scales: dict[str, float], style: str) -> None:
    """Write pytorch_lora_weights.safetensors, which `load_lora_weights` of diffusers reads in either style.

    Args:
        folder: where to.
        states: by name of the pipeline's component what `PeftMethod.state` gives.
        scales: alpha over rank of each.
        style: diffusers or kohya.
    """
    named: dict[str, Tensor] = {}
    for component, state in states.items():
        for key, tensor in plain_lora(component, state, scales[component]).items():
            named |= kohya_entries(component, key, tensor) if style == "kohya" else {f"{component}.{key}": tensor}
    with atomic(folder / FILE) as temporary:
        save_file({key: tensor.contiguous() for key, tensor in named.items()}, temporary, metadata={"format": "pt"})


def plain_lora(component: str, state: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The tensors on the CPU with the scale folded in, by the names of modules that files use.

    Those of CLIP's text encoder begin with `text_model.`, as its modules did before version 5 of transformers.
    """
    prefix = "text_model." if component.startswith("text_encoder") else ""
    with torch.no_grad():
        return {
            (key if key.startswith(prefix) else prefix + key): tensor.cpu() * (scale if "lora_B" in key else 1)
            for key, tensor in state.items()
        }


def kohya_entries(component: str, key: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor by kohya's name, with the alpha of its layer where that has not been said."""
    layer, _, kind = key.rpartition(".lora_")
    layer = f"lora_{KOHYA[component]}_{layer.replace('.', '_')}"
    entries = {f"{layer}.{KOHYA_WORDS['lora_' + kind]}": tensor}
    return entries | ({f"{layer}.alpha": torch.tensor(float(len(tensor)))} if kind.startswith("A") else {})


def write_peft_folder(folder: Path, module: Any, state: dict[str, Tensor]) -> None:
    """An adapter of a model of transformers as `PeftModel.from_pretrained(model, folder)` reads it.

    What else was trained, the last layer of a classifier, peft takes as `modules_to_save`.

    Args:
        folder: where to.
        module: the injected model.
        state: what `PeftMethod.state` gives of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = copy.copy(module.peft_config["default"])
    about.modules_to_save = sorted({key.rpartition(".")[0] for key in state if key in module.state_dict()}) or None
    about.save_pretrained(folder)
    tensors = {f"base_model.model.{key}": tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    with atomic(folder / "adapter_model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
