"""Bootstrap intervals of values that come in groups: the images of a patient, or of a prompt, are drawn together."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

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
    times = drawn_times(members, resamples, seed)
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
    return np.array([[each(times) for each in statistics] for times in drawn_times(members, resamples, seed)])


def drawn_times(members: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
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
