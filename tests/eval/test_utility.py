"""The augmentation experiment end to end on micro folders: who selects, who judges, what names mean."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from eval import utility
from eval.augmentation.arms import Labelled
from eval.extractors import xrv
from eval.inputs.folders import ImageFolder
from eval.scores import read_scores
from eval.utility import UtilityConfig, main, score
from sdcxr.runtime.errors import UserError
from tests.eval.experiment import edit, make_dataset, make_samples

pytestmark = pytest.mark.slow


def config(folder: Path, **changes) -> UtilityConfig:
    own = {
        "real": str(folder / "dataset"),
        "synthetic": str(folder / "samples"),
        "output_dir": str(folder / "experiment"),
        "backbone": "test_resnet",
        "resolution": 32,
        "max_train_steps": 8,
        "train_batch_size": 8,
        "validation_points": 2,
        "learning_rate": 3e-3,
        "seeds": 2,
    }
    return UtilityConfig(**(own | changes))


def evaluate(config: UtilityConfig) -> list[dict]:
    return utility.evaluate(config, *utility.read_data(config)).rows


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A finished experiment of four arms and two seeds."""
    folder = tmp_path_factory.mktemp("utility")
    make_samples(make_dataset(folder / "dataset"), folder / "samples")
    assert main(config(folder)) == 0
    return folder


def test_every_arm_has_its_images_and_the_same_budget(experiment):
    rows = read_scores(experiment / "experiment" / "scores.json")
    sizes = {r["arm"]: (r["n_train_real"], r["n_train_synthetic"]) for r in rows}
    assert sizes == {"R": (16, 0), "S": (0, 16), "R+S": (16, 16), "S>R": (16, 16)}
    runs = experiment / "experiment" / "runs"
    for arm in ("real", "synthetic-1", "real-and-synthetic-1", "synthetic-1-then-real"):
        for seed in ("0", "1"):
            (last,) = [
                json.loads(line) for line in (runs / arm / f"seed-{seed}" / "log.jsonl").read_text().splitlines()
            ][-1:]
            assert last["images"] == 8 * (4 if "then" in arm else 8)  # half of them went into the stage before
            chosen = json.loads((runs / arm / f"seed-{seed}" / "selection.json").read_text())
            assert len(chosen["validation_auroc"]) == 2 and chosen["n_validation"] == 8
            left = {path.name for path in (runs / arm / f"seed-{seed}").iterdir()}
            assert "best" in left and not {"checkpoints", "candidates"} & left
    base = (runs / "synthetic-1-then-real" / "seed-1" / "config.yaml").read_text()
    assert "seed-1-before" in base  # went on from the synthetic stage of the same seed


def test_rows_have_spread_over_seeds_and_paired_gains(experiment):
    rows = read_scores(experiment / "experiment" / "scores.json")
    cells = {(r["metric"], r["arm"], r["label"]): r for r in rows}
    for label in ("Atelectasis", "Edema", "macro"):
        r, mixed = cells["utility_auroc", "R", label], cells["utility_auroc", "R+S", label]
        gain = cells["utility_gain", "R+S", label]
        differences = np.array(mixed["by_seed"]) - np.array(r["by_seed"])
        assert gain["by_seed"] == pytest.approx(differences) and gain["value"] == pytest.approx(differences.mean())
        assert gain["sd"] == pytest.approx(differences.std(ddof=1)) and gain["n_seeds"] == 2
        assert r["n_real"] == 8 and r["images"] == "real" and r["notes"][0].startswith("only 2 of at least 3 seeds")
        few = "no interval: only 4 patients or prompts" in r["notes"][0]
        assert few == (r["ci_low"] is None) == (label != "macro")
    assert ("utility_gain", "R", "macro") not in cells


def test_the_same_command_trains_nothing_again_and_seeds_can_be_added(experiment, monkeypatch):
    from sdcxr.training import loop

    trained = []
    train = loop.train
    monkeypatch.setattr(loop, "train", lambda settings: trained.append(settings) or train(settings))
    before = read_scores(experiment / "experiment" / "scores.json")
    rows = evaluate(config(experiment))
    assert not trained
    assert [row["value"] for row in rows] == [row["value"] for row in before]
    evaluate(config(experiment, seeds=3, arms="R"))
    assert [(settings.seed, settings.data.rsplit("/")[-1]) for settings in trained] == [(2, "real")]


def test_another_factor_is_another_training_set(experiment, tmp_path, monkeypatch):
    """Or the runs with 16 synthetic images would be printed as those with 8."""
    from sdcxr.training import loop

    copied = shutil.copytree(experiment, tmp_path / "copy")
    monkeypatch.setattr(loop, "train", lambda settings: (_ for _ in ()).throw(RuntimeError(Path(settings.data).name)))
    with pytest.raises(RuntimeError, match=r"^synthetic-0\.5$"):
        evaluate(config(experiment, output_dir=str(copied / "experiment"), arms="S", synthetic_factor=0.5))


