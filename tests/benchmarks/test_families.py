"""The study of the families: their members, its commands and its table."""

import importlib
from pathlib import Path

import pytest

from sdcxr.runtime.errors import UserError


@pytest.fixture
def families(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("families")


def test_every_family_of_the_contract_tests_has_a_member(families):
    folder = Path(__file__).parents[1] / "sdcxr" / "backbones" / "families"
    assert set(families.MEMBERS) == {path.stem.removeprefix("tiny_") for path in folder.glob("tiny_*.py")}


def test_an_unknown_family_is_refused_by_name(families):
    with pytest.raises(UserError, match="--families flux: use stable_diffusion, "):
        _ = families.FamiliesConfig(families="sana,flux").names


def test_stages_train_what_they_sample_and_score_what_they_sampled(families):
    study = families.Study(Path("root"), Path("truth.csv"), families.FamiliesConfig(share=0.1))
    stages = {name: list(map(str, arguments)) for name, arguments in families.stages(study, "sana").items()}

    def value(stage, flag):
        return stages[stage][stages[stage].index(flag) + 1]

    assert 10 * int(value("train", "--max_train_steps")) == families.MEMBERS["sana"].steps
    assert value("sample", "--model") == value("train", "--output_dir")
    assert value("score", "--synthetic") == value("sample", "--output_dir")
    assert "--scheduler" not in stages["sample"]
    assert "--guidance_scale" not in stages["sample"]
    assert "--prediction_type" not in stages["train"]  # which a flow refuses


def test_table_has_losses_times_and_intervals(families):
    score = {"value": 0.8131, "ci_low": 0.7, "ci_high": 0.9, "real": 1.0}
    row = {"family": "sana", "parameters": 1234567, "learning_rate": 0.002, "steps": 1200}
    row |= {"cpu_seconds": {"train": 300.0, "sample": 60.0}, "validation_loss": [1.25, 0.6, 0.5]}
    row |= {"Cardiomegaly": score, "macro": {**score, "value": 0.7}}
    *_, line = families.table({"rows": [row]}).splitlines()
    assert line == "| Sana | 1,234,567 | 0.002 | 1,200 | 5.0 | 1.0 | 1.250 | 0.500 | 0.813 (0.70–0.90) | 0.700 |"
