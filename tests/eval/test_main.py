"""python -m eval: what applies is taken, what is absent is told; mistakes are one line."""

import re
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from eval import images
from eval.__main__ import main
from eval.extractors import find_extractor
from eval.inputs.folders import PHANTOM, read_folder, read_samples
from eval.scores import COLUMNS, Result, read_scores, score_row
from eval.summary.config import EvalConfig
from eval.summary.models import Model
from eval.summary.plan import DEFAULT_EXTRACTORS, DEFAULT_PRESETS, Evaluation, register, resolve_inputs
from sdcxr.runtime.cli import parse, run
from sdcxr.runtime.errors import UserError


def parts_of(rows) -> list[str]:
    return list(dict.fromkeys(row["part"] for row in rows))


def test_without_weights_what_needs_none_is_taken_and_the_rest_is_told(evaluate, folders, tmp_path, capsys):
    rows = evaluate(train=folders.train)
    assert parts_of(rows) == ["images", "fidelity by pixels-32", "diversity", "privacy"]
    assert all(set(COLUMNS) <= set(row) for row in rows)
    assert {"fd", "kid", "recall", "ms_ssim_within_prompts", "copy_share"} <= {row["metric"] for row in rows}
    said = capsys.readouterr().out
    for line in (
        r"left out: fidelity by fid-clean: the weights weights-inception",
        "left out: alignment: it needs an image and a text tower",
        "left out: classifier: no --classifier",
        "left out: reports: no --report_model",
        "left out: text encoder: no --model",
    ):
        assert line in said, line
    assert "--weights_dir" in said and "https://github.com/mlmed/torchxrayvision/releases" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "weights-inception-2015-12-05" in page and "Nearest training images" in page
    assert len(pd.read_csv(tmp_path / "out" / "nearest.csv")) == 24


def test_without_train_there_is_no_privacy(evaluate, capsys):
    assert parts_of(evaluate()) == ["images", "fidelity by pixels-32", "diversity"]
    assert "left out: privacy: no --train" in capsys.readouterr().out


def test_labels_in_common_have_rows(evaluate):
    rows = evaluate()
    assert {row["label"] for row in rows if row["metric"] == "kid"} == {None, "Cardiomegaly", "Pleural Effusion"}


def test_what_cannot_be_done_and_was_not_asked_for_is_left_out(evaluate, folders, capsys, tmp_path):
    table = pd.read_csv(folders.synthetic / "metadata.csv").head(1)
    table.to_csv(folders.synthetic / "metadata.csv", index=False)
    with pytest.raises(UserError, match=r"nothing could be measured: .*report.html says why"):
        evaluate()
    assert parts_of(read_scores(tmp_path / "out" / "scores.json")) == ["images"]
    said = capsys.readouterr().out
    assert "fidelity by pixels-32: 1 synthetic images: a distribution needs at least 2" in said
    assert "diversity: --synthetic" in said and "holds 1 image" in said


def test_unusable_images_are_listed_and_nothing_is_measured_with_stand_ins(evaluate, folders, capsys, tmp_path):
    first, second = sorted(folders.synthetic.glob("*_0.png"))[:2]
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(UserError, match="nothing could be measured"):
        evaluate()
    said = capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (said, page):
        assert f"{first.name} cannot be read" in text and f"{second.name} cannot be read" in text
    assert said.count(second.name) == 3  # once for each part


@pytest.mark.parametrize("kept", [False, True])
def test_a_copy_of_the_real_images_is_warned_of(evaluate, folders, capsys, tmp_path, kept):
    shutil.copytree(folders.real, tmp_path / "copy")
    for _ in range(1 + kept):
        capsys.readouterr()
        evaluate(synthetic=tmp_path / "copy")
    warning = "24 of 24 synthetic images have the features of a real one, to rounding: are the folders mixed up?"
    assert f"warning: {warning}" in capsys.readouterr().out
    assert f'<p class="warning">{warning}' in (tmp_path / "out" / "report.html").read_text()


def test_phantoms_are_said_on_the_terminal_too(evaluate, folders, capsys):
    evaluate()
    assert PHANTOM not in capsys.readouterr().out
    (folders.real.parent / "prep.json").write_text('{"phantom": true}')
    evaluate()
    assert capsys.readouterr().out.count(PHANTOM) == 1


