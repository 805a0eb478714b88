"""Distances between grey pictures: root mean square over the whole, and over the tile that differs most."""

from itertools import combinations

import numpy as np

TILES = 4  # a side


def pixel_rms(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root mean square difference in grey levels, of uint8 as of floats.

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

    Equal backgrounds do not make different images alike.

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
    """The smallest `tile_distance` between two images of each prompt that has two.

    Args:
        greys: uint8 of shape (n, side, side).
        prompts: integer of each image, shape (n,).
        most: images of a prompt that are compared.
    """
    closest = []
    for prompt in np.unique(prompts):
        members = np.flatnonzero(prompts == prompt)[:most]
        if len(members) > 1:
            first, second = np.array(list(combinations(members, 2))).T
            closest.append(tile_distance(greys[first], greys[second]).min())
    return np.array(closest)
