"""Mixtures of real and synthetic images: which ones, how often, of whom, and which checkpoint is the result."""

import json
import shutil

import pandas as pd
import pytest
from safetensors.torch import load_file

from sdcxr.config import TrainConfig
from sdcxr.io.manifest import read_metadata
from sdcxr.io.run_folder import read_run_state
from sdcxr.runtime.errors import UserError
from sdcxr.tasks.base import training_rows
from sdcxr.tasks.classifier import ClassifierTask
from tests.eval.experiment import edit, make_dataset, make_samples


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("mixture") / "dataset")


@pytest.fixture(scope="module")
def samples(dataset):
    return make_samples(dataset, dataset.parent / "samples")


def config(dataset, samples=None, **settings) -> TrainConfig:
    own = {"tune": "classifier", "data": str(dataset), "synthetic": samples and str(samples), "resolution": 32}
    return TrainConfig(**(own | settings))


@pytest.mark.parametrize(
    ("settings", "real", "synthetic"),
    [
        ({}, 16, 16),
        ({"synthetic_ratio": 0.25}, 16, 4),
        ({"real_repeat": 0}, 0, 16),
        ({"real_repeat": 2, "synthetic_ratio": 0.5}, 32, 8),
        ({"max_train_samples": 4, "synthetic_ratio": 3}, 4, 12),
    ],
)
def test_an_epoch_has_so_many_of_either_kind(dataset, samples, settings, real, synthetic):
    rows = training_rows(config(dataset, samples, **settings))
    assert (~rows["synthetic"]).sum() == real and rows["synthetic"].sum() == synthetic
    assert {path.parent for path in rows["path"][rows["synthetic"]]} == {samples}
    assert rows["synthetic"].dtype == bool and rows[["Atelectasis", "Edema"]].isin([0.0, 1.0]).all(axis=None)


def test_real_images_alone_are_repeated_equally_often(dataset):
    times = training_rows(config(dataset, real_repeat=2.5))["id"].value_counts()
    assert len(times) == 16 and sorted(times) == [2] * 8 + [3] * 8
    assert len(training_rows(config(dataset))) == 16


def test_what_is_drawn_is_the_same_for_all_seeds_and_nested(dataset, samples):
    def drawn(**settings) -> list[str]:
        return training_rows(config(dataset, samples, real_repeat=0, **settings))["file_name"].tolist()

    few, more = drawn(synthetic_ratio=0.25), drawn(synthetic_ratio=0.75)
    assert few == drawn(synthetic_ratio=0.25, seed=1) and set(few) < set(more)
    assert set(few) != set(read_metadata(samples)["file_name"][:4])  # not the first of the folder


def test_synthetic_images_have_the_labels_of_their_prompts(dataset, samples, tmp_path):
    """By the id of the prompt where the labels are a table."""
    real = read_metadata(dataset / "train")
    real[["dicom_id", "Edema"]].rename(columns={"Edema": "Wet"}).to_csv(tmp_path / "labels.csv", index=False)
    task = ClassifierTask(config(dataset, samples, labels=str(tmp_path / "labels.csv")))
    truth = real.set_index("dicom_id")["Edema"]
    assert task.labels == ["Wet"] and task.notes == {"n_real": 16, "n_synthetic": 16}
    assert task.targets[:, 0].tolist() == truth.loc[task.rows["id"]].tolist()


def test_synthetic_images_never_validate(dataset, samples):
    held_out = ClassifierTask(config(dataset, samples)).validation_examples()
    assert {path.parent for path in held_out.paths} == {dataset / "validation"}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_prompts_of_patients_that_judge_are_refused(dataset, tmp_path, split):
    leaking = make_samples(dataset, tmp_path / "samples", prompts=split)
    with pytest.raises(UserError, match=f"prompts of 8 of 8 synthetic images are of patients of the {split} split"):
        ClassifierTask(config(dataset, leaking, synthetic_ratio=0.5))


def test_one_leaking_prompt_is_enough_and_unknown_ones_are_said(dataset, samples, tmp_path, capsys):
    one = shutil.copytree(samples, tmp_path / "one")
    test_id = read_metadata(dataset / "test")["dicom_id"].iloc[0]
    edit(one, "id", 3, test_id)
    with pytest.raises(UserError, match=rf"prompts of 1 of 16 .*first: {test_id}"):
        ClassifierTask(config(dataset, one, synthetic_ratio=0.25))  # whichever are drawn
    unknown = shutil.copytree(samples, tmp_path / "unknown")
    edit(unknown, "id", 3, "00003")
    ClassifierTask(config(dataset, unknown))
    assert "warning: 1 of 16 prompts are not of --data: whose they are cannot be checked\n" in capsys.readouterr().out


def test_samples_that_name_their_patients_are_checked_by_them(dataset, samples, tmp_path, capsys):
    named = shutil.copytree(samples, tmp_path / "named")
    rows = read_metadata(named)
    rows.assign(id="x", subject_id="17").to_csv(named / "metadata.csv", index=False)
    ClassifierTask(config(dataset, named))
    assert "warning" not in capsys.readouterr().out
    patient = read_metadata(dataset / "test")["subject_id"][0]
    rows.assign(id="x", subject_id=patient).to_csv(named / "metadata.csv", index=False)
    with pytest.raises(UserError, match="prompts of 16 of 16 synthetic images are of patients of the test split"):
        ClassifierTask(config(dataset, named))


def test_patients_on_both_sides_of_the_split_are_refused(dataset, samples, tmp_path):
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        leaky = shutil.copytree(dataset, tmp_path / one / other)
        patient = read_metadata(leaky / one)["subject_id"].iloc[0]
        edit(leaky / other, "subject_id", 0, patient)
        with pytest.raises(UserError, match=f"1 patients are in the splits {one} and {other} .first: {patient}"):
            ClassifierTask(config(leaky, samples))


