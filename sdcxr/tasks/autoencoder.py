"""The autoencoder task: the VAE's decoder, or all of it, trained to reproduce radiographs."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdcxr import backbones
from sdcxr.backbones.pipeline_files import hash_parts
from sdcxr.config import TrainConfig
from sdcxr.data.examples import ImageExamples
from sdcxr.io.pixels import grid, read_pixels, to_grey
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.processes import without_autocast
from sdcxr.tasks.base import check_resolution, training_rows, validation_rows


class AutoencoderTask(nn.Module):
    """L1 per sample, plus KL divergence when the encoder trains, plus LPIPS on request."""

    def __init__(self, config: TrainConfig):
        from diffusers import AutoencoderKL

        super().__init__()
        assert config.base is not None
        self.config = config
        self.preview_rows = validation_rows(config, config.preview_images)
        self.backbone = backbones.load(config.base)
        self.base_sha256 = hash_parts(self.backbone)
        self.notes: dict[str, Any] = {}
        self.vae: Any = self.backbone.parts["vae"]
        if not isinstance(self.vae, AutoencoderKL):
            raise UserError(f"--tune vae: the {type(self.vae).__name__} of this base is no AutoencoderKL")
        self.resolution = config.resolution or self.backbone.resolution
        check_resolution(self.resolution, self.backbone.codec.factor)
        for name, parameter in self.vae.named_parameters():
            parameter.requires_grad_(config.vae_part == "all" or name.startswith(("decoder.", "post_quant_conv.")))
        self.vae.train()
        if config.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        self.lpips = lpips_network(config.lpips_alexnet) if config.lpips_weight else None

    def groups(self) -> list[dict[str, Any]]:
        trained = [p for p in self.vae.parameters() if p.requires_grad]
        return [{"name": "vae", "params": trained, "lr": self.config.vae_lr or self.config.learning_rate}]

    def examples(self) -> ImageExamples:
        return self._examples(training_rows(self.config))

    def validation_examples(self) -> ImageExamples | None:
        rows = validation_rows(self.config, self.config.validation_loss_images)
        return None if rows is None else self._examples(rows)

    def _examples(self, rows: Any) -> ImageExamples:
        shape = self.backbone.codec.posterior_shape(self.resolution)
        return ImageExamples(rows["path"].tolist(), rows["id"].tolist(), self.resolution, shape)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        pixels = batch["pixels"].expand(-1, 3, -1, -1)
        whole = self.config.vae_part == "all"
        # A frozen encoder gives the moments that the denoiser was trained on: those of float32.
        exact = nullcontext() if whole else without_autocast(pixels.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and whole), exact:
            posterior = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(posterior.mean + posterior.std * batch["posterior_noise"]).sample.float()
        loss = (decoded - pixels).abs().mean(dim=(1, 2, 3))
        if whole:
            # Per pixel, like the L1 term, so that the weight does not depend on the resolution.
            loss = loss + self.config.kl_weight * posterior.kl() / pixels[0].numel()
        if self.lpips is not None:
            loss = loss + self.config.lpips_weight * self.lpips(decoded, pixels).flatten()
        return loss

    @property
    def n_previews(self) -> int:
        return 0 if self.preview_rows is None else len(self.preview_rows)

    @torch.no_grad()
    def preview(self, indices: list[int]) -> list[np.ndarray]:
        """Validation images, each above its reconstruction."""
        assert self.preview_rows is not None
        paths = self.preview_rows["path"].iloc[indices]
        pixels = torch.stack([read_pixels(path, self.resolution) for path in paths]).expand(-1, 3, -1, -1)
        pixels = pixels.to(self.vae.device)
        with without_autocast(pixels.device):
            decoded = self.vae.decode(self.vae.encode(pixels).latent_dist.mean).sample
        pairs = zip(to_grey(pixels).numpy(), to_grey(decoded).numpy(), strict=True)
        return [grid(pair, columns=1) for pair in pairs]

    def save(self, run: Path) -> None:
        backbones.save(self.backbone, run / "pipeline")


def lpips_network(alexnet: str | None) -> nn.Module:
    """LPIPS over AlexNet (Zhang et al. 2018, arXiv 1801.03924), frozen; the AlexNet weights come from the user's file.

    Raises:
        UserError: the package or the file is missing, or the file is no AlexNet.
    """
    try:
        import lpips
    except ImportError:
        raise UserError("--lpips_weight needs the package lpips: pip install lpips") from None
    if alexnet is None or not Path(alexnet).is_file():
        raise UserError(
            f"--lpips_alexnet {alexnet}: give the file alexnet-owt-7be5be79.pth (233 MB, torchvision's AlexNet weights)"
        )
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)  # random only until the next lines
    weights = torch.load(alexnet, weights_only=True, map_location="cpu")
    features = {
        name.removeprefix("features."): value for name, value in weights.items() if name.startswith("features.")
    }
    convolutions = {
        name: module for s in range(1, 6) for name, module in getattr(network.net, f"slice{s}").named_children()
    }
    for name, module in convolutions.items():
        if isinstance(module, nn.Conv2d):
            if f"{name}.weight" not in features or features[f"{name}.weight"].shape != module.weight.shape:
                raise UserError(f"{alexnet} holds no torchvision AlexNet weights")
            module.load_state_dict({key: features[f"{name}.{key}"] for key in ("weight", "bias")})
    return network.requires_grad_(False).eval()
