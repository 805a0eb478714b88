"""python -m eval again: the same command does only what is missing or changed."""

import os
import re
from dataclasses import replace

import pytest

from eval.scores import Result
from eval.summary.steps import KEPT, EvalStep, Skipped, fingerprint_model, run_steps
from sdcxr.runtime.errors import UserError


def test_the_same_command_again_computes_nothing(evaluate, folders, capsys, monkeypatch):
    first = evaluate(train=folders.train)
    capsys.readouterr()
    for module in ("images", "fid", "diversity", "privacy"):
        monkeypatch.setattr(f"eval.{module}.evaluate", lambda *_, **__: pytest.fail("computed"))
    assert evaluate(train=folders.train) == first
    assert capsys.readouterr().out.count("kept from an earlier call") == 4


def test_only_what_is_missing_is_computed(evaluate, folders, tmp_path, capsys):
    evaluate(train=folders.train)
    (tmp_path / "out" / "nearest.csv").unlink()
    next((tmp_path / "out" / KEPT).glob("diversity*")).write_text("{")  # damaged
    capsys.readouterr()
    evaluate(train=folders.train)
    lines = capsys.readouterr().out.splitlines()
    kept = [line.split(":")[0] for line in lines if "kept from" in line]
    done = [line.split(":")[0] for line in lines if " rows in " in line]
    assert (kept, done) == (["images", "fidelity by pixels-32", "privacy"], ["diversity"])  # its table is kept, too
    assert (tmp_path / "out" / "nearest.csv").is_file()


@pytest.mark.parametrize("change", ["image", "image of the same time", "table", "seed", "interval_draws"])
def test_rows_of_other_images_or_settings_are_not_kept(evaluate, folders, capsys, change):
    evaluate()
    flags = {}
    if change == "image":
        path = next(folders.synthetic.glob("*.png"))
        os.utime(path, ns=(1, 1))
    elif change == "image of the same time":  # as `cp -p` leaves it
        path = next(folders.synthetic.glob("*.png"))
        before, content = path.stat(), path.read_bytes()
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "table":
        table = folders.real / "metadata.csv"
        table.write_text(table.read_text().replace("Cardiomegaly.", "Large heart."))
    else:
        flags = {change: 20}
    capsys.readouterr()
    evaluate(**flags)
    kept = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "kept from" in line]
    assert kept == (["images", "diversity"] if change == "interval_draws" else [])


def test_steps_before_an_error_are_kept(tmp_path):
    def fail():
        raise UserError("no such thing")

    done = EvalStep(lambda: Result([{"metric": "a", "value": float("nan")}]), {}, name="first", variant="x")
    with pytest.raises(UserError, match="no such thing"):
        run_steps([done, EvalStep(fail, {}, name="second")], [], tmp_path)
    again = EvalStep(fail, {}, name="first", variant="x")
    names = {"part": "first by x", "step": "first", "variant": "x", "model": None}
    assert run_steps([again], [], tmp_path).rows == [{"metric": "a", "value": None} | names]


def test_a_model_is_another_one_where_a_file_was_put_in_its_place(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    before, stat = fingerprint_model(str(tmp_path)), file.stat()
    assert fingerprint_model(str(tmp_path)) == before
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint_model(str(tmp_path)) != before


def test_rows_of_another_version_of_an_evaluation_are_computed_anew(evaluate, capsys, monkeypatch):
    from eval.summary import plan

    evaluate()
    capsys.readouterr()
    newer = [replace(one, version=one.version + (one.name == "diversity")) for one in plan.EVALUATIONS]
    monkeypatch.setattr(plan, "EVALUATIONS", newer)
    evaluate()
    shown = capsys.readouterr().out
    assert "fidelity by pixels-32: 9 rows, kept" not in shown and re.search("^fidelity by .* kept from", shown, re.M)
    assert re.search(r"^diversity: \d+ rows in", shown, re.M)


def test_what_an_evaluation_leaves_out_and_warns_of_is_kept_and_what_it_prints_is_not(tmp_path):
    def evaluate():
        print("loading")
        return Result([], ["Hernia (no image has it)"], ["mixed up?"])

    for _ in range(2):  # computed, then kept
        outcome = run_steps([EvalStep(evaluate, {}, name="some")], [], tmp_path)
        assert outcome.skipped == [Skipped("some", "Hernia (no image has it)")] and outcome.warnings == ["mixed up?"]


def test_names_that_differ_in_signs_have_files_of_their_own(tmp_path):
    for name in ("by a/b", "by a_b", "by A/b"):
        run_steps([EvalStep(lambda name=name: Result([{"metric": name}]), {}, name=name)], [], tmp_path)
    assert len(list((tmp_path / KEPT).iterdir())) == 3
