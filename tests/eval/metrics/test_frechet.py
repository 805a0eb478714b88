"""Fréchet distance and its limit: closed forms, bias, agreement with libraries. More numbers: eval.known_answers."""

import numpy as np
import pytest

from eval.metrics.frechet import frechet_distance, frechet_infinity, frechet_of_moments
from sdcxr.runtime.errors import UserError

A, B = np.array([[2.0, 1.0], [1.0, 2.0]]), np.diag([3.0, 1.0])


def with_moments(mean: np.ndarray, covariance: np.ndarray, n: int = 50) -> np.ndarray:
    """Rows whose sample mean and unbiased covariance are exactly these."""
    rows = np.random.default_rng(0).normal(size=(n, len(mean)))
    rows -= rows.mean(axis=0)
    whitened = rows @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(rows, rowvar=False)))).T
    return mean + whitened @ np.linalg.cholesky(covariance).T


@pytest.mark.parametrize(
    ("of_x", "of_y", "distance"),
    [
        (([0.0], [[1.0]]), ([3.0], [[4.0]]), 10.0),  # (μ difference)² + (σ difference)²
        (([0.0, 0.0], A), ([0.0, 0.0], B), 8 - 2 * np.sqrt(14)),  # tr √M = √(tr M + 2 √det M) for 2 × 2
        (([0.0, 0.0], A), ([0.0, 0.0], A), 0.0),
    ],
)
def test_rows_with_given_moments_have_the_closed_form(of_x, of_y, distance):
    rows = [with_moments(np.array(mean), np.array(covariance)) for mean, covariance in (of_x, of_y)]
    assert frechet_distance(*rows) == pytest.approx(distance, abs=1e-10)


def test_singular_covariances_have_a_distance():
    # One variance of 0.59, and two of 0 that rounding makes negative.
    along = np.outer([0.1, 0.7, 0.3], [0.1, 0.7, 0.3])
    assert frechet_of_moments(np.zeros(3), along, np.zeros(3), 4 * along) == pytest.approx(0.59)
    assert frechet_of_moments(np.zeros(3), along, np.zeros(3), np.zeros((3, 3))) == pytest.approx(0.59)


STEEP = np.append(1.0, np.full(63, 3e-4))  # standard deviations: together the small ones are half a per cent of all


@pytest.mark.parametrize("spectrum", [np.linspace(0, 3, 64), np.arange(1, 65.0) ** -4, STEEP])
@pytest.mark.parametrize("n", [20, 64, 500])
def test_equal_sets_have_distance_0(n, spectrum):
    rows = np.random.default_rng(1).normal(size=(n, 64)) * spectrum
    assert frechet_distance(rows, rows) <= 1e-12 * np.trace(np.cov(rows, rowvar=False))


def test_directions_of_little_variance_count():
    """Eigenvalues of Σx Σy lose what lies below rounding of the largest: 1e-16 of it, and of a root 1e-8."""
    x, y = np.diag(STEEP**2), np.diag((np.append(1.0, np.full(63, 2 * 3e-4))) ** 2)
    assert frechet_of_moments(np.zeros(64), x, np.zeros(64), y) == pytest.approx(63 * 9e-8, rel=1e-6)


@pytest.mark.parametrize(
    ("d", "n", "tolerance"),
    [
        (64, 4000, 0.015),
        (128, 4000, 0.03),
    ],
)
def test_bias_of_equal_distributions_is_that_of_theory(d, n, tolerance):
    generator = np.random.default_rng(0)
    draws = [frechet_distance(generator.normal(size=(n, d)), generator.normal(size=(n, d))) for _ in range(10)]
    assert np.mean(draws) == pytest.approx(2 * d / n + d * (d + 1) / (2 * n), abs=tolerance)


def test_float32_features_far_from_the_origin_keep_their_small_distance():
    generator = np.random.default_rng(0)
    real = (generator.normal(size=(400, 32)) * 0.01 + 300).astype(np.float32)
    synthetic = (generator.normal(size=(400, 32)) * 0.01 + 300).astype(np.float32)

    assert 0 < frechet_distance(real, synthetic) < 2 * np.trace(np.cov(real.T))


def test_fewer_images_than_dimensions_are_computed_and_mostly_bias():
    real, synthetic = np.random.default_rng(0).normal(size=(2, 64, 256))
    assert frechet_distance(real, synthetic) == pytest.approx(309.7, rel=0.05)


