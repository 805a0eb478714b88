"""The pretraining of the embedded base: resumable, and the same weights each time."""

from pathlib import Path

import pandas as pd
import pytest

from sdcxr.embedded import pretraining
from sdcxr.embedded.base import unpack
from sdcxr.embedded.pretraining import PretrainingConfig, draw_scenes
from sdcxr.io.files import checksum


def test_scenes_are_a_dataset_folder_and_drawn_once(tmp_path, monkeypatch):
    folder = draw_scenes(tmp_path / "scenes", 6, seed=0, n_validation=2)
    table = pd.read_csv(folder / "train" / "metadata.csv", dtype=str)
    assert list(table["file_name"]) == [f"{index:06d}.png" for index in range(6)]
    assert (table["text"].str.len() > 10).all() and len(list((folder / "validation").glob("*.png"))) == 2
    monkeypatch.setattr(pretraining, "_draw", lambda *_: pytest.fail("drawn again"))
    assert draw_scenes(tmp_path / "scenes", 6, seed=0, n_validation=2) == folder


@pytest.mark.slow  # trains four times
def test_two_runs_from_the_start_give_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setitem(pretraining.DENOISER, "validation_steps", 0)

    def weights(folder: Path) -> str:
        steps = {"vae_steps": 2, "denoiser_steps": 2}
        assert pretraining.main(PretrainingConfig(folder, scenes=24, torch_compile=False, **steps)) == 0
        return checksum(folder / "base.safetensors")

    first, second = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert first == second
    (tmp_path / "a" / "SHA256SUMS.txt").write_text(first)
    assert unpack(tmp_path / "a" / "base.safetensors").resolution == 128
    monkeypatch.setattr(pretraining, "_draw", lambda *_: pytest.fail("drawn again"))
    assert weights(tmp_path / "a") == first  # nothing left to do
