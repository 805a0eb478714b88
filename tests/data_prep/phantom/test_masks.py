"""Masks of phantoms: they lie where the picture has the structure, and follow the preparation's crop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.mimic_cxr import MimicCxrConfig
from data_prep.mimic_cxr import main as prepare
from data_prep.phantom.__main__ import PhantomConfig, main
from data_prep.phantom.anatomy import Acquisition, Anatomy, Findings, Sides
from data_prep.phantom.masks import film_masks
from data_prep.phantom.render import render
from data_prep.phantom.sampling import sample_build
from sdcxr.io.manifest import read_metadata

PX = 96


def anatomy(**findings: object) -> Anatomy:
    build = sample_build(np.random.default_rng(1))
    return Anatomy(build, Findings(**findings), Acquisition(view="PA"))  # type: ignore[arg-type]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_lungs_are_dark_and_the_heart_lies_between_them():
    normal = anatomy()
    picture, masks = render(normal, PX, rng()), film_masks(normal, PX, rng())
    lungs, heart = masks["lungs"] > 0, masks["heart"] > 0
    assert picture[lungs].mean() + 40 < picture[heart].mean()
    assert not (lungs & heart).any() and not masks["finding"].any()
    rows = np.flatnonzero(heart.any(axis=1))
    for row in rows[len(rows) // 3 : -len(rows) // 3]:
        columns = np.flatnonzero(heart[row])
        assert lungs[row, : columns[0]].any() and lungs[row, columns[-1] :].any()


@pytest.mark.parametrize("name", ["effusion", "pneumothorax", "consolidation", "atelectasis", "lesion"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_finding_is_where_the_picture_changes(name, side):
    """With the same seed two images differ only where their anatomies do."""
    sides = Sides(**{side: 0.5})
    with_it, without = anatomy(**{name: sides}), anatomy()
    finding = film_masks(with_it, PX, rng())["finding"] > 0
    changed = np.abs(render(with_it, PX, rng()).astype(int) - render(without, PX, rng()))
    assert finding.sum() > 20
    assert changed[finding].mean() > 3 * changed[~finding].mean()
    columns = np.flatnonzero(finding.any(axis=0))
    assert (columns < PX / 2).all() if side == "right" else (columns >= PX / 2).all()  # of the patient


def test_edema_has_no_border_and_does_not_move_other_findings():
    patch = {"consolidation": Sides(right=0.8)}
    alone = film_masks(anatomy(**patch), PX, rng())["finding"]
    both = film_masks(anatomy(**patch, edema=0.9), PX, rng())["finding"]
    assert (alone == both).all() and alone.any()
    assert not film_masks(anatomy(edema=0.9), PX, rng())["finding"].any()


def test_masks_follow_the_film():
    straight = anatomy()
    moved = replace(
        straight, acquisition=Acquisition(view="PA", shift=(0.1, 0.0), aspect=1.2, collimation=(0.3, 0, 0, 0))
    )
    masks = [film_masks(one, PX, rng())["lungs"] > 0 for one in (straight, moved)]
    assert masks[1].shape == render(moved, PX, rng()).shape
    assert not masks[1][:, : round(0.3 * PX)].any()
    right = [np.flatnonzero(mask.any(axis=0))[-1] for mask in masks]
    assert right[1] - right[0] == pytest.approx(0.1 * PX, abs=1)


def test_prepared_masks_fit_the_prepared_images(tmp_path: Path):
    main(PhantomConfig(output_dir=tmp_path / "raw", studies=12, resolution=96, masks=True, workers=1))
    raw = tmp_path / "raw"
    config = MimicCxrConfig(
        images=raw, reports=raw, output_dir=tmp_path / "out", masks=raw / "masks", views="all", resolution=48, workers=1
    )
    assert prepare(config) == 0
    rows = read_metadata(tmp_path / "out/train")
    frontal = rows[rows["view"].isin(["PA", "AP"])]
    lateral = rows[rows["view"].isin(["LL", "LATERAL"])]
    assert len(frontal) > 3 and len(lateral)
    for _, row in frontal.iterrows():
        image, lungs = (
            np.asarray(Image.open(tmp_path / "out/train" / row[name])) for name in ("file_name", "mask_lungs")
        )
        assert image.shape == lungs.shape == (48, 48)
        assert image[lungs > 0].mean() < image[lungs == 0].mean()
    assert (lateral[["mask_lungs", "mask_heart", "mask_finding"]] == "").all(axis=None)
