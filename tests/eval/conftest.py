"""Folders for the whole evaluation: train, test and samples of 48 px, with labels, patients and prompts."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sdcxr.io.manifest import LABELS, write_metadata

SIDE = 48
TEXTS = ("Large <b>left</b> effusion & more.", "No acute process.", "Cardiomegaly.", "Small right effusion.")


class Folders(NamedTuple):
    """One of everything."""

    train: Path
    real: Path
    synthetic: Path


def chest(generator: np.random.Generator, noise: float) -> Image.Image:
    """Two dark fields on a bright ground, each time a little different, and a texture of its own."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    width, height, level = generator.uniform([0.12, 0.25, 120], [0.2, 0.4, 160])
    lungs = sum(((x - centre) / width) ** 2 + ((y - 0.5) / height) ** 2 < 1 for centre in (0.28, 0.72))
    coarse = Image.fromarray(generator.normal(0, 14, (8, 8)).astype(np.float32)).resize((SIDE, SIDE), Image.BICUBIC)
    grey = level * (1 - 0.6 * lungs) + np.asarray(coarse) + generator.normal(0, noise, (SIDE, SIDE))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def make_folders(root: Path, n: int = 24) -> Folders:
    """A dataset folder with n images in train and in test, and two samples of every second prompt of test."""
    generator = np.random.default_rng(11)
    for first, split in enumerate(("train", "test")):
        folder = root / "dataset" / split
        folder.mkdir(parents=True)
        rows = []
        for i in range(n):
            name = f"{split[:2]}0{i:02}-aa"
            chest(generator, 4).save(folder / f"{name}.png")
            row = {"file_name": f"{name}.png", "text": TEXTS[i % 4], "dicom_id": name, "view": "PA"}
            row |= {"subject_id": 100 + 1000 * first + i, "study_id": 5000 + 100 * first + i}
            rows.append(row | {LABELS[1]: float(i % 2), LABELS[9]: float(i % 4 == 0)})
        write_metadata(folder, pd.DataFrame(rows))
    samples, rows = root / "samples", []
    samples.mkdir()
    for i in range(0, n, 2):
        for k in range(2):
            name = f"te0{i:02}-aa"
            chest(generator, 9).save(samples / f"{name}_{k}.png")
            row: dict[str, Any] = {"file_name": f"{name}_{k}.png", "text": TEXTS[i % 4], "id": name, "seed": 10 * i + k}
            row |= {"guidance_scale": 4.0, "num_inference_steps": 75, "scheduler": "pndm", "model": "runs/x"}
            rows.append(row | {LABELS[1]: float(i % 2), LABELS[9]: float(i % 4 == 0)})
    write_metadata(samples, pd.DataFrame(rows))
    return Folders(root / "dataset" / "train", root / "dataset" / "test", samples)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """The folders of `make_folders`, for one test."""
    return make_folders(tmp_path)


@pytest.fixture
def two_folders(micro_dataset: Path, tmp_path: Path) -> tuple[str, str]:
    """A real folder of 11 images, and a samples folder of the same pictures."""
    real, samples = micro_dataset / "train", tmp_path / "samples"
    samples.mkdir()
    rows = pd.read_csv(real / "metadata.csv", dtype=str)
    for name in rows["file_name"]:
        (samples / name).symlink_to(real / name)
    rows = rows.rename(columns={"dicom_id": "id"}).drop(columns=["subject_id", "study_id", "view"])
    rows.assign(seed=1, scheduler="pndm").to_csv(samples / "metadata.csv", index=False)
    return str(real), str(samples)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is tried on the network fails, and the test with it, even if the trial was shrugged off."""
    tried = []
    connect = socket.socket.connect

    def refuse(this: socket.socket, address: Any) -> None:
        if this.family == socket.AF_UNIX:  # of worker processes
            return connect(this, address)
        tried.append(address)
        raise OSError("no network")

    def resolve(*address: Any, **_: Any) -> None:
        tried.append(address)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # or the hub's library would not even try
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield
    assert not tried


@pytest.fixture
def evaluate(folders, tmp_path):
    """`evaluate(**flags)` runs the command on the folders and returns the rows of scores.json."""
    from eval.__main__ import main
    from eval.summary.config import EvalConfig

    def call(**flags):
        sides = {"real": folders.real, "synthetic": folders.synthetic}
        named = sides | {"output_dir": tmp_path / "out", "interval_draws": 0} | flags
        values = {key: str(value) if isinstance(value, Path) else value for key, value in named.items()}
        assert main(EvalConfig(**values)) == 0
        return json.loads((Path(named["output_dir"]) / "scores.json").read_text())

    return call
