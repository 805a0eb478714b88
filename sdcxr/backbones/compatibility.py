"""Whether the parts of a Stable Diffusion folder fit each other and the pipeline; a misfit is one line at loading."""

from typing import Any

from sdcxr.backbones.encoder_classes import clip_positions, text_positions
from sdcxr.runtime.errors import UserError

# What a UNet with more input channels than its VAE has latent channels is made for.
OTHER_UNETS = {
    5: "it takes a depth map",
    7: "an upscaler",
    8: "it edits an image by an instruction (InstructPix2Pix)",
    9: "an inpainting model",
}
MOST_WINDOWS = 10  # of a CLIP; more is the mistake of a tokenizer_config.json
MOST_UNUSED = 0.25  # of the rows of an embedding; tables are padded by a few hundred at most


def misfit(unet: Any, vae: Any, scheduler: Any) -> str | None:
    """What does not fit between UNet, VAE and scheduler, by their configurations; None where all does.

    Args:
        unet: configuration of a UNet2DConditionModel.
        vae: of an AutoencoderKL.
        scheduler: of the inference scheduler.
    """
    latent = vae.latent_channels
    if (vae.in_channels, vae.out_channels) != (3, 3):
        return f"its VAE takes {vae.in_channels} channels and gives {vae.out_channels}: images have 3"
    if unet.in_channels != latent:
        kind = OTHER_UNETS.get(unet.in_channels) if latent == 4 else None
        of = f" ({kind}: give the text-to-image model)" if kind else ": parts of different models"
        return f"its UNet takes {unet.in_channels} channels, its VAE gives {latent}{of}"
    if unet.out_channels != latent:
        return f"its UNet predicts {unet.out_channels} channels of {latent}: a learned variance is not supported"
    if shift := getattr(vae, "shift_factor", None):
        return f"its VAE has a shift_factor ({shift}), which StableDiffusionPipeline ignores: parts of different models"
    for name in ("addition_embed_type", "class_embed_type", "num_class_embeds"):
        if needed := getattr(unet, name, None):
            return f"its UNet takes more than a text ({name} {needed}): it is not Stable Diffusion 1 or 2"
    if getattr(unet, "time_cond_proj_dim", None):
        return "its UNet takes the guidance scale as an input (a distilled model): give the one it was distilled from"
    if "beta_schedule" not in scheduler or scheduler.get("use_flow_sigmas"):
        return f"its {scheduler.get('_class_name', 'scheduler')} has no noise schedule of a diffusion model"
    if scheduler.get("rescale_betas_zero_snr") and scheduler.get("prediction_type") == "epsilon":
        return "its scheduler has rescale_betas_zero_snr, where noise cannot be predicted (prediction_type epsilon)"
    return None


def fit_tokenizer(tokenizer: Any, text_encoder: Any, usual: int | None = None) -> None:
    """Limit the tokenizer's length to the text encoder's positions.

    Args:
        tokenizer: of the text encoder.
        text_encoder: of transformers.
        usual: the length where neither knows one.

    Raises:
        UserError: neither is known, the vocabulary is another one, or nothing pads.
    """
    positions = text_positions(text_encoder) or usual
    if tokenizer.model_max_length > 1e6 and positions is None:  # transformers' number for an unknown length
        raise UserError("its tokenizer_config.json has no model_max_length: add the longest text in tokens")
    if not fills_windows(tokenizer.model_max_length, text_encoder):
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    rows, words = len(text_encoder.get_input_embeddings().weight), max(tokenizer.get_vocab().values()) + 1
    if words > rows:
        raise UserError(
            f"its tokenizer has {words} words, its text encoder {rows}: where words were added, "
            f"text_encoder.resize_token_embeddings({words}), training and saving belong to it"
        )
    if words < (1 - MOST_UNUSED) * rows:
        raise UserError(f"its tokenizer has {words} words, its text encoder {rows}: parts of different models")
    if tokenizer.pad_token_id is None:
        raise UserError(
            "its tokenizer has no pad_token: add one to tokenizer_config.json (Stable Diffusion 1: the end)"
        )


def set_length(tokenizer: Any, text_encoder: Any, given: int | None, usual: int) -> None:
    """Set how many tokens a text has: `given`, or `usual` where that is None and the encoder takes so many.

    Raises:
        UserError: the encoder does not take `given`; see `fit_tokenizer`.
    """
    fit_tokenizer(tokenizer, text_encoder, given or usual)
    if given is not None and given <= (own := tokenizer.num_special_tokens_to_add()):
        raise UserError(
            f"--text_length {given}: the tokenizer puts {own} tokens around a text: give at least {own + 1}"
        )
    if given is not None and text_positions(text_encoder) is None:
        tokenizer.model_max_length = given  # T5's relative positions take any length, whatever its tokenizer says
        return
    window = clip_positions(text_encoder)
    most = tokenizer.model_max_length if window is None else min(tokenizer.model_max_length, window)
    if given is not None and given > most and not fills_windows(given, text_encoder):
        windows = f", or a multiple of it, such as {3 * window}" if window else ""
        raise UserError(f"--text_length {given}: this text encoder with its tokenizer takes at most {most}{windows}")
    wanted = given or usual
    tokenizer.model_max_length = wanted if fills_windows(wanted, text_encoder) else min(most, wanted)


def fills_windows(length: int, text_encoder: Any) -> bool:
    """Whether a length in tokens is that of several whole windows of a CLIP (see `TextEncoder`)."""
    window = clip_positions(text_encoder)
    return window is not None and window < length <= MOST_WINDOWS * window and length % window == 0


def attended_widths(unet: Any) -> set[int]:
    """Widths of the token states that a UNet of this configuration takes; one, where its blocks do not differ."""
    width = getattr(unet, "encoder_hid_dim", None) or unet.cross_attention_dim
    return {width} if isinstance(width, int) else set(width)


def check_states(states: Any, tokens: int, unet: Any) -> None:
    """Refuse a text encoder whose output, shape (1, tokens, width), is not what the UNet attends to.

    Raises:
        UserError: another shape.
    """
    widths = attended_widths(unet)
    if states.ndim != 3 or states.shape[1] != tokens:
        raise UserError(
            f"its text encoder gives no state per token (shape {tuple(states.shape)}), as a CLIPTextModel does"
        )
    if widths != {states.shape[2]}:
        wanted = ", ".join(map(str, sorted(widths)))
        raise UserError(
            f"its UNet attends to states {wanted} wide (cross_attention_dim), those of its text encoder are "
            f"{states.shape[2]} wide: parts of different models"
        )
