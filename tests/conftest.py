"""Fixtures for all rooms: a micro Stable Diffusion of the real classes, a micro dataset, and a way to train on them."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: the models here are too small for more
os.environ["MKL_NUM_THREADS"] = "1"  # and not undone by sdcxr.runtime.threads
os.environ["HF_HUB_OFFLINE"] = "1"

import ctypes
import gc
import gzip
import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

# A background job of a script is born deaf to Ctrl-C; the tests, and the processes they start, shall hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy one too
settings.load_profile("any machine")
gc.disable()  # until the tests are collected: nothing of that is garbage


FROZEN = {"modules": 0}


def pytest_runtestloop() -> None:
    """Collect garbage again."""
    gc.enable()


def pytest_runtest_setup() -> None:
    """Spare the garbage collector all libraries and the list of tests: every training run calls it twice."""
    if len(sys.modules) > FROZEN["modules"]:
        FROZEN["modules"] = len(sys.modules)
        gc.collect()
        gc.freeze()


def pytest_unconfigure() -> None:
    """Give the libraries their usual end."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test builds in, or reads from, the user's cache."""
    monkeypatch.setenv("SDCXR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def largest_file() -> Callable[[int], AbstractContextManager[None]]:
    """`with largest_file(n)`: the system refuses to write more than n bytes into a file, as a full disk does."""

    @contextmanager
    def limited(n_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


class Capabilities(ctypes.Structure):
    """Of a thread, the lower and the upper 32 (capget(2))."""

    _fields_ = [
        (f"{name}{half}", ctypes.c_uint32) for half in (0, 1) for name in ("effective", "permitted", "inherited")
    ]


class CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


@pytest.fixture
def read_only() -> Callable[[Path], AbstractContextManager[None]]:
    """`with read_only(folder)`: nothing can be written into a folder, by root neither."""
    override = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc, header, before = ctypes.CDLL(None, use_errno=True), CapabilityHeader(0x20080522, 0), Capabilities()

    @contextmanager
    def limited(folder: Path) -> Iterator[None]:
        assert libc.capget(ctypes.byref(header), ctypes.byref(before)) == 0
        fewer = Capabilities.from_buffer_copy(before)
        fewer.effective0 &= ~override
        mode = folder.stat().st_mode
        folder.chmod(0o555)
        assert libc.capset(ctypes.byref(header), ctypes.byref(fewer)) == 0
        try:
            with pytest.raises(PermissionError):
                (folder / "probe").touch()
            yield
        finally:
            assert libc.capset(ctypes.byref(header), ctypes.byref(before)) == 0
            folder.chmod(mode)

    return limited


RESOLUTION = 32  # of the micro base: latents of 4 × 4
IDS = {"train": "a", "validation": "b", "test": "c"}  # not the names themselves: `datasets` takes those for splits
SENTENCES = (
    "Large left pneumothorax.",
    "No acute cardiopulmonary process, no effusion.",
    'Moderate cardiomegaly; "stable", 3.5 cm.',
    "Small right pleural effusion.",
)


def micro_tokenizer() -> Any:
    """CLIP's tokenizer with its first 1000 merges: it loads ten times as fast as the whole."""
    import open_clip
    from transformers import CLIPTokenizer

    from sdcxr.text.clip_tokens import byte_letters

    with gzip.open(Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1:1001]]
    letters = byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def save_micro_base(folder: Path, prediction_type: str = "epsilon") -> Path:
    """A pipeline folder of Stable Diffusion's classes with random weights, 0.25 M parameters, 32 px."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from sdcxr import backbones
    from sdcxr.backbones.stable_diffusion import StableDiffusion

    torch.set_num_threads(1)
    torch.manual_seed(7)
    unet = UNet2DConditionModel(
        sample_size=RESOLUTION // 8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        sample_size=RESOLUTION,
        latent_channels=4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    tokenizer = micro_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    backbones.save(StableDiffusion(unet, vae, text_encoder, tokenizer, scheduler), folder)
    return folder


@pytest.fixture(scope="session")
def micro_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder that predicts epsilon."""
    return save_micro_base(tmp_path_factory.mktemp("micro") / "base")


@pytest.fixture(scope="session")
def micro_base_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder that predicts v."""
    return save_micro_base(tmp_path_factory.mktemp("micro") / "base-v", "v_prediction")


def save_micro_dataset(folder: Path, sizes: dict[str, int]) -> Path:
    """A dataset folder of 64 px pictures: a gradient with a disc whose side the labels tell."""
    from sdcxr.io.manifest import COLUMNS, LABELS, write_metadata

    draws = np.random.default_rng(3)
    for split, n in sizes.items():
        (folder / split).mkdir(parents=True)
        rows = []
        for i in range(n):
            left = i % 2
            y, x = np.mgrid[:64, :64]
            disc = (y - 20 - 2 * i) ** 2 + (x - (18 if left else 44)) ** 2 < 120
            grey = 40 + 2 * y + 60 * disc + draws.normal(0, 4, (64, 64))
            Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / split / f"{split}{i}.png")
            row: dict[str, Any] = dict.fromkeys(COLUMNS)
            row |= {"file_name": f"{split}{i}.png", "text": SENTENCES[i % len(SENTENCES)], "view": "PA"}
            row |= {"subject_id": 1000 + i, "study_id": 5000 + i, "dicom_id": f"{IDS[split]}00-{i}"}
            row |= {LABELS[0]: left, LABELS[1]: (1, 0, -1, None)[i % 4]}
            rows.append(row)
        write_metadata(folder / split, pd.DataFrame(rows, columns=list(COLUMNS)))
    return folder


@pytest.fixture(scope="session")
def micro_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder with 11 training, 3 validation and 4 test images."""
    return save_micro_dataset(tmp_path_factory.mktemp("micro") / "dataset", {"train": 11, "validation": 3, "test": 4})


@pytest.fixture(scope="session")
def slurm() -> Iterator[Any]:
    """A running SLURM (`tests.slurm_cluster.Cluster`)."""
    from tests.slurm_cluster import running_cluster

    with running_cluster() as cluster:
        yield cluster


Train = Callable[..., int]

# A few quick steps; every test changes what it is about.
STEPS: dict[str, Any] = {
    "max_train_steps": 2,
    "train_batch_size": 4,
    "learning_rate": 1e-3,
    "lr_warmup_steps": 2,
    "ema_decay": 0.9,
    "logging_steps": 1,
    "checkpointing_steps": 100,
    "validation_steps": 0,
    "report_to": "none",
}


@pytest.fixture(scope="session")
def train_micro(micro_base: Path, micro_dataset: Path) -> Train:
    """`train_micro(run folder, **settings)` trains in this process and returns the exit code.

    The work of a step is only counted with `count_work=True`: on a model this small that takes as long as the run.
    """

    def train_run(run: Path, count_work: bool = False, **settings: Any) -> int:
        from sdcxr.config import TrainConfig
        from sdcxr.training import loop

        named = {"base": str(micro_base), "data": str(micro_dataset), "output_dir": str(run)}
        config = TrainConfig(**(STEPS | named | settings))
        if count_work:
            return loop.train(config)
        with patch.object(loop.Run, "flops_and_peak", lambda *_: (0.0, 0.0)):
            return loop.train(config)

    return train_run


def log_rows(run: Path) -> list[dict[str, float]]:
    """The rows of a run's log without its speed, which no two runs share."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in ("step", "images", "loss", "lr")} for row in rows]


@pytest.fixture(scope="session")
def read_log() -> Callable[[Path], list[dict[str, float]]]:
    """Reads log.jsonl."""
    return log_rows
