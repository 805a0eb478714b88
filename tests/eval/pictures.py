"""A picture as a radiograph is, and what an extractor makes of pictures."""

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


def features(extractor: extractors.Extractor, *images: Image.Image) -> np.ndarray:
    with torch.inference_mode():
        batch = torch.from_numpy(np.stack([extractor.prepare(image) for image in images]))
        return extractor.load(CPU)(batch).numpy()
