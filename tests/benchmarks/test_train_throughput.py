"""The benchmark of training: its rows, its tables, and what it makes of a run that fails."""

import dataclasses
import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import levers
import throughput_tables
import train_throughput
from levers import Row, cumulative, full, one_off, plan


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_levers_go_on_one_by_one_until_all_are_on_and_then_the_batch_grows(device):
    rows = cumulative(device, 16)
    assert rows[0].levers == frozenset()
    assert [len(row.levers) for row in rows[:-1]] == list(range(len(rows) - 1))
    assert all(before.levers < after.levers for before, after in pairwise(rows[:-1]))
    assert rows[-2] == full(device, 16)
    assert (rows[-1].levers, rows[-1].batch_size) == (rows[-2].levers, 32)


def test_what_needs_a_gpu_is_absent_on_a_cpu():
    assert full("cpu", 16).levers == {"cache", "bf16", "fused"}
    assert full("cuda", 16).levers == {lever.name for lever in levers.LEVERS}


def test_a_lever_goes_off_with_those_that_need_it():
    off = {row.label: full("cuda", 16).levers - row.levers for row in one_off("cuda", 16)}
    assert off["without torch.compile and CUDA graphs"] == {"compile", "graphs"}
    assert off["without latents cache and latents in GPU memory"] == {"cache", "memory"}
    assert off["without bf16 autocast"] == {"bf16"}
    assert off["everything on"] == frozenset()
    assert len(off) == 8


@pytest.mark.parametrize(
    ("which", "device", "n"), [("all", "cpu", 7), ("on", "cpu", 5), ("off", "cpu", 4), ("full", "cpu", 2)]
)
def test_no_run_is_made_twice(which, device, n):
    rows = plan(which, device, 16)
    assert len(rows) == len({(row.levers, row.batch_size) for row in rows}) == n


