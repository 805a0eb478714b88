"""A grid of two cells through the real commands, from phantoms to the report."""

import csv
from pathlib import Path

import pytest

from ablation.command import main
from ablation.config import AblateConfig

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "phantom.studies=150", "prepare.resolution=64", "train.resolution=64", "train.max_train_steps=4", "classifier.max_train_steps=10",  # noqa: E501
    "train.lr_warmup_steps=0", "classifier.lr_warmup_steps=0", "train.train_batch_size=4", "generate.num_inference_steps=2",  # noqa: E501
    "generate.max_prompts=12", "generate.resolution=64", "evaluate.interval_draws=20",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_grid_ends_with_tables_and_a_report(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"extends: {ROOT / 'configs' / 'grids' / 'common.yaml'}\ntitle: Parts\nbaseline: {{train.tune: unet}}\n"
        "axes: {train.tune: [unet, text]}\n"
    )
    config = AblateConfig(str(grid), str(tmp_path / "out"), scale="demo", set=SETTINGS, jobs=2)
    assert main(config) == 0, capsys.readouterr().out
    out = tmp_path / "out"
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["cell"], row["seed"]) for row in rows} == {(a, s) for a in ("unet", "text") for s in "01"}
    assert {"auroc", "kid"} <= {row["metric"] for row in rows}
    assert {row["variant"] for row in rows if row["metric"] == "kid"} == {"classifier"}  # not the path of its folder
    assert {row["extractor"] for row in rows if row["metric"] == "auroc"} == {"classifier"}
    assert len(list((out / "prepare").iterdir())) == len(list((out / "classifier").iterdir())) == 1
    assert "| unet |" in (out / "table.md").read_text() and r"\toprule" in (out / "table.tex").read_text()
    page = (out / "report.html").read_text()
    assert "Parts</h1>" in page and "data:image/png" in page and "<svg" in page and "phantoms" in page
    before = {path: path.read_bytes() for path in (out / "results.csv", out / "table.md", out / "differences.csv")}
    capsys.readouterr()
    assert main(config) == 0
    assert ": started" not in capsys.readouterr().out
    assert all(path.read_bytes() == content for path, content in before.items())
