"""Arms: their grammar, budgets and images, and the patients and labels that are refused before anything trains."""

import shutil

import numpy as np
import pandas as pd
import pytest

from eval.augmentation.arms import TrainingSet, gather, link, parse_arms, write_training_set
from sdcxr.io.manifest import read_metadata
from sdcxr.runtime.errors import UserError
from tests.eval.experiment import edit, make_dataset, make_samples


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("experiment") / "dataset")


@pytest.fixture(scope="module")
def samples(dataset):
    return make_samples(dataset, dataset.parent / "samples")


def gathered(dataset, samples, arms: str = "R,S,R+S,S>R", **settings):
    return gather(str(dataset), str(samples), parse_arms(arms, 1.0), **settings)


def test_arms_are_sets_of_images_in_one_stage_or_two():
    arms = {arm.name: arm.stages for arm in parse_arms("R, S,R+S,S>R,5S,R+0.5S,3S→R", 2.0)}
    real = TrainingSet(True)
    assert arms == {
        "R": (real,),
        "S": (TrainingSet(False, 2.0),),
        "R+S": (TrainingSet(True, 2.0),),
        "S>R": (TrainingSet(False, 2.0), real),
        "5S": (TrainingSet(False, 5.0),),
        "R+0.5S": (TrainingSet(True, 0.5),),
        "3S>R": (TrainingSet(False, 3.0), real),
    }


@pytest.mark.parametrize("text", ["R,X", "S+R", "", "R,R", "0S", "1.2.3S", "R>S", "S>R,S→R"])
def test_other_arms_are_refused(text):
    with pytest.raises(UserError, match="--arms"):
        parse_arms(text, 1.0)


@pytest.mark.parametrize("budget", [2, 7, 100])
def test_all_arms_have_the_same_number_of_steps(budget):
    assert {sum(arm.steps(budget)) for arm in parse_arms("R,S,R+S,S>R,5S", 1.0)} == {budget}
    assert all(steps > 0 for arm in parse_arms("S>R", 1.0) for steps in arm.steps(budget))


def test_a_mix_is_a_dataset_folder_of_links_with_labels_by_id(dataset, samples, tmp_path):
    data = gathered(dataset, samples, "R,R+S,R+0.5S", max_real_samples=8)
    for name, factor in (("whole", 1.0), ("half", 0.5)):
        write_training_set(tmp_path / name, TrainingSet(True, factor), data)
    rows = read_metadata(tmp_path / "whole" / "train")
    kinds = rows["file_name"].str.partition("/")[0].value_counts()
    assert kinds.to_dict() == {"real": 8, "synthetic": 8}
    assert (rows["text"] == "").all()  # reports stay where they are
    for name in rows["file_name"]:
        kind, _, file = name.partition("/")
        source = dataset / "train" / file if kind == "real" else samples / file
        assert (tmp_path / "whole" / "train" / name).samefile(source)
    labels = pd.read_csv(tmp_path / "whole" / "labels.csv").set_index("dicom_id")
    assert list(labels.columns) == data.findings == ["Atelectasis", "Edema"]
    truth = read_metadata(dataset / "train").set_index("file_name")["Edema"]
    for name in labels.index[labels.index.str.startswith("real/")]:
        np.testing.assert_equal(labels.loc[name, "Edema"], truth[name.partition("/")[2]])
    half = read_metadata(tmp_path / "half" / "train")["file_name"]
    assert set(half) < set(rows["file_name"]) and len(half) == 12
    write_training_set(tmp_path / "whole", TrainingSet(True, 1.0), data)  # again: nothing to do


def test_what_cannot_be_linked_hard_is_linked_by_name(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"picture")
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    link(tmp_path / "a.png", tmp_path / "new" / "b.png")
    assert (tmp_path / "new" / "b.png").is_symlink() and (tmp_path / "new" / "b.png").read_bytes() == b"picture"
    with pytest.raises(UserError, match=r"nowhere.png is named in metadata.csv and does not exist"):
        link(tmp_path / "nowhere.png", tmp_path / "new" / "c.png")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_prompts_of_patients_that_judge_are_refused(dataset, tmp_path, split):
    leaking = make_samples(dataset, tmp_path / "samples", prompts=split)
    with pytest.raises(UserError, match=f"prompts of 8 of 8 synthetic images are of patients of the {split} split"):
        gathered(dataset, leaking, "R")


