"""Prompts: texts, tables of every kind, and what is a file but never a prompt."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sdcxr.generation.prompts import read_prompts
from sdcxr.runtime.errors import UserError


def test_a_text_is_one_prompt():
    for text in (
        "Left effusion.",
        "Effusion/atelectasis on the left.",
        "3.5 cm nodule",
        "Pneumonia/effusion",
        "...",
        "a/b/c",
        "Nodule of 3.5",
        "~3 cm nodule",
        "~nobody knows",
        "The lungs are clear. " * 30,
        "γ" * 300,
        "effusion",
        "Normal.",
        "No effusion.Normal heart",
    ):
        rows = read_prompts(text)
        assert rows.to_dict("list") == {"id": ["prompt"], "text": [text]}


def test_lines_of_a_text_file_are_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes('\ufeffLeft effusion.\r\n\n  Right, "small" one. \n'.encode())
    assert read_prompts(str(file)).to_dict("list") == {
        "id": ["00000", "00001"],
        "text": ["Left effusion.", 'Right, "small" one.'],
    }


@pytest.mark.parametrize("column", ["text", "prompt", "impression"])
def test_a_table_without_ids_is_numbered(tmp_path, column):
    file = tmp_path / "prompts.csv"
    file.write_bytes(f'\ufeffother,{column}\nx,"a, b"\ny,NA\n'.encode())
    assert read_prompts(str(file)).to_dict("list") == {"id": ["00000", "00001"], "text": ["a, b", "NA"]}


@pytest.mark.parametrize("column", ["id", "dicom_id"])
def test_a_table_with_ids_and_labels_keeps_them(tmp_path, column):
    file = tmp_path / "prompts.csv"
    file.write_text(f"{column},text,Edema,Size\n007,a,1.0,3\nb-2.x,b,,4\n")
    rows = read_prompts(str(file))
    assert rows["id"].tolist() == ["007", "b-2.x"] and list(rows.columns) == ["id", "text", "Edema"]
    np.testing.assert_array_equal(rows["Edema"], [1.0, np.nan])


def test_a_split_gives_its_ids_or_its_file_names(micro_dataset, tmp_path):
    assert read_prompts(str(micro_dataset / "test"))["id"].tolist() == [f"c00-{i}" for i in range(4)]
    (tmp_path / "metadata.csv").write_text("file_name,text\na/b.png,x\n")
    assert read_prompts(str(tmp_path))["id"].tolist() == ["b"]
    (tmp_path / "metadata.csv").write_text("file_name,text,dicom_id\na/b.png,x,\n")
    assert read_prompts(str(tmp_path))["id"].tolist() == ["b"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"nowhere{suffix}"
            for suffix in (".csv", ".TXT", ".tsv", ".csv.gz", ".json", ".jsonl", ".parquet", ".xlsx", ".cvs")
        ),
        *("./nowhere", "../nowhere", "~/nowhere", "data/test", "/data/test", "here/nowhere", "nowhere/", "s3://a/b"),
    ],
)
def test_prompts_that_are_not_there_are_said_to_be(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match="no such file or folder"):
        read_prompts(name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no prompt"),
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.txt", b"\xff", "is not UTF-8 text: save it as UTF-8"),
        ("a.txt", b"a\0b\n", "it holds NUL characters"),
        ("a.txt", b"id\ttext\n1\tx\n", "begins as a table does: name it .tsv or .csv"),
        ("a.txt", b"id,text\n1,x\n", "begins as a table does"),
        ("a.csv", b"id,text\na,x\nb,\n", r"the text of b is empty \(1 in all\)"),
        ("a.tsv", b"caption\tid\nx\t1\n", "no column text or prompt"),
        ("a.json", b'{"text": "x"}', "neither a list of objects nor lists of objects by split"),
        ("a.json", b"[1]", "neither a list of objects nor lists of objects by split"),
        ("a.json", b"[", "not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\nsecret\n', "not valid JSON"),
        ("a.jsonl", b'{"text": ["x"]}\n', "its column text holds something else than texts"),
        ("a.jsonl", b'{"caption": "x"}\n', "no column text or prompt"),
        ("a.parquet", b"x", "is not a whole Parquet file"),
        ("a.xlsx", b"PK", "is an Excel workbook: save it as CSV"),
        ("a.CSV.GZ", b"x", "no column text or prompt"),
        ("prompts", b"Left effusion.\n", "a file of an unknown kind: save it as one of .csv, .tsv"),
        ("a.yaml", b"- Left effusion.\n", "a file of an unknown kind"),
        ("a.csv", b"", "not a readable CSV"),
        ("a.csv", b"text\n", "holds no prompt"),
        ("a.csv", b"text\n\xff\n", "not a readable CSV"),
        ("a.csv", b"clear lungs,clear lungs\n", r"has a column more than once \(columns 1 and 2: 'clear lungs'\)"),
        ("a.csv", b"id,text,Edema\na,x,1\nb,y,yes\n", "the column Edema holds 'yes' in the row of b"),
        ("a.csv", b"caption\nx\n", "no column text or prompt .its first line"),
        ("a.csv", b"id,text\na,x\na,y\n", "the id a comes twice"),
        ("a.csv", b"id,text\n../x,y\n", "is no file name"),
        ("a.csv", b"id,text\n..,y\n", "is no file name"),
        ("a.csv", b"id,text\na/b,y\n", "is no file name"),
        ("a.csv", b"id,text\na b,y\n", "is no file name"),
        ("a.csv", b"id,text\n,y\n", "is no file name"),
    ],
)
def test_wrong_prompt_files_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(tmp_path / name))


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_prompt_is_refused(text):
    with pytest.raises(UserError, match="is empty"):
        read_prompts(text)


def test_a_dataset_folder_is_not_a_split(micro_dataset, tmp_path):
    with pytest.raises(UserError, match=r"it is a whole dataset: give one of its splits \(.*dataset/test\)"):
        read_prompts(str(micro_dataset))
    with pytest.raises(UserError, match=r"has no metadata\.csv"):
        read_prompts(str(tmp_path))


def test_no_rows_are_lost_between_tables(tmp_path):
    rows = pd.DataFrame({"id": ["a", "b"], "text": ['x "y", z', "two\nlines"]})
    rows.to_csv(tmp_path / "a.csv", index=False)
    pd.testing.assert_frame_equal(read_prompts(str(tmp_path / "a.csv")), rows)


def test_an_unquoted_comma_in_a_prompt_loses_no_text(tmp_path):
    (tmp_path / "prompts.csv").write_text("text,id\nLarge effusion, right side,1\n")
    with pytest.raises(UserError, match="put texts with commas in quotes"):
        read_prompts(str(tmp_path / "prompts.csv"))


EXPECTED = pd.DataFrame({"id": ["07", "b"], "text": ['x "y", z', "γ"], "Edema": [1.0, np.nan]})
RECORDS = [{"id": "07", "text": 'x "y", z', "Edema": 1, "other": [1]}, {"id": "b", "text": "γ"}]


def write(path: Path, content: str) -> None:
    path.write_bytes(gzip.compress(content.encode()) if path.suffix.lower() == ".gz" else content.encode())


@pytest.mark.parametrize(
    ("names", "content"),
    [
        (("a.csv", "A.CSV", "a.csv.gz", "a.CSV.GZ"), 'id,text,Edema\n07,"x ""y"", z",1\nb,γ,\n'),
        (("a.csv", "a.txt.csv"), 'id;text;Edema\n07;"x ""y"", z";1\nb;γ;\n'),
        (("a.csv",), 'ID, Text ,Edema\r\n07,"x ""y"", z",1.0\r\nb,γ,NA'),
        (("a.tsv", "a.TSV", "a.tab", "a.tsv.gz"), 'id\ttext\tEdema\n07\t"x ""y"", z"\t1\nb\tγ\t\n'),
        (("a.jsonl", "a.ndjson", "a.jsonl.gz"), "\n\n".join(map(json.dumps, RECORDS))),
        (("a.json", "a.JSON", "a.json.gz"), "\ufeff" + json.dumps(RECORDS, indent=1)),
    ],
)
def test_tables_of_every_kind_are_read(tmp_path, names, content):
    for name in names:
        write(tmp_path / name, content)
        pd.testing.assert_frame_equal(read_prompts(str(tmp_path / name)), EXPECTED, check_dtype=False)


def test_a_parquet_table_is_read(tmp_path):
    table = pd.DataFrame({"dicom_id": [7, 8], "prompt": ["x", "y"], "Edema": pd.array([1, None], dtype="Int64")})
    table.to_parquet(tmp_path / "a.parquet")
    rows = read_prompts(str(tmp_path / "a.parquet"))
    assert rows["id"].tolist() == ["7", "8"] and rows["text"].tolist() == ["x", "y"]
    np.testing.assert_array_equal(rows["Edema"], [1.0, np.nan])


@pytest.mark.parametrize("name", ["a.txt", "A.TXT", "a.txt.gz"])
def test_lists_of_texts_are_numbered(tmp_path, name):
    write(tmp_path / name, "Left effusion.\rRight\x0cone.\n")
    assert read_prompts(str(tmp_path / name))["text"].tolist() == ["Left effusion.", "Right\x0cone."]
    for other, content in (("b.json", '["x", "y"]'), ("b.jsonl", '"x"\n"y"\n')):
        write(tmp_path / other, content)
        assert read_prompts(str(tmp_path / other))["id"].tolist() == ["00000", "00001"]


def test_text_files_of_windows_are_read(tmp_path):
    (tmp_path / "a.txt").write_bytes("Left effusion.\r\nNormal.\r\n".encode("utf-16"))
    assert read_prompts(str(tmp_path / "a.txt"))["text"].tolist() == ["Left effusion.", "Normal."]


def test_what_is_a_file_is_never_a_prompt(tmp_path, monkeypatch):
    """Also in the current folder, where nothing but its being there speaks for a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("effusion", "p.dat", "Left effusion."):
        Path(name).write_text("x")
        with pytest.raises(UserError, match="a file of an unknown kind"):
            read_prompts(name)
    Path("gone").symlink_to("nowhere")
    with pytest.raises(UserError, match="a link to what is not there"):
        read_prompts("gone")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        read_prompts("/dev/null")


