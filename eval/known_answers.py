"""Known answers of the metrics: closed forms, published examples, agreement with libraries.

`python -m eval.doctor` computes them on an installation, the tests on this one. "agrees with" is the largest difference
between this project and the named library.
"""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from math import exp, sqrt
from typing import Any

import numpy as np

from eval.memorization.copies import pixel_rms
from eval.metrics import classification
from eval.metrics.frechet import frechet_distance, frechet_of_moments
from eval.metrics.mmd import cmmd, kid
from eval.metrics.ms_ssim import ms_ssim
from eval.metrics.nearest import authentic
from eval.metrics.prdc import prdc
from eval.metrics.retrieval import chance_recall, cosine, first_ranks
from eval.metrics.text import bleu, bleu_statistics, pieces, rouge
from eval.metrics.vendi import vendi_of_kernel


@dataclass(frozen=True)
class KnownAnswer:
    """A computation and its known result."""

    name: str
    expected: float
    compute: Callable[[], float]
    tolerance: float = 1e-9
    """Largest difference that rounding, or the noise of a simulation, explains."""
    libraries: tuple[str, ...] = ("numpy",)
    """Distributions it needs, the most probable cause of a wrong number last."""


def _frechet(*moments: Any) -> float:
    return frechet_of_moments(*(np.array(part, float) for part in moments))


def _frechet_of_equal_sets() -> float:
    rows = np.random.default_rng(0).normal(size=(60, 40))
    return frechet_distance(rows, rows)


def _frechet_bias(dimension: int, n: int, draws: int) -> float:
    """Mean distance of equal distributions; theory: 2d/N + d(d + 1)/(2N)."""
    generator = np.random.default_rng(0)
    return float(np.mean([frechet_distance(*generator.normal(size=(2, n, dimension))) for _ in range(draws)]))


def _frechet_of_rows() -> float:
    return frechet_distance(np.array([[1.0, 2], [1, 2], [1, 2]]), np.array([[2.0, 2], [1, 2], [1, 2]]))


def _kid(synthetic: Any) -> float:
    return kid(np.eye(2), np.array(synthetic, float))


def _cmmd() -> float:
    return cmmd(np.repeat([[1.0, 0]], 2, axis=0), np.repeat([[0, 1.0]], 2, axis=0))


def _prdc(name: str) -> float:
    return prdc(np.arange(4.0)[:, None], np.array([[0.5], [10.0], [11.0]]), k=1)[name]


def _ms_ssim(second: float) -> float:
    constants = [np.full((1, 192, 192), level, np.float32) for level in (0.2, second)]
    return float(ms_ssim(*constants)[0])


def _vendi(kernel: Any) -> float:
    return vendi_of_kernel(np.array(kernel, float) / len(kernel))


def _ranking(function: str, labels: list[int], scores: list[float]) -> float:
    value: float = getattr(classification, function)(np.array(labels, float), np.array(scores))
    return value


def _authentic() -> float:
    return 100 * float(authentic(np.array([[1.0], [4.0], [30.0]]), np.array([[0.0], [10.0]])).mean())


def _rms(first: int, second: int) -> float:
    return float(np.max(pixel_rms(*(np.full((1, 8, 8), level, np.uint8) for level in (first, second)))))


def _chance(k: int) -> float:
    return chance_recall(np.full(1000, 1000), np.ones(1000, int), k)


def _recall_of_equals() -> float:
    vectors = np.random.default_rng(0).normal(size=(300, 32))
    return float((first_ranks(cosine(vectors, vectors), np.eye(300, dtype=bool)) == 1).mean())


# Pairs (reference, hypothesis) of RadEval's tests (jbdel/RadEval@e0a3909). Words are replaced by letters, because only
# their equality counts; punctuation, capitals and missing spaces are as there.
TEXTS = (
    ("A b c d.", "A b c d."),
    ("E f g h i j k l m n.", "Qa da ea fa g h j k l ra sa n."),
    ("1. O P q r s t u v w o x y.2. E z aa ba.", "Ta ua va wa g a xa ya za ab."),
    ("A ca b c d. Da ea fa ga ha ia ja ka'la ma.", "Bb cb v z db g eb fb gb oa, hb a ib z oa."),
    ("Na e z oa l o pa n.", "A j k jb kb."),
)


def _bleu() -> float:
    references, hypotheses = zip(*TEXTS, strict=True)
    return float(bleu(bleu_statistics(references, hypotheses, pieces).sum(axis=0)))


def _rouge(n: int | None) -> float:
    return float(np.mean([rouge(reference, hypothesis, n) for reference, hypothesis in TEXTS]))


