"""The classifier task: its labels and those of its base, what counts in the loss, and what its folder holds."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sdcxr.backbones.image_classifier import Classifier, network
from sdcxr.config import TrainConfig
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import training_rows
from sdcxr.tasks.classifier import ClassifierTask, label_table

CPU = torch.device("cpu")


def config(base: Path | None, data: Path, **changes: Any) -> TrainConfig:
    about = {"base": base and str(base), "data": str(data), "tune": "classifier", "validation_steps": 0}
    return TrainConfig(**(about | changes)).filled()


def rows_with(**labels: list[float | None]) -> pd.DataFrame:
    n = len(next(iter(labels.values())))
    return pd.DataFrame({"id": [f"d{i}" for i in range(n)], "dicom_id": [f"d{i}" for i in range(n)]} | labels)


def test_labels_that_cannot_be_learnt_are_left_out():
    rows = rows_with(Edema=[1, 0, -1, None], Fracture=[1, 1, None, 1], Pneumonia=[0, 0, 0, 0])
    labels, values = label_table(rows, None)
    assert labels == ["Edema"]
    np.testing.assert_array_equal(values[:, 0], [1, 0, np.nan, np.nan])
    with pytest.raises(UserError, match="no label has both"):
        label_table(rows_with(Fracture=[1, 1]), None)


def test_labels_of_a_table_are_joined_by_id(tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text("dicom_id,left,size,text\nd2,1,3.5,a\nd0,0,1,b\nd0,0,2,c\nd9,1,1,d\n")
    labels, values = label_table(rows_with(Edema=[1, 0, None]), str(file))
    assert labels == ["left"]
    np.testing.assert_array_equal(values[:, 0], [0, np.nan, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("id,left\na,1\n", "no column dicom_id"),
        ("", "not a readable CSV"),
        ('dicom_id,left\na,1\nb,"1\n', "not a readable CSV"),
        ("dicom_id,left\nd0,1\n", "no label has both"),
        ("dicom_id,left\na,1\n", r"labels: none of the 2 images .*looked for d0; it has a\)"),
        ("dicom_id,left\na,1\na,0\n", "rows of a contradict each other"),
        ("dicom_id,Edema\na,1\nb,0\nc,yes\n", "the column Edema holds 'yes' in the row of c"),
    ],
)
def test_wrong_label_tables_are_one_line(tmp_path, content, message):
    file = tmp_path / "truth.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        label_table(rows_with(Edema=[1, 0]), str(file))


def test_unknown_labels_do_not_count(micro_dataset):
    task = ClassifierTask(config(None, micro_dataset))
    assert task.labels == [LABELS[0], LABELS[1]]
    task.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))  # type: ignore[assignment]
    with torch.no_grad():
        task.network[1].weight.zero_()
        task.network[1].bias.copy_(torch.tensor([0.0, 2.0]))
    batch = {
        "pixels": torch.zeros(3, 1, 2, 2),
        "labels": torch.tensor([[1.0, 1.0], [0.0, np.nan], [np.nan, np.nan]]),
    }
    known = [np.log(2), np.log(1 + np.exp(-2))]
    assert task(batch).tolist() == pytest.approx([np.mean(known), np.log(2), 0.0])


def test_unknown_architectures_name_the_nearest():
    with pytest.raises(UserError, match=r"timm has no such model \(near: .*resnet10t"):
        network("resnet10", 2)


def test_a_trained_classifier_reads_its_folder(train_micro, tmp_path):
    run = tmp_path / "run"
    assert train_micro(run, tune="classifier", base=None) == 0
    for folder in (run, run / "classifier"):
        classifier = Classifier(folder, CPU)
        assert classifier.labels == [LABELS[0], LABELS[1]] and classifier.resolution == 64
    pixels = torch.linspace(-1, 1, 2 * 64 * 64).view(2, 1, 64, 64)
    scores = classifier.predict(pixels)
    assert scores.shape == (2, 2) and ((scores > 0) & (scores < 1)).all()
    np.testing.assert_allclose(classifier.predict(pixels[:1]), scores[:1], rtol=1e-4)
    with pytest.raises(UserError, match="holds no trained classifier"):
        Classifier(tmp_path, CPU)
    os.truncate(run / "classifier" / "model.safetensors", 100)
    with pytest.raises(UserError, match="is damaged or of another network"):
        Classifier(run, CPU)


def test_a_classifier_goes_on_from_anothers_weights(train_micro, tmp_path, micro_dataset):
    first, settings = tmp_path / "first", {"tune": "classifier", "use_ema": False}
    train_micro(first, base="test_resnet", random_weights=True, resolution=32, **settings)
    task = ClassifierTask(config(first, micro_dataset))
    assert (task.architecture, task.resolution, task.network.training) == ("test_resnet", 32, True)
    for name, value in Classifier(first, CPU).network.state_dict().items():
        torch.testing.assert_close(task.network.state_dict()[name], value)
    second = tmp_path / "second"
    train_micro(second, base=str(first), **settings)
    begun, went_on = Classifier(first, CPU), Classifier(second, CPU)
    assert (went_on.architecture, went_on.labels, went_on.resolution) == ("test_resnet", begun.labels, 32)
    assert not torch.equal(begun.network.state_dict()["fc.weight"], went_on.network.state_dict()["fc.weight"])


def test_labels_follow_the_base_by_name(train_micro, tmp_path, micro_dataset):
    first = tmp_path / "first"
    train_micro(first, tune="classifier", base="test_resnet", random_weights=True)
    rows = training_rows(config(first, micro_dataset))
    labels = rows.rename(columns={"id": "key"})[["key", LABELS[1], LABELS[0]]].rename(columns={"key": "dicom_id"})
    labels.to_csv(tmp_path / "other-order.csv", index=False)
    task = ClassifierTask(config(first, micro_dataset, labels=str(tmp_path / "other-order.csv")))
    assert task.labels == [LABELS[0], LABELS[1]]
    np.testing.assert_array_equal(task.targets[:, 0], rows[LABELS[0]])
    labels.drop(columns=LABELS[1]).to_csv(tmp_path / "fewer.csv", index=False)
    with pytest.raises(
        UserError,
        match=r"--base .*first names Atelectasis, Cardiomegaly; the labels .* Atelectasis \(--new_head takes them\)$",
    ):
        ClassifierTask(config(first, micro_dataset, labels=str(tmp_path / "fewer.csv")))
