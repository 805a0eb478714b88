"""Use as training data: what a trained classifier is scored on, and whose images it must not have seen."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.extractors.classifiers import EvalClassifier
from eval.inputs.folders import read_folder
from eval.scores import read_scores
from eval.summary.steps import rows_with_draws
from eval.utility import UtilityConfig, check_patients, evaluate, main
from sdcxr.io.manifest import read_metadata
from sdcxr.io.run_folder import write_config
from sdcxr.runtime.errors import UserError
from tests.eval.experiment import edit, make_dataset, make_samples
from tests.sdcxr.tasks.test_classifier import save_coloured


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("utility")
    make_samples(make_dataset(folder / "dataset"), folder / "samples")
    return folder


@pytest.fixture(scope="module")
def run(folder, train_micro):
    """A classifier of real and synthetic images."""
    settings = {"tune": "classifier", "base": "test_resnet", "random_weights": True, "resolution": 32}
    settings |= {"data": str(folder / "dataset"), "synthetic": str(folder / "samples"), "use_ema": False}
    settings |= {"validation_steps": 2}
    assert train_micro(folder / "run", **settings) == 0
    return folder / "run"


def record(run: Path, **settings) -> Path:
    """A run folder that says what it was trained on."""
    run.mkdir()
    write_config(run / "config.yaml", {"base": None, "synthetic": None} | settings)
    return run


def test_rows_say_what_it_was_trained_on_and_keep_their_draws(folder, run, capsys):
    output = folder / "scores"
    config = UtilityConfig(str(folder / "dataset" / "test"), str(run), str(output))
    assert main(config) == 0
    rows = read_scores(output / "scores.json")
    assert {(row["metric"], row["label"]) for row in rows} == {
        (f"utility_{metric}", label)
        for metric in ("auroc", "average_precision", "f1")
        for label in ("Atelectasis", "Edema", "macro")
    }
    for row in rows:
        assert (row["images"], row["n_real"], row["n_synthetic"], row["extractor"]) == (None, 8, 0, None)
        assert (row["n_train_real"], row["n_train_synthetic"]) == (16, 16)
    (macro,) = (row for row in rows_with_draws(output) if (row["metric"], row["label"]) == ("utility_auroc", "macro"))
    assert len(macro["draws"]) > 100 and macro["draws_kind"]
    assert "8 test images; trained on 16 real and 16 synthetic images" in capsys.readouterr().out
    assert main(config) == 0
    assert "kept from an earlier call" in capsys.readouterr().out


def test_a_label_with_one_class_does_not_rename_those_behind_it(folder, monkeypatch):
    """CheXGenBench skips such labels and numbers the rest anew."""
    real = read_folder(folder / "dataset" / "test", "--real")
    truth = real.rows["Edema"]
    said = pd.DataFrame({"Edema": truth, "Atelectasis": 1 - real.rows["Atelectasis"], "Fracture": 0.5 * truth})
    monkeypatch.setattr(EvalClassifier, "probabilities", lambda *_: said)
    classifier = EvalClassifier("fake", tuple(said.columns), None)
    rows = evaluate(real, classifier, []).rows
    values = {row["label"]: row["value"] for row in rows if row["metric"] == "utility_auroc"}
    assert np.isnan(values.pop("Fracture"))
    assert values == {"Edema": 1.0, "Atelectasis": 0.0, "macro": 0.5}


def test_f1_takes_the_thresholds_of_the_validation_split(folder, monkeypatch):
    real = read_folder(folder / "dataset" / "test", "--real")
    truth = real.rows[["Edema", "Atelectasis"]].astype(float)
    said = pd.DataFrame({"Edema": 0.2 + 0.1 * truth["Edema"], "Atelectasis": 0.8 - 0.1 * truth["Atelectasis"]})
    monkeypatch.setattr(EvalClassifier, "probabilities", lambda *_: said)
    thresholds = {"Edema": 0.25, "Atelectasis": 0.75}
    classifier = EvalClassifier("fake", tuple(said.columns), None, f1_thresholds=thresholds)
    values = {row["label"]: row for row in evaluate(real, classifier, []).rows if row["metric"] == "utility_f1"}
    assert {label: row["value"] for label, row in values.items()} == {"Edema": 1.0, "Atelectasis": 0.0, "macro": 0.5}
    assert values["Edema"]["chance"] == pytest.approx(2 * 0.5 / 1.5)
    classifier = EvalClassifier("fake", tuple(said.columns), None, f1_thresholds={"Edema": 0.25})
    result = evaluate(real, classifier, [])
    assert not any(row["metric"] == "utility_f1" for row in result.rows)
    assert any("F1 (no threshold of Atelectasis:" in text for text in result.omitted)


def test_classes_of_colour_images_are_scored(train_micro, tmp_path, capsys):
    """Squares of three colours, which are alike in grey."""
    data = save_coloured(tmp_path / "data", {"train": 24, "validation": 6, "test": 9})
    many = {"max_train_steps": 25, "train_batch_size": 12, "learning_rate": 3e-3, "validation_steps": 25}
    start = {"base": "test_resnet", "random_weights": True, "class_column": "kind", "resolution": 32}
    run = tmp_path / "run"
    train_micro(run, data=str(data), tune="classifier", use_ema=False, **start | many)
    assert main(UtilityConfig(str(data / "test"), str(run), str(tmp_path / "scores"))) == 0
    values = {(row["metric"], row["label"]): row["value"] for row in read_scores(tmp_path / "scores" / "scores.json")}
    labels = ("blue", "green", "red", "macro")
    assert values == {
        (f"utility_{metric}", label): 1.0 for metric in ("auroc", "average_precision", "f1") for label in labels
    }
    assert "F1" in capsys.readouterr().out
    config = {"real": str(data / "test"), "classifier": str(run / "classifier"), "output_dir": str(tmp_path / "other")}
    with pytest.raises(UserError, match="--class_column text: has none of the classes blue, green, red, but nothing"):
        main(UtilityConfig(**config, class_column="text"))
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match="tells classes apart: name the column that has them with --class_column"):
        main(UtilityConfig(**config))


def test_patients_that_it_was_trained_on_are_refused(folder, tmp_path):
    real = read_folder(folder / "dataset" / "test", "--real")
    assert check_patients(real, record(tmp_path / "clean", data=str(folder / "dataset"))) == []
    for split in ("train", "validation"):
        mixed = shutil.copytree(folder / "dataset", tmp_path / "data" / split)
        edit(mixed / split, "subject_id", 0, real.rows["subject_id"][0])
        with pytest.raises(UserError, match=f"1 patients are in the splits {split} and test"):
            check_patients(real, record(tmp_path / f"of-{split}", data=str(mixed)))
    # Also of the run that it began from, whose result alone was named.
    began = record(tmp_path / "later", data=str(folder / "dataset"), base=str(tmp_path / "of-train"))
    for named in (began, began / "classifier"):
        with pytest.raises(UserError, match="1 patients are in the splits train and test"):
            check_patients(real, named)


def test_prompts_of_test_patients_are_refused(folder, tmp_path):
    real = read_folder(folder / "dataset" / "test", "--real")
    leaking = shutil.copytree(folder / "samples", tmp_path / "leaking")
    edit(leaking, "id", 3, read_metadata(folder / "dataset" / "test")["dicom_id"].iloc[0])
    run = record(tmp_path / "run", data=str(folder / "dataset"), synthetic=str(leaking))
    with pytest.raises(UserError, match="prompts of 1 of 16 synthetic images are of patients of the test split"):
        check_patients(real, run)


def test_what_cannot_be_compared_is_said(folder, tmp_path):
    real = read_folder(folder / "dataset" / "test", "--real")
    assert "xrv-nih is no run of train.py" in check_patients(real, Path("xrv-nih"))[0]
    (gone,) = check_patients(real, record(tmp_path / "run", data=str(tmp_path / "nowhere")))
    assert "the data of" in gone and "cannot be checked" in gone
    (gone,) = check_patients(
        real, record(tmp_path / "other", data=str(folder / "dataset"), synthetic=str(tmp_path / "nowhere"))
    )
    assert "the synthetic images of" in gone and "cannot be checked" in gone


def test_labels_and_findings_are_checked(folder, run, tmp_path):
    config = {"real": str(folder / "dataset" / "test"), "classifier": str(run), "output_dir": str(tmp_path)}
    with pytest.raises(UserError, match=r"nowhere\.csv: no such file"):
        main(UtilityConfig(**config, labels=str(tmp_path / "nowhere.csv")))
    with pytest.raises(UserError, match="'Hernia'"):
        main(UtilityConfig(**config, findings="Hernia"))
    with pytest.raises(UserError, match=r"--class_column: .* names findings, not one class of several"):
        main(UtilityConfig(**config, class_column="view"))
