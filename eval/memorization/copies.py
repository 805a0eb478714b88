"""Copies of training images: whitened cross-correlation of all pairs at small shifts; distances in grey levels.

Chest radiographs resemble each other: the plain correlation between two patients exceeds 0.9. Subtracting the mean
radiograph and flattening the spectrum up to 10 cycles per image leaves other patients far below a copy, even one that
was shifted, brightened, blurred, compressed or made noisy.

`pixel_rms`, `tile_distance` and `closest_pairs` are the plain distances of the literature, and find samples of one
prompt that repeat each other.
"""

import io
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

GRID = 64  # pixels a side at which images are compared
REACH = 2  # shifts searched, in pixels of the grid: 3 % of the width each way
CYCLES = 10.0  # per image, where the low-pass falls to 1/e
INNER = GRID - 2 * REACH  # what stays in view at every shift
CHUNK = 2048  # images held in float at once
SAME_FILE = 0.9999  # correlation above which two images are the same picture, stored twice
TILES = 4  # a side, of `tile_distance`


@dataclass(frozen=True)
class Whitening:
    """What all radiographs of a training set share, removed before they are compared."""

    mean: "Tensor"
    """Mean of the normalised images, shape (INNER, INNER)."""
    gain: "Tensor"
    """Low-pass over the mean amplitude spectrum, of the frequencies of `_low`."""


@dataclass(frozen=True)
class Matches:
    """The best match of each query among the references."""

    correlation: np.ndarray
    """In [-1, 1], shape (queries,); -1 if every reference is of the query's own group."""
    index: np.ndarray
    """Row number of the reference, shape (queries,)."""
    shift: np.ndarray
    """Down and right, of the query against the reference, as a fraction of the image's side, shape (queries, 2)."""


def whitening(greys: np.ndarray) -> Whitening:
    """Mean and mean spectrum (averaged over directions, so that few images suffice) of training images.

    Args:
        greys: uint8 of shape (n, GRID, GRID).
    """
    import torch

    total, power = torch.zeros(INNER, INNER), torch.zeros(INNER, INNER // 2 + 1)
    for start in range(0, len(greys), CHUNK):
        total += _inner(greys[start : start + CHUNK], 0, 0).sum(dim=0)
    mean = total / len(greys)
    for start in range(0, len(greys), CHUNK):
        residual = (_inner(greys[start : start + CHUNK], 0, 0) - mean) * _window()
        power += torch.fft.rfft2(residual).abs().square().sum(dim=0)
    frequency = _frequency()
    ring = frequency.round().long().flatten()
    radial = torch.bincount(ring, power.flatten()) / torch.bincount(ring).clamp(min=1)
    amplitude = (radial[ring] / len(greys)).sqrt().reshape(frequency.shape)[_low()]
    return Whitening(
        mean, torch.exp(-((frequency[_low()] / CYCLES) ** 2)) / (amplitude + 1e-3 * amplitude.max() + 1e-12)
    )


def descriptors(greys: np.ndarray, common: Whitening, down: int = 0, right: int = 0) -> "Tensor":
    """Whitened images of zero mean and unit length, so that a scalar product is a correlation.

    Of uint8 (n, GRID, GRID), in a view that is moved `down` and `right` by up to REACH pixels: the low spectrum,
    float32 of shape (n, 2 × frequencies); zeros for an image without any structure.
    """
    import torch

    residual = (_inner(greys, down, right) - common.mean) * _window()
    spectrum = torch.fft.rfft2(residual)[:, _low()] * common.gain
    flat = torch.from_numpy(np.ptp(greys.reshape(len(greys), -1), axis=1) == 0)
    # Parseval: scalar products of spectra are those of the images; the low half plane represents both.
    return torch.nn.functional.normalize(torch.view_as_real(spectrum).flatten(1), dim=1).masked_fill(flat[:, None], 0.0)


def best_matches(
    queries: np.ndarray,
    references: np.ndarray,
    common: Whitening,
    query_groups: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
) -> Matches:
    """The reference that each query correlates with most, over all references and shifts.

    Needs less than 400 MB beyond the arguments, for any number of images.

    Args:
        queries: uint8 of shape (n, GRID, GRID).
        references: uint8 of shape (m, GRID, GRID).
        common: of the training set.
        query_groups: with `reference_groups`, integers of shape (n,): a query never matches a reference of its own
            group (patient).
        reference_groups: integers of shape (m,).
    """
    import torch

    correlation = torch.full((len(queries),), -1.0)
    index, shift = torch.zeros(len(queries), dtype=torch.long), torch.zeros(len(queries), 2)
    shifts = [(down, right) for down in range(-REACH, REACH + 1) for right in range(-REACH, REACH + 1)]
    for start in range(0, len(queries), 1024):
        views = [descriptors(queries[start : start + 1024], common, *moved) for moved in shifts]
        here = slice(start, start + 1024)
        for first in range(0, len(references), CHUNK):
            targets = descriptors(references[first : first + CHUNK], common).T
            own = None
            if query_groups is not None and reference_groups is not None:
                own = torch.from_numpy(query_groups[here, None] == reference_groups[None, first : first + CHUNK])
            for view, moved in zip(views, shifts, strict=True):
                products = view @ targets
                if own is not None:
                    products.masked_fill_(own, -1.0)
                best, place = products.max(dim=1)
                better = best > correlation[here]
                correlation[here] = torch.where(better, best, correlation[here])
                index[here] = torch.where(better, place + first, index[here])
                shift[here] = torch.where(better[:, None], torch.tensor(moved) / GRID, shift[here])
    return Matches(correlation.clamp(-1, 1).numpy(), index.numpy(), shift.numpy())


def _inner(greys: np.ndarray, down: int, right: int) -> "Tensor":
    """The view at a shift as float32 of zero mean and unit variance, so that brightness and contrast do not count."""
    import torch

    top, left = REACH + down, REACH + right
    view = torch.from_numpy(greys[:, top : top + INNER, left : left + INNER].astype(np.float32))
    view = view - view.mean(dim=(1, 2), keepdim=True)
    return view / view.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-6)


