"""Rendering of a phantom: from anatomy to radiograph, with numpy and Pillow only.

The phantom is composed upright as optical thickness on a canvas a little larger than the film. The film is then placed
on it (rotation, scale, shift), exposed (Beer-Lambert law with scatter and quantum noise), and given a tone curve like
that of MIMIC-CXR-JPG, whose images are histogram-equalised.
"""

import numpy as np
from PIL import Image, ImageDraw

from data_prep.phantom.anatomy import Acquisition, Anatomy, Array
from data_prep.phantom.canvas import Grid
from data_prep.phantom.frontal import frontal_thickness
from data_prep.phantom.lateral import lateral_thickness

AIR = 8  # per cent of the density scale that are open beam, not patient
EQUALISED = 0.42  # share of equalisation: in full, half of the grey levels would go to the abdomen


def render(anatomy: Anatomy, resolution_px: int, rng: np.random.Generator) -> Array:
    """The radiograph of a phantom.

    Args:
        anatomy: build, findings and acquisition.
        resolution_px: shorter side of the image in pixels.
        rng: for texture and noise; with the same seed, two images differ only where their anatomies do.

    Returns:
        uint8 array of shape (height, width), the patient's right on the image's left.
    """
    structure, film = rng.spawn(2)
    compose = frontal_thickness if anatomy.acquisition.frontal else lateral_thickness
    return expose(compose(anatomy, Grid(resolution_px), structure), anatomy.acquisition, resolution_px, film)


def expose(thickness: Array, acquisition: Acquisition, resolution_px: int, rng: np.random.Generator) -> Array:
    """Place the film on the canvas, expose it, apply the tone curve: uint8, shorter side `resolution_px`."""
    film = lay(thickness, acquisition, resolution_px)
    received = np.exp(-np.maximum(film, 0, out=film), out=film)
    received += np.float32(acquisition.scatter)
    grain = rng.standard_normal(received.shape, dtype=np.float32)
    grain *= np.float32(0.002 + 0.0035 * acquisition.noise)
    density = grain / np.sqrt(received) - np.log(received)
    top = -np.log(acquisition.scatter) + 0.05
    levels = np.clip((density + np.float32(0.05)) * np.float32(1023 / top), 0, 1023).astype(np.int16)
    counts = np.bincount(levels.ravel(), minlength=1024)
    counts[: AIR * 1023 // 100] = 0  # the open beam around the patient
    rank = np.cumsum(counts) / max(1, counts.sum())
    tone = (1 - EQUALISED) * np.linspace(0, 1, 1024) ** 1.2 + EQUALISED * rank
    tone = (tone - tone[levels.min()]) / (tone[levels.max()] - tone[levels.min()])
    tone = np.clip(tone, 0, 1) ** (1 - 0.25 * acquisition.exposure)
    picture = np.round(255 * tone).astype(np.uint8)[levels]
    _mark(picture, acquisition, resolution_px)
    collimate(picture, acquisition)
    return picture


def lay(thickness: Array, acquisition: Acquisition, resolution_px: int) -> Array:
    """The part of the canvas under the film after rotation, scaling and shift; float32, shape of the film."""
    height = round(resolution_px * max(acquisition.aspect, 1.0))
    width = round(resolution_px * max(1 / acquisition.aspect, 1.0))
    angle = np.deg2rad(acquisition.rotation_degrees)
    cosine, sine = np.cos(angle) / acquisition.scale, np.sin(angle) / acquisition.scale
    x, y = (part * resolution_px + side / 2 for part, side in zip(acquisition.shift, (width, height), strict=True))
    middle = len(thickness) / 2
    matrix = (cosine, sine, middle - cosine * x - sine * y, -sine, cosine, middle + sine * x - cosine * y)
    canvas = Image.fromarray(thickness.astype(np.float32, copy=False))
    return np.array(canvas.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def _mark(picture: Array, acquisition: Acquisition, resolution_px: int) -> None:
    """Draw the side marker: an L near the patient's left, or an R near the right."""
    if acquisition.marker is None:
        return
    strokes = [(0, 0), (0, 6), (4, 6)]
    if acquisition.marker == "right":
        strokes = [(0, 6), (0, 0), (3, 0), (4, 1), (4, 2), (3, 3), (0, 3), (2, 3), (4, 6)]
    unit = resolution_px / 75  # of the double-sized glyph
    glyph = Image.new("L", (round(7 * unit), round(9 * unit)))
    points = [((x + 1.5) * unit, (y + 1.5) * unit) for x, y in strokes]
    ImageDraw.Draw(glyph).line(points, fill=255, width=max(1, round(1.1 * unit)))
    stamp = np.asarray(glyph.reduce(2))
    height, width = stamp.shape
    # Within the central square: cropping an oblong film to a square must not cut the marker off.
    margin_y, margin_x = ((side - resolution_px) // 2 for side in picture.shape)
    top, inset = margin_y + round(0.06 * resolution_px), margin_x + round(0.05 * resolution_px)
    left = inset if acquisition.marker == "right" else picture.shape[1] - inset - width
    corner = picture[top : top + height, left : left + width]
    np.maximum(corner, stamp, out=corner)


def collimate(picture: Array, acquisition: Acquisition) -> None:
    """Set the collimated borders to black."""
    height, width = picture.shape
    left, top, right, bottom = acquisition.collimation
    picture[:, : round(left * width)] = 0
    picture[: round(top * height)] = 0
    picture[:, width - round(right * width) :] = 0
    picture[height - round(bottom * height) :] = 0
