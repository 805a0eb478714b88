"""--data_fraction: whole patients, nested, by the seed and not by the order of the table."""

from itertools import pairwise

import pandas as pd
import pytest

from sdcxr.config import TrainConfig
from sdcxr.io.manifest import read_metadata
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import fraction_of, training_rows
from sdcxr.tasks.classifier import ClassifierTask

ROWS = pd.DataFrame(
    {"file_name": [f"{i}.png" for i in range(400)], "subject_id": [str(i // 4 if i < 200 else i) for i in range(400)]}
)
SHARES = (0.01, 0.05, 0.1, 0.5, 0.9)


def test_a_larger_share_holds_a_smaller_one():
    taken = [set(fraction_of(ROWS, share, seed=0)["file_name"]) for share in SHARES]
    assert all(smaller < larger for smaller, larger in pairwise(taken))
    for share, names in zip(SHARES, taken, strict=True):
        assert share * 400 <= len(names) < share * 400 + 4  # at most one patient more than needed


def test_patients_stay_whole():
    taken = fraction_of(ROWS, 0.3, seed=0)
    sizes = ROWS["subject_id"].value_counts()
    assert (taken["subject_id"].value_counts() == sizes[taken["subject_id"].unique()]).all()


def test_the_draw_depends_on_the_seed_alone():
    shuffled = ROWS.sample(frac=1, random_state=3)
    names = set(fraction_of(ROWS, 0.1, seed=0)["file_name"])
    assert set(fraction_of(shuffled, 0.1, seed=0)["file_name"]) == names
    assert set(fraction_of(ROWS, 0.1, seed=1)["file_name"]) != names


def test_images_without_a_patient_are_drawn_alone():
    assert len(fraction_of(ROWS.drop(columns="subject_id"), 0.1, seed=0)) == 40
    assert len(fraction_of(ROWS.assign(subject_id=""), 0.1, seed=0)) == 40


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_is_above_0_and_at_most_1(share, micro_dataset):
    with pytest.raises(UserError, match=f"--data_fraction {share}: "):
        training_rows(TrainConfig(data=str(micro_dataset), data_fraction=share))


def test_a_few_images_have_the_classes_of_all(micro_dataset):
    every = read_metadata(micro_dataset / "train")["subject_id"].nunique()
    few = {"max_train_samples": 3, "data_fraction": 0.5}
    for more in ({}, few, {"max_train_samples": 3}):
        config = TrainConfig(tune="classifier", data=str(micro_dataset), class_column="subject_id", **more)
        assert len(ClassifierTask(config).labels) == every
