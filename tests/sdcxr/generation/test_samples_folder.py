"""Images are written beside sampling, and none that fails is passed over."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdcxr.generation.samples_folder import make_images
from sdcxr.io.pixels import write_png

ALONE = SimpleNamespace(process_index=0, num_processes=1, is_main_process=False, device=SimpleNamespace(type="cpu"))
JOBS = [{"text": f"Prompt {i}.", "seed": i, "file_name": f"{i}.png"} for i in range(5)]


class Grey:
    """Samples a picture of the seed's grey."""

    def sample(self, texts: list[str], seeds: list[int], on_step: Any) -> list[np.ndarray]:
        assert len(texts) == len(seeds)
        return [np.full((8, 8), seed, dtype=np.uint8) for seed in seeds]


def test_every_image_is_written(tmp_path):
    make_images(Grey(), JOBS, tmp_path, 2, ALONE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [job["file_name"] for job in JOBS]


@pytest.mark.parametrize("failing", [0, 2, 4])  # in the first batch, in one between, alone in the last
def test_a_disk_that_fails_stops_the_command(monkeypatch, tmp_path, failing):
    def write(path, image):
        if path.name == f"{failing}.png":
            raise OSError(28, "No space left on device")
        write_png(path, image)

    monkeypatch.setattr("sdcxr.io.pixels.write_png", write)
    with pytest.raises(OSError, match="No space left"):
        make_images(Grey(), JOBS, tmp_path, 2, ALONE)
