"""Feature arrays as the metrics of this room want them, and which of their rows enter a computation."""

from collections.abc import Sequence

import numpy as np

from sdcxr.errors import UserError

LARGEST = 1e20  # the spread of KID takes the twelfth power of features, and float64 ends at 1e308


def checked(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides in float64: float32 covariances of a thousand dimensions give negative or undefined distances.

    Args:
        real: shape (n_real, dimension).
        synthetic: shape (n_synthetic, dimension).

    Raises:
        UserError: a side has fewer than two rows or a value that is not finite (or beyond `LARGEST`), or the dimensions
            differ.
    """
    sides = {"real": np.asarray(real, np.float64), "synthetic": np.asarray(synthetic, np.float64)}
    for side, values in sides.items():
        if values.ndim != 2 or not values.shape[1]:
            raise UserError(f"{side} features have shape {values.shape}: expected (images, dimension)")
        if len(values) < 2:
            raise UserError(f"{len(values)} {side} images: a distribution needs at least 2")
        broken = np.flatnonzero(~(np.abs(values) <= LARGEST).all(axis=1))
        if len(broken):
            raise UserError(
                f"{len(broken)} of {len(values)} {side} feature rows are not finite, or beyond {LARGEST:g} "
                f"(first: row {broken[0]})"
            )
    dimensions = [values.shape[1] for values in sides.values()]
    if dimensions[0] != dimensions[1]:
        raise UserError(f"features of {dimensions[0]} (real) and {dimensions[1]} (synthetic) dimensions do not compare")
    return sides["real"], sides["synthetic"]


def group_rows(groups: Sequence[str]) -> list[np.ndarray]:
    """Row numbers of each group, in the order in which the groups first occur."""
    _, first, inverse = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    rows = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    return [rows[i] for i in np.argsort(first)]


def half_samples(groups: Sequence[str], count: int, generator: np.random.Generator) -> np.ndarray:
    """Random halves of the groups, drawn without replacement.

    Args:
        groups: the group (patient, prompt) of each row, shape (n,).
        count: halves to draw.
        generator: source of the draws.

    Returns:
        Boolean, shape (n, count): which rows are in each half.
    """
    rows = group_rows(groups)
    members = np.zeros((len(groups), count), bool)
    for column in range(count):
        for i in generator.permutation(len(rows))[: len(rows) // 2]:
            members[rows[i], column] = True
    return members


def disjoint_halves(groups: Sequence[str], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of rows of about equal size that have no group in common.

    Args:
        groups: the group (patient, prompt) of each row, shape (n,).
        generator: source of the split.

    Returns:
        Row numbers of either half, each in random order.
    """
    rows = group_rows(groups)
    halves: tuple[list[int], list[int]] = ([], [])
    for i in generator.permutation(len(rows)):
        min(halves, key=len).extend(rows[i])  # groups differ in size: the next one goes to the smaller half
    first, second = (generator.permutation(np.array(half, dtype=int)) for half in halves)
    return first, second


def random_subsets(n: int, size: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Random subsets of `size` of `n` rows, each drawn without replacement: boolean, shape (n, count)."""
    members = np.zeros((n, count), bool)
    for column in range(count):
        members[generator.choice(n, size, replace=False), column] = True
    return members
