"""A toy family of text-to-image models, to copy when a backbone is added: rectified flow, no Stable Diffusion inside.

A linear "VAE" of patches without variance, a bag-of-letters text encoder whose outputs are cached, two convolutions.
"""

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdcxr.backbones.base import Conditioning, Defaults
from sdcxr.noise.rectified_flow import RectifiedFlow
from sdcxr.runtime.errors import UserError

TOKENS, WIDTH, PATCH = 12, 8, 4


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pack = nn.Conv2d(1, 4, PATCH, PATCH)
        self.unpack = nn.ConvTranspose2d(4, 3, PATCH, PATCH)

    def decode(self, latents: Tensor) -> Tensor:
        return self.unpack(latents)


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(4, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 4, 3, padding=1)
        self.time = nn.Linear(1, WIDTH)

    def forward(self, x: Tensor, t: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        text = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        added = text + self.time(t[:, None].float() / 1000)
        return self.after(torch.tanh(self.before(x) + added[..., None, None]))


class Codec:
    factor = PATCH

    def __init__(self, vae: Vae):
        self.vae = vae
        self.decode = lambda latents: vae.decode(latents / 2.0)
        self.to_model = lambda latents: 2.0 * latents

    def encode(self, pixels: Tensor) -> tuple[Tensor, None]:
        return self.vae.pack(pixels), None

    def posterior_shape(self, resolution: int) -> tuple[int, int, int]:
        return 4, resolution // PATCH, resolution // PATCH

    latent_shape = posterior_shape

    def fingerprint(self) -> str:
        return hashlib.sha256(self.vae.pack.weight.detach().cpu().float().numpy().tobytes()).hexdigest()


class ToyBackbone:
    """See sdcxr.backbones.base.Backbone."""

    pipeline_class: ClassVar[str] = "ToyPipeline"
    components: ClassVar[dict[str, str]] = {"unet": "transformer", "text": "text_encoder", "vae": "vae"}
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    tunable_text: ClassVar[tuple[str, ...]] = ("text",)
    one_text_encoder: ClassVar[bool] = False
    defaults: ClassVar[Defaults] = Defaults("euler", 20, 3.0)
    caches_text: ClassVar[bool] = True
    resolution, multiple = 32, PATCH

    def __init__(self, unet: Denoiser, text: nn.Embedding, vae: Vae):
        self.parts: dict[str, Any] = {"unet": unet, "text": text, "vae": vae}
        self.codec = Codec(vae)
        self.untrained: dict[str, nn.Module] = {}
        self.stored: dict[str, Path] = {}

    @classmethod
    def load(cls, folder: Path, dtype: Any) -> "ToyBackbone":
        for name, part in (toy := cls(Denoiser(), nn.Embedding(256, WIDTH), Vae())).parts.items():
            part.to(dtype).load_state_dict(load_file(folder / cls.components[name] / "model.safetensors"))
        return toy

    def adapt(self, config: Any) -> None:
        if config.adapts_base:
            raise UserError("this base keeps its text encoder: leave --text_encoder and its settings out")

    def inference_process(self) -> RectifiedFlow:
        return RectifiedFlow(shift=3.0)

    def noise_process(self, config: Any) -> RectifiedFlow:
        if config.snr_gamma is not None:
            raise UserError("--snr_gamma is for diffusion; this base is trained by rectified flow")
        return self.inference_process()

    def tokenize(self, texts: list[str]) -> tuple[dict[str, np.ndarray], int]:
        letters = [[*text.encode()[: TOKENS - 1], 0] for text in texts]
        ids, mask = np.zeros((2, len(texts), TOKENS), dtype=np.int64)
        for i, row in enumerate(letters):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}, sum(len(text.encode()) >= TOKENS for text in texts)

    def tokenize_null(self) -> dict[str, np.ndarray]:
        return self.tokenize([""])[0]

    def encode_text(self, tokens: dict[str, Tensor]) -> Conditioning:
        return Conditioning(self.parts["text"](tokens["input_ids"]), tokens["attention_mask"])

    def unconditional(self, n: int) -> Conditioning:
        ids = {name: torch.from_numpy(row) for name, row in self.tokenize([""] * n)[0].items()}
        return self.encode_text({name: row.to(self.parts["text"].weight.device) for name, row in ids.items()})

    def text_fingerprint(self) -> dict[str, Any]:
        return {"text": hashlib.sha256(self.parts["text"].weight.detach().cpu().float().numpy().tobytes()).hexdigest()}

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self.parts["unet"](x_t, t, conditioning.hidden, conditioning.mask)

    def pipeline(self) -> Any:
        return ToyPipeline(self)

    def call_arguments(self, conditioning: Conditioning, null: Conditioning) -> dict[str, Any]:
        return {"conditioning": conditioning, "null": null}

    def shared_guidance(self, guided: bool) -> nullcontext[None]:
        return nullcontext()

    def prepare_for_bf16_on_cpu(self) -> None: ...


class ToyPipeline:
    """What diffusers' DiffusionPipeline is for a real family."""

    device = torch.device("cpu")

    def __init__(self, backbone: ToyBackbone):
        self.backbone, self.scheduler = backbone, SimpleNamespace(config={"shift": 3.0})

    def to(self, device: torch.device) -> "ToyPipeline":
        return self

    def set_progress_bar_config(self, disable: bool) -> None: ...

    def __call__(self, conditioning, null, generator, num_inference_steps, guidance_scale, height, width, **_) -> Any:
        shape = (4, height // PATCH, width // PATCH)
        x = torch.stack([torch.randn(shape, generator=one) for one in generator])
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            times = t.expand(len(x))
            plain, guided = (self.backbone.denoise(x, times, each) for each in (null, conditioning))
            x = self.scheduler.step(plain + guidance_scale * (guided - plain), t, x).prev_sample
        return SimpleNamespace(images=(self.backbone.codec.decode(x) / 2 + 0.5).clamp(0, 1))

    def save_pretrained(self, folder: Path, safe_serialization: bool = True) -> None:
        for name, component in self.backbone.components.items():
            (folder / component).mkdir(parents=True)
            save_file(self.backbone.parts[name].state_dict(), folder / component / "model.safetensors")
            (folder / component / "config.json").write_text("{}")
        for file in ("tokenizer/vocab.json", "scheduler/scheduler_config.json"):
            (folder / file).parent.mkdir()
            (folder / file).write_text("{}")
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "ToyPipeline"}))