def test_one_leaking_prompt_is_enough_and_unknown_ones_are_said(dataset, samples, tmp_path):
    one = shutil.copytree(samples, tmp_path / "one")
    test_id = read_metadata(dataset / "test")["dicom_id"].iloc[0]
    edit(one, "id", 3, test_id)
    with pytest.raises(UserError, match=rf"prompts of 1 of 16 .*first: {test_id}"):
        gathered(dataset, one)
    unknown = shutil.copytree(samples, tmp_path / "unknown")
    edit(unknown, "id", 3, "00003")
    assert gathered(dataset, unknown).warnings == [
        "1 of 16 prompts are not of --real: whose they are cannot be checked"
    ]


def test_samples_that_name_their_patients_are_checked_by_them(dataset, samples, tmp_path):
    named = shutil.copytree(samples, tmp_path / "named")
    rows = read_metadata(named)
    rows.assign(id="x", subject_id="17").to_csv(named / "metadata.csv", index=False)
    assert gathered(dataset, named).warnings == []
    rows.assign(id="x", subject_id=read_metadata(dataset / "test")["subject_id"][0]).to_csv(
        named / "metadata.csv", index=False
    )
    with pytest.raises(UserError, match="prompts of 16 of 16 synthetic images are of patients of the test split"):
        gathered(dataset, named)


def test_synthetic_images_are_drawn_and_not_the_first_of_the_folder(dataset, samples):
    all_of_them = gathered(dataset, samples, "S").synthetic.images.ids
    few = gathered(dataset, samples, "0.5S").synthetic.images.ids
    in_order = read_metadata(samples)["file_name"].tolist()
    assert sorted(all_of_them) == sorted(in_order) and all_of_them != in_order
    assert few == all_of_them[:8] and set(few) != set(in_order[:8])


def test_patients_on_both_sides_of_the_split_are_refused(dataset, samples, tmp_path):
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        mixed = shutil.copytree(dataset, tmp_path / one / other)
        patient = read_metadata(mixed / one)["subject_id"].iloc[0]
        edit(mixed / other, "subject_id", 0, patient)
        with pytest.raises(UserError, match=f"1 patients are in the splits {one} and {other} .first: {patient}"):
            gathered(mixed, samples)


def test_findings_need_both_classes_everywhere(dataset, samples, tmp_path):
    for split in ("validation", "test"):
        without = shutil.copytree(dataset, tmp_path / split)
        for i in range(8):
            edit(without / split, "Edema", i, "0.0")
        data = gathered(without, samples)
        assert data.findings == ["Atelectasis"]
        assert data.omitted == [f"Edema (not both classes in the {split} split)"]
        with pytest.raises(UserError, match=rf"'Edema' \(not in the {split} split\)"):
            gathered(without, samples, findings="Edema")


@pytest.mark.parametrize(
    ("arms", "settings", "message"),
    [
        ("R,5S", {}, r"--arms 5S needs 80 synthetic images \(5 × 16 real ones\) and .* has 16"),
        ("R", {"max_real_samples": 17}, "--max_real_samples 17: .* has 16 training images"),
    ],
)
def test_too_few_images_are_said_with_what_to_change(dataset, samples, arms, settings, message):
    with pytest.raises(UserError, match=message):
        gathered(dataset, samples, arms, **settings)


def test_folders_of_another_kind_are_refused(dataset, samples, tmp_path):
    with pytest.raises(UserError, match="is one split: give the dataset folder"):
        gathered(dataset / "train", samples)
    with pytest.raises(UserError, match="lies in --real"):
        gathered(dataset, dataset / "train")
    with pytest.raises(UserError, match=r"has no metadata.csv, so its images have no labels"):
        plain = tmp_path / "plain"
        plain.mkdir()
        shutil.copy(dataset / "train" / "train0.png", plain)
        gathered(dataset, plain)
