"""Pictures as one array: modes, sizes, and files that are none."""

import numpy as np
import pytest
from PIL import Image

from eval.inputs.images import read_greys, smallest_side
from sdcxr.runtime.errors import UserError


def test_modes_formats_and_sizes_become_one_array(tmp_path):
    grey = np.kron(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4, np.ones((4, 4), np.uint8))
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).convert("RGB").save(tmp_path / "b.png")
    Image.fromarray(np.kron(grey, np.ones((2, 2), np.uint8))).save(tmp_path / "c.jpg", quality=95)
    Image.fromarray(grey[::4, ::4]).save(tmp_path / "d.png")
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.jpg")]
    greys = read_greys(paths, 8)
    assert greys.shape == (3, 8, 8) and greys.dtype == np.uint8
    assert (greys[0] == grey[::4, ::4]).all()  # the mean over 4 × 4 equal pixels
    assert np.abs(greys.astype(int) - greys[0].astype(int)).max() <= 4
    assert smallest_side([*paths, tmp_path / "d.png"]) == 8
    assert read_greys([tmp_path / "d.png"], 32).shape == (1, 32, 32)  # a smaller one is enlarged


def test_unusable_files_are_listed(tmp_path):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    paths = [tmp_path / name for name in ("good.png", "torn.png", "deep.png", "gone.png")]
    with pytest.raises(
        UserError, match=r"3 of 4 images.*torn\.png cannot be read.*deep\.png has more.*gone\.png does not"
    ):
        read_greys(paths, 8)
    with pytest.raises(UserError, match=r"1 of 4 images.*gone\.png is missing"):
        smallest_side([path for path in paths if path.name != "torn.png"] + [paths[0]])
    with pytest.raises(UserError, match="and 2 more"):
        read_greys([tmp_path / f"{i}.png" for i in range(12)], 8)