def resize_by_definition(
    rows: np.ndarray, size: int, kernel: Callable[[np.ndarray], np.ndarray], support: float
) -> np.ndarray:
    """Antialiased resize to size × size by definition: each new pixel is a mean weighted by the kernel."""
    scale = max(len(rows) / size, 1.0)
    centres = (np.arange(size) + 0.5) * len(rows) / size
    distance = (np.arange(len(rows)) + 0.5 - centres[:, None]) / scale
    weights = np.where(np.abs(distance) < support, kernel(distance), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ rows @ weights.T


def _triangle(x: np.ndarray) -> np.ndarray:
    return 1 - np.abs(x)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys's cubic kernel with a = −½."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.sinc(x) * np.sinc(x / 3)


KERNELS = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0), "lanczos": (_lanczos, 3.0)}


def test_image() -> np.ndarray:
    """A grey image of 50 × 50 with much fine detail, float64 in [0, 255]."""
    y, x = np.mgrid[:50, :50]
    return ((17 * x + 29 * y + x * y) % 256).astype(np.float64)


def _pillow(filter_name: str) -> float:
    from PIL import Image

    image = Image.fromarray(test_image().astype(np.float32))
    ours = np.asarray(image.resize((21, 21), Image.Resampling[filter_name.upper()]))
    return float(np.abs(ours - resize_by_definition(test_image(), 21, *KERNELS[filter_name])).max())


def _torch_bilinear() -> float:
    import torch

    image = torch.from_numpy(test_image())[None, None]
    ours = torch.nn.functional.interpolate(image, (21, 21), mode="bilinear", antialias=True)[0, 0].numpy()
    return float(np.abs(ours - resize_by_definition(test_image(), 21, *KERNELS["bilinear"])).max())


def _skimage() -> float:
    """As in torchxrayvision's XRayResizer: Gaussian blur, then linear interpolation; compared away from the border."""
    from skimage.transform import resize

    factor = 50 / 21
    sigma = (factor - 1) / 2
    steps = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    gaussian = np.exp(-(steps**2) / (2 * sigma**2))
    places = (np.arange(21) + 0.5) * factor - 0.5
    weights = np.maximum(1 - np.abs(np.arange(50) - places[:, None]), 0)
    weights = np.stack([np.convolve(row, gaussian / gaussian.sum(), "same") for row in weights])
    ours = resize(test_image(), (21, 21), mode="constant", preserve_range=True)
    return float(np.abs(ours - weights @ test_image() @ weights.T)[3:-3, 3:-3].max())


def _torch_noise() -> float:
    import torch

    return float(torch.randn(4, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32)[0])


def _clouds() -> tuple[np.ndarray, np.ndarray]:
    real, synthetic = np.random.default_rng(5).normal(size=(2, 120, 12))
    return real, 1.1 * synthetic + 0.1


def _torch_fidelity() -> float:
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    sides = _clouds()
    statistics = [fid_features_to_statistics(torch.from_numpy(side)) for side in sides]
    found = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    return abs(float(found) - frechet_distance(*sides))


def _prdc_library() -> float:
    from prdc import compute_prdc

    with redirect_stdout(io.StringIO()):  # it prints the counts
        theirs = compute_prdc(*_clouds(), 5)
    ours = prdc(*_clouds(), 5)
    return max(abs(ours[name] - float(theirs[name])) for name in ours)


def _torchmetrics() -> float:
    import torch
    from torchmetrics.image.kid import poly_mmd

    real, synthetic = _clouds()
    return abs(float(poly_mmd(torch.from_numpy(real), torch.from_numpy(synthetic))) - kid(real, synthetic))


def _sklearn(name: str) -> float:
    from sklearn import metrics

    generator = np.random.default_rng(1)
    labels, values = generator.integers(0, 2, 200).astype(float), generator.integers(0, 40, 200).astype(float)
    own = classification.auroc if name == "roc_auc_score" else classification.average_precision
    return abs(float(getattr(metrics, name)(labels, values)) - own(labels, values))


