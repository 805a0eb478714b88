"""The command that alignment and retrieval share: what reaches the evaluation, and what is refused before it."""

from importlib import import_module
from typing import get_type_hints

import pytest

from eval import retrieval
from eval.command import FeatureComparison, weights_folder
from eval.scores import Result, read_scores, score_row
from sdcxr.runtime.errors import UserError


def test_every_flag_reaches_the_evaluation(two_folders, tmp_path, capfd, monkeypatch):
    asked = []

    def evaluate(real, synthetic, extractor, **options):
        asked.append((str(real.folder), str(synthetic.folder), extractor.given_name, options))
        return Result([score_row("mrr", 0.5)], ["texts (there are none)"], ["mixed up?"])

    output = tmp_path / "scores.json"
    monkeypatch.setattr(retrieval, "evaluate", evaluate)
    monkeypatch.setattr(retrieval, "table", lambda rows: f"{len(rows)} row")
    config = FeatureComparison(*two_folders, "pixels-8", output=str(output), weights_dir=str(tmp_path), seed=5)
    assert retrieval.main(config) == 0
    assert asked == [(*two_folders, "pixels-8", {"seed": 5})]
    assert read_scores(output)[0]["value"] == 0.5
    assert capfd.readouterr().out.endswith("left out: texts (there are none)\nwarning: mixed up?\n1 row\n")


def test_swapped_and_equal_folders_are_refused(two_folders):
    real, synthetic = two_folders
    with pytest.raises(UserError, match="are --real and --synthetic swapped"):
        retrieval.main(FeatureComparison(synthetic, real, "pixels-8"))
    with pytest.raises(UserError, match="are the same folder"):
        retrieval.main(FeatureComparison(real, real, "pixels-8"))


def test_a_weights_folder_must_exist_and_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "file").touch()
    assert weights_folder("~/weights") == tmp_path / "weights" and weights_folder(None) is None
    for name, problem in (("~/nowhere", "does not exist"), ("~/file", "is a file, not a folder")):
        with pytest.raises(UserError, match=f"--weights_dir .*{problem}"):
            weights_folder(name)


WITH_WEIGHTS = {
    "fid": {"extractor": "pixels-8", "output": "o"},
    "classifier": {"classifier": "xrv-all"},
    "alignment": {"extractor": "pixels-8"},
    "diversity": {},
    "privacy": {"train": "t", "output": "o"},
    "reports": {"generated": "r.csv", "output": "o"},
    "__main__": {"output_dir": "o"},
}


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_every_command_refuses_absent_weights_before_anything_is_computed(two_folders, name):
    main = import_module(f"eval.{name}").main
    config_class = next(iter(get_type_hints(main).values()))
    sides = dict(zip(("real", "synthetic"), two_folders, strict=True))
    with pytest.raises(UserError, match=r"^--weights_dir /nowhere: does not exist$"):
        main(config_class(**sides, **WITH_WEIGHTS[name], weights_dir="/nowhere"))
