"""Presets of fidelity metrics: FD, KID, PRDC and CMMD with the parameters of publications; their standard errors."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from eval.metrics.frechet import frechet_distance, frechet_infinity
from eval.metrics.mmd import cmmd, gaussian, kid, mmd2, polynomial, subsets_for_kid, unit_rows
from eval.metrics.prdc import NAMES, prdc, prdc_of_subsets
from sdcxr.runtime.errors import UserError

ALL = ("fd", "fd_infinity", "kid", "kid_subsets", *NAMES, "cmmd")
OF_COVARIANCES = ("fd", "fd_infinity")  # need many more images than dimensions
HALVES_OF_LIMIT, POINTS_OF_LIMIT = 25, 5  # for the standard error of FD∞: each point costs a distance


@dataclass(frozen=True)
class Preset:
    """An extractor with its preprocessing, and the metrics of its features."""

    extractor: str
    """Name of the extractor; the variant after @ is the preprocessing."""
    metrics: tuple[str, ...] = ALL
    k: int = 5
    """Number of the neighbour for precision, recall, density and coverage."""
    kid_subset_size: int | None = None
    """Images of each side in a subset; None: 1000, or half of the smaller side if that is less."""
    kid_subsets: int = 100
    name: str | None = None
    """Name of the published protocol; None: this project's own choice."""

    def subset_size(self, n: int) -> int:
        """Size of KID's subsets if the smaller side has n images."""
        return self.kid_subset_size or min(1000, n // 2)


# KID of all images accompanies every Fréchet distance, even if the original lacks it: it has no bias.
PRESETS = {
    preset.name: preset
    for preset in (
        # torchmetrics 1.9 with its defaults.
        Preset("inception@torchmetrics", ("fd", "kid", "kid_subsets"), 5, 1000, 100, "fid-inception-torchmetrics"),
        # clean-fid 0.1.35. Up to 1000 images its KID averages 100 times the same: that is "kid".
        Preset("inception@clean", ("fd", "kid", "kid_subsets"), 5, 1000, 100, "fid-clean"),
        # RoentGen's evaluation: clean-fid's distance of XRV-all's features2, 5,000 images in the paper.
        Preset("xrv-all@roentgen", ("fd", "kid"), name="fd-xrv-roentgen"),
        # CheXGenBench's KID subsets are the whole smaller side: their mean converges to "kid".
        Preset("rad-dino@chexgenbench", ("fd", "kid", *NAMES), k=5, name="fd-rad-dino-chexgenbench"),
        Preset("rad-dino", ("fd", "fd_infinity", "kid", "kid_subsets", *NAMES), k=5, name="fd-rad-dino"),
        Preset("clip:ViT-L-14-336", ("cmmd",), name="cmmd"),
    )
}


@dataclass(frozen=True)
class Measured:
    """A value, or the reason why there is none."""

    value: float
    sd: float = float("nan")
    """Standard deviation of KID over its subsets."""
    problem: str | None = None


def measure(real: np.ndarray, synthetic: np.ndarray, preset: Preset, seed: int = 0) -> dict[str, Measured]:
    """The preset's metrics by name; a metric that cannot be computed is NaN with the reason.

    Of finite features (n_real, dimension) and (n_synthetic, dimension); `seed` is that of random subsets.
    """
    size = preset.subset_size(min(len(real), len(synthetic)))
    measured: dict[str, Measured] = {}

    def put(name: str, compute: Callable[[], Measured]) -> None:
        if name in preset.metrics:
            try:
                measured[name] = compute()
            except UserError as error:
                measured[name] = Measured(float("nan"), problem=str(error))

    put("fd", lambda: Measured(frechet_distance(real, synthetic)))
    put("fd_infinity", lambda: Measured(frechet_infinity(real, synthetic, seed=seed)))
    put("kid_subsets", lambda: _kids(real, synthetic, size, preset.kid_subsets, seed, measured))
    if "kid" not in measured:
        put("kid", lambda: Measured(kid(real, synthetic)))
    if set(NAMES) & set(preset.metrics):
        try:
            measured |= {name: Measured(value) for name, value in prdc(real, synthetic, preset.k).items()}
        except UserError as error:
            measured |= {name: Measured(float("nan"), problem=str(error)) for name in NAMES}
    put("cmmd", lambda: Measured(cmmd(real, synthetic)))
    return {name: measured[name] for name in preset.metrics}


def _kids(
    real: np.ndarray, synthetic: np.ndarray, size: int, count: int, seed: int, measured: dict[str, Measured]
) -> Measured:
    """KID over subsets; also puts KID of all images, computed in the same pass, into `measured`."""
    subsets = subsets_for_kid(len(real), len(synthetic), size, count, seed)
    in_real, in_synthetic = (np.pad(members, ((0, 0), (1, 0)), constant_values=True) for members in subsets)
    values = mmd2(real, synthetic, polynomial, in_real, in_synthetic)
    measured["kid"] = Measured(float(values[0]))
    return Measured(float(values[1:].mean()), float(values[1:].std()))


def values_of_halves(
    real: np.ndarray, synthetic: np.ndarray, preset: Preset, halves_real: np.ndarray, halves_synthetic: np.ndarray
) -> dict[str, np.ndarray]:
    """Each metric on random halves of the groups of both sides; their standard deviation is its standard error.

    A bootstrap that draws with replacement is wrong here: an image drawn twice is its own nearest neighbour, raises the
    kernel's mean over pairs, and lowers the rank of a covariance. Half of n groups drawn without replacement has no
    doubles, and for a statistic that is linear to first order the variance between such halves is that of the statistic
    of all n: σ²/(n/2) · (1 − 1/2) (Shao & Wu 1989, Ann. Statist. 17:1176; Politis & Romano 1994, ibid. 22:2031).
    Only the spread of the halves is used, never their level, so the larger bias of a Fréchet distance at half the
    images does not matter; the bias at all of them stays in the value, and in the interval around it. Where both
    distributions are equal, FD, KID and CMMD are not linear, and the error comes out up to twice too large.

    Features are those of `measure`; halves come from `half_samples`, shape (n_real or n_synthetic, resamples).

    Returns:
        Values by name, shape (resamples,), without what halves are too small for. FD∞ has only `HALVES_OF_LIMIT`, and
        their deviation is too large by a fifth and more, as its line is drawn through fewer points and from smaller
        subsets.
    """
    halves = halves_real, halves_synthetic
    pairs = list(zip(halves_real.T, halves_synthetic.T, strict=True))
    values: dict[str, np.ndarray] = {}
    if "fd" in preset.metrics:
        values["fd"] = np.array([frechet_distance(real[half], synthetic[other]) for half, other in pairs])
    if "fd_infinity" in preset.metrics:
        with suppress(UserError):
            limits = [
                frechet_infinity(real[half], synthetic[other], points=POINTS_OF_LIMIT, seed=seed)
                for seed, (half, other) in enumerate(pairs[:HALVES_OF_LIMIT])
            ]
            values["fd_infinity"] = np.array(limits)
    if {"kid", "kid_subsets"} & set(preset.metrics):
        values["kid"] = values["kid_subsets"] = mmd2(real, synthetic, polynomial, *halves)
    if set(NAMES) & set(preset.metrics):
        with suppress(UserError):  # the halves are too small
            values |= prdc_of_subsets(real, synthetic, preset.k, *halves)
    if "cmmd" in preset.metrics:
        with suppress(UserError):  # a row has no direction
            values["cmmd"] = 1000 * mmd2(unit_rows(real), unit_rows(synthetic), gaussian, *halves, unbiased=False)
    return {name: values[name] for name in preset.metrics if name in values}