ZERO, EYE = [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]
KNOWN_ANSWERS = (
    KnownAnswer("FD of equal sets", 0, _frechet_of_equal_sets, 1e-6),
    KnownAnswer("FD of N(0, 1) and N(3, 4)", 10, lambda: _frechet([0], [[1]], [3], [[4]])),
    KnownAnswer(
        "FD of two covariances that do not commute",
        8 - 2 * sqrt(14),
        lambda: _frechet(ZERO, [[2, 1], [1, 2]], ZERO, [[3, 0], [0, 1]]),
    ),
    KnownAnswer("FD of three rows, N − 1 (MONAI)", 4 / 9, _frechet_of_rows),
    KnownAnswer("FD of a shift by 1 in 256 dimensions", 256, lambda: _frechet(*_shift(256)), 1e-6),
    KnownAnswer("FD bias, d = 16, N = 500", 0.336, lambda: _frechet_bias(16, 500, 10), 0.03),
    KnownAnswer("FD bias, d = 64, N = 1000", 2.208, lambda: _frechet_bias(64, 1000, 3), 0.1),
    KnownAnswer("KID of equal sets, unbiased", -2.375, lambda: _kid(EYE)),
    KnownAnswer("KID of two small sets", -3.125, lambda: _kid([[1, 1], [1, -1]])),
    KnownAnswer("CMMD of orthogonal points", 1000 * (2 - 2 * exp(-2 / 200)), _cmmd, 1e-8),
    KnownAnswer("precision, k = 1", 1 / 3, lambda: _prdc("precision")),
    KnownAnswer("recall, k = 1", 1, lambda: _prdc("recall")),
    KnownAnswer("density, k = 1", 2 / 3, lambda: _prdc("density")),
    KnownAnswer("coverage, k = 1", 1 / 2, lambda: _prdc("coverage")),
    KnownAnswer("MS-SSIM of constants 0.2 and 0.8", 0.904425, lambda: _ms_ssim(0.8), 1e-3, ("numpy", "torch")),
    KnownAnswer("MS-SSIM of equal pictures", 1, lambda: _ms_ssim(0.2), 1e-6, ("numpy", "torch")),
    KnownAnswer("Vendi of three, two alike", 2.1573004834, lambda: _vendi([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])),
    KnownAnswer("Vendi of equals", 1, lambda: _vendi(np.ones((5, 5)))),
    KnownAnswer("Vendi of orthogonal ones", 7, lambda: _vendi(np.eye(7))),
    KnownAnswer("AUROC", 0.75, lambda: _ranking("auroc", [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])),
    KnownAnswer("AUROC of ties", 0.5, lambda: _ranking("auroc", [0, 1, 0, 1], [1.0, 1, 1, 1])),
    KnownAnswer("AUROC of one class", float("nan"), lambda: _ranking("auroc", [1, 1], [0.1, 0.2])),
    KnownAnswer("average precision", 5 / 6, lambda: _ranking("average_precision", [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])),
    KnownAnswer("AuthPct", 100 / 3, _authentic),
    KnownAnswer("grey-level distance, 0 and 255", 255, lambda: _rms(0, 255)),
    KnownAnswer("grey-level distance, 5 and 250", 245, lambda: _rms(5, 250)),
    KnownAnswer("recall@1 of 1000 by chance", 0.001, lambda: _chance(1)),
    KnownAnswer("recall@10 of 1000 by chance", 0.01, lambda: _chance(10)),
    KnownAnswer("recall@1 of equal embeddings", 1, _recall_of_equals),
    KnownAnswer("BLEU (RadEval)", 0.0826, _bleu, 5e-5),
    KnownAnswer("ROUGE-1 (RadEval)", 0.3224, lambda: _rouge(1), 5e-5),
    KnownAnswer("ROUGE-2 (RadEval)", 0.26, lambda: _rouge(2), 5e-5),
    KnownAnswer("ROUGE-L (RadEval)", 0.3224, lambda: _rouge(None), 5e-5),
    KnownAnswer("draws of a seed, numpy", 0.6369616873214543, lambda: float(np.random.default_rng(0).random())),
    KnownAnswer("noise of a seed, torch", 1.5409960746765137, _torch_noise, 1e-6, ("torch",)),
    KnownAnswer("bilinear resize, off its definition", 0, lambda: _pillow("bilinear"), 1e-3, ("pillow",)),
    KnownAnswer("bicubic resize, off its definition", 0, lambda: _pillow("bicubic"), 1e-3, ("pillow",)),
    KnownAnswer("Lanczos resize, off its definition", 0, lambda: _pillow("lanczos"), 1e-3, ("pillow",)),
    KnownAnswer("antialiased bilinear, off its definition", 0, _torch_bilinear, 1e-6, ("torch",)),
    KnownAnswer("blurred linear resize, off its definition", 0, _skimage, 1e-6, ("scipy", "scikit-image")),
    KnownAnswer("FD agrees with torch-fidelity", 0, _torch_fidelity, 1e-6, ("torch", "torch-fidelity")),
    KnownAnswer("KID agrees with torchmetrics", 0, _torchmetrics, 1e-9, ("torch", "torchmetrics")),
    KnownAnswer("precision … coverage agree with prdc", 0, _prdc_library, 1e-9, ("scikit-learn", "prdc")),
    KnownAnswer("AUROC agrees with scikit-learn", 0, lambda: _sklearn("roc_auc_score"), 1e-9, ("scikit-learn",)),
    KnownAnswer("AP agrees with scikit-learn", 0, lambda: _sklearn("average_precision_score"), 1e-9, ("scikit-learn",)),
)


def _shift(dimension: int) -> tuple[np.ndarray, ...]:
    return np.zeros(dimension), np.eye(dimension), np.ones(dimension), np.eye(dimension)
