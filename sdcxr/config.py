"""Settings of training, named as in diffusers' train_text_to_image.py where the meaning is the same."""

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from sdcxr.runtime.errors import UserError
from sdcxr.text.templates import as_list, as_recorded, check_dropout, check_templates

PARTS = ("unet", "text", "token", "vae", "classifier", "segmenter", "clip")
EXCLUSIVE = {"token", "vae", "classifier", "segmenter", "clip"}  # parts that train by themselves
NO_BASE = {"classifier", "segmenter", "clip"}  # tasks without a text-to-image base

# Settings that only some parts of --tune use; given with others they are refused. All else is for every task.
USED_BY: dict[str, str] = {
    "unet, text, classifier or segmenter": "method lora_rank lora_alpha lora_dropout lora_targets",
    "unet or text": "lora_format caption_dropout prompt_template field_dropout class_data_dir num_class_images "
    "prior_preservation_weight",
    "unet, text or token": "snr_gamma prediction_type rescale_betas_zero_snr noise_offset cache_latents latents_dir "
    "cache_in_memory channels_last text_encoder text_projection text_length text_skip_layers text_attention_mask "
    "trust_remote_code",
    "unet": "random_unet",
    "token": "placeholder_token initializer_token num_vectors token_caption",
    "text or clip": "text_encoder_lr",
    "vae": "vae_part vae_lr kl_weight lpips_weight lpips_alexnet",
    "classifier or segmenter": "random_weights architecture adapter_width",
    "classifier": "labels findings class_column new_head prompt_tokens synthetic synthetic_ratio real_repeat "
    "load_best_model_at_end",
    "segmenter": "structures",
    "unet, text, token, vae or classifier": "gradient_checkpointing",
    "unet, text, token or vae": "preview_images",
    "unet, text, token, vae, classifier or segmenter": "validation_loss_images",
}

# fmt: off
POSITIVE = (
    "max_train_steps", "num_train_epochs", "max_train_samples", "resolution", "learning_rate", "text_encoder_lr",
    "vae_lr", "max_grad_norm", "snr_gamma", "text_length", "num_vectors", "num_class_images", "lora_rank", "lora_alpha",
    "prior_preservation_weight", "checkpoints_total_limit", "adapter_width", "prompt_tokens", "data_fraction",
    "lr_search_steps", "synthetic_ratio",
)
NOT_NEGATIVE = (
    "lr_warmup_steps", "real_repeat", "validation_steps", "validation_loss_images", "preview_images", "noise_offset",
    "dataloader_num_workers", "seed", "text_skip_layers",
)
# fmt: on

# RoentGen's learning rate and its middle length; a warm-up and an average for runs of that length.
PUBLISHED = {"learning_rate": 5e-5, "max_train_steps": 12500, "lr_warmup_steps": 500, "ema_decay": 0.9999}
# Of diffusers' example of textual inversion: 5e-4 for each of 4 images per step.
TEXTUAL_INVERSION = PUBLISHED | {"learning_rate": 2e-3, "max_train_steps": 3000, "lr_warmup_steps": 0}


