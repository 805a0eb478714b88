"""Group bootstrap: confidence intervals that resample patients or prompts; half-samples; validation of features.

Images of one patient, or of one prompt, are not independent: they are drawn together. Statistics for which a row must
not occur twice (distances, kernels, neighbours) use subsets without replacement instead.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sdcxr.runtime.errors import UserError

LEVEL = 95  # per cent
NORMAL_95 = 1.959964  # standard deviations to either side of a normal distribution's mean
RESAMPLES = 1000
FEWEST_GROUPS = 5  # patients or prompts with a finding, and without it, for an interval
LARGEST = 1e20  # the spread of KID takes the twelfth power of features, and float64 ends at 1e308


class Interval(tuple[float, float]):
    """Both ends of an interval, and the values of the draws behind it.

    Draws with one seed of the same patients or prompts are the same draws: differences between two models are paired.
    """

    draws: np.ndarray
    """Shape (draws,), NaN where a draw has no value; empty where unknown."""
    kind: str
    """What a draw is: "bootstrap" sample, random "half", or "jackknife" (all but one block)."""

    def __new__(cls, low: float, high: float, draws: np.ndarray | None = None, kind: str = "bootstrap") -> "Interval":
        ends = super().__new__(cls, (low, high))
        ends.draws, ends.kind = np.zeros(0) if draws is None else np.asarray(draws, float), kind
        return ends


def mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; of a table, the mean of its columns' means, NaN if a column has no value.

    A mean over fewer columns would be another statistic: bootstrap samples that lack a column do not count.
    """
    return _of_known(values, np.mean)


def median(values: np.ndarray) -> float:
    """Median of the values that are not NaN."""
    return _of_known(values, np.median)


def _of_known(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> float:
    if values.ndim == 2:
        columns = [_of_known(values[:, j], statistic) for j in range(values.shape[1])]
        return float(np.mean(columns)) if columns else float("nan")
    values = values[np.isfinite(values)]
    return float(statistic(values)) if len(values) else float("nan")


def group_interval(
    values: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    statistic: Callable[[np.ndarray], float] = mean,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic; whole groups are drawn with replacement.

    Args:
        values: a value or a row of values of each image, NaN where unknown, shape (n,) or (n, columns).
        groups: the group (patient, prompt) of each image, length n.
        statistic: function of drawn `values`.
        resamples: number of bootstrap samples.
        seed: of the draws.

    Returns:
        Both ends; NaN if fewer than two groups have a known value.
    """
    known = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).any(axis=1)
    values = values[known]
    names, members = np.unique(np.asarray(groups)[known], return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan")
    draws = bootstrap_counts(len(names), resamples, seed)
    return percentiles(np.array([statistic(np.repeat(values, counts[members], axis=0)) for counts in draws]))


def resampled(
    statistics: Sequence[Callable[[np.ndarray], float]],
    groups: Sequence[str] | np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Statistics of the same bootstrap samples, so that differences between them and means over them are paired.

    Statistics are functions of how often each image was drawn, shape (n,); other arguments as in `group_interval`.

    Returns:
        Shape (resamples, statistics); NaN if there are fewer than two groups.
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return np.full((resamples, len(statistics)), np.nan)
    draws = bootstrap_counts(len(names), resamples, seed)
    return np.array([[statistic(counts[members]) for statistic in statistics] for counts in draws])


def resampled_sums(
    values: np.ndarray, groups: Sequence[str] | np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Sums of rows over bootstrap samples of whole groups, for statistics that are functions of sums.

    Summed per group first, so that its cost does not grow with the number of images. The counts come from one
    multinomial draw: the distribution of `bootstrap_counts`, but other samples for a seed. Using those here would
    change every interval of `eval.reports`. Values (n, …) give sums of shape (resamples, …); other arguments as in
    `group_interval`.
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    of_group = np.zeros((len(names), *values.shape[1:]))
    np.add.at(of_group, members, values)
    generator, n = np.random.default_rng(seed), len(names)
    counts = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.tensordot(counts.astype(float), of_group, axes=1)


def bootstrap_counts(n_groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group occurs in each bootstrap sample: `resamples` arrays of shape (n_groups,)."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(n_groups, size=n_groups), minlength=n_groups)


def percentiles(drawn: np.ndarray) -> Interval:
    """Both ends of the 95 % interval of bootstrap values; NaN if fewer than half of them are finite."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < max(1, len(drawn) / 2):
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return Interval(float(low), float(high), drawn)


def standard_error(drawn: np.ndarray, kind: str) -> float:
    """Standard error of a statistic from the values of its draws, of a kind of `Interval`; NaN of fewer than two."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < 2:
        return float("nan")
    if kind == "jackknife":
        return float(np.sqrt((len(known) - 1) / len(known) * ((known - known.mean()) ** 2).sum()))
    return float(known.std(ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): p-values that together keep the probability of any false positive.

    NaN is no test: it stays, and is not counted.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if np.isfinite(p))
    adjusted, highest = [float("nan")] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        adjusted[i] = highest
    return adjusted


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share of n independent trials; its ends stay within 0 and 1."""
    z2 = NORMAL_95**2 / n
    middle, reach = share + z2 / 2, float(np.sqrt(z2 * (share * (1 - share) + z2 / 4)))
    return max((middle - reach) / (1 + z2), 0.0), min((middle + reach) / (1 + z2), 1.0)


def rare_findings(classes: Mapping[Hashable, Sequence[Any]], groups: np.ndarray) -> dict[str, int]:
    """Findings of which one of the `classes`, masks of images, has fewer than `FEWEST_GROUPS` groups, and how many.

    A bootstrap of so few draws the same ones over and over: from one positive, an AUROC of 1 would be "1.000–1.000".
    """
    counts = {str(name): min(len(set(groups[np.asarray(mask)])) for mask in masks) for name, masks in classes.items()}
    return {name: n for name, n in counts.items() if n < FEWEST_GROUPS}


def no_interval(n_groups: int) -> str:
    """The note of a score without interval because of so few groups."""
    return f"no interval: only {n_groups} patients or prompts with it (or without it), fewer than {FEWEST_GROUPS}"


def group_rows(groups: Sequence[str]) -> list[np.ndarray]:
    """Row numbers of each group, in the order in which the groups first occur."""
    _, first, inverse = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    rows = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    return [rows[i] for i in np.argsort(first)]


def half_samples(groups: Sequence[str], count: int, generator: np.random.Generator) -> np.ndarray:
    """Random halves of the groups, drawn without replacement: boolean, shape (n, count), which rows are in each.

    `groups` has the group (patient, prompt) of each of n rows.
    """
    rows = group_rows(groups)
    members = np.zeros((len(groups), count), bool)
    for column in range(count):
        for i in generator.permutation(len(rows))[: len(rows) // 2]:
            members[rows[i], column] = True
    return members


def disjoint_halves(groups: Sequence[str], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, in random order, of two sets of rows of about equal size that have no group in common.

    `groups` has the group (patient, prompt) of each of n rows.
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


def validate_features(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as float64: float32 covariances of a thousand dimensions give negative or undefined distances.

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
        raise UserError(
            f"real features have {dimensions[0]} dimensions and synthetic ones {dimensions[1]}: "
            f"extract both with the same extractor"
        )
    return sides["real"], sides["synthetic"]
