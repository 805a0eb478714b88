"""Drawing canvas of the phantoms: coordinates, soft edges, shapes, smooth noise."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_prep.phantom.anatomy import Array

CANVAS = 1.24  # side of the canvas in units of the film's shorter side: room for rotation, shift and oblong films


class Grid:
    """Size of the canvas in pixels, and u and v along its columns and rows (float32)."""

    def __init__(self, resolution_px: int):
        self.px = 1 / resolution_px
        self.size = round(CANVAS * resolution_px)
        axis = (np.arange(self.size, dtype=np.float32) + np.float32(0.5 - self.size / 2)) * np.float32(self.px)
        self.u, self.v = axis, axis

    def soft(self, distance: Array, width: float) -> Array:
        """Soft edge: 0 outside (negative `distance`) to 1 inside, over `width` or at least two pixels."""
        edge = distance * np.float32(1 / max(width, 2 * self.px))
        edge += np.float32(0.5)
        return np.clip(edge, 0, 1, out=edge)

    def clouds(self, rng: np.random.Generator, cells: int) -> Array:
        """Smooth noise of mean 0 and standard deviation about 1, from `cells` independent values along each side."""
        coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(1.4))
        return np.asarray(coarse.resize((self.size, self.size), Image.Resampling.BILINEAR))


class Sheet:
    """A layer to draw shapes on in u and v, oversampled by 2, or at the resolution of the canvas if `coarse`."""

    def __init__(self, grid: Grid, coarse: bool = False):
        self.grid = grid
        self.oversampling = 1 if coarse else 2
        side = self.oversampling * grid.size
        self.image = Image.new("L", (side, side))
        self.draw = ImageDraw.Draw(self.image)
        self.per_unit = self.oversampling / grid.px

    def at(self, u: Array, v: Array) -> list[float]:
        """Pixel coordinates x, y, x, y, … of points."""
        points = np.stack([np.asarray(u, dtype=np.float64), np.asarray(v, dtype=np.float64)], axis=-1)
        return ((points + CANVAS / 2) * self.per_unit).ravel().tolist()

    def polygon(self, u: Array, v: Array, value: int) -> None:
        """Fill a polygon."""
        self.draw.polygon(self.at(u, v), fill=value)

    def line(self, u: Array, v: Array, width: float, value: int) -> None:
        """A line through points, at least one pixel of the sheet wide."""
        self.draw.line(self.at(u, v), fill=value, width=max(1, round(width * self.per_unit)))

    def segments(self, u: Array, v: Array, width: Array, value: int) -> None:
        """Many straight segments: u and v of shape (n, 2), width of shape (n,)."""
        ends = np.array(self.at(u, v)).reshape(-1, 4).tolist()
        pixels = np.maximum(1, np.round(width * self.per_unit)).astype(int).tolist()
        for segment, thick in zip(ends, pixels, strict=True):
            self.draw.line(segment, fill=value, width=thick)

    def ellipse(self, u: float, v: float, half_u: float, half_v: float, value: int) -> None:
        """Fill an upright ellipse."""
        self.draw.ellipse(self.at(np.array([u - half_u, u + half_u]), np.array([v - half_v, v + half_v])), fill=value)

    def box(self, u: float, v: float, half_u: float, half_v: float, value: int) -> None:
        """Fill an upright box with rounded corners."""
        corners = self.at(np.array([u - half_u, u + half_u]), np.array([v - half_v, v + half_v]))
        self.draw.rounded_rectangle(corners, radius=0.5 * half_v * self.per_unit, fill=value)

    def layer(self, blur: float = 0.0) -> Array:
        """The layer at the resolution of the canvas, 0 to 1, blurred with standard deviation `blur`."""
        image = self.image.reduce(2) if self.oversampling == 2 else self.image
        sigma_px = blur / self.grid.px
        if sigma_px > 2.5:
            image = image.filter(ImageFilter.GaussianBlur(sigma_px))
        elif sigma_px > 0.6:
            image = image.filter(ImageFilter.BoxBlur(1.7 * sigma_px))  # same deviation in a third of the time
        return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)

    def trunk(self, blur: float, wide_blur: float) -> Array:
        """The layer as a round body: a wide blur of its outline makes it thinner towards the sides."""
        small = self.image.resize((96, 96), Image.Resampling.BOX)
        small = small.filter(ImageFilter.GaussianBlur(wide_blur * 96 / CANVAS))
        wide = small.resize((self.grid.size, self.grid.size), Image.Resampling.BILINEAR)
        return self.layer(blur) * (np.float32(0.2) + np.asarray(wide, dtype=np.float32) * np.float32(0.8 / 255))


def curve(knots: list[float], n: int = 18) -> Array:
    """`n` values along a smoothed polyline through evenly spaced `knots`, both ends included."""
    dense = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(knots)), knots)
    inner = (dense[:-4] + 2 * dense[1:-3] + 3 * dense[2:-2] + 2 * dense[3:-1] + dense[4:]) / 9
    return np.concatenate([dense[:2], inner, dense[-2:]])