def test_the_two_ends_are_everything_off_and_everything_on():
    assert [row.label for row in plan("full", "cuda", 8)] == ["naive, fp32", "everything on"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_row_is_a_training_run_that_the_trainer_takes(device):
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    for row in plan("all", device, 16):
        settings = row.settings()
        assert settings.keys() <= names
        assert TrainConfig(**settings).train_batch_size == row.batch_size


def test_settings_follow_the_levers():
    settings = Row(frozenset({"cache", "compile"}), 8, "").settings()
    assert (settings["cache_latents"], settings["torch_compile"]) == (True, True)
    assert (settings["mixed_precision"], settings["cuda_graphs"], settings["fused_optimizer"]) == ("no", False, False)


def measured(row: Row, rate: float, **others: Any) -> dict[str, Any]:
    values = {"images_per_s": rate, "tflops_per_s": rate * 2.45, "mfu": 0.5, "data_wait": 0.012, "peak_memory_gb": 9.87}
    return {"levers": sorted(row.levers), "batch_size": row.batch_size} | values | others


def record(device: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    about = {"arch": "sd15", "resolution": 512, "tune": "unet+text", "batch_size": 16, "steps": 30, "device": device}
    benchmark = about | {"threads": 2, "command": "python x.py --arch sd15", "rows": rows}
    return {"hardware": "A card", "versions": {"torch": "9.9"}, "throughput": [benchmark]}


def test_a_table_compares_rows_with_its_first():
    rows = cumulative("cpu", 16)
    text = throughput_tables.render([record("cpu", [measured(rows[0], 20.0), measured(rows[1], 30.0, mfu=None)])])
    assert "### A card: sd15, 512 px, unet+text" in text
    assert "| naive, fp32 | 20.0 | 1.00 | 49.0 | 50.0 % | 1.2 % | 9.87 |" in text
    assert "| + latents cache | 30.0 | 1.50 | 73.5 | – | 1.2 % | 9.87 |" in text
    assert "bf16" not in text  # not measured
    assert "one lever off" not in text
    assert "Left out" in text and "CUDA graphs" in text


def test_the_second_table_starts_from_everything_on():
    rows = one_off("cuda", 16)
    text = throughput_tables.render([record("cuda", [measured(rows[0], 1600.0), measured(rows[1], 400.0)])])
    table = text[text.index("Everything on, and one lever off") :]
    assert "| everything on | 1,600.0 | 1.00 | 3,920 |" in table
    assert "| without latents cache and latents in GPU memory | 400.0 | 0.25 | 980 |" in table
    assert "Left out" not in text


def test_a_row_that_did_not_fit_says_so_and_the_next_is_the_measure():
    rows = cumulative("cuda", 16)
    failed = {"levers": [], "batch_size": 16, "error": "out of memory"}
    text = throughput_tables.render([record("cuda", [failed, measured(rows[1], 30.0), measured(rows[2], 60.0)])])
    assert "| naive, fp32 | out of memory |" in text
    assert "| + bf16 autocast | 60.0 | 2.00 |" in text


def test_only_what_stands_between_the_marks_is_replaced():
    page = f"# Title\n\nBefore.\n\n{throughput_tables.BEGIN}\nold\n{throughput_tables.END}\n\nAfter.\n"
    new = throughput_tables.insert(page, "new\n")
    assert new == page.replace("\nold\n", "\n\nnew\n\n")
    assert throughput_tables.insert(new, "new") == new


@pytest.mark.parametrize(
    "page",
    ["no marks", throughput_tables.BEGIN, f"{throughput_tables.END} {throughput_tables.BEGIN}"],
)
def test_a_page_without_marks_is_refused(page):
    with pytest.raises(UserError, match="needs a line"):
        throughput_tables.insert(page, "new")


def test_results_are_rendered_into_the_page(tmp_path, monkeypatch):
    (tmp_path / "other.json").write_text('{"rows": []}')
    row = measured(full("cpu", 16), 80.0)
    (tmp_path / "card.json").write_text(json.dumps(record("cpu", [row, measured(one_off("cpu", 16)[1], 60.0)])))
    page = tmp_path / "page.md"
    page.write_text(f"# Speed\n{throughput_tables.BEGIN}\n{throughput_tables.END}\n")
    for name, value in {"RESULTS": tmp_path, "PAGE": page, "REPOSITORY": tmp_path}.items():
        monkeypatch.setattr(train_throughput, name, value)
    assert train_throughput.main(train_throughput.ThroughputConfig(render=True)) == 0
    assert "| everything on | 80.0 |" in page.read_text()


def settings(**values: Any) -> train_throughput.ThroughputConfig:
    known = {"arch": "tiny", "resolution": 128, "batch_size": 16, "device": "cpu"}
    return train_throughput.ThroughputConfig(**(known | values))


def test_a_file_of_results_is_added_to_but_never_across_versions_or_hardware(tmp_path):
    path = tmp_path / "card.json"
    record, benchmark = train_throughput.opened(path, "A card", settings())
    benchmark["rows"].append({"levers": []})
    path.write_text(json.dumps(record))
    assert train_throughput.opened(path, "A card", settings())[1]["rows"] == [{"levers": []}]
    other, benchmark = train_throughput.opened(path, "A card", settings(batch_size=8))
    assert benchmark["rows"] == [] and len(other["throughput"]) == 2
    assert train_throughput.opened(path, "Another card", settings())[0]["throughput"][0]["rows"] == []
    path.write_text(json.dumps(record | {"versions": {"torch": "0"}}))
    assert train_throughput.opened(path, "A card", settings())[1]["rows"] == []


def test_the_work_folder_is_made_once_and_never_half(tmp_path):
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "x").touch()

    def fail(folder: Path) -> None:
        folder.mkdir()
        raise OSError

    with pytest.raises(OSError):
        train_throughput.once(tmp_path / "a" / "b", fail)
    assert not (tmp_path / "a" / "b").exists()
    train_throughput.once(tmp_path / "a" / "b", write)
    train_throughput.once(tmp_path / "a" / "b", fail)  # not called
    assert (tmp_path / "a" / "b" / "x").exists()


def test_noise_is_a_dataset(tmp_path):
    from sdcxr.io.manifest import read_metadata
    from sdcxr.io.pixels import read_pixels

    train_throughput.write_noise(tmp_path / "data", 32)
    rows = read_metadata(tmp_path / "data" / "train")
    assert len(rows) == train_throughput.IMAGES
    pixels = read_pixels(tmp_path / "data" / "train" / rows["file_name"][5], 32)
    assert pixels.shape == (1, 32, 32) and pixels.std() > 0.4


def test_a_log_is_read_while_it_is_written(tmp_path):
    log = tmp_path / "log.jsonl"
    script = f"""
import time
with open({str(log)!r}, "w", buffering=1) as file:
    for step in range(5):
        file.write('{{"step": %d' % step)
        file.flush()
        time.sleep(0.05)
        file.write('}}\\n')
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        assert train_throughput.awaited(process, log, 4) == [{"step": i} for i in range(4)]
        assert process.poll() is None  # it did not wait for the end
    finally:
        process.kill()
        process.wait()


def test_a_run_that_ends_early_has_no_rows(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    assert train_throughput.awaited(process, tmp_path / "log.jsonl", 1) is None


@pytest.mark.parametrize(
    ("text", "code"), [("x\ntorch.OutOfMemoryError: CUDA out of memory. Tried …", 1), ("", -signal.SIGKILL)]
)
def test_want_of_memory_is_a_result(text, code, tmp_path):
    (tmp_path / "messages.txt").write_text(text)
    assert train_throughput.failure(tmp_path / "messages.txt", code) == {"error": "out of memory"}


def test_any_other_end_is_an_error_with_the_last_line(tmp_path):
    (tmp_path / "messages.txt").write_text("error: no such thing\n")
    with pytest.raises(UserError, match="exit code 2: error: no such thing"):
        train_throughput.failure(tmp_path / "messages.txt", 2)


def test_the_median_leaves_out_what_is_unknown():
    assert train_throughput.median([3.0, None, 1.0, 2.0]) == 2.0
    assert train_throughput.median([None]) is None


def test_rows_are_measured_in_turn_and_the_median_of_the_rounds_counts(tmp_path, monkeypatch):
    rates = iter([10.0, 40.0, 30.0, 50.0, 20.0, 90.0])
    order = []

    def measure(config, row, *_):
        order.append(row.label)
        return dict.fromkeys(train_throughput.MEASURED, next(rates))

    for name, value in {"measure": measure, "write_base": lambda *_: None, "once": lambda *_: None}.items():
        monkeypatch.setattr(train_throughput, name, value)
    flags = {"levers": "full", "output": tmp_path / "card.json"}
    assert train_throughput.main(settings(rounds=2, **flags)) == 0
    assert train_throughput.main(settings(rounds=3, **flags)) == 0  # one more
    assert order == ["naive, fp32", "everything on"] * 3
    rows = json.loads((tmp_path / "card.json").read_text())["throughput"][0]["rows"]
    assert {len(row["levers"]): row["images_per_s"] for row in rows} == {0: 20.0, 3: 50.0}
    assert [len(row["rounds"]) for row in rows] == [3, 3]


@pytest.mark.parametrize("values", [{"steps": 3}, {"steps": 7}, {"batch_size": 0}, {"resolution": 0}, {"rounds": 0}])
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(UserError, match=f"--{next(iter(values))}"):
        settings(**values)