def test_patients_shown_anew_are_looked_for_on_request(evaluate, folders, tmp_path, capsys):
    before = {row["metric"] for row in evaluate(train=folders.train)}
    rows = {row["metric"]: row for row in evaluate(train=folders.train, reid="pixels-16")}
    assert rows.keys() - before == {"reid_share", "reid_cosine_max"}
    assert (rows["reid_share"]["extractor"], rows["copy_share"]["part"]) == ("pixels-16", "privacy")
    assert "reid_train" in pd.read_csv(tmp_path / "out" / "nearest.csv")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "share taken for a training patient" in page and 'class="">pixels-16</td>' in page
    capsys.readouterr()
    evaluate(train=folders.train, reid="pixels-8")
    assert re.search(r"^privacy: \d+ rows in", capsys.readouterr().out, re.M)  # another network, other rows


def test_explicit_extractors_and_presets(evaluate, capsys):
    rows = evaluate(extractor="pixels-8, pixels-16")
    assert parts_of(rows)[1:3] == ["fidelity by pixels-8", "fidelity by pixels-16"]
    assert "fid-clean" not in capsys.readouterr().out  # nobody asked for it


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"extractor": "xrv-all"}, r"the weights .* are not in --weights_dir: download them from https://"),
        ({"extractor": "pixels-8,inceptoin"}, "inceptoin: unknown .did you mean inception"),
        ({"preset": "fid-clean"}, r"weights-inception.* are not in --weights_dir"),
        ({"preset": "fid"}, "--preset fid: unknown .there are: fid-inception-torchmetrics"),
        ({"image_text_model": "no/such"}, r"no/such .* is neither a folder here"),
        ({"image_text_model": "nosuch"}, "--image_text_model nosuch: unknown"),
        (
            {"train": "train", "reid": "xrv-all"},
            r"the weights .* are not in --weights_dir: download them from https://",
        ),
        ({"train": "train", "reid": "nosuch"}, "^--reid nosuch: unknown"),
        ({"reid": "pixels-8"}, "--reid looks for the patients of --train: name it"),
        ({"classifier": "no/such"}, "--classifier no/such: neither a run folder"),
        ({"weights_dir": "/no/such"}, "--weights_dir /no/such: does not exist"),
        ({"labels": "truth.csv"}, "--labels and --findings are for --classifier"),
        ({"interval_draws": 5}, "--interval_draws 5"),
        ({"model": "no/such"}, "no/such is no run folder"),
    ],
)
def test_what_was_asked_for_and_cannot_be_done_is_one_line(evaluate, folders, tmp_path, flags, message):
    flags |= {"train": folders.train} if "train" in flags else {}
    with pytest.raises(UserError, match=message) as told:
        evaluate(**flags)
    assert "\n" not in str(told.value) and not (tmp_path / "out" / "scores.json").exists()


