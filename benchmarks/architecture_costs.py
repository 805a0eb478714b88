"""What a base costs: parameters, FLOPs and memory of bases of published size, counted on the meta device.

    python benchmarks/architecture_costs.py            # prints the tables
    python benchmarks/architecture_costs.py --render   # puts them into docs/performance.md

Nothing is computed and no weight exists: minutes on any CPU. Bases that are in benchmarks/results are not counted
again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from architectures import ARCHITECTURES, Name, random_weights
from throughput_tables import insert
from torch import Tensor, nn

from sdcxr.backbones.base import Conditioning
from sdcxr.config import TrainConfig
from sdcxr.io.files import read_json, write_json, write_text
from sdcxr.runtime.cli import run
from sdcxr.training.flops import flop_counter, training_flops
from sdcxr.tuning.base import apply_method
from sdcxr.tuning.registry import find_method

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "architecture_costs.json"
PAGE = REPOSITORY / "docs" / "performance.md"
BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"
NAMES: dict[Name, str] = {
    "sd15": "SD 1.5",
    "sana": "Sana 0.6B",
    "sana16": "Sana 1.6B",
    "pixart": "PixArt-Σ",
    "sdxl": "SDXL",
    "sd3": "SD3 Medium",
    "sd35": "SD3.5 Medium",
    "klein": "FLUX.2-klein 4B",
}
SIDES = (512, 1024)
RANK = 16
FULL, AVERAGED, FROZEN, ADAPTER = 18, 22, 6, 22
"""Bytes a parameter: fp32 weight, gradient, two moments and bf16 copy; with moving average; frozen; of an adapter."""
PEAK = 790e12  # FLOP/s of a plain bf16 matrix product on an H200 (docs/performance.md)


@dataclass
class CostConfig:
    """Count what bases cost."""

    render: bool = False
    """put the tables into docs/performance.md"""


class Denoiser(nn.Module):
    """The step of training behind the caches: prediction of the denoiser and its square."""

    def __init__(self, backbone: Any):
        super().__init__()
        self.backbone, self.network = backbone, backbone.parts["unet"]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        conditioning = {name: value for name, value in batch.items() if name not in ("x_t", "t")}
        predicted = self.backbone.denoise(batch["x_t"], batch["t"], Conditioning.of(conditioning))
        return predicted.float().square().mean(dim=(1, 2, 3))


def main(config: CostConfig) -> int:
    """Count, print and on request render."""
    counts: dict[str, Any] = read_json(RESULTS) if RESULTS.is_file() else {}
    for name in NAMES:
        if name not in counts:
            counts[name] = count(name)
            write_json(RESULTS, counts)
            print(f"{NAMES[name]}: counted", flush=True)
    tables = render(counts)
    print(tables)
    if config.render:
        write_text(PAGE, insert(PAGE.read_text(encoding="utf-8"), tables, BEGIN, END))
    return 0


def count(name: Name) -> dict[str, Any]:
    """Parameters by part, and GFLOP at batch 1."""
    with torch.device("meta"):
        backbone = random_weights(name)
    parts: dict[str, Any] = backbone.parts
    text = [part for at, part in parts.items() if at.startswith("text")]
    found: dict[str, Any] = {
        "denoiser": size(parts["unet"]),
        "vae": size(parts["vae"]),
        "text": [size(part) for part in text],
    }
    ids = tokens(backbone, ARCHITECTURES[name].encoded)
    with torch.no_grad(), flop_counter() as counter:
        conditioning = backbone.encode_text(ids)
        found |= {"text_gflop": counter.get_total_flops() / 1e9, "tokens": conditioning.hidden.shape[1]}
        backbone.codec.encode(torch.empty(1, 1, SIDES[0], SIDES[0], device="meta"))
        vae = counter.get_total_flops() / 1e9 - found["text_gflop"]
    sides = {str(side): at_side(backbone, conditioning, side) for side in SIDES}
    layers, adapter = with_lora(parts["unet"])
    lora = step_flops(backbone, batch_of(backbone, conditioning, SIDES[0]))
    return found | {"vae_gflop": vae, "lora_layers": layers, "lora": adapter, "lora_gflop": lora, "at": sides}


def tokens(backbone: Any, encoded: int | None) -> dict[str, Tensor]:
    """The arrays of a text on the meta device, as long as the published tokenizer makes it."""
    arrays, _ = backbone.tokenize(["one"])
    length = next(array.shape[1] for key, array in arrays.items() if key == "input_ids")
    cut = {key: array[:, :encoded] if array.shape[1] == length else array for key, array in arrays.items()}
    return {key: torch.from_numpy(array).to("meta") for key, array in cut.items()}


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def batch_of(backbone: Any, conditioning: Conditioning, side: int) -> dict[str, Tensor]:
    """One image at a time of the process, without values."""
    latent = torch.empty(1, *backbone.codec.latent_shape(side), device="meta")
    return conditioning.tensors() | {"x_t": latent, "t": torch.empty(1, device="meta")}


def at_side(backbone: Any, conditioning: Conditioning, side: int) -> dict[str, float]:
    """GFLOP of the denoiser forward, and with backward of all weights."""
    batch = batch_of(backbone, conditioning, side)
    with torch.no_grad(), flop_counter() as counter:
        Denoiser(backbone)(batch)
    forward = counter.get_total_flops() / 1e9
    backbone.parts["unet"].requires_grad_(True)
    both = step_flops(backbone, batch)
    backbone.parts["unet"].requires_grad_(False)
    return {"forward": forward, "full": both}


def step_flops(backbone: Any, batch: dict[str, Tensor]) -> float:
    return training_flops(Denoiser(backbone), batch) / 1e9


def with_lora(network: nn.Module) -> tuple[int, int]:
    """Adapted layers and trained parameters, after LoRA was put into a network."""
    with torch.device("meta"):
        apply_method(find_method("lora"), network, TrainConfig(tune="unet", method="lora", lora_rank=RANK))
    trained = [(name, p.numel()) for name, p in network.named_parameters() if p.requires_grad]
    return len({name.partition(".lora_")[0] for name, _ in trained}), sum(n for _, n in trained)


def render(counts: dict[str, Any]) -> str:
    """Both tables."""
    compute = [
        "| base | denoiser, M | 512 px: forward / + backward / LoRA | 1024 px: forward / + backward "
        "| VAE, M; encoding 512 px | text, M; a caption (tokens) |",
        "|-|-:|-:|-:|-:|-:|",
    ]
    memory = [
        "| base | full with average, GB | full | LoRA | LoRA: layers; parameters, M | 512 px, full: at most images/s |",
        "|-|-:|-:|-:|-:|-:|",
    ]
    for name, label in NAMES.items():
        each = counts[name]
        small, large = (" / ".join(f"{gflop:,.0f}" for gflop in each["at"][str(side)].values()) for side in SIDES)
        text = " + ".join(f"{n / 1e6:,.1f}" for n in each["text"])
        compute.append(
            f"| {label} | {each['denoiser'] / 1e6:,.1f} | {small} / {each['lora_gflop']:,.0f} | {large} "
            f"| {each['vae'] / 1e6:.1f}; {each['vae_gflop']:,.0f} "
            f"| {text}; {each['text_gflop']:,.0f} ({each['tokens']}) |"
        )
        n, adapter = each["denoiser"], each["lora"]
        full = [f"{n * bytes_ / 1e9:.1f}" for bytes_ in (AVERAGED, FULL)]
        rate = PEAK / (each["at"][str(SIDES[0])]["full"] * 1e9)
        memory.append(
            f"| {label} | {full[0]} | {full[1]} | {(n * FROZEN + adapter * ADAPTER) / 1e9:.1f} | "
            f"{each['lora_layers']}; {adapter / 1e6:.1f} | {rate:,.0f} |"
        )
    return "\n".join(compute) + "\n\n" + "\n".join(memory)


if __name__ == "__main__":
    run(main)
