"""Image files of both sides: formats, sizes, colour and copies of held-out images, as rows and as warnings."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval import images
from eval.command import Comparison
from eval.inputs.folders import read_sides
from eval.inputs.survey import jpeg_quality, survey
from eval.scores import read_scores


def noise(n: int, seed: int, side: int = 64, channels: tuple[int, ...] = ()) -> list[Image.Image]:
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (n, 9, 9, *channels), dtype=np.uint8)
    return [Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC) for each in coarse]


def write(folder: Path, pictures: list[Image.Image], suffix: str = "png", **options: int) -> Path:
    folder.mkdir()
    for i, picture in enumerate(pictures):
        picture.save(folder / f"{i}.{suffix}", **options)
    return folder


def measure(real: Path, synthetic: Path) -> tuple[dict[tuple[str, str], dict], list[str]]:
    result = images.evaluate(*read_sides(real, synthetic))
    return {(row["metric"], row["images"]): row for row in result.rows}, result.warnings


def test_formats_sizes_and_colour_are_rows_and_warnings(tmp_path):
    real = write(tmp_path / "real", noise(24, 0))
    pd.DataFrame({"file_name": [f"{i}.png" for i in range(24)], "subject_id": range(24)}).to_csv(
        real / "metadata.csv", index=False
    )
    synthetic = write(tmp_path / "s", noise(12, 1, 32, (3,)), "jpg", quality=30)
    rows, warnings = measure(real, synthetic)
    row = rows["channel_difference", "synthetic"]
    assert row["value"] > 20 and (row["n_colour"], row["n_real"], row["n_synthetic"]) == (12, 0, 12)
    assert (row["formats"], row["sizes"]) == ({"JPEG": 12}, {"32 × 32": 12})
    assert row["jpeg_quality"] == pytest.approx(30, abs=2)
    row = rows["channel_difference", "real"]
    assert (row["value"], row["n_colour"], row["formats"], row["sizes"]) == (0, 0, {"PNG": 24}, {"64 × 64": 24})
    assert rows["held_out_copy_share", "synthetic"]["value"] == 0
    told = " | ".join(warnings)
    assert "differ in format (real: PNG; synthetic: JPEG)" in told
    assert "differ in size (real: 64 × 64; synthetic: 32 × 32 px)" in told
    assert "12 of 12 synthetic images have colour" in told
    assert len(warnings) == 3


def test_jpegs_of_other_quality_are_a_warning(tmp_path):
    folders = [write(tmp_path / f"{q}", noise(3, 0), "jpg", quality=q) for q in (95, 30)]
    assert "the JPEGs differ in quality (real: about 95; synthetic: about 30)" in measure(*folders)[1][0]


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_quality_is_that_of_the_encoder(tmp_path, quality):
    path = write(tmp_path / "s", noise(1, 0), "jpg", quality=quality) / "0.jpg"
    with Image.open(path) as image:
        assert jpeg_quality(image.quantization[0]) == pytest.approx(quality, abs=1.5)


def test_noised_copies_of_held_out_images_are_a_warning(tmp_path):
    pictures, draws = noise(40, 0), np.random.default_rng(5)
    noised = [np.asarray(picture, float) + draws.normal(0, 6, (64, 64)) for picture in pictures[:20]]
    real = write(tmp_path / "real", pictures)
    copies = write(tmp_path / "s", [Image.fromarray(each.clip(0, 255).astype(np.uint8)) for each in noised])
    rows, warnings = measure(real, copies)
    row = rows["held_out_copy_share", "synthetic"]
    assert (row["value"], row["n_copies"], row["n_calibration"]) == (1, 20, 40)
    assert "20 of 20 synthetic images are copies of images in --real" in warnings[-1]
    for seed in range(7, 10):  # the threshold of few images is uncertain
        rows, warnings = measure(real, write(tmp_path / f"others{seed}", noise(20, seed)))
        assert rows["held_out_copy_share", "synthetic"]["n_copies"] == 0
    assert warnings == [
        "the patients of 40 of 40 real images are not known (no subject_id): images of one patient count as of two, "
        "so floors may be too low and intervals too narrow"
    ]


def test_files_that_cannot_be_opened_do_not_count(tmp_path):
    folder = write(tmp_path / "s", noise(2, 0))
    (folder / "bad.png").write_bytes(b"nothing")
    found = survey([*folder.iterdir(), folder / "absent.png"])
    assert found.formats == {"PNG": 2} and found.text == "2 PNG; 64 × 64 px"


def test_the_command_writes_rows_and_prints_warnings(tmp_path, capsys):
    real, synthetic = write(tmp_path / "real", noise(5, 0)), write(tmp_path / "s", noise(4, 1), "bmp")
    assert images.main(Comparison(str(real), str(synthetic), output=str(tmp_path / "scores.json"))) == 0
    rows = read_scores(tmp_path / "scores.json")
    assert [row["metric"] for row in rows] == ["channel_difference"] * 2 + ["held_out_copy_share"]
    assert rows[2]["value"] is None and rows[2]["notes"] == [
        "5 real images with others to compare: a threshold needs 20"
    ]
    out = capsys.readouterr().out
    assert "warning: the files differ in format" in out and "5 PNG  5 of 64 × 64 px" in out