@pytest.mark.parametrize("shape", [((15, 24), (200, 24)), ((15, 24), (12, 24))])
def test_fewer_images_than_dimensions_agree_with_torch_fidelity(shape):
    torch = pytest.importorskip("torch")
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    generator = np.random.default_rng(3)
    real, synthetic = (generator.gamma(2, size=size) for size in shape)
    statistics = [fidelity.fid_features_to_statistics(torch.from_numpy(rows)) for rows in (real, synthetic)]
    expected = fidelity.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_distance(real, synthetic) == pytest.approx(expected, rel=1e-6)


def test_agrees_with_torchmetrics():
    torch = pytest.importorskip("torch")
    fid = pytest.importorskip("torchmetrics.image.fid")

    class First(torch.nn.Module):
        num_features = 12

        def forward(self, images):
            return images.flatten(1)[:, :12].double() ** 1.5

    images = torch.randint(0, 255, (2, 300, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    metric = fid.FrechetInceptionDistance(feature=First())
    metric.set_dtype(torch.float64)
    metric.update(images[0], real=True)
    metric.update(images[1], real=False)
    features = [First()(side).numpy() for side in images]
    assert frechet_distance(*features) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_clean_fid_agrees():
    fid = pytest.importorskip("cleanfid.fid")
    real, synthetic = np.random.default_rng(4).normal(size=(2, 200, 16)) ** 3
    try:
        expected = fid.fid_from_feats(real, synthetic)
    except (TypeError, ValueError):
        pytest.skip("this scipy has no sqrtm(disp=) any more")
    assert frechet_distance(real, synthetic) == pytest.approx(expected, rel=1e-6)


def test_limit_for_many_images():
    generator = np.random.default_rng(0)
    real, synthetic = generator.normal(size=(20_000, 64)), 1.1 * generator.normal(size=(20_000, 64)) + 0.1
    sizes = np.linspace(500, 5000, 10).astype(int).tolist()
    assert frechet_distance(real, synthetic[:500]) == pytest.approx(4.01, abs=0.45)  # varies by 0.15
    assert frechet_distance(real, synthetic[:5000]) == pytest.approx(1.59, abs=0.06)
    assert frechet_infinity(real, synthetic, sizes) == pytest.approx(1.33, abs=0.06)  # true value 1.28


def test_sizes_by_default_are_those_where_the_distance_is_a_line_in_1_over_n():
    """What is left of the bias of equal distributions is that of the real side: (d + d(d + 1)/4)/N = 0.9 here."""
    sides = [np.random.default_rng(seed).normal(size=(2, 320, 32)) for seed in range(6)]
    assert 0.4 < np.mean([frechet_infinity(*pair) for pair in sides]) < 1.1
    from_two_images_on = [frechet_infinity(*pair, np.linspace(2, 320, 15).astype(int).tolist()) for pair in sides]
    assert np.mean(from_two_images_on) > 2
    assert np.mean([frechet_distance(*pair) for pair in sides]) > 1.7


def test_subsets_of_the_limit_have_no_doubles_and_are_by_seed():
    real, synthetic = np.random.default_rng(0).normal(size=(2, 60, 4))
    at_all = frechet_distance(real, synthetic)
    line = np.polyfit([1 / 30, 1 / 60], [frechet_distance(real, synthetic[half_of(60)]), at_all], 1)
    assert frechet_infinity(real, synthetic, [30, 60]) == pytest.approx(line[1])
    assert frechet_infinity(real, synthetic, seed=1) != frechet_infinity(real, synthetic)


def half_of(n: int) -> np.ndarray:
    return np.random.default_rng(0).choice(n, n // 2, replace=False)


@pytest.mark.parametrize("sizes", [[5], [1, 5], [5, 101]])
def test_limit_needs_sizes_that_there_are(sizes):
    with pytest.raises(UserError, match="subset sizes of 2 to 100"):
        frechet_infinity(np.eye(100), np.eye(100), sizes)


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        (np.ones((1, 3)), np.ones((5, 3)), "1 real images: a distribution needs at least 2"),
        (np.ones((5, 3)), np.ones((0, 3)), "0 synthetic images"),
        (np.ones((5, 3)), np.ones((5, 4)), "real features have 3 dimensions and synthetic ones 4"),
        (np.ones((5, 3)), np.array([[1, 2, 3], [1, np.nan, 3], [1, 2, np.inf]]), "2 of 3 synthetic .*first: row 1"),
        (np.ones(5), np.ones((5, 1)), r"shape \(5,\)"),
    ],
)
def test_bad_arrays_are_one_line(real, synthetic, message):
    with pytest.raises(UserError, match=message):
        frechet_distance(real, synthetic)
