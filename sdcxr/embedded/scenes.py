"""Procedural grey scenes with captions, on which the embedded base is pretrained.

Shapes, textures and lines in sizes, numbers and places. Nothing in them is a picture of anything, and no file is read:
`scene(seed, index)` is a pure function. "Left" and "right" are the picture's own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdcxr.embedded.textures import TEXTURES, clouds, texture

Array = NDArray[np.floating[Any]]
Rng = np.random.Generator
Tones = dict[str, float]

SIZES = {"tiny": 0.07, "small": 0.14, "": 0.24, "large": 0.38, "huge": 0.6}  # radius; the picture is 2 wide
TONES = {"black": 0.02, "dark": 0.22, "gray": 0.5, "bright": 0.75, "white": 0.96}
NUMBERS = ("", "a", "two", "three", "four", "five")
PLACES = {
    "": (0.0, 0.0, 0.8),  # centre x, y (down), and how far from it, in half picture widths
    "on the left": (-0.55, 0.0, 0.3),
    "on the right": (0.55, 0.0, 0.3),
    "at the top": (0.0, -0.6, 0.25),
    "at the bottom": (0.0, 0.6, 0.25),
    "at the upper left": (-0.5, -0.5, 0.25),
    "at the upper right": (0.5, -0.5, 0.25),
    "at the lower left": (-0.5, 0.5, 0.25),
    "at the lower right": (0.5, 0.5, 0.25),
    "in the middle": (0.0, 0.0, 0.15),
}
DIRECTIONS = {"horizontal": 0.0, "vertical": np.pi / 2, "diagonal": np.pi / 4}


def scene(seed: int, index: int, size: int = 128) -> tuple[NDArray[np.uint8], str]:
    """Scene `index` of series `seed`: a grey picture (size, size), uint8, and its caption (77 tokens at most)."""
    rng = np.random.default_rng([seed, index])
    y, x = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32),) * 2, indexing="ij")
    canvas, ground = _background(rng, x, y)  # what is drawn on it has another tone
    parts = []
    for _ in range(rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.25, 0.1])):
        draw = (_shapes, _shapes, _pair, _lines)[rng.integers(4)]
        canvas, words = draw(
            rng, canvas, x, y, {name: tone for name, tone in TONES.items() if f" {name} " not in ground}
        )
        parts.append(words)
    canvas, grain = _grain(rng, canvas)
    if rng.random() < 0.15:
        parts.append("no lines" if not any("lines" in part for part in parts) else "nothing else")
    grey = np.rint(canvas.clip(0, 1) * 255).astype(np.uint8)
    return grey, _caption(rng, parts, ground, grain)


def _caption(rng: Rng, parts: list[str], ground: str, grain: str) -> str:
    listed = ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
    pieces = [listed, *(text for text in (ground, grain) if text and rng.random() < 0.9)]
    joined = (", " if rng.random() < 0.7 else ". ").join(pieces) + ("." if rng.random() < 0.6 else "")
    return joined[0].upper() + joined[1:] if rng.random() < 0.6 else joined


# ---------------------------------------------------------------------------------------------------------------------
# What a scene is made of: each draws on the canvas and names what it drew


def _background(rng: Rng, x: Array, y: Array) -> tuple[Array, str]:
    tone = str(rng.choice(list(TONES)))
    canvas = np.full_like(x, TONES[tone])
    kind = rng.choice(["plain", "gradient", "cloudy", "textured", "vignette"], p=[0.25, 0.25, 0.2, 0.15, 0.15])
    if kind == "gradient":
        side, (dx, dy) = _pick(rng, {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)})
        canvas = canvas + rng.uniform(0.2, 0.5) * (dx * x + dy * y)
        return canvas, f"on a {tone} background brighter at the {side}"
    if kind == "cloudy":
        return canvas + rng.uniform(0.1, 0.35) * clouds(
            rng, len(x), rng.uniform(1.2, 2.4)
        ), f"on a cloudy {tone} background"
    if kind == "textured":
        name = str(rng.choice(list(TEXTURES)))
        return canvas + rng.uniform(0.05, 0.3) * texture(name, rng, x, y), f"on a {name} {tone} background"
    if kind == "vignette":
        return canvas * (1.1 - rng.uniform(0.3, 0.8) * (x * x + y * y)), f"on a {tone} background with dark corners"
    return canvas, f"on a {tone} background"


def _shapes(rng: Rng, canvas: Array, x: Array, y: Array, tones: Tones) -> tuple[Array, str]:
    number = int(rng.choice([1, 2, 3, 4, 5], p=[0.5, 0.2, 0.15, 0.1, 0.05]))
    place, (cx, cy, spread) = _pick(rng, PLACES)
    size, radius = _pick(rng, SIZES)
    name, look = str(rng.choice(list(SHAPES))), _look(rng, tones)
    radius *= rng.uniform(0.8, 1.2) * (1 if number == 1 else 0.75)
    for _ in range(number):
        at = np.array([cx, cy]) + rng.uniform(-spread, spread, 2)
        canvas = _paint(rng, canvas, x, y, name, at, radius * rng.uniform(0.9, 1.1), look)
    plural = name if number == 1 else f"{name}s"
    return canvas, _words(NUMBERS[number], size, look["words"], plural, place)


def _pair(rng: Rng, canvas: Array, x: Array, y: Array, tones: Tones) -> tuple[Array, str]:
    """Two shapes side by side, sometimes of different size."""
    name, look = str(rng.choice(list(SHAPES))), _look(rng, tones)
    size, radius = _pick(rng, SIZES)
    radius = min(radius, 0.42) * rng.uniform(0.8, 1.2)
    larger, factors = _pick(
        rng, {"": (1.0, 1.0), "the left one larger": (1.5, 0.8), "the right one larger": (0.8, 1.5)}
    )
    middle, height = rng.uniform(0.3, 0.6), rng.uniform(-0.3, 0.3)
    turn = rng.uniform(-0.3, 0.3)
    for side, factor in zip((-1, 1), factors, strict=True):
        at = np.array([side * middle, height])
        canvas = _paint(rng, canvas, side * x, y, name, at * (side, 1), radius * factor, look, turn)
    return canvas, _words("two", size, look["words"], f"{name}s side by side") + (f", {larger}" if larger else "")


def _lines(rng: Rng, canvas: Array, x: Array, y: Array, tones: Tones) -> tuple[Array, str]:
    tone, value = _pick(rng, tones)
    thick, width = _pick(rng, {"thin": 0.012, "": 0.025, "thick": 0.06})
    number = int(rng.integers(1, 13))
    count = NUMBERS[number] if number <= 5 else "many"
    noun = "line" if number == 1 else "lines"
    strength = rng.uniform(0.4, 1.0)
    kind = rng.choice(["straight", "curved", "fan"], p=[0.4, 0.35, 0.25])
    if kind == "fan":
        place, (cx, cy, _) = _pick(rng, {name: at for name, at in PLACES.items() if name})
        across = np.hypot(x - cx, y - cy)
        angle = np.arctan2(y - cy, x - cx) + rng.uniform(-0.4, 0.4) * across
        start, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 2 * np.pi)
        for i in range(number):
            off = np.angle(np.exp(1j * (angle - start - stretch * i / number)))
            inked = (width * (1 - 0.4 * across) - np.abs(off) * across) * 40
            mask = (inked.clip(-0.5, 0.5) + 0.5) * (across < rng.uniform(0.4, 1.4)) * (np.abs(off) < 1.5)
            canvas = canvas + strength * mask * (value - canvas)
        where = place.replace("on the ", "the ").replace("at the ", "the ").replace("in the ", "the ")
        return canvas, _words(count, thick, tone, noun, f"spreading from {where}")
    direction, angle0 = _pick(rng, DIRECTIONS)
    along = x * np.cos(angle0) + y * np.sin(angle0)
    across = -x * np.sin(angle0) + y * np.cos(angle0)
    bend = rng.uniform(0.1, 0.5) * rng.choice([-1, 1]) if kind == "curved" else 0.0
    first, step = rng.uniform(-0.9, 0.2), rng.uniform(0.1, 0.3)
    for i in range(number):
        off = np.abs(across - (first + i * step) - bend * along * along + rng.uniform(-0.02, 0.02))
        canvas = canvas + strength * (((width - off) * 50).clip(-0.5, 0.5) + 0.5) * (value - canvas)
    return canvas, _words(count, thick, tone, str(kind) if kind == "curved" else "", direction, noun)


def _grain(rng: Rng, canvas: Array) -> tuple[Array, str]:
    words, sigma = _pick(rng, {"": 0.0, "with fine grain": 0.012, "with coarse grain": 0.04}, p=(0.5, 0.35, 0.15))
    if sigma:
        canvas = canvas + np.float32(sigma) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return canvas, words


# ---------------------------------------------------------------------------------------------------------------------
# Shapes: signed distance from the outline of a shape of radius 1 around 0, negative inside


def _box(x: Array, y: Array, width: float, height: float) -> Array:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: np.hypot(x, y) - 1,
    "oval": lambda x, y: (np.hypot(x / 0.6, y) - 1) * 0.6,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.8) - 0.2,
    "square": lambda x, y: _box(x, y, 0.85, 0.85),
    "bar": lambda x, y: _box(x, y, 0.2, 1.1),
    "cross": lambda x, y: np.minimum(_box(x, y, 0.25, 1.0), _box(x, y, 1.0, 0.25)),
    "triangle": lambda x, y: np.maximum(y - 0.7, np.abs(x) * 0.87 - 0.5 * y - 0.5),
    "dome": lambda x, y: np.maximum(np.hypot(x, y) - 1, y - 0.1),
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 1, 0.85 - np.hypot(x - 0.45, y)),
    "hexagon": lambda x, y: np.maximum(np.abs(x) * 0.87 + np.abs(y) * 0.5, np.abs(y)) - 0.85,
}


def _look(rng: Rng, tones: Tones) -> dict[str, Any]:
    """How a shape is painted: tone, filling, edge and opacity, and the words for them."""
    tone, value = _pick(rng, tones)
    filling = str(rng.choice(["", *TEXTURES], p=[0.6] + [0.4 / len(TEXTURES)] * len(TEXTURES)))
    edge, softness = _pick(rng, {"": 0.015, "soft": 0.12}, p=(0.75, 0.25))
    cover, opacity = _pick(rng, {"": 1.0, "transparent": 0.45}, p=(0.75, 0.25))
    return {
        "value": value, "filling": filling, "softness": softness, "opacity": opacity,
        "words": _words(cover, edge, filling, tone),
    }  # fmt: skip


def _paint(
    rng: Rng,
    canvas: Array,
    x: Array,
    y: Array,
    name: str,
    at: Any,
    radius: float,
    look: dict[str, Any],
    turn: float | None = None,
) -> Array:
    turn = float(rng.uniform(-0.4, 0.4)) if turn is None else turn
    dx, dy = (x - at[0]) / radius, (y - at[1]) / radius
    inside = -SHAPES[name](dx * np.cos(turn) - dy * np.sin(turn), dx * np.sin(turn) + dy * np.cos(turn)) * radius
    mask = look["opacity"] * ((inside / look["softness"]).clip(-0.5, 0.5) + 0.5)
    value = look["value"]
    if look["filling"]:
        value = value + 0.25 * texture(look["filling"], rng, x, y)
    return canvas + mask * (value - canvas)


def _pick(rng: Rng, options: dict[str, Any], p: Any = None) -> tuple[str, Any]:
    name = str(rng.choice(list(options), p=p))
    return name, options[name]


def _words(*words: str) -> str:
    return " ".join(word for word in words if word)
