"""The command that alignment and retrieval share: what reaches the evaluation, and what is refused before it."""

import pytest

from eval.command import Comparison, compare
from eval.scores import read_scores, score_row
from sdcxr.runtime.errors import UserError


def test_every_flag_reaches_the_evaluation(two_folders, tmp_path, capfd):
    asked = []

    def evaluate(real, synthetic, extractor, **options):
        asked.append((str(real.folder), str(synthetic.folder), extractor, options))
        return [score_row("mrr", 0.5)]

    output = tmp_path / "scores.json"
    config = Comparison(*two_folders, "pixels-8", output=str(output), weights_dir=str(tmp_path), seed=5)
    assert compare(config, evaluate, lambda rows: f"{len(rows)} row") == 0
    assert asked == [(*two_folders, "pixels-8", {"weights_dir": tmp_path, "seed": 5})]
    assert read_scores(output)[0]["value"] == 0.5 and "1 row\n" in capfd.readouterr().out


def test_weights_that_are_nowhere_are_said_before_anything_is_computed(two_folders):
    with pytest.raises(UserError, match="--weights_dir /nowhere: does not exist"):
        compare(Comparison(*two_folders, "pixels-8", weights_dir="/nowhere"), pytest.fail, str)
