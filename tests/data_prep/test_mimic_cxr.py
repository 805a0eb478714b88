"""The MIMIC-CXR preparation against a tree whose outcome was counted by hand."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from PIL import Image

from data_prep.mimic_cxr import count_tokens, main
from sdcxr.io.files import read_json
from sdcxr.io.manifest import COLUMNS, LABELS, read_metadata
from sdcxr.runtime.errors import UserError
from tests.data_prep.folders import files_of
from tests.data_prep.mimic_tree import CAP, CHARS_7, CHARS_77, Group, build, config_of, image_bytes, report_of

GROUPS = [
    Group(11, "impression too short", report_of("No ne.")),
    Group(12, "train", report_of(CHARS_7)),
    Group(13, "train", report_of(CHARS_77), folder=18),
    Group(14, "impression too long", report_of(CHARS_77 + ".")),
    Group(9, "train", report_of("\n \n No\n   new. \n "), folder=12),
    Group(5, "impression too short", report_of("No   ne.  \n"), folder=13),
    Group(8, "no report", None),
    Group(10, "no impression", " FINDINGS: Clear lungs, long enough.\n"),
    Group(4, "no impression", report_of(" \n \n")),
    Group(20, "view not wanted", view="LATERAL"),
    Group(15, "view not wanted", view="AP"),
    Group(6, "view unknown", view=""),
    Group(3, "view not wanted", view="", code="antero-posterior", procedure="CHEST (PA ONLY)"),
    Group(7, "train", view="", code="postero-anterior"),
    Group(5, "train", view="", procedure="CHEST (PA ONLY)", folder=15),
    Group(30, "test", folder=19),
    Group(9, "test", folder=19, no_finding="1.0"),
    Group(2, "patient of no folder p10 … p19", folder=20),
    Group(5, "train", labelled=False, folder=16),
    Group(3, "missing image", image="missing"),
    Group(2, "truncated image", image="cut off"),
]
NO_FINDING = 40  # training studies with No Finding, of which the cap of 25 leaves 25
N_TRAIN = 12 + 13 + 9 + 7 + 5 + 5 + CAP  # 76
N_TEST = 30 + 9
N_SIDE_VIEWS = 10  # studies with a second, lateral image

EXPECTED_COUNTS = {  # (images, studies) after every filter, counted by hand from the groups
    "all images": (243, 233),
    "view PA": (243 - 38 - 6 - 10, 189),
    "folder split": (187, 187),
    "report": (179, 179),
    "impression": (165, 165),
    "7 to 77 characters": (135, 135),
    "No Finding cap 25": (120, 120),
    "readable image": (115, 115),
}
EXPECTED_REJECTED = {
    "impression too short": 16, "impression too long": 14, "no report": 8, "no impression": 14,
    "view not wanted": 48, "view unknown": 6, "patient of no folder p10 … p19": 2, "over the No Finding cap": 15,
    "missing image": 3, "truncated image": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "suffix", "as_dicom"),
    [("zip", ".csv", False), ("zip with a folder", ".csv.gz", False), ("folder", ".csv", True)],
)
def test_the_filter_is_exact(tmp_path, layout, suffix, as_dicom):
    tree = build(tmp_path, [*GROUPS, Group(NO_FINDING, "train", no_finding="1.0", folder=17)], layout, suffix, as_dicom)
    for number in range(20, 20 + N_SIDE_VIEWS):
        tree.add_side_view(number)
    tree.write_tables(suffix)
    if as_dicom:  # a cut-off DICOM is unreadable, not truncated
        tree.outcome = {k: v.replace("truncated", "unreadable") for k, v in tree.outcome.items()}
    output = tmp_path / "dataset"

    assert main(config_of(tree, output)) == 0

    counts = {c["filter"]: (c["images"], c["studies"]) for c in read_json(output / "prep.json")["counts"]}
    assert counts == EXPECTED_COUNTS
    rejected = pd.read_csv(output / "rejected.csv", dtype=str)
    reasons = rejected["reason"].str.replace("unreadable", "truncated").value_counts().to_dict()
    assert reasons == EXPECTED_REJECTED
    over_cap = set(rejected["dicom_id"][rejected["reason"] == "over the No Finding cap"])
    expected = {dicom_id: outcome for dicom_id, outcome in tree.outcome.items() if dicom_id not in over_cap}
    outcome = dict(zip(rejected["dicom_id"], rejected["reason"], strict=True))
    for split, n in {"train": N_TRAIN, "test": N_TEST}.items():
        rows = read_metadata(output / split)
        assert len(rows) == n
        assert tuple(rows.columns) == COLUMNS
        outcome |= dict.fromkeys(rows["dicom_id"], split)
        assert {path.name for path in (output / split).glob("*.png")} == set(rows["file_name"])
    assert {k: v for k, v in outcome.items() if k in expected} == expected
    assert not (output / "validation").exists()
    assert len(rejected) + N_TRAIN + N_TEST == EXPECTED_COUNTS["all images"][0]


def test_a_row_without_an_id_is_rejected_and_not_forgotten(tmp_path):
    tree = build(tmp_path, [Group(5, "train")])
    tree.metadata[2]["dicom_id"] = ""
    tree.write_tables(".csv")
    assert main(config_of(tree, tmp_path / "dataset")) == 0
    rejected = pd.read_csv(tmp_path / "dataset" / "rejected.csv", dtype=str, keep_default_na=False)
    assert rejected[["dicom_id", "study_id", "reason"]].to_numpy().tolist() == [
        ["", str(tree.metadata[2]["study_id"]), "row without an id"]
    ]
    assert len(read_metadata(tmp_path / "dataset" / "train")) == 4


def test_a_row_holds_the_impression_the_ids_the_view_and_the_labels(small, tmp_path):
    main(config_of(small, tmp_path / "out", max_no_finding=None))
    train, test = (read_metadata(tmp_path / "out" / split) for split in ("train", "test"))
    first = train.iloc[0]
    assert list(first[["file_name", "text", "subject_id", "study_id", "dicom_id", "view"]]) == [
        "00000000-11111111-22222222-33333333-44444444.png",
        CHARS_7,
        "10000000",
        "50000000",
        "00000000-11111111-22222222-33333333-44444444",
        "PA",
    ]
    assert (first["No Finding"], first["Edema"]) == (1, -1)
    assert train[LABELS[0]].isna().all()
    assert test[list(LABELS)].isna().all(axis=None)
    with Image.open(tmp_path / "out" / "train" / first["file_name"]) as image:
        assert (image.mode, image.size) == ("L", (16, 16))


def test_a_repetition_is_identical_and_a_finished_folder_is_left_alone(small, tmp_path, capsys):
    main(config_of(small, tmp_path / "a"))
    main(config_of(small, tmp_path / "b"))
    before = files_of(tmp_path / "a")
    assert before == files_of(tmp_path / "b")
    capsys.readouterr()
    assert main(config_of(small, tmp_path / "a")) == 0
    assert "finished" in capsys.readouterr().out
    assert files_of(tmp_path / "a") == before


def test_reads_as_a_hugging_face_image_folder(small, tmp_path, monkeypatch):
    main(config_of(small, tmp_path / "out"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    import datasets

    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": CAP, "test": 10}
    row = loaded["train"][0]
    assert (row["text"], row["image"].size, row["No Finding"]) == (CHARS_7, (16, 16), 1.0)


def test_the_official_split_follows_its_table(small, tmp_path):
    main(config_of(small, tmp_path / "out", split="official", max_no_finding=None))
    sizes = {split: len(read_metadata(tmp_path / "out" / split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 32, "validation": 4, "test": 4}  # of forty patients, four end in 1 and four in 2


def test_a_share_of_the_training_patients_becomes_validation(small, tmp_path):
    main(config_of(small, tmp_path / "out", validation_fraction=0.3, max_no_finding=None))
    sizes = {split: len(read_metadata(tmp_path / "out" / split)) for split in ("train", "validation", "test")}
    assert sizes["train"] + sizes["validation"] == 30
    assert 3 <= sizes["validation"] <= 15
    assert sizes["test"] == 10


def test_views_may_be_several_or_all(tmp_path):
    tree = build(tmp_path, [Group(2, "train"), Group(3, "train", view="AP"), Group(4, "train", view="LL")])
    main(config_of(tree, tmp_path / "two", views="pa,AP"))
    main(config_of(tree, tmp_path / "all", views="all"))
    assert len(read_metadata(tmp_path / "two" / "train")) == 5
    assert len(read_metadata(tmp_path / "all" / "train")) == 9


def test_reports_may_be_the_folder_of_the_archive(small, tmp_path):
    (tmp_path / "reports").mkdir()
    shutil.copy(small.reports, tmp_path / "reports" / "mimic-cxr-reports.zip")
    config = config_of(small, tmp_path / "out")
    config.reports = tmp_path / "reports"
    assert main(config) == 0


def test_limit_keeps_so_many(small, tmp_path):
    main(config_of(small, tmp_path / "out", limit=5))
    assert sum(len(read_metadata(path.parent)) for path in (tmp_path / "out").glob("*/metadata.csv")) == 5


def test_tokens_are_counted_with_start_and_end(small, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path / "pipeline" / "tokenizer")

    assert count_tokens(pd.Series(["No new.", "Clear"]), str(tmp_path / "pipeline")).tolist() == [5, 3]
    # "No new." makes five tokens, seventy-six letters and a full stop four.
    main(config_of(small, tmp_path / "out", max_tokens=4, tokenizer=str(tmp_path / "pipeline")))
    assert read_json(tmp_path / "out" / "prep.json")["rejected"] == {"too many tokens": 30}


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes


def test_a_tokenizer_that_is_nowhere_is_one_line(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="neither a local folder") as caught:
        main(config_of(small, tmp_path / "out", max_tokens=4, tokenizer=str(tmp_path / "nothing")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 77},
        {"tokenizer": "x"},
        {"validation_fraction": 1.0},
        {"min_chars": 80},
        {"resolution": 0},
        {"workers": -1},
        {"limit": 0},
        {"max_no_finding": -1},
        {"max_rejected_fraction": 5.0},
    ],
)
def test_impossible_settings_are_refused(small, tmp_path, changes):
    with pytest.raises(UserError, match=f"--{next(iter(changes))}"):
        config_of(small, tmp_path / "out", **changes)


def test_an_unknown_view_lists_the_known_ones(small, tmp_path):
    with pytest.raises(UserError, match=r"no image has the view FRONTAL.*there are: PA 40"):
        main(config_of(small, tmp_path / "out", views="frontal"))


def test_nothing_left_is_an_error(small, tmp_path):
    with pytest.raises(UserError, match="no image is left"):
        main(config_of(small, tmp_path / "out", min_chars=8, max_chars=9))
    assert len(pd.read_csv(tmp_path / "out" / "rejected.csv")) == 40


def test_a_patient_in_two_splits_is_refused(tmp_path):
    tree = build(tmp_path, [Group(3, "train")])
    for row in tree.metadata:
        row["subject_id"] = "10000000"
    tree.write_tables(".csv")
    split = pd.read_csv(tree.images / "mimic-cxr-2.0.0-split.csv").assign(split=["train", "test", "train"])
    split.to_csv(tree.images / "mimic-cxr-2.0.0-split.csv", index=False)
    texts = {f"p10/p10000000/s{row['study_id']}.txt": report_of(CHARS_7) for row in tree.metadata}
    tree.texts = texts
    tree.write_reports("zip")
    with pytest.raises(UserError, match=r"1 patients are in more than one split .*10000000"):
        main(config_of(tree, tmp_path / "out", split="official"))


def test_report_text_is_in_no_message(small, tmp_path, capsys):
    main(config_of(small, tmp_path / "out"))
    printed = capsys.readouterr()
    written = (tmp_path / "out" / "rejected.csv").read_text() + (tmp_path / "out" / "prep.json").read_text()
    for text in (CHARS_7, CHARS_77):
        assert text not in printed.out + printed.err + written


# ---------------------------------------------------------------------------------------------------------------------
# Interruption


@pytest.mark.slow
def test_killed_in_the_middle_it_resumes_to_the_same_folder(tmp_path):
    tree = build(tmp_path, [Group(60, "train")])
    for number, path in enumerate(sorted(tree.images.rglob("*.jpg"))):
        path.write_bytes(image_bytes(number, False, (1200, 1000)))  # large enough to be caught at it
    output = tmp_path / "dataset"
    command = [sys.executable, "-m", "data_prep.mimic_cxr", "--images", tree.images, "--reports", tree.reports]
    command += ["--output_dir", output, "--resolution", "256", "--workers", "2", "--validation_fraction", "0.2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(output.glob("*/*.png"))) < 4:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline:  # the workers end by themselves
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        pytest.fail("a worker outlived its parent")
    assert not read_json(output / "prep.json")["usable"]
    assert len(list(output.glob("*/*.png"))) < 60
    cut_off = next(output.glob("*/*.png"))
    cut_off.write_bytes(cut_off.read_bytes()[:-5])  # as after a power failure

    subprocess.run(command, check=True, capture_output=True)
    resumed = files_of(output)
    shutil.rmtree(output)
    command[command.index("--workers") + 1] = "1"
    subprocess.run(command, check=True, capture_output=True)
    assert resumed == files_of(output)


def test_texts_are_refocused_and_written_by_a_template_with_the_person(tmp_path):
    groups = [
        Group(3, "train", report_of("Compared to ___, stable mild edema. Recommend CT.")),
        Group(2, "empty after cleaning", report_of("On ___ at ___.")),
        Group(2, "prompt too long", report_of(CHARS_77)),
    ]
    tree = build(tmp_path, groups)
    patients = pd.DataFrame({"subject_id": ["10000000", "p10000001"], "gender": ["F", "M"], "anchor_age": [86, ""]})
    patients.to_csv(tmp_path / "patients.csv", index=False)
    template = "[{demographics}. ][{view} view. ]{text}"
    settings = {"text": "refocused", "patients": tmp_path / "patients.csv", "prompt_template": template}
    assert main(config_of(tree, tmp_path / "out", **settings)) == 0
    assert read_metadata(tmp_path / "out/train")["text"].tolist() == [
        "86 year old female. PA view. Mild edema.", "Male. PA view. Mild edema.", "PA view. Mild edema.",
    ]  # fmt: skip
    rows = read_metadata(tmp_path / "out/train")  # the person stays, for templates in training
    assert rows["sex"].tolist() == ["female", "male", "unknown"] and rows["age"].tolist() == ["86.0", "", ""]
    prep = read_json(tmp_path / "out/prep.json")
    assert prep["rejected"] == {"empty after cleaning": 2, "prompt too long": 2}
    assert prep["settings"]["prompt_template"] == template and "patients" in prep["inputs"]
