"""Tables of image folders, also of other tools, and files that do not fit to them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval.inputs.folders import pair_prompts, prompts_of, read_folder, read_samples, read_sides
from sdcxr.runtime.errors import UserError


def draw(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Three images of a dataset with texts and labels."""
    folder = draw(tmp_path / "real", "a-1.png", "b-2.png", "c-3.png")
    rows = {"file_name": ["a-1.png", "b-2.png", "c-3.png"], "dicom_id": ["a-1", "b-2", "c-3"], "subject_id": [1, 1, 2]}
    texts = {"text": ["Edema.", "Clear.", "clear"], "Edema": ["1.0", "0.0", ""]}
    pd.DataFrame(rows | texts).to_csv(folder / "metadata.csv", index=False)
    return folder


def test_samples_named_as_roentgen_names_them_have_the_rows_of_their_prompts(real, tmp_path, capsys):
    samples = draw(tmp_path / "s", *(f"{name}_{k}.jpg" for name in ("a-1", "c-3") for k in range(2)), "x_0.jpg")
    first, second = read_sides(real, samples)
    assert second.rows["id"].tolist() == ["a-1", "a-1", "c-3", "c-3", ""]
    assert second.texts.tolist() == ["Edema.", "Edema.", "clear", "clear", ""]
    assert second.rows["Edema"].tolist() == pytest.approx([1, 1, np.nan, np.nan, np.nan], nan_ok=True)
    assert pair_prompts(first, second).rows.tolist() == [0, 0, 2, 2, -1]
    assert second.groups == ["a-1", "a-1", "c-3", "c-3", "x_0.jpg"]
    out = capsys.readouterr().out
    assert "no ids: 4 of 5 files are named after an image of --real" in out
    assert "no texts: those of their prompts' rows in --real are taken for 4 of 5 images" in out
    assert "no labels: those of their prompts' rows in --real are taken for 4 of 5 images" in out


def test_the_table_of_chexgenbench_is_read(real, tmp_path, capsys):
    samples = draw(tmp_path / "s", "0.png", "1.png", "2.png", "3.png")
    table = "prompt,img_savename\nClear.,0.png\nEdema.,1\nOther.,out/2.png\n"
    (samples / "prompt_INFO.csv").write_text(table)
    first, second = read_sides(real, samples)
    assert second.ids == ["0.png", "1.png", "2.png"] and second.texts.tolist() == ["Clear.", "Edema.", "Other."]
    assert pair_prompts(first, second) == (pytest.approx([1, 0, -1]), "text")
    assert second.rows["Edema"].tolist() == pytest.approx([np.nan, 1, np.nan], nan_ok=True)  # two clear ones disagree
    out = capsys.readouterr().out
    assert f"--synthetic {samples}: prompt_INFO.csv is read, as text, file_name\n" in out
    assert "1 of 4 image files are not in prompt_INFO.csv and not measured (such as 3.png)" in out


def test_images_of_one_text_take_turns_with_its_real_images(real, tmp_path):
    samples = draw(tmp_path / "s", *(f"{i}.png" for i in range(4)))
    names, texts = [f"{i}.png" for i in range(4)], ["Clear."] * 3 + ["No."]
    pd.DataFrame({"file_name": names, "text": texts}).to_csv(samples / "metadata.csv", index=False)
    pairing = pair_prompts(*read_sides(real, samples))
    assert pairing.rows.tolist() == [1, 2, 1, -1]
    assert pairing.note == "paired by equal text: the samples have no ids of --real"


def test_images_of_a_text_are_drawn_together_where_samples_have_no_ids(tmp_path):
    samples = draw(tmp_path / "s", "0.png", "1.png", "2.png")
    (samples / "metadata.csv").write_text("file_name,text\n0.png,Clear.\n1.png,clear\n2.png,\n")
    images = read_samples(samples)
    assert images.groups == ["clear", "clear", "2.png"]
    assert prompts_of(images).tolist() == prompts_of(images)[[0, 0, 2]].tolist()


def test_json_lines_are_read(tmp_path):
    folder = draw(tmp_path, "0.png", "1.png")
    lines = '{"file_name": "0.png", "text": "Edema.", "Edema": 1, "id": 7}\n\n{"file_name": "1.png", "text": null}\n'
    (folder / "metadata.jsonl").write_text(lines)
    images = read_samples(folder)
    assert images.texts.tolist() == ["Edema.", ""] and images.rows["id"].tolist() == ["7", ""]
    assert images.rows["Edema"].tolist() == pytest.approx([1, np.nan], nan_ok=True)
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png"}\n{"file_name"\n')
    with pytest.raises(UserError, match=r"metadata.jsonl is not valid JSON in line 2"):
        read_samples(folder)


