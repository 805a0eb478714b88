"""The Fréchet distance and its limit, on closed forms, against three libraries, and against public faults."""

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


def matrix_root(covariance: np.ndarray) -> np.ndarray:
    variances, axes = np.linalg.eigh(covariance)
    return axes @ np.diag(np.sqrt(variances)) @ axes.T


@pytest.mark.parametrize(
    ("mean_x", "covariance_x", "mean_y", "covariance_y", "distance"),
    [
        ([0.0], [[1.0]], [3.0], [[4.0]], 10.0),  # (μ difference)² + (σ difference)²
        ([0.0, 0.0], A, [0.0, 0.0], B, 8 - 2 * np.sqrt(14)),  # tr √M = √(tr M + 2 √det M) for 2 × 2
        ([0.0, 0.0], A, [0.0, 0.0], A, 0.0),
    ],
)
def test_closed_forms(mean_x, covariance_x, mean_y, covariance_y, distance):
    moments = [np.array(value) for value in (mean_x, covariance_x, mean_y, covariance_y)]
    assert frechet_of_moments(*moments) == pytest.approx(distance, abs=1e-12)
    rows = with_moments(*moments[:2]), with_moments(*moments[2:])
    assert frechet_distance(*rows) == pytest.approx(distance, abs=1e-10)


def test_singular_covariances_have_a_distance():
    along = np.outer(
        [0.1, 0.7, 0.3], [0.1, 0.7, 0.3]
    )  # one variance of 0.59, and two of 0 that rounding makes negative
    assert frechet_of_moments(np.zeros(3), along, np.zeros(3), 4 * along) == pytest.approx(0.59)
    assert frechet_of_moments(np.zeros(3), along, np.zeros(3), np.zeros((3, 3))) == pytest.approx(0.59)


def test_of_unit_covariances_a_shift_of_1_per_dimension_counts_once_each():
    assert frechet_of_moments(np.zeros(2048), np.eye(2048), np.ones(2048), np.eye(2048)) == pytest.approx(
        2048, abs=1e-6
    )


def test_product_of_two_roots_is_another_number():
    faulty = np.trace(A + B) - 2 * np.trace(matrix_root(A) @ matrix_root(B))
    assert faulty == pytest.approx(0.5358983849, abs=1e-10)
    assert frechet_of_moments(np.zeros(2), A, np.zeros(2), B) == pytest.approx(0.5166852264521, abs=1e-12)


def test_covariances_divide_by_n_minus_1():
    real, synthetic = np.array([[1.0, 2], [1, 2], [1, 2]]), np.array([[2.0, 2], [1, 2], [1, 2]])
    faulty = np.sum((real.mean(0) - synthetic.mean(0)) ** 2) + np.trace(np.cov(synthetic.T, bias=True))
    assert faulty == pytest.approx(1 / 3)
    assert frechet_distance(real, synthetic) == pytest.approx(0.4444444, abs=1e-7)


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
    ("d", "n", "expected", "tolerance"),
    [
        (64, 1000, 2.208, 0.1),
        (64, 2000, 1.104, 0.03),
        (64, 4000, 0.552, 0.015),
        (128, 4000, 2.128, 0.03),
        (16, 500, 0.336, 0.03),
    ],
)
def test_bias_of_equal_distributions_is_that_of_theory(d, n, expected, tolerance):
    generator = np.random.default_rng(0)
    draws = [frechet_distance(generator.normal(size=(n, d)), generator.normal(size=(n, d))) for _ in range(10)]
    assert np.mean(draws) == pytest.approx(expected, abs=tolerance)
    assert expected == pytest.approx(2 * d / n + d * (d + 1) / (2 * n), abs=1e-3)


def test_mean_over_shards_is_not_the_distance_of_all():
    generator = np.random.default_rng(0)
    real, synthetic = generator.normal(size=(2, 1000, 32))
    pairs = zip(np.split(real, 10), np.split(synthetic, 10), strict=True)
    faulty = np.mean([frechet_distance(*pair) for pair in pairs])
    assert faulty > 8 * frechet_distance(real, synthetic)


def test_float32_covariances_lose_what_float64_keeps():
    generator = np.random.default_rng(0)
    real = (generator.normal(size=(400, 32)) * 0.01 + 300).astype(np.float32)
    synthetic = (generator.normal(size=(400, 32)) * 0.01 + 300).astype(np.float32)

    def float32(rows):  # as running sums do: E[xxᵀ] − μμᵀ
        mean = rows.mean(axis=0)
        return mean, (rows.T @ rows - len(rows) * np.outer(mean, mean)) / np.float32(len(rows) - 1)

    (mean_x, x), (mean_y, y) = float32(real), float32(synthetic)
    product = np.linalg.eigvals(x @ y).astype(complex)
    faulty = ((mean_x - mean_y) ** 2).sum() + np.trace(x + y) - 2 * np.sqrt(product).real.sum()
    right = frechet_distance(real, synthetic)
    assert 0 < right < 2 * np.trace(np.cov(real.T))
    assert not abs(faulty - right) < 10 * right


def test_fewer_images_than_dimensions_are_computed_and_mostly_bias():
    real, synthetic = np.random.default_rng(0).normal(size=(2, 64, 256))
    assert frechet_distance(real, synthetic) == pytest.approx(309.7, rel=0.05)


@pytest.mark.parametrize("shape", [((300, 24), (200, 24)), ((15, 24), (200, 24)), ((15, 24), (12, 24))])
def test_agrees_with_torch_fidelity(shape):
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
        (np.ones((5, 3)), np.ones((5, 4)), r"3 \(real\) and 4 \(synthetic\) dimensions"),
        (np.ones((5, 3)), np.array([[1, 2, 3], [1, np.nan, 3], [1, 2, np.inf]]), "2 of 3 synthetic .*first: row 1"),
        (np.ones(5), np.ones((5, 1)), r"shape \(5,\)"),
    ],
)
def test_bad_arrays_are_one_line(real, synthetic, message):
    with pytest.raises(UserError, match=message):
        frechet_distance(real, synthetic)