@dataclass
class TrainConfig:
    """Fine-tuning settings."""

    DEPRECATED: ClassVar[dict[str, str]] = {
        "num_validation_samples": "validation_loss_images",
        "num_validation_images": "preview_images",
    }

    tune: str = "unet+text"
    """What to train: `unet`, `text`, or both joined by `+`; or alone `token` (textual inversion: embeddings of new
    words), `vae`, `classifier`, `segmenter` or `clip` (image and text towers for the evaluation)."""
    base: str | None = None
    """Stable Diffusion 1 to 3.5, XL, PixArt-Σ, Sana or FLUX.2-klein (docs/bases.md): a hub name, a pipeline folder or a
    run folder; of classifier and segmenter see docs/classifiers.md, of `clip` a name of timm. Default: the embedded
    tiny model; a small network, random weights."""
    random_weights: bool = False
    """With `--tune classifier` or `segmenter`: begin with random weights; --base only names the network."""
    architecture: str | None = None
    """With `--tune classifier` or `segmenter`: timm's name of the network of a safetensors file; of volumes see
    docs/segmentation.md."""
    new_head: bool = False
    """With `--tune classifier` and a run as --base: a new last layer, for other labels."""
    method: str = "full"
    """How to tune a part: one name for all, or `unet=svdiff,text=bias` (docs/tuning.md, docs/classifiers.md)."""
    adapter_width: int = 64
    """With `--method adaptformer`: width of the bottleneck."""
    prompt_tokens: int = 10
    """With `--method vpt-shallow` and `vpt-deep`: tokens, of vpt-deep before each block."""
    lora_rank: int | None = None
    """Rank of LoRA and its relatives, or largest side of a rotation. Default: 4; hra 8, boft 10; classifiers 16."""
    lora_alpha: float | None = None
    """What LoRA adds is scaled by this over the rank. Default: the rank."""
    lora_dropout: float = 0.0
    """Dropout of the input of LoRA's layers while training."""
    lora_targets: str | None = None
    """Layers to adapt: ends of their names, separated by commas (to_q,to_v), or a regular expression of whole names.
    Default: the projections of the attention."""
    lora_format: Literal["diffusers", "kohya"] = "diffusers"
    """Names in adapter/pytorch_lora_weights.safetensors: those of diffusers, or of kohya's scripts for web UIs."""
    data: str | None = None
    """Dataset folder made by data_prep. Default: the embedded phantoms."""
    output_dir: str | None = None
    """Run folder; the same command again resumes. Default: runs/<tune>."""
    resolution: int | None = None
    """Side of the training images in pixels. Default: the base's own."""
    continue_from: str | None = None
    """Run folder (or one of its checkpoints) from which this run, in a folder of its own, goes on under other settings:
    weights, average, optimizer, and the count of steps. Base and data are RUN's where none are named; `--config
    RUN/config.yaml` takes over the other settings."""

    class_data_dir: str | None = None
    """Prior preservation for few images (DreamBooth): images of the base's own, written by generate.py, to which it is
    held."""
    num_class_images: int | None = None
    """How many of them to use. Default: all."""
    prior_preservation_weight: float = 1.0
    """Weight of their loss; each image of a step comes with one of them."""

    text_encoder: str | None = None
    """Text encoder in place of the base's, with its tokenizer: a Hugging Face encoder (BERT, RoBERTa, T5, CLIP) or an
    open_clip model; a hub name, a folder, or a pipeline or run folder."""
    text_projection: Literal["linear", "mlp"] | None = None
    """From a --text_encoder of another width to the UNet's cross-attention. `linear` is folded into its keys and values
    when the pipeline is saved; one with `mlp` needs a few lines to load (docs/training.md)."""
    text_length: int | None = None
    """Tokens of a caption. Default: as many as the base takes, 77 in Stable Diffusion. CLIP takes more in windows of 77
    (154, 231, …); such a pipeline needs a few lines in plain diffusers (docs/training.md)."""
    text_skip_layers: int = 0
    """Layers to leave out at the end of the text encoder, counted as --clip_skip; the saved one does not have them."""
    text_attention_mask: bool | None = None
    """Hide padding from the text encoder. Default: not from CLIP, from other encoders yes."""
    trust_remote_code: bool = False
    """Run the code in the repository or folder of --text_encoder."""
    random_unet: bool = False
    """Begin with a UNet of random weights, of the width of the text encoder."""
    placeholder_token: str | None = None
    """With `--tune token`: the new words, such as "<lung-xray>", separated by commas."""
    initializer_token: str | None = None
    """With `--tune token`: a known word for all new ones, or one for each, with commas. The new embeddings begin
    as its own, or as the mean of its tokens'."""
    num_vectors: int = 1
    """With `--tune token`: embeddings per new word."""
    token_caption: str | None = None
    """With `--tune token`: the caption of all images, such as "a photo of a <lung-xray>"; {text} stands for that of the
    dataset. Default: the captions of the dataset, which then hold the new words."""

    vae_part: Literal["decoder", "all"] = "decoder"
    """With `--tune vae`: a trained encoder would outdate cached latents and the UNet, hence the decoder alone."""
    kl_weight: float = 1e-6
    """With `--vae_part all`: weight of the Kullback-Leibler term."""
    lpips_weight: float = 0.0
    """With `--tune vae`: weight of LPIPS (AlexNet); needs `pip install lpips` and --lpips_alexnet."""
    lpips_alexnet: str | None = None
    """File with torchvision's AlexNet weights (alexnet-owt-7be5be79.pth), for LPIPS; nothing is downloaded."""
    labels: str | None = None
    """With `--tune classifier`: CSV with a dicom_id column and 0/1 columns. Default: the dataset's labels."""
    findings: str | None = None
    """With `--tune classifier`: labels to learn, separated by commas. Default: all that images have and lack."""
    class_column: str | None = None
    """With `--tune classifier`: column of --labels or metadata.csv with the class of each image, in place of labels."""
    structures: str | None = None
    """With `--tune segmenter`: structures to draw, separated by commas. Default: all of which the dataset has masks."""

    train_batch_size: int = 16
    """Images per process and micro-step."""
    gradient_accumulation_steps: int = 1
    """Micro-steps per optimizer step."""
    total_train_batch_size: int | None = None
    """Images per optimizer step over all processes; --gradient_accumulation_steps follows from it."""
    max_train_steps: int | None = None
    """Optimizer steps. Default: 12500, with `--tune token` 3000, or what the embedded model needs."""
    num_train_epochs: float | None = None
    """Passes over the data; instead of --max_train_steps."""
    max_train_samples: int | None = None
    """Train on this many images, drawn by patient by the seed; more of them hold fewer."""
    data_fraction: float = 1.0
    """Train on this share of the images, drawn by patient by the seed; a larger share holds a smaller one."""
    synthetic: str | None = None
    """With `--tune classifier`: samples folder of generate.py, of prompts of the training split; its images train too,
    with the labels of their prompts. Those of --data alone validate (docs/classifiers.md)."""
    synthetic_ratio: float = 1.0
    """Synthetic images for each real one, drawn once for all seeds."""
    real_repeat: float = 1.0
    """How often an epoch has each real image; 0 with --synthetic: the synthetic ones alone train."""
    caption_dropout: float = 0.1
    """Share of captions replaced by the empty one, which classifier-free guidance needs."""
    prompt_template: list[str] | str = ""
    """Caption with fields in braces, such as "[{view} view. ]{text}", written anew whenever an image is seen; one of
    several is drawn. Fields: the columns of metadata.csv, findings, finding, word, demographics. Default: {text}."""
    field_dropout: float = 0.0
    """Probability that a field of the template that stands in brackets is left out, drawn anew each time."""
    seed: int = 0
    """Order, noise, timesteps and dropout are functions of this and of the number of images seen."""

    learning_rate: float | None = None
    """Default: 5e-5 (RoentGen), with `--tune token` 2e-3, or what the tiny embedded base needs; for methods other than
    `full` a multiple of it (docs/tuning.md)."""
    text_encoder_lr: float | None = None
    """Learning rate of the text encoder. Default: --learning_rate, or what its own method takes."""
    vae_lr: float | None = None
    """Learning rate of the VAE. Default: --learning_rate."""
    lr_search: int | None = None
    """Choose the learning rate by this many trials, within a factor of 10 of it, on the validation split, then train
    with the best (docs/training.md); needs `pip install sdcxr[search]`."""
    lr_search_steps: int | None = None
    """Optimizer steps of a trial of --lr_search. Default: those of the run."""
    lr_scheduler: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    lr_warmup_steps: int | None = None
    """Optimizer steps of linear warm-up. Default: 500, with `--tune token` 0, or what the embedded model needs."""
    adam_beta1: float = 0.9
    """AdamW's first decay."""
    adam_beta2: float = 0.999
    """AdamW's second decay."""
    adam_weight_decay: float = 1e-2
    """AdamW's weight decay."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    use_8bit_adam: bool = False
    """AdamW with 8-bit states, for memory; needs `pip install bitsandbytes`."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    snr_gamma: float | None = None
    """Min-SNR-γ loss weights (5 in the paper). Default: plain mean squared error."""
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """What the UNet predicts. Default: as the base does."""
    rescale_betas_zero_snr: bool = False
    """Noise schedule without any signal at its end (Lin et al., arXiv 2305.08891); needs v-prediction."""
    noise_offset: float = 0.0
    """Scale of noise that is the same at all positions of a latent channel (0.05 to 0.1 where it is used)."""
    use_ema: bool = True
    """Keep an exponential moving average of the weights, and save that as the pipeline."""
    ema_decay: float | None = None
    """Decay of the average per optimizer step, ramped up as (1 + step) / (10 + step). Default: 0.9999, or what the
    embedded model needs."""

    mixed_precision: Literal["no", "bf16", "fp16", "auto"] | None = None
    """Autocast of the forward pass over fp32 weights; `auto` is bf16 where the device computes in it, else none.
    Default: what `accelerate launch` says."""
    gradient_checkpointing: bool = False
    """Trade a quarter more time for memory."""
    torch_compile: bool | None = None
    """Compile the task. Default: on CUDA."""
    cuda_graphs: bool = False
    """With --torch_compile: replay recorded CUDA graphs, for small batches."""
    channels_last: bool | None = None
    """Memory layout of the convolutions. Default: on CUDA."""
    fused_optimizer: bool = True
    """AdamW in one kernel."""
    deterministic: bool = False
    """Only kernels whose results repeat bit by bit, on CUDA too, where it costs speed. CPUs do with the same number of
    threads, which this keeps also while other processes need the cores."""
    cache_latents: bool = True
    """Encode every image once and keep mean and deviation of its latents; off: encode in every step."""
    latents_dir: str | None = None
    """Folder of the cached latents. Default: .latents in the dataset folder."""
    cache_in_memory: bool = False
    """Hold the cached latents on the training device: 64 KiB an image at 512 px."""
    dataloader_num_workers: int | None = None
    """Processes that read data, per training process. Default: 4 on CUDA, else none."""

    logging_steps: int = 10
    """Optimizer steps per row of log.jsonl."""
    checkpointing_steps: int = 500
    """Optimizer steps between checkpoints."""
    checkpoints_total_limit: int = 2
    """Checkpoints kept."""
    validation_steps: int = 500
    """Optimizer steps between validations (loss and pictures); 0 for none."""
    load_best_model_at_end: bool = False
    """With `--tune classifier`: the result is the checkpoint with the highest mean AUROC on the validation split."""
    validation_loss_images: int | None = None
    """Images for the validation loss, always with the same noise; 0: none. Default: 64, classifier, segmenter: all."""
    preview_images: int = 8
    """Images in a validation picture, from the first captions of the validation split; 0 for none."""
    report_to: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Tracker of losses and speeds. Report text is never sent."""

    def __post_init__(self) -> None:
        parts = self.tune.split("+")
        unknown = [part for part in parts if part not in PARTS]
        if unknown or len(set(parts)) < len(parts):
            raise UserError(f"--tune {self.tune}: use unet, text, unet+text, token, vae, classifier, segmenter or clip")
        if len(parts) > 1 and EXCLUSIVE & set(parts):
            raise UserError(f"--tune {self.tune}: token, vae, classifier, segmenter and clip train alone")
        self._refuse_settings_of_other_tasks()
        for name in ("data", "output_dir", "latents_dir", "continue_from", "class_data_dir", "synthetic"):
            if getattr(self, name) is not None:
                setattr(self, name, str(Path(getattr(self, name)).expanduser()))
        counts = ("train_batch_size", "gradient_accumulation_steps", "logging_steps", "checkpointing_steps")
        for name, minimum in (dict.fromkeys(counts, 1) | dict.fromkeys(NOT_NEGATIVE, 0)).items():
            at_least(self, name, minimum)
        for name in POSITIVE:
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise UserError(f"--{name} {getattr(self, name)}: must be positive")
        self._check_text_settings()
        at_least(self, "lr_search", 2)
        if self.lr_search_steps is not None and self.lr_search is None:
            raise UserError("--lr_search_steps: is for --lr_search")
        if self.cache_in_memory and not self.cache_latents:
            raise UserError("--cache_in_memory holds cached latents: it needs --cache_latents")
        if self.cuda_graphs and self.torch_compile is False:
            raise UserError("--cuda_graphs needs --torch_compile")
        if self.seed >= 1 << 64:
            raise UserError(f"--seed {self.seed}: must be below 2^64")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise UserError(f"--ema_decay {self.ema_decay}: must be at least 0 and below 1")
        if not 0 <= self.caption_dropout <= 1:
            raise UserError(f"--caption_dropout {self.caption_dropout}: must lie between 0 and 1")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"--lora_dropout {self.lora_dropout}: must be at least 0 and below 1")
        self._check_classifier_settings()
        if self.max_train_steps is not None and self.num_train_epochs is not None:
            raise UserError("--max_train_steps and --num_train_epochs: give one of the two")

    def _check_text_settings(self) -> None:
        self.prompt_template = as_recorded(self.prompt_template)
        check_templates(self.templates)
        check_dropout(self.field_dropout, self.templates)
        for name in ("text_projection", "trust_remote_code"):
            if getattr(self, name) and self.text_encoder is None:
                raise UserError(f"--{name}: is for a --text_encoder, and none is given")
        if self.class_data_dir is None and (self.num_class_images or self.prior_preservation_weight != 1.0):
            raise UserError("--num_class_images and --prior_preservation_weight: are for --class_data_dir")
        if self.random_unet and self.text_projection:
            raise UserError("--random_unet takes the width of the text encoder: leave --text_projection out")
        words = ((each or "").strip(" ,") for each in (self.placeholder_token, self.initializer_token))
        if self.parts == {"token"} and not all(words):
            raise UserError("--tune token needs --placeholder_token and --initializer_token")

    def _check_classifier_settings(self) -> None:
        if self.synthetic is None and (self.synthetic_ratio != 1 or self.real_repeat == 0):
            raise UserError("--synthetic_ratio and --real_repeat 0: are for --synthetic, and none is given")
        if self.findings and self.class_column:
            raise UserError("--findings names labels: with --class_column there are classes instead")
        often = self.validation_steps and self.validation_steps % self.checkpointing_steps == 0
        if self.load_best_model_at_end and not often:
            raise UserError(
                f"--load_best_model_at_end: --validation_steps {self.validation_steps} must be a multiple of "
                f"--checkpointing_steps {self.checkpointing_steps}, so that each validation has a checkpoint"
            )

    def _refuse_settings_of_other_tasks(self) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, parts in self.unused.items():
            if getattr(self, name) != defaults[name]:
                raise UserError(f"--{name} is for --tune {parts}, not for {self.tune}: leave it out")

    @property
    def unused(self) -> dict[str, str]:
        """The settings that this task does not use, each with the parts that do."""
        others = {parts: names for parts, names in USED_BY.items() if self.parts.isdisjoint(re.findall(r"\w+", parts))}
        return {name: parts for parts, names in others.items() for name in names.split()}

    @property
    def published(self) -> dict[str, Any]:
        """Defaults of settings that are left open, for full fine-tuning."""
        return TEXTUAL_INVERSION if self.parts == {"token"} else PUBLISHED

    def filled(self, defaults: dict[str, Any] | None = None) -> "TrainConfig":
        """These settings with the open ones taken from `defaults`, or else those published."""
        values = {name: value for name, value in (defaults or self.published).items() if getattr(self, name) is None}
        if self.num_train_epochs is not None:
            values.pop("max_train_steps", None)
        return dataclasses.replace(self, **values)

    @property
    def adapts_base(self) -> bool:
        """Whether parts of the base are exchanged or changed before anything trains."""
        changed = (self.text_encoder, self.text_length, self.text_attention_mask, self.placeholder_token)
        return self.random_unet or self.text_skip_layers > 0 or any(value is not None for value in changed)

    @property
    def templates(self) -> list[str]:
        """The templates of the captions; none: the texts themselves."""
        return as_list(self.prompt_template)

    @property
    def structure_names(self) -> list[str] | None:
        """The structures that were chosen; None: all that there are."""
        return None if self.structures is None else [name.strip() for name in self.structures.split(",")]

    @property
    def parts(self) -> frozenset[str]:
        """The parts that train."""
        return frozenset(self.tune.split("+"))


def at_least(config: Any, name: str, minimum: int) -> None:
    """Refuse a setting below a minimum; None is no setting.

    Raises:
        UserError: it is below.
    """
    if getattr(config, name) is not None and getattr(config, name) < minimum:
        raise UserError(f"--{name} {getattr(config, name)}: must be at least {minimum}")