def test_tables_that_do_not_name_the_images_are_said(tmp_path):
    folder = draw(tmp_path, "0.png")
    (folder / "scores.csv").write_text("a,b\n1,2\n")
    (folder / "generate.json").write_text("{}")
    images = read_samples(folder)
    assert images.ids == ["0.png"] and images.table is None
    assert images.remarks[0].startswith("generate.py has not finished this folder")
    assert images.remarks[1].startswith("scores.csv not read: no CSV with a column file_name (or img_savename)")


def test_images_in_subfolders_are_said(tmp_path):
    folder = draw(tmp_path / "some", "0.png", "p10/1.png", "p10/p1/2.JPG", ".cache/3.png", "._0.png")
    assert read_folder(folder, "--real").ids == ["0.png"]
    assert read_folder(folder, "--real").remarks == ("2 images in subfolders are not read (such as p10/1.png)",)
    (folder / "metadata.csv").write_text("file_name\np10/1.png\n")
    images = read_folder(folder, "--real")
    assert images.ids == ["p10/1.png"]
    assert images.remarks == (
        "1 of 1 image files are not in metadata.csv and not measured (such as 0.png)",
        "1 images in subfolders are not in metadata.csv and not measured (such as p10/p1/2.JPG)",
    )


def test_a_folder_without_images_says_what_is_there(tmp_path):
    folder = draw(tmp_path / "below", "p10/1.png")
    with pytest.raises(UserError, match=r"holds no images, but 1 in subfolders, .*such as .*below/p10\)"):
        read_folder(folder, "--real")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.jp2").touch()
    with pytest.raises(UserError, match=r"holds no images \(it has: .jp2\): names of images end in .png, .jpg"):
        read_folder(tmp_path / "other", "--real")


def test_rows_without_a_file_are_counted_before_anything_is_read(tmp_path):
    folder = draw(tmp_path, "0.png")
    (folder / "metadata.csv").write_text("file_name,text\n0.png,a\n1.png,b\n2.png,c\n")
    with pytest.raises(UserError, match=r"2 of the 3 images in metadata.csv do not exist \(first: 1.png\)"):
        read_folder(folder, "--real")
    assert len(read_folder(folder, "--real", files=False)) == 3


def test_names_that_only_count_pair_nothing(tmp_path, capsys):
    folders = [draw(tmp_path / side, *(f"{i:04}.png" for i in range(3))) for side in ("real", "s")]
    sides = read_sides(*folders)
    assert pair_prompts(*sides).by == "" and "id" not in sides[1].rows
    out = capsys.readouterr().out
    assert "hold the same files" in out and "no file is named after an image of --real" in out


def test_names_with_an_index_and_a_seed_are_of_their_prompt(real, tmp_path):
    samples = draw(tmp_path / "s", "a-1_0_42.png", "c-3-1.png", "sample_a-1.png")
    assert read_sides(real, samples)[1].rows["id"].tolist() == ["a-1", "c-3", ""]


def test_names_of_another_system_are_those_of_the_files(tmp_path):
    folder = draw(tmp_path, "p/a.PNG", "b.png", "c.png", "C.png")
    (folder / "metadata.csv").write_text("file_name\nP\\a.png\n./b.png\nc.png\n")
    assert read_folder(folder, "--real").ids == ["p/a.PNG", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "file_name,text\n", "has no rows, beside 1 images"),
        ("metadata.csv", "file_name,text\na.png,x\n,y\n", "has no file_name in row 2"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": "\xd6dem"}', "is not UTF-8 text"),
        ("metadata.jsonl", '[{"file_name": "a.png"}]', "line 1 is no JSON object"),
    ],
)
def test_tables_that_cannot_be_used_are_one_line(tmp_path, name, content, message):
    folder = draw(tmp_path, "a.png")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_folder(folder, "--real")


@pytest.mark.parametrize("name", ["prompts.tsv", "prompts.xlsx", "metadata.parquet", "0.txt"])
def test_tables_of_other_formats_are_said(tmp_path, name):
    folder = draw(tmp_path, "0.png")
    (folder / name).touch()
    assert read_samples(folder).remarks[0].startswith(f"{name} not read: no CSV with a column file_name")
