"""One picture in every kind of file: kept upright and the right way round, or refused with its reason.

`pytest -rP -k listed` on this file prints the outcomes.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from data_prep.images import Converted, convert
from eval.inputs.images import Unusable, read_grey
from sdcxr.io.image_files import looks_like_image
from sdcxr.io.pixels import load_upright
from tests.data_prep.image_variants import GREY, HEIGHT, STORED, WIDTH, Variant, variants

warnings.filterwarnings("ignore", module="pydicom")  # of the deliberate faults
VARIANTS = variants()
COARSE = {"png: 2 bits": 0.9}  # of four grey levels


Outcome = tuple[Converted, np.ndarray | None]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Of every variant what preparation says of the file, and the picture that it wrote."""
    return {name: _outcome(variant, tmp_path_factory.mktemp("variant")) for name, variant in VARIANTS.items()}


def _outcome(variant: Variant, folder: Path) -> Outcome:
    source, target = folder / variant.file_name, folder / "written" / "x.png"
    target.parent.mkdir()
    source.write_bytes(variant.content)
    said = convert(str(source), str(target), WIDTH, "crop")
    return said, np.asarray(Image.open(target)) if target.exists() else None


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, of two pictures of one size."""
    return float(spearmanr(first.ravel(), second.ravel()).statistic)


def reference() -> np.ndarray:
    top = (HEIGHT - WIDTH) // 2
    return GREY[top : top + WIDTH]


def test_there_are_enough_variants_and_a_turned_reference_would_be_noticed():
    kept = [variant for variant in VARIANTS.values() if not variant.refusal]
    assert len(VARIANTS) >= 150 and len(kept) >= 120
    right = reference()
    for wrong in (*(turn(right) for turn in list(STORED.values())[1:]), 255 - right):
        assert correlation(right, wrong) < 0.9


@pytest.mark.parametrize("name", VARIANTS)
def test_a_picture_is_kept_as_it_is_or_refused(outcomes, name):
    variant = VARIANTS[name]
    said, written = outcomes[name]
    if variant.refusal:
        assert (said.reason, written) == (variant.refusal, None)
        return
    assert said.reason == ""
    assert correlation(reference(), written) > COARSE.get(name, 0.95)
    if name not in COARSE and "dcm" not in name and "DICOM" not in name:  # these are equalised
        assert abs(np.median(written) - np.median(reference())) <= 12


def test_the_outcomes_are_listed(outcomes):
    n_kept = 0
    for name, (said, written) in outcomes.items():
        rank = None if written is None else correlation(reference(), written)
        n_kept += rank is not None
        print(f"{name:<50}", f"{said.reason}: {said.detail}" if rank is None else f"kept, {rank:+.3f}")
    print(f"{n_kept} kept, {len(outcomes) - n_kept} refused")
    assert n_kept >= 120


@pytest.mark.parametrize("name", [name for name in VARIANTS if "DICOM named" in name])
def test_dicom_files_of_any_name_are_found(tmp_path, name):
    variant = VARIANTS[name]
    (tmp_path / variant.file_name).write_bytes(variant.content)
    assert looks_like_image(tmp_path / variant.file_name)


@pytest.mark.parametrize("name", [name for name in VARIANTS if not VARIANTS[name].refusal])
def test_evaluation_reads_the_same_picture_or_refuses_its_depth(tmp_path, name):
    variant = VARIANTS[name]
    path = tmp_path / variant.file_name
    path.write_bytes(variant.content)
    try:
        grey, colour = read_grey(path)
    except Unusable as problem:
        assert str(problem).startswith(("has more than 8 bits per pixel: convert", "is a DICOM file: convert"))
        return
    assert grey.tobytes() == load_upright(path, stretched=True).image.convert("L").tobytes()
    assert grey.size == (WIDTH, HEIGHT) and colour < 2