def test_a_folder_that_may_not_be_looked_into_is_no_prompt(monkeypatch):
    monkeypatch.setattr(Path, "is_dir", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match="no permission to look there"):
        read_prompts("data/prompts")


# ---------------------------------------------------------------------------------------------------------------------
# Texts in a mode, templates


def test_prompts_are_refocused_and_that_is_said(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("id,text\na,Unchanged edema since ___.\nb,Clear lungs.\n")
    rows = read_prompts(str(tmp_path / "a.csv"), "refocused")
    assert rows["text"].tolist() == ["Edema.", "Clear lungs."]
    assert "1 of 2 are changed by --text refocused (50.0%)" in capsys.readouterr().out
    assert read_prompts("Seen on ___.", "clean")["text"].tolist() == ["Seen."]


def test_a_prompt_of_which_nothing_is_left_is_one_line(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\na,Edema.\nb,___\n")
    for mode in ("clean", "refocused"):
        with pytest.raises(UserError, match=rf"--text {mode}: nothing is left of the prompt b \(1 in all\)"):
            read_prompts(str(tmp_path / "a.csv"), mode)
    with pytest.raises(UserError, match="nothing is left of the prompt: leave it out"):
        read_prompts("___", "clean")


def test_templates_take_columns_labels_and_persons_of_a_table(tmp_path):
    table = "dicom_id,impression,view,gender,anchor_age,race,Edema,No Finding\n"
    table += "a,Mild edema.,AP,F,86,WHITE,1,\nb,Normal.,,M,,,0,1\n"
    (tmp_path / "a.csv").write_text(table)

    def prompts(*templates: str) -> list[str]:
        return read_prompts(str(tmp_path / "a.csv"), templates=templates)["text"].tolist()

    assert prompts("[{demographics}. ]{text}") == ["86 year old WHITE female. Mild edema.", "Male. Normal."]
    assert prompts("[{view} view. ]{findings}.") == ["AP view. Edema.", "No finding."]
    assert prompts("{word}") == ["Edema", "Normal"] and prompts("{impression}") == ["Mild edema.", "Normal."]
    assert prompts("a photo of a lung xray with {finding}")[1] == "a photo of a lung xray with no finding"
    assert list(read_prompts(str(tmp_path / "a.csv")).columns) == ["id", "text", "Edema", "No Finding"]


def test_a_mode_acts_on_every_column_of_texts_that_templates_name(tmp_path, capsys):
    table = "id,impression,report,view,Edema\na,___,Stable effusion. Comparison to ___.,AP,1\nb,Clear.,No edema.,,0\n"
    (tmp_path / "a.csv").write_text(table)

    def prompts(*templates: str) -> list[str]:
        return read_prompts(str(tmp_path / "a.csv"), "refocused", templates)["text"].tolist()

    assert prompts("[{view} view. ]{report}") == ["AP view. Effusion.", "No edema."]
    assert "1 of 2 are changed by --text refocused (50.0%)" in capsys.readouterr().out
    assert prompts("CXR[. {findings}].") == ["CXR. Edema.", "CXR."]  # no text, nothing to change
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="a field outside brackets is empty for a"):
        prompts("{impression}")
    with pytest.raises(UserError, match="--text refocused: nothing is left of the prompt a"):
        prompts("{text}")


def test_a_template_without_text_needs_no_column_of_texts(tmp_path):
    (tmp_path / "a.csv").write_text("id,Edema\na,1\nb,0\n")
    with pytest.raises(UserError, match=r"a field outside brackets is empty for b \(1 of 2\)"):
        read_prompts(str(tmp_path / "a.csv"), templates=["{findings}."])
    assert read_prompts(str(tmp_path / "a.csv"), templates=["CXR[. {findings}]."])["text"].tolist() == [
        "CXR. Edema.",
        "CXR.",
    ]
    with pytest.raises(UserError, match=r"unknown field 'vew' \(there are: findings, finding, word, id\)"):
        read_prompts(str(tmp_path / "a.csv"), templates=["{vew}"])


def test_a_split_has_view_and_labels_for_templates(tmp_path):
    (tmp_path / "metadata.csv").write_text(
        "file_name,text,view,Edema\na.png,Stable edema.,PA,1.0\nb.png,Clear.,unknown,\n"
    )
    rows = read_prompts(str(tmp_path), "refocused", ["[{view} view. ]{text}"])
    assert rows["text"].tolist() == ["PA view. Edema.", "Clear."]
