"""python -m eval with several models: one page, rows of each, what they share computed once."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from eval.__main__ import main
from sdcxr.runtime.cli import parse
from sdcxr.runtime.errors import UserError


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
