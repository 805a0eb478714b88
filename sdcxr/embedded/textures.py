"""Textures of procedural scenes: stripes, checks, dots, waves and clouds, as arrays of about -1 to 1."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Rng = np.random.Generator


def texture(name: str, rng: Rng, x: Array, y: Array) -> Array:
    """A texture of `TEXTURES` with random angle, period and phase; shape and range of x, which goes from -1 to 1."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.1, 0.4)
    u = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period) + rng.uniform(0, 2 * np.pi)
    v = (y * np.cos(angle) - x * np.sin(angle)) * (2 * np.pi / period) + rng.uniform(0, 2 * np.pi)
    return TEXTURES[name](rng, u.astype(np.float32), v.astype(np.float32))


def clouds(rng: Rng, size: int, exponent: float) -> Array:
    """Noise (size, size) with power spectrum 1/f^(2·exponent), as photographs have it (Field, JOSA A 4:2379, 1987)."""
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) / frequency**exponent
    field = np.fft.irfft2(spectrum, s=(size, size))
    return (field / (2 * field.std())).astype(np.float32)


TEXTURES: dict[str, Callable[[Rng, Array, Array], Array]] = {
    "striped": lambda rng, u, v: np.clip(3 * np.sin(u), -1, 1),
    "checkered": lambda rng, u, v: np.clip(4 * np.sin(u) * np.sin(v), -1, 1),
    "dotted": lambda rng, u, v: np.clip(4 * (np.cos(u) + np.cos(v) - 1), -1, 1),
    "wavy": lambda rng, u, v: np.sin(u + 1.5 * np.sin(v / 2)),
    "cloudy": lambda rng, u, v: clouds(rng, len(u), 1.2),
    "grainy": lambda rng, u, v: clouds(rng, len(u), 0.4),
}
