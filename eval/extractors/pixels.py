"""Grey values as features (`pixels-64`): need no weights; for tests, and to see how metrics react to blur and noise."""

import re
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from eval.extractors.base import Extractor, Request
from sdcxr.runtime.errors import UserError

NAMES = {"pixels-…": "N × N grey values in [0, 1], e.g. pixels-64; no weights"}


def matches(name: str) -> bool:
    return name.startswith("pixels-")


def build(request: Request) -> Extractor:
    match = re.fullmatch(r"pixels-([1-9]\d{0,2})", request.name)
    if not match:
        raise UserError(f"--extractor {request.name}: give a side from 1 to 999, such as pixels-64")
    side = int(match[1])
    request.choose(("default",))
    return Extractor(
        name=request.name,
        preprocessing=f"pil-bilinear {side} → 0…1",
        prepare=partial(prepare, side=side),
        load=load,
        dimension=side * side,
    )


def prepare(image: Image.Image, side: int) -> np.ndarray:
    """Grey values (1, side, side) in [0, 1]."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)[None] / 255


def load(device: Any) -> Any:
    return lambda batch: batch.flatten(1)
