"""Tests of eval.montage: who stands beside whom."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval.montage import GAP, LINE, MontageConfig, main
from sdcxr.io.manifest import SAMPLE_COLUMNS
from sdcxr.runtime.errors import UserError


@pytest.fixture
def folders(tmp_path):
    """Three real images, grey 40, 80 and 120, and two white samples each for the last two."""
    real, synthetic = tmp_path / "real", tmp_path / "synthetic"
    real.mkdir(), synthetic.mkdir()
    names = {"a": 40, "b": 80, "c": 120}
    for name, grey in names.items():
        Image.fromarray(np.full((8, 8), grey, np.uint8)).save(real / f"{name}.png")
    table = pd.DataFrame({"file_name": [f"{name}.png" for name in names], "text": "x", "dicom_id": list(names)})
    table.to_csv(real / "metadata.csv", index=False)
    rows = [{"file_name": f"{name}_{k}.png", "text": f"Text of {name}.", "id": name} for name in "cb" for k in (0, 1)]
    for row in rows:
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(synthetic / row["file_name"])
    pd.DataFrame(rows, columns=SAMPLE_COLUMNS).to_csv(synthetic / "metadata.csv", index=False)
    return real, synthetic


def test_real_is_on_the_left_synthetic_on_the_right_and_the_prompt_below(folders, tmp_path):
    real, synthetic = folders
    output = tmp_path / "new" / "montage.png"
    assert main(MontageConfig(str(real), str(synthetic), str(output), columns=1, size=64)) == 0
    picture = np.asarray(Image.open(output))
    for number, grey in enumerate((80, 120)):
        bottom = 2 * GAP + number * (64 + 3 * LINE + GAP) + 63
        assert picture[bottom, GAP + 32] == grey and picture[bottom, GAP + 64 + 32] == 255
        assert picture[bottom + 1 : bottom + LINE, GAP : GAP + 128].max() > 100  # letters


def test_sides_are_named_and_long_prompts_end_above_the_next_pair(folders, tmp_path):
    real, synthetic = folders
    for folder in folders:
        for path in folder.glob("*.png"):
            Image.new("L", (8, 8), 120).save(path)
    table = pd.read_csv(synthetic / "metadata.csv").assign(text="A long prompt. " * 20)
    table.to_csv(synthetic / "metadata.csv", index=False)
    main(MontageConfig(str(real), str(synthetic), str(tmp_path / "m.png"), columns=1, size=64))
    picture = np.asarray(Image.open(tmp_path / "m.png"))
    for left in (GAP, GAP + 64):
        assert picture[2 * GAP : 2 * GAP + LINE, left : left + 64].max() > 200  # a name on grey 120
    assert picture[2 * GAP + 64 + 3 * LINE + 4 : 3 * GAP + 64 + 3 * LINE].max() == 0


def montage(folders, output, **others) -> MontageConfig:
    real, synthetic = folders
    return MontageConfig(str(real), str(synthetic), str(output), **others)


def test_prompts_are_chosen_from_all(folders, tmp_path, capsys):
    assert main(montage(folders, tmp_path / "m.png", pairs=1, columns=1, size=64)) == 0
    assert "m.png: 1 prompts" in capsys.readouterr().out
    assert Image.open(tmp_path / "m.png").size == (128 + 2 * GAP, 64 + 3 * LINE + 3 * GAP)


@pytest.mark.parametrize("name", ["montage.xyz", "montage.jpg", "montage"])
def test_other_formats_than_png_are_refused(folders, tmp_path, name):
    with pytest.raises(UserError, match=f"--output .*{name}: name a file that ends in .png"):
        montage(folders, tmp_path / name)


def test_folders_that_do_not_belong_together_are_refused(folders, tmp_path):
    real = folders[0]
    table = pd.read_csv(real / "metadata.csv").assign(dicom_id=["x", "y", "z"])
    table.to_csv(real / "metadata.csv", index=False)
    with pytest.raises(UserError, match=r"no image of .* was made by generate\.py from a prompt of"):
        main(montage(folders, tmp_path / "m.png"))
    with pytest.raises(UserError, match="the same folder"):
        main(montage((real, real), tmp_path / "m.png"))


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_an_unusable_image_is_named_not_drawn(folders, tmp_path, damage):
    path = folders[1] / "b_0.png"
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"b_0\.png cannot be read|do not exist \(first: b_0\.png\)"):
        main(montage(folders, tmp_path / "m.png"))
    assert not (tmp_path / "m.png").exists()
