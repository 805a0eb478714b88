"""eval.segmentation: rows by structure, intervals by patient, and refusals."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("segmentation_models_pytorch")
pytest.importorskip("monai")

from eval.scores import read_scores
from eval.segmentation import SegmentationConfig, main, score_structures
from sdcxr.io.manifest import read_metadata
from sdcxr.runtime.errors import UserError
from tests.sdcxr.tasks.test_segmenter import save_squares, settings

NAN = float("nan")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_squares(tmp_path_factory.mktemp("squares") / "data", {"train": 16, "test": 6})


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_micro, data):
    folder = tmp_path_factory.mktemp("run") / "run"
    many = {"max_train_steps": 12, "train_batch_size": 4, "learning_rate": 5e-3}
    train_micro(folder, **settings(data, base="test_resnet", random_weights=True, **many))
    return folder


def test_a_run_is_scored_on_a_split(tmp_path, run, data, capsys):
    config = SegmentationConfig(str(run), str(data / "test"), output=str(tmp_path / "scores.json"), device="cpu")
    assert main(config) == 0
    rows = {(row["metric"], row["label"]): row for row in read_scores(tmp_path / "scores.json")}
    assert 0 <= rows["dice", "bright"]["value"] <= 1
    assert (rows["dice", "bright"]["n_real"], rows["dice", "dim"]["n_real"]) == (6, 5)  # one mask is unknown
    assert rows["dice", "bright"]["n_real_groups"] == 3
    assert rows["dice", None]["value"] == pytest.approx(
        (rows["dice", "bright"]["value"] + rows["dice", "dim"]["value"]) / 2
    )
    assert 0 <= rows["hausdorff95", "bright"]["value"] <= 32 * 2**0.5
    assert rows["dice", "bright"]["resolution"] == 32
    assert ("false_positive_share", "bright") not in rows  # no mask is empty
    assert "dice" in capsys.readouterr().out
    both = [
        main(SegmentationConfig(str(run), str(data / "test"), batch_size=size, output=str(tmp_path / f"{size}.json")))
        for size in (1, 4)
    ]
    assert both == [0, 0] and (tmp_path / "1.json").read_text() == (tmp_path / "4.json").read_text()


def test_values_and_intervals_by_patient():
    values = {"dice": np.array([[1.0, 0.5], [0.0, NAN], [1.0, NAN], [0.0, NAN]])}
    same, other = (
        {row["label"]: row for row in score_structures(values, ["a", "b"], groups, 32, 0)}
        for groups in (["p", "p", "q", "q"], ["p", "q", "r", "s"])
    )
    assert (same["a"]["value"], same["b"]["value"], same[None]["value"]) == (0.5, 0.5, 0.5)
    # Either patient has 0.5 in the mean: all resamples are equal. Of four patients they are not.
    assert (same["a"]["ci_low"], same["a"]["ci_high"]) == (0.5, 0.5)
    assert other["a"]["ci_low"] < 0.5 < other["a"]["ci_high"]
    assert (other["b"]["n_real"], other["b"]["n_real_groups"]) == (1, 1)
    unknown = {"dice": np.vstack([values["dice"], [[NAN, NAN]]])}
    counted = [row["n_real"] for row in score_structures(unknown, ["a", "b"], list("pqrst"), 32, 0)]
    assert counted == [4, 1, 4]  # the mean is of images that have a value


def test_what_cannot_be_measured_is_one_line(tmp_path, run, data):
    table = read_metadata(data / "test").drop(columns="mask_dim")
    (tmp_path / "test").mkdir()
    for path in (data / "test").glob("*.png"):
        (tmp_path / "test" / path.name).write_bytes(path.read_bytes())
    pd.DataFrame(table).to_csv(tmp_path / "test/metadata.csv", index=False)
    for model, message in ((run, "has no masks of dim"), (tmp_path, "holds no trained segmenter")):
        with pytest.raises(UserError, match=message) as error:
            main(SegmentationConfig(str(model), str(tmp_path / "test"), device="cpu"))
        assert "\n" not in str(error.value)
