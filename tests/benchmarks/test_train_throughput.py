"""The throughput benchmark: its rows are runs that the trainer takes, measured in rounds, rendered into the page."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sdcxr.config import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import levers
import throughput_tables
import train_throughput


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_row_is_a_run_that_the_trainer_takes_and_none_is_made_twice(device):
    rows = levers.plan("all", device, 16)
    assert len(rows) == len({(row.levers, row.batch_size) for row in rows})
    for row in rows:
        assert TrainConfig(**row.settings()).train_batch_size == row.batch_size


def config(output: Path, **values: Any) -> train_throughput.ThroughputConfig:
    about = {"arch": "tiny", "resolution": 32, "batch_size": 1, "device": "cpu", "levers": "full", "steps": 5}
    return train_throughput.ThroughputConfig(**(about | values), output=output)


def test_medians_of_the_rounds_are_rendered_into_the_page(tmp_path, monkeypatch):
    rates = iter([10.0, 40.0, 30.0, 50.0, 20.0, 90.0])
    order = []

    def measure(config, row, *_):
        order.append(row.label)
        return dict.fromkeys(train_throughput.MEASURED, next(rates))

    for name, value in {"measure": measure, "write_base": lambda *_: None, "once": lambda *_: None}.items():
        monkeypatch.setattr(train_throughput, name, value)
    assert train_throughput.main(config(tmp_path / "card.json", rounds=2)) == 0
    assert train_throughput.main(config(tmp_path / "card.json", rounds=3)) == 0  # measures one more round only
    assert order == ["naive, fp32", "everything on"] * 3
    page = tmp_path / "page.md"
    page.write_text(f"# Speed\n{throughput_tables.BEGIN}\nold\n{throughput_tables.END}\n")
    for name, value in {"RESULTS": tmp_path, "PAGE": page, "REPOSITORY": tmp_path}.items():
        monkeypatch.setattr(train_throughput, name, value)
    assert train_throughput.main(train_throughput.ThroughputConfig(render=True)) == 0
    text = page.read_text()
    assert "| naive, fp32 | 20.0 | 1.00 |" in text and "| 50.0 | 2.50 |" in text
    assert "\nold\n" not in text


@pytest.mark.slow
def test_a_real_measurement(tmp_path):
    assert train_throughput.main(config(tmp_path / "card.json", resolution=64)) == 0
    rows = json.loads((tmp_path / "card.json").read_text())["throughput"][0]["rows"]
    assert [row["images_per_s"] > 0 for row in rows] == [True, True]
