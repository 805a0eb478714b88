"""Bootstrap intervals of values that come in groups: the images of a patient, or of a prompt, are drawn together."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sdcxr.runtime.errors import UserError

LEVEL = 95  # per cent
RESAMPLES = 1000


def mean(values: np.ndarray) -> float:
    """Mean of the known values (NaN is unknown); of a table, the mean of its columns' means."""
    return _of_known(values, np.mean)


def median(values: np.ndarray) -> float:
    """Median of the known values."""
    return _of_known(values, np.median)


def group_interval(
    values: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    statistic: Callable[[np.ndarray], float] = mean,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a statistic, drawing whole groups with replacement.

    Args:
        values: a value or a row of values for each image, NaN where unknown, shape (n,) or (n, columns).
        groups: the group of each image, length n.
        statistic: of drawn `values`.
        resamples: bootstrap samples.
        seed: of the draws.

    Returns:
        Both ends; NaN where fewer than two groups have a known value.
    """
    known = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).any(axis=1)
    values = values[known]
    names, members = np.unique(np.asarray(groups)[known], return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    times = bootstrap_counts(members, resamples, seed)
    return percentiles(np.array([statistic(np.repeat(values, each, axis=0)) for each in times]))


def resampled(
    statistics: Sequence[Callable[[np.ndarray], float]],
    groups: Sequence[str] | np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Statistics of the same bootstrap samples, so that means over them and differences between them are paired.

    Args:
        statistics: functions of how often each image was drawn, shape (n,).
        groups: the group of each image, length n.
        resamples: bootstrap samples.
        seed: of the draws.

    Returns:
        Shape (resamples, statistics); NaN where there are fewer than two groups.
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return np.full((resamples, len(statistics)), np.nan)
    return np.array([[each(times) for each in statistics] for times in bootstrap_counts(members, resamples, seed)])


def bootstrap_counts(members: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image comes in each bootstrap sample of whole groups, shape (n,) a sample.

    Args:
        members: the group's number of each image, from 0 without gaps, shape (n,).
        resamples: bootstrap samples.
        seed: of the draws.
    """
    generator, n = np.random.default_rng(seed), int(members.max()) + 1
    for _ in range(resamples):
        yield np.bincount(generator.integers(n, size=n), minlength=n)[members]


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """Both ends of the 95 % interval of bootstrap values; NaN where none is known."""
    if not np.isfinite(drawn).any():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(drawn, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def _of_known(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> float:
    if values.ndim == 2:
        columns = [_of_known(values[:, j], statistic) for j in range(values.shape[1])]
        return _of_known(np.array(columns), np.mean)
    values = values[np.isfinite(values)]
    return float(statistic(values)) if len(values) else float("nan")


LARGEST = 1e20  # the spread of KID takes the twelfth power of features, and float64 ends at 1e308


def validate_features(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