def test_folders_that_cannot_be_compared_are_one_line(evaluate, folders, tmp_path):
    for flags, message in (
        ({"real": folders.synthetic, "synthetic": folders.real}, "are --real and --synthetic swapped"),
        ({"synthetic": folders.real}, "are the same folder"),
        ({"train": folders.real}, "--train and --real are the same folder"),
        ({"output_dir": folders.synthetic}, "--output_dir .* is a folder of images"),
        ({"real": folders.real.parent}, "holds no images; give one of its splits: test, train"),
        ({"train": tmp_path / "none"}, "--train .* does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(**flags)


def test_several_processes_are_told_how(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"accelerate launch -m eval\.features"):
        EvalConfig(real="r", synthetic="s", output_dir="o")


def test_an_evaluation_from_outside_joins_scores_and_report(evaluate, tmp_path, monkeypatch):
    from eval.summary import plan

    def plan_brightness(inputs):
        rows = [score_row("brightness", 0.25, images="synthetic")]
        yield inputs.step(lambda seed: Result(rows, ["colour (all images are grey)"]))

    monkeypatch.setattr(plan, "EVALUATIONS", list(plan.EVALUATIONS))
    register(Evaluation("brightness", 1, plan_brightness))
    rows = evaluate()
    assert [row["value"] for row in rows if row["step"] == "brightness"] == [0.25]
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<section id="brightness">' in page and "colour (all images are grey)" in page


def test_old_names_of_flags_go_on_working(capsys):
    flags = {"clip": "image_text_model", "generator": "report_model", "resamples": "interval_draws"}
    words = [f"--{name}=40" for name in flags]
    config = parse(main, ["--real=r", "--synthetic=s", "--output_dir=o", *words])
    assert [str(getattr(config, name)) for name in flags.values()] == ["40"] * 3
    assert capsys.readouterr().err.count("the old name goes in") == 3


def test_published_networks_come_before_those_of_the_user(monkeypatch, folders, tmp_path):
    monkeypatch.setattr("eval.summary.plan.find_extractor", lambda name, *_: SimpleNamespace(given_name=name))
    monkeypatch.setattr("eval.summary.plan.find_classifier", lambda *_: None)
    config = EvalConfig(str(folders.real), str(folders.synthetic), str(tmp_path), classifier=str(folders.train))
    sides = read_folder(folders.real, "--real"), read_samples(folders.synthetic)
    (inputs,) = resolve_inputs(config, sides[0], [Model("A", sides[1])], None)
    assert inputs.network.given_name == "xrv-all"
    assert [one.name for one in inputs.distances] == [
        *(*DEFAULT_EXTRACTORS, *DEFAULT_PRESETS),
        str(folders.train),
    ]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_networks_of_this_project(evaluate, folders, tmp_path, train_micro):
    """Classifier and CLIP of two steps, and a base for both sides of the text encoder."""
    data = str(folders.real.parent)
    (folders.real.parent / "validation").mkdir()
    small = {"data": data, "base": "test_resnet", "resolution": 64}
    train_micro(tmp_path / "classifier", tune="classifier", random_weights=True, **small)
    train_micro(tmp_path / "clip", tune="clip", **small)
    rows = evaluate(train=folders.train, classifier=tmp_path / "classifier", image_text_model=tmp_path / "clip")
    assert parts_of(rows) == [
        "images",
        f"fidelity by {tmp_path / 'classifier'}",
        f"fidelity by {tmp_path / 'clip'}",
        "classifier",
        "alignment",
        "retrieval",
        "diversity",
        "privacy",
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    for heading in (
        "Do they show the findings of their prompts?",
        "Label by label",
        "Do images and prompts belong together?",
    ):
        assert heading in page


@pytest.mark.parametrize("flag", ["classifier", "image_text_model"])
def test_tables_that_are_missing_are_said_before_any_extraction(evaluate, folders, monkeypatch, flag):
    monkeypatch.setattr("eval.summary.plan.extract", lambda *_: pytest.fail("extracted"))
    network = SimpleNamespace(findings=["Edema"], extractor=None)
    tower = replace(find_extractor("pixels-8"), load_texts=lambda device: None)
    monkeypatch.setattr("eval.summary.plan.find_classifier", lambda *_: network)
    monkeypatch.setattr("eval.summary.plan.find_extractor", lambda *_: tower)
    for folder in (folders.real, folders.synthetic):
        (folder / "metadata.csv").unlink()
    with pytest.raises(UserError, match=r"has no metadata\.csv, so its images have no (labels|prompts)"):
        evaluate(**{flag: "x"})


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities")
def test_a_folder_that_cannot_be_written_is_one_line(folders, tmp_path, capfd, read_only):
    def refused(command, **flags) -> str:
        named = {"real": folders.real, "synthetic": folders.synthetic} | flags
        with pytest.raises(SystemExit) as stopped:
            run(command, [f"--{name}={value}" for name, value in named.items()])
        assert stopped.value.code == 2
        return capfd.readouterr().err.splitlines()[-1]

    out = tmp_path / "out"
    with read_only(tmp_path):
        line = f"error: no permission for {out}: Permission denied"
        assert refused(main, output_dir=out) == refused(images.main, output=out / "images.json") == line
    out.mkdir()
    with read_only(out):
        assert refused(main, output_dir=out).startswith(f"error: no permission for {out}/")
