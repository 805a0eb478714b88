"""DataLoaders where shared memory is small: fewer workers, and one line where a worker fails."""

import time

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from sdcxr.runtime import shared_memory
from sdcxr.runtime.shared_memory import data_loader, explain_lost_batch, free_bytes, n_bytes, workers_that_fit

MB = 1_000_000


@pytest.mark.parametrize(
    ("workers", "free", "processes", "fitting"),
    [
        (8, None, 1, 8),  # a system without /dev/shm
        (8, 64 * MB, 1, 0),  # Docker's default
        (8, 24_000 * MB, 1, 8),
        (8, 400 * MB, 1, 4),  # 10 batches of 34 MB: 4 workers with two each, one in use
        (8, 400 * MB, 2, 2),
        (0, 64 * MB, 1, 0),
    ],
)
def test_workers_whose_batches_fit(workers, free, processes, fitting):
    assert workers_that_fit(workers, 2, 34 * MB, free, processes) == fitting


def test_bytes_of_a_sample():
    assert n_bytes({"a": torch.zeros(3, 4), "b": (np.zeros(2, np.uint8), "text", 1.0), "c": [None]}) == 48 + 2


def test_free_memory_is_that_of_the_folder(tmp_path):
    assert free_bytes(tmp_path) > 0
    assert free_bytes(tmp_path / "absent") is None


class Numbers(Dataset):
    """Five tensors."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.full((2,), i)


class Slow(Numbers):
    """A worker that gives nothing for two seconds."""

    def __getitem__(self, i: int) -> torch.Tensor:
        time.sleep(2)
        return torch.zeros(1)


def test_small_shared_memory_is_a_warning_and_no_workers(monkeypatch, capsys):
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: 64 * MB)
    batches = data_loader(Numbers(), workers=2, prefetch=2, batch_bytes=lambda: 34 * MB, batch_size=1)
    assert batches.num_workers == 0
    assert [int(batch[0, 0]) for batch in batches] == [0, 1, 2, 3, 4]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "/dev/shm has 64 MB free and a batch has 34 MB: 0 instead of 2 worker processes" in err
    assert "--shm-size" in err


@pytest.mark.multiprocess
def test_a_lost_batch_is_one_line_after_a_while(monkeypatch):
    monkeypatch.setattr(shared_memory, "TIMEOUT_S", 1)
    with pytest.raises(RuntimeError) as raised:
        list(data_loader(Slow(), workers=1, prefetch=2, batch_bytes=lambda: 16, batch_size=1))
    line = explain_lost_batch(raised.value)
    assert line.startswith("reading ahead failed (DataLoader timed out after 1 seconds): /dev/shm or the memory")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that …"),
            "Bus error):",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "exited unexpectedly):"),
        (RuntimeError("CUDA error: DataLoader"), None),
        (ValueError("DataLoader worker"), None),
    ],
)
def test_errors_of_workers_are_one_line(error, told):
    line = explain_lost_batch(error)
    assert (line is None) == (told is None)
    assert told is None or (told in line and "\n" not in line and "--shm-size" in line)
