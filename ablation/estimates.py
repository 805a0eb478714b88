"""Means over seeds with intervals over seeds and prompts, their p-values, and ranks with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.bootstrap import holm, standard_error

LEVEL = 0.95
SMALLEST_P = 1e-15  # below it a p-value is 0
HALVINGS = 50  # of the range of p-values: its logarithm is known to 1e-14
ONE_SEED = "one seed: the interval is of the prompts only, another training could give another value"
NO_DRAWS = "the interval is of the seeds only"


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with the two sources of its variance."""

    value: float
    sd: float | None
    """Over seeds; None of one."""
    of_seeds: float
    """Variance of the mean over seeds; 0 of one."""
    of_prompts: float
    """Variance from the draws; NaN where unknown."""
    n_seeds: int

    @property
    def known(self) -> bool:
        """Whether anything is known about its uncertainty."""
        prompts = self.of_prompts if np.isfinite(self.of_prompts) else 0.0
        return self.of_seeds + prompts > 0 and (bool(np.isfinite(self.of_prompts)) or self.n_seeds > 1)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    value: float
    sd: float | None
    """Over seeds; None of one."""
    low: float | None
    high: float | None
    """95 % interval."""
    p: float | None
    """Of the value 0, two-sided."""
    n_seeds: int
    note: str = ""


@dataclass(frozen=True)
class Rank:
    """The place of a value among others, 1 for the best; equal values share the first of their places."""

    value: int
    low: int
    high: int
    """95 % interval of the place in the population of seeds and prompts."""


def spread(values: Sequence[float], draws: Sequence[np.ndarray], kind: str | None) -> Spread:
    """The mean of values of several seeds with its variances.

    Args:
        values: of each seed.
        draws: of each seed, shape (draws,); empty where unknown.
        kind: of the draws, see `eval.metrics.bootstrap.Interval`.
    """
    n = len(values)
    sd = float(np.std(values, ddof=1)) if n > 1 else None
    drawn = bool(kind) and all(len(one) and len(one) == len(draws[0]) for one in draws)
    of_prompts = standard_error(np.mean(draws, axis=0), str(kind)) ** 2 if drawn else float("nan")
    return Spread(float(np.mean(values)), sd, sd**2 / n if sd is not None else 0.0, of_prompts, n)


def estimate(values: Sequence[float], draws: Sequence[np.ndarray], kind: str | None) -> Estimate:
    """The mean of values of several seeds, with an interval over seeds and prompts; arguments as in `spread`.

    Seeds and prompts are crossed: the same prompts are drawn with each seed. The variance of the mean is that of its
    draws (averaged over seeds, which keeps what the seeds have in common) plus that of the values over the seeds. Each
    has its own quantile, normal and Student's of n - 1 degrees of freedom, and the squares of both halves add up:
    degrees of freedom of the sum (Satterthwaite) gave 92 % in a simulation with three seeds. The second variance has
    the noise of prompts in it that is not common, so that the interval is wide rather than narrow.
    """
    return estimates_of([spread(values, draws, kind)])[0]


def estimates_of(found: Sequence[Spread]) -> list[Estimate]:
    """Intervals and p-values of many means at once."""
    reach = reach_at(np.full(len(found), 1 - LEVEL), found)
    p_values = two_sided_p(found)
    estimates = []
    for one, half, p in zip(found, reach.tolist(), p_values.tolist(), strict=True):
        if not one.known:
            estimates.append(Estimate(one.value, one.sd, None, None, None, one.n_seeds, "no interval"))
            continue
        note = ONE_SEED if one.n_seeds == 1 else "" if np.isfinite(one.of_prompts) else NO_DRAWS
        estimates.append(Estimate(one.value, one.sd, one.value - half, one.value + half, p, one.n_seeds, note))
    return estimates


def reach_at(p: np.ndarray, found: Sequence[Spread]) -> np.ndarray:
    """Half the width of the interval of each mean that leaves out a probability `p`, shape (means,)."""
    from scipy.special import ndtri, stdtrit  # without the overhead of scipy.stats, which is 50 times theirs

    of_seeds = np.array([one.of_seeds for one in found])
    of_prompts = np.nan_to_num([one.of_prompts for one in found])
    freedom = np.maximum([one.n_seeds - 1 for one in found], 1)  # of one seed the variance is 0
    squares = stdtrit(freedom, p / 2) ** 2 * of_seeds + ndtri(p / 2) ** 2 * of_prompts
    return np.asarray(squares**0.5)


def two_sided_p(found: Sequence[Spread]) -> np.ndarray:
    """The probability at which the interval of each mean just reaches 0, by bisection of its logarithm."""
    values = np.abs([one.value for one in found])
    low, high = np.full(len(found), np.log(SMALLEST_P)), np.zeros(len(found))
    smallest = reach_at(np.exp(low), found) < values
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        wide = reach_at(np.exp(middle), found) > values  # a wider interval belongs to a smaller p
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return np.where(smallest, 0.0, np.where(values == 0, 1.0, np.exp((low + high) / 2)))


def ranks(values: Sequence[float], differences: Sequence[Sequence[Estimate | None]], higher: bool) -> list[Rank]:
    """The ranks of values with 95 % intervals.

    The best place of a value is one behind all that are significantly better, its worst before all that are
    significantly worse, by Holm's correction over its differences to the others: a confidence interval of the rank
    also where values are equal or near, in which a bootstrap of ranks fails (Mogstad, Romano, Shaikh & Wilhelm, Rev
    Econ Stud 2024;91:476-518; Xie, Singh & Zhang, JASA 2009;104:775-788).

    Args:
        values: of each arm.
        differences: of arm i minus arm j; None on the diagonal, and where two do not compare: then the place is open.
        higher: whether higher values are better.
    """
    sign, found, n = 1 if higher else -1, [], len(values)
    for i, value in enumerate(values):
        others = [(j, one) for j, one in enumerate(differences[i]) if j != i]
        adjusted = holm([float("nan") if one is None or one.p is None else one.p for _, one in others])
        sure = [one for (_, one), p in zip(others, adjusted, strict=True) if one is not None and p < 1 - LEVEL]
        better, worse = (sum(sign * one.value * side > 0 for one in sure) for side in (-1, 1))
        found.append(Rank(1 + sum(sign * (other - value) > 0 for other in values), 1 + better, n - worse))
    return found