def test_a_densenet_of_torchxrayvision_is_begun_from(experiment, tmp_path, monkeypatch):
    from sdcxr.backbones.image_classifier import Classifier
    from sdcxr.training import loop

    library = xrv.torchxrayvision().models
    torch.manual_seed(0)
    given = library.DenseNet(weights=None).eval()
    for module in given.modules():  # as after training, unlike at initialisation
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    torch.save(given.state_dict(), tmp_path / xrv.FILES["densenet121-res224-nih"].file)
    bases = []
    monkeypatch.setattr(loop, "train", lambda settings: bases.append(settings.base) or 85)
    changes = {"arms": "R", "backbone": "xrv-nih", "output_dir": str(tmp_path / "new")}
    with pytest.raises(SystemExit):
        evaluate(config(experiment, weights_dir=str(tmp_path), **changes))
    begun = Classifier(Path(bases[0]), torch.device("cpu"))
    assert (begun.labels, begun.resolution) == (["Atelectasis", "Edema"], 32)
    pixels = torch.rand(2, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        features = begun.network.forward_head(begun.network.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(features, given.features2(pixels * 1024))
        assert (begun.network(pixels) == 0).all()
    with pytest.raises(UserError, match=r"densenet121-d121.* not in --weights_dir"):
        evaluate(config(experiment, weights_dir=str(experiment), **changes))
    with pytest.raises(UserError, match="resnet50-res512-all: only the DenseNets of torchxrayvision"):
        evaluate(config(experiment, **changes | {"backbone": "resnet50-res512-all"}))


@pytest.mark.multiprocess
def test_two_processes_train_score_and_write_once(experiment, tmp_path):
    flags = {"arms": "R", "seeds": 1, "train_batch_size": 4, "output_dir": tmp_path / "new"}
    settings = vars(config(experiment, **flags))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    command += ["eval.utility", *(f"--{name}={value}" for name, value in settings.items() if value is not None)]
    own = dict(os.environ, ACCELERATE_USE_CPU="true")
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280, env=own, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("arm R, seed 0") == ran.stdout.count("trained on") == 1
    (row,) = (r for r in read_scores(tmp_path / "new" / "scores.json") if r["label"] == "macro")
    alone = evaluate(config(experiment, **flags | {"train_batch_size": 8, "output_dir": str(tmp_path / "new")}))
    assert [r["value"] for r in alone if r["label"] == "macro"] == [row["value"]]  # of the same runs
    with pytest.raises(UserError, match="images_per_step 8 → 4"):  # on one process the budget would be another
        evaluate(config(experiment, **flags | {"output_dir": str(tmp_path / "new")}))


def test_another_experiment_in_the_same_folder_is_refused(experiment, tmp_path):
    with pytest.raises(UserError, match=r"begun with other settings \(max_train_steps 8 → 12\)"):
        evaluate(config(experiment, max_train_steps=12))
    other = make_samples(experiment / "dataset", tmp_path / "samples")
    edit(other, "Edema", 2, "")
    with pytest.raises(UserError, match=r"begun with other settings \(synthetic_sha256"):
        evaluate(config(experiment, synthetic=str(other)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="not empty and not an experiment"):
        evaluate(config(experiment, output_dir=str(tmp_path / "mine")))


def test_an_interrupted_run_leaves_with_its_code_and_goes_on(experiment, tmp_path, monkeypatch, capfd):
    from sdcxr.training import loop

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(loop, "train", lambda settings: 85)
        evaluate(config(experiment, output_dir=str(tmp_path / "other"), arms="R", seeds=1))
    assert stopped.value.code == 85
    assert main(config(experiment, output_dir=str(tmp_path / "other"), arms="S", seeds=1)) == 0
    assert "left out: gains (--arms lacks R)\n" in capfd.readouterr().out
    rows = evaluate(config(experiment, output_dir=str(tmp_path / "other"), arms="R", seeds=1))
    assert {row["arm"] for row in rows} == {"R"} and np.isnan(rows[0]["sd"])


def test_the_checkpoint_is_chosen_on_real_validation_images_alone(tmp_path, monkeypatch):
    """Synthetic pictures show the contrary of their labels here: on them, the worst checkpoint looks best.

    CheXGenBench takes its validation images from the training pool, which is synthetic in the synthetic arm.
    """
    make_samples(make_dataset(tmp_path / "dataset"), tmp_path / "samples", swapped=True)
    seen = []
    judge_images = utility.classifiers.EvalClassifier.probabilities

    def remember(self, images, cache_dir=None):
        found = judge_images(self, images, cache_dir)
        seen.append((Path(self.name), images, found))
        return found

    monkeypatch.setattr(utility.classifiers.EvalClassifier, "probabilities", remember)
    evaluate(config(tmp_path, arms="S", seeds=1, max_train_steps=24, validation_points=12))
    run = tmp_path / "experiment" / "runs" / "synthetic-1" / "seed-0"
    choosing = [(name, images, found) for name, images, found in seen if "candidates" in name.parts]
    assert {images.folder for _, images, _ in choosing} == {tmp_path / "dataset" / "validation"}
    truth = pd.read_csv(tmp_path / "dataset" / "validation" / "metadata.csv")
    areas = {}
    for name, _, found in choosing:
        pairs = [(found[f][truth[f] == 1].to_numpy()[:, None], found[f][truth[f] == 0].to_numpy()) for f in found]
        areas[name.name.rpartition("-")[2]] = np.mean([np.mean((p > n) + (p == n) / 2) for p, n in pairs])
    record = json.loads((run / "selection.json").read_text())
    assert record["validation_auroc"] == pytest.approx(areas) and len(areas) == 12
    assert record["step"] == int(max(areas, key=areas.get))
    (tested,) = [images.folder for name, images, _ in seen if name == run / "best"]
    assert tested == tmp_path / "dataset" / "test"
    assert areas["24"] < areas[str(record["step"])]  # the last has learnt best what is wrong


def test_a_label_with_one_class_does_not_rename_those_behind_it():
    """CheXGenBench skips such labels and numbers the rest anew."""
    truth = pd.DataFrame({"Atelectasis": [0.0] * 4, "Edema": [0.0, 1, 0, 1], "Pneumonia": [1.0, 0, 1, 0]})
    said = pd.DataFrame({"Pneumonia": [0.1, 0.9, 0.2, 0.8], "Edema": [0.1, 0.9, 0.2, 0.8], "Atelectasis": [0.5] * 4})
    images = ImageFolder(Path(), pd.DataFrame({"file_name": list("abcd")}))
    rows = score(Labelled(images, truth), {"R": [said]})
    values = {row["label"]: row["value"] for row in rows}
    assert np.isnan(values.pop("Atelectasis"))
    assert values == {"Edema": 1.0, "Pneumonia": 0.0, "macro": 0.5}


def test_intervals_cover_patients_and_seeds():
    """Seeds that disagree widen the interval of an arm; a difference that is always the same has none."""
    draws = np.random.default_rng(0)
    truth = pd.DataFrame({"Edema": (draws.random(60) < 0.5).astype(float)})
    images = ImageFolder(Path(), pd.DataFrame({"file_name": [f"{i}" for i in range(60)]}))
    good = pd.DataFrame({"Edema": truth["Edema"] + draws.normal(0, 0.7, 60)})
    bad = pd.DataFrame({"Edema": draws.normal(0, 1, 60)})

    def width(rows, metric, arm):
        (row,) = [r for r in rows if (r["metric"], r["arm"], r["label"]) == (metric, arm, "Edema")]
        return row["ci_high"] - row["ci_low"]

    rows = score(Labelled(images, truth), {"R": [good, good], "S": [good, good], "R+S": [good, bad]})
    assert width(rows, "utility_gain", "S") == 0
    assert width(rows, "utility_auroc", "R+S") > width(rows, "utility_auroc", "R") > 0.05
    assert width(rows, "utility_gain", "R+S") > 0.1


@pytest.mark.parametrize(
    ("flag", "value"), [("seeds", 0), ("max_train_steps", 3), ("learning_rate", 0.0), ("synthetic_factor", -1.0)]
)
def test_settings_that_cannot_be_are_named(tmp_path, flag, value):
    with pytest.raises(UserError, match=f"--{flag}"):
        config(tmp_path, **{flag: value})


def test_errors_come_before_any_training(experiment, tmp_path, monkeypatch):
    from sdcxr.training import loop

    monkeypatch.setattr(loop, "train", lambda settings: pytest.fail("trained"))
    leaking = make_samples(experiment / "dataset", tmp_path / "leaking", prompts="test")
    for changes, message in (
        ({"synthetic": str(leaking)}, "patients of the test split"),
        ({"findings": "Hernia"}, "'Hernia'"),
        ({"arms": "R,4S"}, "--arms 4S needs 64"),
        ({"labels": str(tmp_path / "nowhere.csv")}, "nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(config(experiment, output_dir=str(tmp_path / "new"), **changes))
    assert not (tmp_path / "new").exists()
    shutil.rmtree(leaking)
