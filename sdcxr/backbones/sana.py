"""Sana (Xie et al. 2024, arXiv 2410.10629): linear transformer, 32-fold autoencoder, Gemma 2 with an instruction."""

import inspect
from functools import cache
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from sdcxr.backbones.base import Conditioning, Defaults
from sdcxr.backbones.family import Family
from sdcxr.backbones.latent_codec import DCCodec
from sdcxr.backbones.text_encoders import is_cut
from sdcxr.config import TrainConfig
from sdcxr.noise.rectified_flow import RectifiedFlow, refuse_settings_of_diffusion
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.processes import without_autocast

LENGTH = 300  # tokens of a caption that the transformer sees: the first, and the last 299 behind the instruction


class Sana(Family):
    """See `base.Backbone`. Texts are lower-cased, and follow the instruction that the plain pipeline gives Gemma."""

    pipeline_class: ClassVar[str] = "SanaPipeline"
    networks: ClassVar[dict[str, str]] = {
        "unet": "SanaTransformer2DModel",
        "text": "Gemma2Model",
        "vae": "AutoencoderDC",
    }
    defaults: ClassVar[Defaults] = Defaults("dpm++", 20, 4.5)
    call_options: ClassVar[dict[str, Any]] = {"use_resolution_binning": False, "negative_prompt": None}

    def __init__(self, parts: dict[str, Any], tokenizers: dict[str, Any], scheduler: Any):
        super().__init__(parts, tokenizers, scheduler)
        for block in self.denoiser.transformer_blocks:
            block.attn1.set_processor(LinearAttention())

    @staticmethod
    def build_codec(vae: Any) -> Any:
        return DCCodec(vae)

    def noise_process(self, config: TrainConfig) -> RectifiedFlow:
        refuse_settings_of_diffusion(config)
        return self.inference_process()

    def inference_process(self) -> RectifiedFlow:
        """Logit-normal times, then the shift of the scheduler, as in NVlabs' training code."""
        schedule = self.scheduler.config
        shift = schedule.get("flow_shift") if schedule.get("use_flow_sigmas") else schedule.get("shift")
        if shift is None:
            raise UserError(f"its {type(self.scheduler).__name__} has no shift of a rectified flow")
        return RectifiedFlow(shift=float(shift), time_scale=1000.0 * self.denoiser.config.timestep_scale)

    def tokenize(self, texts: list[str]) -> tuple[dict[str, np.ndarray], int]:
        return self._tokenize(texts, instruction())

    def tokenize_null(self) -> dict[str, np.ndarray]:
        arrays, _ = self._tokenize([""], "")
        behind = self.tokenize([""])[0]["input_ids"].shape[1] - LENGTH
        return {"kept": arrays["kept"]} | {
            name: np.pad(arrays[name], ((0, 0), (0, behind))) for name in ("input_ids", "attention_mask")
        }

    def _tokenize(self, texts: list[str], before: str) -> tuple[dict[str, np.ndarray], int]:
        """`kept` are the places of the states that the transformer sees."""
        tokenizer = self.tokenizer_of["tokenizer"]
        tokenizer.padding_side = "right"
        written = [before + text.lower().strip() for text in texts]
        length = LENGTH + (len(tokenizer.encode(before)) - 2 if before else 0)
        rows = tokenizer(written, padding="max_length", max_length=length, truncation=True, return_tensors="np")
        kept = np.tile([0, *range(length - LENGTH + 1, length)], (len(texts), 1))
        arrays = {"kept": kept} | {name: rows[name].astype("int64") for name in ("input_ids", "attention_mask")}
        return arrays, int(is_cut(tokenizer, written, length).sum())

    def encode_text(self, tokens: dict[str, Tensor]) -> Conditioning:
        ids, mask, kept = (tokens[name] for name in ("input_ids", "attention_mask", "kept"))
        # transformers looks at the mask's values, which a count of the work on meta tensors does not have or need.
        states = self.parts["text"](ids, **({} if ids.is_meta else {"attention_mask": mask}))[0]
        return Conditioning(states.gather(1, kept[..., None].expand(-1, -1, states.shape[2])), mask.gather(1, kept))

    def unconditional(self, n: int) -> Conditioning:
        """The empty text without the instruction, as in the plain pipeline."""
        return self.encode_text(self.on_device(self._tokenize([""] * n, "")[0]))

    def denoise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        predicted: Tensor = self.denoiser(
            x_t,
            encoder_hidden_states=conditioning.hidden.to(x_t.dtype),
            timestep=t,
            encoder_attention_mask=conditioning.mask,
            return_dict=False,
        )[0]
        return predicted


@cache
def instruction() -> str:
    """The complex human instruction: what the plain pipeline puts before a prompt."""
    from diffusers import SanaPipeline

    return "\n".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)


class LinearAttention:
    """diffusers' `SanaLinearAttnProcessor2_0` with its sums in float32 also under autocast, which undoes its casts."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        with without_autocast(hidden_states.device):
            # (batch, heads, width, places); keys (batch, heads, places, width)
            query, key, value = (
                each.transpose(1, 2).unflatten(1, (attn.heads, -1)).float() for each in (query, key, value)
            )
            value = nn.functional.pad(value, (0, 0, 0, 1), value=1.0)  # the row of ones sums the weights
            summed = (value @ key.relu().transpose(2, 3)) @ query.relu()
            mixed = summed[:, :, :-1] / (summed[:, :, -1:] + 1e-15)
        mixed = mixed.flatten(1, 2).transpose(1, 2).to(hidden_states.dtype)
        out: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return out