def test_a_label_that_synthetic_images_do_not_show_both_ways_is_refused(dataset, samples, tmp_path):
    without = shutil.copytree(samples, tmp_path / "without")
    for i in range(16):
        edit(without, "Edema", i, "0.0")
    with pytest.raises(UserError, match="--synthetic: Edema: not both present and absent in these 16 images"):
        ClassifierTask(config(dataset, without))
    assert ClassifierTask(config(dataset, without, findings="Atelectasis")).labels == ["Atelectasis"]
    with pytest.raises(UserError, match=r"--findings: 'Fracture' is not among .*: Atelectasis, Edema"):
        ClassifierTask(config(dataset, findings="Fracture"))


def test_folders_and_numbers_that_do_not_fit_are_refused(dataset, samples):
    with pytest.raises(UserError, match=r"asks for 80 synthetic images \(16 real ones\) and .* has 16"):
        training_rows(config(dataset, samples, synthetic_ratio=5))
    with pytest.raises(UserError, match="lies in --data"):
        training_rows(config(dataset, dataset / "train"))
    for settings in ({"real_repeat": 0}, {"synthetic_ratio": 2}):
        with pytest.raises(UserError, match="are for --synthetic, and none is given"):
            config(dataset, **settings)
    with pytest.raises(UserError, match="--validation_steps 500 must be a multiple of --checkpointing_steps 300"):
        config(dataset, load_best_model_at_end=True, checkpointing_steps=300)


@pytest.mark.slow
def test_the_best_checkpoint_by_real_validation_images_is_the_result(train_micro, dataset, tmp_path):
    """Synthetic pictures show the contrary of their labels here: the last checkpoint has learnt best what is wrong.

    CheXGenBench takes its validation images from the training pool, which is synthetic in the synthetic arm.
    """
    swapped = make_samples(dataset, tmp_path / "samples", swapped=True)
    settings = {"tune": "classifier", "base": "test_resnet", "random_weights": True, "data": str(dataset)}
    settings |= {"synthetic": str(swapped), "real_repeat": 0, "max_train_steps": 24, "learning_rate": 3e-3}
    settings |= {"resolution": 32, "use_ema": False, "train_batch_size": 8, "lr_warmup_steps": 2}
    settings |= {"checkpointing_steps": 2, "validation_steps": 2, "checkpoints_total_limit": 1}
    run = tmp_path / "run"
    assert train_micro(run, **settings, load_best_model_at_end=True) == 0
    rows = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: row["auroc"])
    assert len(rows) == 12 and best["auroc"] > rows[-1]["auroc"]
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == {f"checkpoint-{best['step']}", "checkpoint-24"}
    saved = load_file(run / "classifier" / "model.safetensors")
    chosen = load_file(run / "checkpoints" / f"checkpoint-{best['step']}" / "model.safetensors")
    assert all((saved[name.removeprefix("network.")] == value).all() for name, value in chosen.items())
    about = json.loads((run / "classifier" / "config.json").read_text())
    assert about["validation"]["auroc"] == best["auroc"]
    assert read_run_state(run)["n_synthetic"] == 16


@pytest.mark.slow
def test_the_best_checkpoint_outlives_an_interruption(train_micro, dataset, tmp_path):
    settings = {"tune": "classifier", "base": "test_resnet", "random_weights": True, "data": str(dataset)}
    settings |= {"resolution": 32, "use_ema": False, "learning_rate": 0.03, "checkpoints_total_limit": 1}
    settings |= {"checkpointing_steps": 2, "validation_steps": 2, "load_best_model_at_end": True}
    for run, lengths in (("whole", [8]), ("stopped", [4, 6, 8])):
        for steps in lengths:
            assert train_micro(tmp_path / run, **settings, max_train_steps=steps) == 0
    whole, stopped = (load_file(tmp_path / run / "classifier" / "model.safetensors") for run in ("whole", "stopped"))
    assert all((whole[name] == stopped[name]).all() for name in whole)
    left = [{path.name for path in (tmp_path / run / "checkpoints").iterdir()} for run in ("whole", "stopped")]
    assert left[0] == left[1] and "checkpoint-8" in left[0]


@pytest.mark.slow
def test_a_first_stage_on_synthetic_images_is_gone_on_from(train_micro, dataset, samples, tmp_path):
    settings = {"tune": "classifier", "data": str(dataset), "resolution": 32, "use_ema": False, "max_train_steps": 1}
    assert train_micro(tmp_path / "first", **settings, base=None, synthetic=str(samples), real_repeat=0) == 0
    begun = ClassifierTask(config(dataset, base=str(tmp_path / "first")))
    first = load_file(tmp_path / "first" / "classifier" / "model.safetensors")
    assert all((value == first[name]).all() for name, value in begun.network.state_dict().items())


def test_images_are_counted_by_patient_and_larger_counts_hold_smaller_ones():
    from sdcxr.tasks.base import first_of

    rows = pd.DataFrame({"file_name": [f"{i}.png" for i in range(60)], "subject_id": [str(i // 4) for i in range(60)]})
    taken = [first_of(rows, n, seed=0) for n in (10, 20, 59)]
    assert [len(each) for each in taken] == [10, 20, 59]
    names = [set(each["file_name"]) for each in taken]
    assert names[0] < names[1] < names[2]
    sizes = taken[0]["subject_id"].value_counts()
    assert sorted(sizes) == [2, 4, 4]  # only the last patient is cut
