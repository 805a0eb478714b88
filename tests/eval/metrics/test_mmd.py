"""KID and CMMD: bias, subsets, agreement with torch-fidelity and clean-fid. More numbers: eval.known_answers."""

import numpy as np
import pytest

from eval.metrics.bootstrap import random_subsets
from eval.metrics.mmd import cmmd, gaussian, kid, kid_subsets, mmd2, polynomial, subsets_for_kid, unit_rows
from sdcxr.runtime.errors import UserError


def test_kid_of_equal_sets_is_negative():
    rows = np.random.default_rng(0).normal(size=(50, 4))
    kernel = polynomial(rows, rows)
    off_diagonal = ~np.eye(50, dtype=bool)
    assert kid(rows, rows) == pytest.approx(2 / 50 * (kernel[off_diagonal].mean() - kernel.diagonal().mean()))
    assert kid(rows, rows) < 0


def test_kid_of_equal_distributions_is_0_on_average_where_the_biased_estimator_is_not():
    generator = np.random.default_rng(0)
    pairs = generator.normal(size=(300, 2, 30, 8))
    unbiased = np.array([kid(*pair) for pair in pairs])
    biased = np.array([mmd2(*pair, polynomial, unbiased=False)[0] for pair in pairs])
    error = unbiased.std() / np.sqrt(300)
    assert abs(unbiased.mean()) < 3 * error
    assert biased.mean() > 20 * error


def test_subsets_equal_the_same_rows_by_themselves():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(1300, 6)), generator.normal(size=(700, 6)) + 0.1  # more than a block of rows
    in_x, in_y = random_subsets(1300, 200, 3, generator), random_subsets(700, 150, 3, generator)
    values = mmd2(x, y, polynomial, in_x, in_y)
    for i in range(3):
        assert values[i] == pytest.approx(kid(x[in_x[:, i]], y[in_y[:, i]]), abs=1e-12)


def test_agrees_with_torch_fidelity_on_its_own_subsets():
    torch = pytest.importorskip("torch")
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    generator = np.random.default_rng(1)
    real, synthetic = generator.normal(size=(300, 20)), generator.normal(size=(250, 20)) * 1.2
    expected = fidelity.kid_features_to_metric(
        torch.from_numpy(synthetic),
        torch.from_numpy(real),
        kid_subsets=7,
        kid_subset_size=100,
        rng_seed=5,
        verbose=False,
    )
    draws = np.random.RandomState(5)  # the generator of torch-fidelity
    members = np.zeros((300, 7), bool), np.zeros((250, 7), bool)
    for i in range(7):
        members[1][draws.choice(250, 100, replace=False), i] = True
        members[0][draws.choice(300, 100, replace=False), i] = True
    values = mmd2(real, synthetic, polynomial, *members)
    assert values.mean() == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-9)
    assert values.std() == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-9)


def test_agrees_with_clean_fid_where_its_subsets_are_all_images():
    fid = pytest.importorskip("cleanfid.fid")
    real, synthetic = np.random.default_rng(3).normal(size=(2, 80, 10))
    assert kid(real, synthetic) == pytest.approx(fid.kernel_distance(real, synthetic, num_subsets=3), abs=1e-10)


def test_subsets_vary_around_the_value_of_all_images():
    generator = np.random.default_rng(0)
    real, synthetic = generator.normal(size=(400, 8)), generator.normal(size=(300, 8)) + 0.3
    mean, sd = kid_subsets(real, synthetic, size=100, count=60)
    assert sd > 0
    assert mean == pytest.approx(kid(real, synthetic), abs=4 * sd / np.sqrt(60))
    assert kid_subsets(real, synthetic, size=100, count=60) == (mean, sd)  # by seed
    assert kid_subsets(real, synthetic, size=100, count=60, seed=1) != (mean, sd)


def test_subsets_of_all_images_are_refused_as_their_deviation_means_nothing():
    real, synthetic = np.random.default_rng(0).normal(size=(2, 40, 4))
    everything = np.ones((40, 5), bool)
    assert mmd2(real, synthetic, polynomial, everything, everything).std() < 1e-12
    for size in (40, 41, 1):
        with pytest.raises(UserError, match=f"KID subsets of {size} images .* 40 real and 40 synthetic"):
            kid_subsets(real, synthetic, size=size)


def test_members_of_subsets_are_counted_and_differ():
    in_real, in_synthetic = subsets_for_kid(30, 20, 10, 6, seed=0)
    assert in_real.sum(axis=0).tolist() == in_synthetic.sum(axis=0).tolist() == [10] * 6
    assert len({column.tobytes() for column in in_real.T}) == 6


def test_cmmd_of_equal_sets_is_0_and_its_bias_that_of_theory():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(100, 64))
    assert cmmd(rows, rows) == pytest.approx(0, abs=1e-10)
    unit = [unit_rows(generator.normal(size=(100, 64))) for _ in range(40)]
    values = [cmmd(unit[i], unit[i + 1]) for i in range(0, 40, 2)]
    mean_kernel = gaussian(unit[0], unit[1]).mean()
    assert np.mean(values) == pytest.approx(1000 * 2 * (1 - mean_kernel) / 100, rel=0.05)
    assert np.mean(values) < 19.9 / 100


def test_cmmd_does_not_see_the_length_of_rows():
    rows = np.random.default_rng(0).normal(size=(30, 8))
    assert cmmd(rows, 4 * rows) == pytest.approx(0, abs=1e-10)


def test_rows_without_direction_are_refused():
    with pytest.raises(UserError, match="1 of 3 feature rows are all zeros"):
        cmmd(np.array([[1.0, 0], [0, 0], [0, 1]]), np.eye(2))
