"""Tests of eval.classifier: what is compared with what, and the table that comes out."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval import classifier as module
from eval.classifier import ClassifierConfig, choose, labels_of, main, score
from sdcxr.errors import UserError

NAN = float("nan")


def test_labels_come_from_the_table_by_the_prompts_id_or_the_images(tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text("dicom_id,Left\nb,0\na,1\n")
    samples = pd.DataFrame({"file_name": ["a_0.png", "a_1.png", "b_0.png"], "id": ["a", "a", "b"]})
    assert labels_of(samples, str(file))["Left"].tolist() == [1, 1, 0]
    real = pd.DataFrame({"file_name": ["b.png", "a.png"], "dicom_id": ["b", ""]})
    assert labels_of(real, str(file))["Left"].tolist() == [0, 1]


def test_an_image_without_labels_is_named(tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text("dicom_id,Left\na,1\n")
    with pytest.raises(UserError, match=r"1 of 2 images have no row .first: z"):
        labels_of(pd.DataFrame({"id": ["a", "z"]}), str(file))
    with pytest.raises(UserError, match="nowhere"):
        labels_of(pd.DataFrame({"id": ["a"]}), str(tmp_path / "nowhere.csv"))


def test_findings_are_those_that_all_sides_know():
    real, synthetic = pd.DataFrame(columns=["Edema", "Left", "Fracture"]), pd.DataFrame(columns=["Left", "Edema"])
    assert choose(None, ["Left", "Fracture", "Edema"], real, synthetic) == ["Left", "Edema"]
    assert choose("Edema, Left", ["Left", "Edema"], real, synthetic) == ["Edema", "Left"]
    with pytest.raises(UserError, match="'Fracture' is not among: Left, Edema"):
        choose("Fracture", ["Left", "Fracture", "Edema"], real, synthetic)
    with pytest.raises(UserError, match="none in common"):
        choose(None, ["Hernia"], real, synthetic)


def test_uncertain_labels_do_not_count():
    labels = pd.DataFrame({"Edema": [1.0, 0.0, -1.0, NAN]})
    probabilities = pd.DataFrame({"Edema": [0.9, 0.1, 0.0, 0.0]})
    rows = score({"real": (labels, probabilities, np.arange(4))}, ["Edema"], "run")
    assert [(row["label"], row["value"], row["n"], row["n_positive"]) for row in rows] == [
        ("Edema", 1.0, 4, 1),
        ("macro", 1.0, 4, 1),
    ]


def test_scores_of_two_folders_are_written_as_json(tmp_path, micro_dataset, monkeypatch, capfd):
    """The classifier is replaced by one that reads the file names: the last image of each folder gets 1, others 0."""
    import sdcxr.tasks.classifier

    class Known:
        labels, resolution = ["Left", "Right"], 16

        def __init__(self, folder: Path, device: object) -> None:
            assert folder == Path("RUN")

    def last_is_positive(classifier: Known, paths: list[Path], batch_size: int) -> np.ndarray:
        return np.array([[path == paths[-1], 0.5] for path in paths], float)

    monkeypatch.setattr(sdcxr.tasks.classifier, "Classifier", Known)
    monkeypatch.setattr(module, "predict", last_is_positive)
    ids = pd.read_csv(micro_dataset / "test" / "metadata.csv")["dicom_id"].tolist()
    truth = pd.DataFrame({"dicom_id": ids, "Left": [0] * (len(ids) - 1) + [1], "Right": 0})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    samples = tmp_path / "samples"
    samples.mkdir()
    table = pd.DataFrame({"file_name": [f"{name}_0.png" for name in ids[::-1]], "text": "", "id": ids[::-1]})
    table.to_csv(samples / "metadata.csv", index=False)  # in the other order: its last image is a negative one

    output = tmp_path / "new" / "scores.json"
    folders = {"real": str(micro_dataset / "test"), "synthetic": str(samples)}
    assert main(ClassifierConfig("RUN", output=str(output), labels=str(tmp_path / "truth.csv"), **folders)) == 0

    text = output.read_text()
    assert "NaN" not in text
    values = {(row["images"], row["label"]): row["value"] for row in json.loads(text)}
    n = len(ids) - 1  # negatives, one of which the synthetic side ranks above the positive, the others level with it
    wrong = (n - 1) / 2 / n
    assert values == {
        ("real", "Left"): 1.0,
        ("real", "Right"): None,
        ("real", "macro"): 1.0,
        ("synthetic", "Left"): pytest.approx(wrong),
        ("synthetic", "Right"): None,
        ("synthetic", "macro"): pytest.approx(wrong),
    }
    shown = capfd.readouterr().out
    assert "Left" in shown and f"{len(ids)} real and {len(ids)} synthetic images" in shown
