"""Vendi score: effective number of different images, from features or a kernel, with a jackknife interval."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.metrics.bootstrap import Interval, group_rows
from eval.metrics.mmd import unit_rows
from sdcxr.runtime.errors import UserError

BLOCKS = 20  # of the jackknife


def vendi(features: np.ndarray) -> float:
    """Vendi score (Friedman and Dieng 2023, arXiv 2210.02410): the exponential of the entropy of the cosine kernel's
    eigenvalues. 1 where all images are the same, n where all are orthogonal; it grows with n.

    Args:
        features: shape (n, dimension).

    Raises:
        UserError: features are not finite, there are none, or a row is all zeros and has no direction.
    """
    features = np.asarray(features, np.float64)
    if not len(features) or not np.isfinite(features).all():
        raise UserError(f"a Vendi score needs finite features of at least one image, got shape {features.shape}")
    unit = unit_rows(features)
    gram = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit  # their eigenvalues other than 0 are the same
    return vendi_of_kernel(gram / len(unit))


def vendi_of_kernel(kernel: np.ndarray) -> float:
    """The exponential of the entropy of the eigenvalues of a symmetric matrix with trace 1."""
    eigenvalues = np.linalg.eigvalsh(kernel)
    eigenvalues = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()))


def vendi_interval(features: np.ndarray, groups: Sequence[Any] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the Vendi score by a jackknife over blocks of groups, on the scale of its logarithm.

    A bootstrap would repeat images, and so understate their diversity.

    Args:
        features: shape (n, dimension).
        groups: the patient or prompt of each image, length n.
        seed: of the division into blocks.
    """
    members = group_rows([str(group) for group in groups])
    blocks = min(BLOCKS, len(members))
    if blocks < 2:
        return float("nan"), float("nan")
    block_of = np.empty(len(features), int)
    for place, i in enumerate(np.random.default_rng(seed).permutation(len(members))):
        block_of[members[i]] = place % blocks
    left_out = np.log([vendi(features[block_of != block]) for block in range(blocks)])
    error = np.sqrt((blocks - 1) / blocks * ((left_out - left_out.mean()) ** 2).sum())
    value = np.log(vendi(features))
    ends = float(np.exp(value - 1.96 * error)), float(np.exp(value + 1.96 * error))
    return Interval(*ends, np.exp(left_out), "jackknife")
