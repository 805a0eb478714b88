"""One picture in every kind of file: kept upright and the right way round, or refused with its reason.

`pytest -rP -k listed` on this file prints the outcomes.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.images import Converted, convert
from eval.inputs.images import Unusable, read_grey
from sdcxr.io.image_files import looks_like_image
from sdcxr.io.pixels import load_upright
from tests.data_prep.image_variants import GREY, HEIGHT, STORED, WIDTH, Variant, variants

warnings.filterwarnings("ignore", module="pydicom")  # of the deliberate faults
COARSE = {"png: 2 bits": 0.9}  # of four grey levels


Outcome = tuple[Converted, np.ndarray | None]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Of every variant what preparation says of the file, and the picture that it wrote."""
    return {name: _outcome(variant, tmp_path_factory.mktemp("variant")) for name, variant in variants().items()}


def _outcome(variant: Variant, folder: Path) -> Outcome:
    source, target = folder / variant.file_name, folder / "written" / "x.png"
    target.parent.mkdir()
    source.write_bytes(variant.content)
    said = convert(str(source), str(target), WIDTH, "crop")
    return said, np.asarray(Image.open(target)) if target.exists() else None


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's, of two pictures of one size."""
    from scipy.stats import spearmanr

    return float(spearmanr(first.ravel(), second.ravel()).statistic)


def reference() -> np.ndarray:
    top = (HEIGHT - WIDTH) // 2
    return GREY[top : top + WIDTH]


def test_there_are_enough_variants_and_a_turned_reference_would_be_noticed():
    kept = [variant for variant in variants().values() if not variant.refusal]
    assert len(variants()) >= 150 and len(kept) >= 120
    right = reference()
    for wrong in (*(turn(right) for turn in list(STORED.values())[1:]), 255 - right):
        assert correlation(right, wrong) < 0.9


def test_a_picture_is_kept_as_it_is_or_refused(outcomes):
    """Of all variants in one test: each that is wrong is named."""
    wrong = {name: fault for name in variants() if (fault := _fault(name, *outcomes[name]))}
    assert not wrong, wrong


def _fault(name: str, said: Converted, written: np.ndarray | None) -> str:
    """What is wrong with an outcome, or nothing."""
    if said.reason != variants()[name].refusal or (written is None) != bool(said.reason):
        return f"{said.reason}: {said.detail}"
    if written is None:
        return ""
    if (rank := correlation(reference(), written)) <= COARSE.get(name, 0.95):
        return f"correlation {rank:+.3f}"
    brighter = np.median(written) - np.median(reference())
    equalised = "dcm" in name or "DICOM" in name
    return f"median {brighter:+}" if name not in COARSE and not equalised and abs(brighter) > 12 else ""


def test_the_outcomes_are_listed(outcomes):
    n_kept = 0
    for name, (said, written) in outcomes.items():
        rank = None if written is None else correlation(reference(), written)
        n_kept += rank is not None
        print(f"{name:<50}", f"{said.reason}: {said.detail}" if rank is None else f"kept, {rank:+.3f}")
    print(f"{n_kept} kept, {len(outcomes) - n_kept} refused")
    assert n_kept >= 120


def test_dicom_files_of_any_name_are_found(tmp_path):
    for name, variant in variants().items():
        if "DICOM named" in name:
            (tmp_path / variant.file_name).write_bytes(variant.content)
            assert looks_like_image(tmp_path / variant.file_name), name


def test_evaluation_reads_the_same_picture_or_refuses_its_depth(tmp_path):
    for name, variant in variants().items():
        if variant.refusal:
            continue
        path = tmp_path / variant.file_name
        path.write_bytes(variant.content)
        try:
            grey, colour = read_grey(path)
        except Unusable as problem:
            known = ("has more than 8 bits per pixel: convert", "is a DICOM file: convert")
            assert str(problem).startswith(known), name
            continue
        assert grey.tobytes() == load_upright(path, stretched=True).image.convert("L").tobytes(), name
        assert grey.size == (WIDTH, HEIGHT) and colour < 2, name
