"""Tests of python -m eval: what applies is taken, what is absent is told, and the same command does only the rest."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from eval.__main__ import main
from eval.extractors import find_extractor
from eval.inputs.folders import PHANTOM, read_folder, read_samples
from eval.scores import COLUMNS, Result, read_scores, score_row
from eval.summary.config import EvalConfig
from eval.summary.models import Model
from eval.summary.plan import DEFAULT_EXTRACTORS, DEFAULT_PRESETS, Evaluation, register, resolve_inputs
from eval.summary.steps import KEPT, EvalStep, Skipped, fingerprint_model, run_steps
from sdcxr.runtime.cli import parse
from sdcxr.runtime.errors import UserError


@pytest.fixture
def evaluate(folders, tmp_path):
    """`evaluate(**flags)` runs the command on the folders and returns the rows of scores.json."""

    def call(**flags):
        sides = {"real": folders.real, "synthetic": folders.synthetic}
        named = sides | {"output_dir": tmp_path / "out", "interval_draws": 0} | flags
        values = {key: str(value) if isinstance(value, Path) else value for key, value in named.items()}
        assert main(EvalConfig(**values)) == 0
        return json.loads((Path(named["output_dir"]) / "scores.json").read_text())

    return call


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


def test_the_same_command_again_computes_nothing(evaluate, folders, tmp_path, capsys, monkeypatch):
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


def second_model(folders, tmp_path) -> Path:
    """The samples of another run, a little darker, with the same prompts."""
    folder = tmp_path / "second"
    shutil.copytree(folders.synthetic, folder)
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            darker = image.point(lambda value: value * 0.8)
        darker.save(path)
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    table.assign(model="runs/second").to_csv(folder / "metadata.csv", index=False)
    return folder


def test_models_are_compared_on_one_page_and_rows_of_each_are_kept(evaluate, folders, tmp_path, capsys):
    second = second_model(folders, tmp_path)
    alone = evaluate(train=folders.train, interval_draws=20)
    capsys.readouterr()
    both = [str(folders.synthetic), str(second)]
    rows = evaluate(synthetic=both, train=folders.train, interval_draws=20)
    said = capsys.readouterr().out
    assert re.search("^privacy of x: .* kept from", said, re.M) and re.search(
        r"^privacy of second: \d+ rows in", said, re.M
    )
    assert {row["model"] for row in rows} == {None, "x", "second"}
    assert [row for row in rows if row["model"] in (None, "x")] == alone  # also real rows, once
    assert all("draws" not in row for row in rows)
    differences = json.loads((tmp_path / "out" / "differences.json").read_text())
    fd = next(row for row in differences if row["metric"] == "fd")
    assert (fd["model"], fd["baseline"]) == ("second", "x") and fd["ci_low"] < fd["value"] < fd["ci_high"]
    assert "the same for both models" in fd["paired"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Which model is better?" in page and "second minus x" in page
    assert len(pd.read_csv(tmp_path / "out" / "nearest-second.csv")) == 24
    evaluate(synthetic=both[::-1], train=folders.train, interval_draws=20)
    assert " rows in " not in capsys.readouterr().out  # another order, the same rows
    evaluate(train=folders.train, interval_draws=20)
    assert not (tmp_path / "out" / "differences.json").exists()


def test_what_is_the_same_for_all_models_is_computed_once(evaluate, folders, tmp_path, monkeypatch):
    from eval import diversity, fid, privacy

    calls: list[str] = []
    monkeypatch.setattr(fid, "_MEASURED", {})  # of other tests with the same pictures

    def counted(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: calls.append(name) or original(*a, **k))

    counted(privacy, "planted")
    counted(diversity, "ssim_of_pairs")
    counted(fid, "measure")
    rows = evaluate(
        synthetic=[str(folders.synthetic), str(second_model(folders, tmp_path))],
        train=folders.train,
        extractor="pixels-8",
    )
    floors = [row["floor"] for row in rows if row["metric"] == "fd" and row["label"] is None]
    assert floors[0] == floors[1]
    assert calls.count("planted") == 1 and calls.count("ssim_of_pairs") == 2 * 3  # real, and either model
    splits = next(row["floor_splits"] for row in rows if row["metric"] == "fd")
    assert calls.count("measure") == splits + 2 * (1 + splits)  # halves of the real images; all, and as few, of a model


def test_warnings_name_the_model(evaluate, folders, tmp_path, capsys):
    shutil.copytree(folders.real, tmp_path / "copy")
    evaluate(synthetic=[str(folders.synthetic), str(tmp_path / "copy")])
    assert "warning: copy: 24 of 24 synthetic images" in capsys.readouterr().out


def test_several_samples_folders_are_one_flag_given_several_times_or_several_words():
    for words in (["--synthetic", "a b", "--synthetic=c"], ["--synthetic", "a b", "c"]):
        assert parse(main, [*words, "--real=r", "--output_dir=o"]).models == ["a b", "c"]
    assert parse(main, ["--synthetic", "a", "--real=r", "--output_dir=o"]).models == ["a"]
    with pytest.raises(UserError, match="--synthetic: name a samples folder"):
        parse(main, ["--synthetic", "--real=r", "--output_dir=o"])


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_networks_of_this_project(evaluate, folders, tmp_path, train_micro, micro_base):
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