def _frequency() -> "Tensor":
    """Cycles per view of each coefficient of `rfft2`, shape (INNER, INNER // 2 + 1)."""
    import torch

    return torch.hypot(torch.fft.fftfreq(INNER, 1 / INNER)[:, None], torch.fft.rfftfreq(INNER, 1 / INNER)[None])


def _low() -> "Tensor":
    """Which coefficients are compared: up to 1.25 × CYCLES, without the mean and without those that come twice."""
    frequency = _frequency()
    low = (frequency > 0) & (frequency <= 1.25 * CYCLES)
    low[INNER // 2 :, 0] = False  # conjugates of the upper half of the same column
    return low


def _window() -> "Tensor":
    """Falls to zero at the border, so that a Fourier transform sees no edge there."""
    import torch

    hann = torch.hann_window(INNER + 2, periodic=False)[1:-1]
    return torch.outer(hann, hann) ** 0.25


def copy_threshold(correlations: np.ndarray, n_queries: int, false_alarms: float = 0.05) -> float:
    """The correlation above which a best match counts as a copy.

    Fisher's z of the best matches of images that cannot be copies has an exponential or lighter tail. It is fitted to
    the upper tenth (by its median, which an undiscovered duplicate does not move) and extrapolated with the upper 95 %
    bound of its scale: fewer images give a higher threshold.

    Args:
        correlations: of real images with their best match among the training images of other patients, shape (n,).
        n_queries: number of images that will be compared with the threshold.
        false_alarms: expected number of them above the threshold if none is a copy.
    """
    z = np.arctanh(np.clip(correlations.astype(np.float64), -SAME_FILE, SAME_FILE))
    start = np.quantile(z, 0.9)
    excess = z[z >= start] - start
    scale = np.median(excess) / np.log(2) * (1 + 1.64 / np.sqrt(len(excess)))
    return float(np.tanh(start + scale * np.log(max(1.0, 0.1 * n_queries / false_alarms))))


def altered(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A copy that is harder to detect: shifted by 2 pixels, darker, with noise of 8 grey levels, as JPEG."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    moved = np.pad(grey, 2, mode="edge")[:-4, 4:]
    noisy = moved * 0.9 + 10 + generator.normal(0, 8, grey.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=75)
    with Image.open(file) as stored:
        return stored.convert("L")


def pixel_rms(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root mean square difference in grey levels, for uint8 and floats alike.

    Args:
        first: shape (..., height, width).
        second: the same, or one image for all.

    Returns:
        Shape (...): 0 for equal images, 255 for black against white.
    """
    difference = first.astype(np.float32) - second.astype(np.float32)  # uint8 would wrap around
    return np.sqrt((difference**2).mean(axis=(-2, -1)))


def tile_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The largest `pixel_rms` of 4 × 4 tiles over 255 (Carlini et al. 2023, arXiv 2301.13188, section 4.1).

    Unlike a mean over the image it does not shrink with the share of equal background.

    Args:
        first: grey levels, shape (n, side, side), the side a multiple of 4.
        second: the same.

    Returns:
        In [0, 1], shape (n,).
    """
    distances = []
    for start in range(0, len(first), 1024):
        difference = first[start : start + 1024].astype(np.float32) - second[start : start + 1024].astype(np.float32)
        side = difference.shape[1] // TILES
        tiles = difference.reshape(-1, TILES, side, TILES, side) / 255
        distances.append(np.sqrt((tiles**2).mean(axis=(2, 4)).max(axis=(1, 2))))
    return np.concatenate(distances) if distances else np.zeros(0)


def closest_pairs(greys: np.ndarray, prompts: np.ndarray, most: int = 100) -> np.ndarray:
    """The smallest `tile_distance` between two images of each prompt that has at least two.

    Args:
        greys: uint8 of shape (n, side, side).
        prompts: integer of each image, shape (n,).
        most: images of a prompt to compare.
    """
    closest = []
    for prompt in np.unique(prompts):
        members = np.flatnonzero(prompts == prompt)[:most]
        if len(members) > 1:
            first, second = np.array(list(combinations(members, 2))).T
            closest.append(tile_distance(greys[first], greys[second]).min())
    return np.array(closest)
