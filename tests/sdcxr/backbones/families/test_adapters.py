"""Adapters on the families: found by type at published size, merged into a plain pipeline."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sdcxr import backbones
from sdcxr.config import TrainConfig
from sdcxr.generation.models import locate_model, with_adapters
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.quiet import LIBRARIES, quiet_libraries
from sdcxr.tuning.base import NothingToTune, apply_method
from sdcxr.tuning.registry import find_method
from tests.sdcxr.backbones.families.conftest import save_base, tiny

# Of published size on the meta device: trained parameters, by hand from the layers' widths; None: there are none.
SELECTED: dict[tuple[str, str], dict[str, int | None]] = {
    ("sdxl", "base"): {"bias": 1_289_284, "norm": 588_160, "attention": 2_209_201_920},
    # Normalised are queries and keys; its other norms have no weights.
    ("sd3", "3.5 Medium"): {"bias": 1_242_688, "norm": 122 * 64, "attention": 573_689_984, "dora": 12_317_184},
    ("pixart", "XL/2"): {
        "bias": 432_032, "norm": None, "attention_layers": 297_529_344, "difffit": 786_848, "dora": 8_515_584
    },
    ("sana", "0.6B"): {"bias": 496_544, "norm": 1_152, "attention_layers": 297_432_576, "dora": 8_515_584},
    ("sana", "1.6B"): {"bias": 696_672, "norm": 2_240},
    ("flux2_klein", "4B"): {
        "bias": None, "norm": 7_680, "attention_layers": 2_831_162_880, "difffit": None, "dora": 19_415_040
    },
}  # fmt: skip


def trained(network: torch.nn.Module, method: str, **settings: Any) -> dict[str, int]:
    with torch.device("meta"):
        apply_method(find_method(method), network, TrainConfig(tune="unet", method=method, **settings))
    return {name: p.numel() for name, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("of", "size", "method", "expected"),
    [
        pytest.param(*base, method, count, marks=[pytest.mark.slow] if base[0] == "sdxl" or method == "dora" else [])
        for base, counts in SELECTED.items()
        for method, count in counts.items()
    ],
)
def test_selectors_find_by_type_what_they_name(of, size, method, expected):
    network = tiny(of).published[size].build()
    if expected is None:
        with pytest.raises(NothingToTune, match=f"--method {method}: {type(network).__name__} has no"):
            trained(network, method)
        return
    rank = {"lora_rank": 16} if method == "dora" else {}
    assert sum(trained(network, method, **rank).values()) == expected


def test_trained_lora_is_merged_into_a_plain_pipeline(family, base, micro_dataset, train_micro, tmp_path):
    from diffusers import DiffusionPipeline

    ignored = shutil.ignore_patterns(".latents", ".conditioning")
    data = Path(shutil.copytree(micro_dataset, tmp_path / "data", ignore=ignored))
    settings = {"tune": "unet", "method": "lora", "base": str(base), "data": str(data), "max_train_steps": 2}
    settings |= {"resolution": family.resolution, "learning_rate": 0.1, "use_ema": False, "validation_steps": 0}
    assert train_micro(tmp_path / "run", **settings | family.trains) == 0
    with quiet_libraries(*LIBRARIES):
        plain = DiffusionPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    before, after = (backbones.load(str(at)) for at in (base, tmp_path / "run"))
    component = before.components["unet"]
    merged, start = getattr(plain, component).state_dict(), before.parts["unet"].state_dict()
    assert merged.keys() == start.keys()  # no layer of an adapter is left
    moved = {key.rpartition(".")[0] for key, value in start.items() if not torch.equal(value, merged[key])}
    network = before.parts["unet"]
    apply_method(find_method("lora"), network, TrainConfig(tune="unet", method="lora"))
    adapted = {key.partition(".lora_")[0] for key, p in network.named_parameters() if p.requires_grad}
    assert moved <= adapted and len(adapted - moved) <= 1  # nothing reads what the last block of SD3 asks of the text
    for key, value in after.parts["unet"].state_dict().items():
        assert torch.equal(value, merged[key])


@pytest.mark.slow
def test_encoders_keep_their_stored_type_in_every_way_to_a_model(micro_dataset, train_micro, tmp_path):
    """A pipeline, a checkpoint and an adapter of one run give the same images; and none of them samples in float16."""
    from transformers import T5EncoderModel

    base, run = save_base("pixart", tmp_path / "base"), tmp_path / "run"
    T5EncoderModel.from_pretrained(base / "text_encoder").bfloat16().save_pretrained(base / "text_encoder")
    data = shutil.copytree(micro_dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".latents", ".conditioning"))
    settings = {"tune": "unet", "method": "lora", "base": str(base), "data": str(data), "max_train_steps": 1}
    assert train_micro(run, resolution=64, use_ema=False, validation_steps=0, checkpointing_steps=1, **settings) == 0
    models = [locate_model(str(run)), locate_model(str(run / "checkpoints" / "checkpoint-1"))]
    for model in (*models, with_adapters(locate_model(str(base)), str(run))):
        types = {name: next(part.parameters()).dtype for name, part in model.load(torch.float32).parts.items()}
        assert types == {"unet": torch.float32, "text": torch.bfloat16, "vae": torch.float32}, model.name
        with pytest.raises(UserError, match="PixArtSigmaPipeline overflows in float16"):
            model.load(torch.float16)
