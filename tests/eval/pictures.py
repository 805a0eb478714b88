"""Pictures as radiographs are, and what an extractor makes of pictures."""

import numpy as np
import torch
from PIL import Image

from eval import extractors

CPU = torch.device("cpu")


def radiograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth structure with noise on it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return Image.fromarray((np.asarray(coarse, float) + rng.normal(0, 8, (height, width))).clip(0, 255).astype("uint8"))


def radiographs(n: int, seed: int, side: int = 128) -> list[Image.Image]:
    """Pictures that are much alike: one pattern for all, smooth differences, a little texture."""
    common, draws = np.random.default_rng(99).normal(size=(5, 5)), np.random.default_rng(seed)
    pictures = []
    for _ in range(n):
        smooth = 25 * common + 8 * draws.normal(size=(5, 5))
        fine = 6 * draws.normal(size=(16, 16))
        grey = sum(
            np.asarray(Image.fromarray(part.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
            for part in (smooth, fine)
        )
        pictures.append(Image.fromarray((120 + grey).clip(0, 255).astype(np.uint8)))
    return pictures


def features(extractor: extractors.Extractor, *images: Image.Image) -> np.ndarray:
    with torch.inference_mode():
        batch = torch.from_numpy(np.stack([extractor.prepare(image) for image in images]))
        return extractor.load(CPU)(batch).numpy()
