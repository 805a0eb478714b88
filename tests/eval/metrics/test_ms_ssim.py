"""MS-SSIM: closed form on constants, agreement with torchmetrics, small images."""

import numpy as np
import pytest

from eval.metrics.ms_ssim import WEIGHTS, ms_ssim, n_scales


def texture(size: int, n: int = 2, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    coarse = np.kron(draws.random((n, size // 16, size // 16)), np.ones((16, 16)))
    return (0.7 * coarse + 0.3 * draws.random((n, size, size))).astype(np.float32)


def test_constants_have_the_closed_form_at_the_smallest_size_of_five_scales():
    dark, bright = np.full((1, 176, 176), 0.2), np.full((1, 176, 176), 0.8)
    # Contrast and structure are 1; only the luminance at the coarsest scale is left.
    assert ms_ssim(dark, bright)[0] == pytest.approx(0.470666**0.1333, abs=1e-6)


def test_equal_images_give_one():
    images = texture(192)
    assert ms_ssim(images, images) == pytest.approx(1, abs=1e-6)


def test_value_does_not_depend_on_the_other_pairs():
    images, others = texture(192, 3), texture(192, 3, seed=1)
    together = ms_ssim(images, others)
    assert together == pytest.approx([ms_ssim(images[i : i + 1], others[i : i + 1])[0] for i in range(3)], abs=1e-6)


def test_range_is_one_whatever_the_images_hold():
    first, second = 0.1 * texture(192), 0.06 * texture(192) + 0.04 * texture(192, seed=5)
    by_range_of_batch = ms_ssim(first / first.max(), second / first.max())
    assert (ms_ssim(first, second) > by_range_of_batch + 0.01).all()  # the constants C1, C2 hold for the range 1


@pytest.mark.parametrize(("size", "scales"), [(512, 5), (176, 5), (175, 4), (128, 4), (64, 3), (11, 1), (10, 0)])
def test_number_of_scales_follows_the_size(size, scales):
    assert n_scales(size) == scales


def test_small_images_use_the_scales_they_have_with_weights_of_the_same_sum():
    dark, bright = np.full((1, 128, 128), 0.2), np.full((1, 128, 128), 0.8)
    weight = WEIGHTS[3] * sum(WEIGHTS) / sum(WEIGHTS[:4])
    assert ms_ssim(dark, bright)[0] == pytest.approx(0.470666**weight, abs=1e-6)
    assert np.isnan(ms_ssim(dark[:, :8, :8], bright[:, :8, :8])).all()


def test_opposite_structure_gives_zero():
    images = texture(192)
    assert ms_ssim(images, 1 - images) == pytest.approx([0, 0])  # the mean structure is negative: it has no real power


def test_uint8_is_refused():
    with pytest.raises(TypeError, match="floats"):
        ms_ssim(np.zeros((1, 64, 64), np.uint8), np.zeros((1, 64, 64), np.uint8))


@pytest.mark.parametrize("size", [128, 192])
def test_agrees_with_torchmetrics_where_the_window_lies_inside(size):
    image = pytest.importorskip("torchmetrics.functional.image")
    import torch

    first, second = texture(size), 0.6 * texture(size) + 0.4 * texture(size, seed=5)
    scales = n_scales(size)
    x, y = (torch.from_numpy(images)[:, None] for images in (first, second))
    options = {"data_range": 1.0, "reduction": "none"}
    theirs = torch.ones(2)
    for weight in WEIGHTS[: scales - 1]:
        contrast = image.structural_similarity_index_measure(x, y, return_contrast_sensitivity=True, **options)[1]
        theirs *= contrast ** (weight * sum(WEIGHTS) / sum(WEIGHTS[:scales]))
        x, y = torch.nn.functional.avg_pool2d(x, 2), torch.nn.functional.avg_pool2d(y, 2)
    # Its own multi-scale function takes the last mean over mirrored borders, too: up to 0.03 off at these sizes.
    full = image.structural_similarity_index_measure(x, y, return_full_image=True, **options)[1][..., 5:-5, 5:-5]
    theirs *= full.mean(dim=(1, 2, 3)) ** (WEIGHTS[scales - 1] * sum(WEIGHTS) / sum(WEIGHTS[:scales]))
    assert 0.2 < float(theirs[0]) < 0.95
    assert ms_ssim(first, second) == pytest.approx(theirs.numpy(), abs=1e-5)


def test_agrees_with_pytorch_msssim():
    pytorch_msssim = pytest.importorskip("pytorch_msssim")
    import torch

    first, second = texture(192), 0.6 * texture(192) + 0.4 * texture(192, seed=5)
    x, y = (torch.from_numpy(images)[:, None] for images in (first, second))
    theirs = pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False)
    assert ms_ssim(first, second) == pytest.approx(theirs.numpy(), abs=1e-4)
