"""ChestX-ray14: both editions of its table, prompts and labels, splits by patient, a part of the images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.nih14 import (
    FINDINGS,
    Nih14Config,
    chexpert_labels,
    main,
    parse_findings,
    read_labels,
    select,
    template_of_parts,
)
from sdcxr.io.files import read_json
from sdcxr.io.manifest import LABELS, SPLITS, read_metadata
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "real-cxr"
SECOND_EDITION = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
PERSON = "[{demographics}. ]{findings}."
FIRST_EDITION = SECOND_EDITION.rstrip("\n") + ",\n"


def write_collection(folder: Path, patients: int = 40, images_each: int = 2) -> Path:
    """A table of the second edition, and its images in the folders of NIH's archives."""
    lines = []
    for patient in range(1, patients + 1):
        for follow_up in range(images_each):
            name = f"{patient:08d}_{follow_up:03d}.png"
            finding = "No Finding" if patient % 2 else "Effusion|Pneumonia"
            view = "PA" if follow_up == 0 else "AP"
            lines.append(f"{name},{finding},{follow_up},{patient},{20 + patient},M,{view},2500,2048,0.1,0.1\n")
            path = folder / "images" / f"images_{patient % 3 + 1:03d}" / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(patient).integers(0, 256, (24, 24), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    (folder / "labels.csv").write_text(SECOND_EDITION + "".join(lines))
    return folder


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_collection(tmp_path)


def config_for(folder: Path, **changes: object) -> Nih14Config:
    settings: dict = {"images": folder / "images", "labels": folder / "labels.csv", "output_dir": folder / "out"}
    return Nih14Config(**(settings | {"resolution": 16, "workers": 1} | changes))


def metadata(output_dir: Path) -> pd.DataFrame:
    splits = [split for split in SPLITS if (output_dir / split).is_dir()]
    return pd.concat([read_metadata(output_dir / split).assign(split=split) for split in splits], ignore_index=True)


# ---------------------------------------------------------------------------------------------------------------------
# The table


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("No Finding", []),
        ("Effusion|Pneumonia", ["Effusion", "Pneumonia"]),
        ("Pleural_Thickening", ["Pleural_Thickening"]),
        ("Cough", None),
        ("", None),
        ("No Finding|Effusion", None),
        ("Effusion|Effusion", ["Effusion"]),
        ("effusion| Pleural Thickening ", ["Effusion", "Pleural_Thickening"]),
        ("no finding", []),
    ],
)
def test_findings(text, findings):
    assert parse_findings(text) == findings


def test_both_editions_give_the_same_rows(tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text(FIRST_EDITION + "00000001_000.png,Effusion|Edema,0,1,058Y,F,PA,2682,2749,0.143,0.143,\n")
    second.write_text(SECOND_EDITION + "00000001_000.png,Effusion|Edema,0,1,58,F,PA,2682,2749,0.143,0.143\n")
    pd.testing.assert_frame_equal(read_labels(first), read_labels(second))
    row = read_labels(first).iloc[0]
    assert (row["subject_id"], row["dicom_id"], row["age"], row["sex"]) == ("1", "00000001_000", "58", "F")
    assert row["findings"] == ["Effusion", "Edema"]


def test_one_unknown_age_changes_no_other(tmp_path):
    ages = ("058Y", "60", "411", "")
    lines = [f"0000000{n}_000.png,Effusion,0,{n}.0,{age},M,PA,1,1,1,1\n" for n, age in enumerate(ages)]
    path = tmp_path / "labels.csv"
    path.write_text(SECOND_EDITION + "".join(lines))
    table = read_labels(path)
    assert table["age"].tolist() == ["58", "60", "", ""] and table["subject_id"].tolist() == ["0", "1", "2", "3"]
    rows = select(config_for(tmp_path, prompt_template=PERSON), set(table["dicom_id"])).rows
    assert [text.removesuffix(". Pleural effusion.") for text in rows["text"]] == [
        "58 year old male", "60 year old male", "Male", "Male",
    ]  # fmt: skip


def test_trailing_comma_in_the_rows_alone_shifts_no_column(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(SECOND_EDITION + "00000001_000.png,Edema,0,1,058Y,F,PA,2682,2749,0.143,0.143,\n")
    assert read_labels(path)["dicom_id"].tolist() == ["00000001_000"]


# ---------------------------------------------------------------------------------------------------------------------
# Prompts and labels


def prompt_of_row(folder: Path, findings: list[str], age: str, sex: str, view: str, parts: list[str]) -> str:
    labels = "|".join(findings) or "No Finding"
    (folder / "labels.csv").write_text(SECOND_EDITION + f"00000001_000.png,{labels},0,1,{age},{sex},{view},1,1,1,1\n")
    return select(config_for(folder, prompt_template="+".join(parts)), {"00000001_000"}).rows["text"].iloc[0]


@pytest.mark.parametrize(
    ("given", "template"),
    [
        ("labels", "{findings}."),
        ("labels+view", "[{view} view. ]{findings}."),
        ("demographics+labels", "[{demographics}. ]{findings}."),
        ("a photo of a lung xray", "a photo of a lung xray"),
        (["{word}", "{findings}."], ["{word}", "{findings}."]),
    ],
)
def test_the_former_parts_of_a_prompt_are_templates(given, template):
    assert template_of_parts(given) == template


@pytest.mark.parametrize(
    ("findings", "parts", "prompt"),
    [
        ([], ["labels"], "No finding."),
        (["Pneumonia"], ["labels"], "Pneumonia."),
        (["Pneumonia", "Infiltration"], ["labels"], "Pneumonia and infiltration."),
        (["Effusion", "Mass", "Nodule"], ["labels"], "Pleural effusion, lung mass and lung nodule."),
        (["Edema"], ["labels", "view"], "PA view. Pulmonary edema."),
        (["Edema"], ["labels", "demographics"], "58 year old male. Pulmonary edema."),
        ([], ["labels", "view", "demographics"], "58 year old male. PA view. No finding."),
    ],
)
def test_prompt(tmp_path, findings, parts, prompt):
    assert prompt_of_row(tmp_path, findings, "58", "M", "PA", parts) == prompt


@pytest.mark.parametrize(
    ("age", "sex", "view", "prompt"),
    [
        ("", "F", "AP", "Female. AP view. No finding."),
        ("3", "", "AP", "3 year old patient. AP view. No finding."),
        ("", "", "PA", "PA view. No finding."),
        ("58", "Male", "PA", "58 year old male. PA view. No finding."),
        ("411", " f ", "PA", "Female. PA view. No finding."),
        ("58", "unknown", "PA", "58 year old patient. PA view. No finding."),
    ],
)
def test_prompt_leaves_out_what_is_unknown(tmp_path, age, sex, view, prompt):
    assert prompt_of_row(tmp_path, [], age, sex, view, ["labels", "view", "demographics"]) == prompt


def test_one_of_several_findings_and_the_single_word(collection):
    rows = select(
        config_for(collection, prompt_template="{word}"), set(read_labels(collection / "labels.csv")["dicom_id"])
    ).rows
    assert rows["text"].value_counts().index.sort_values().tolist() == ["Normal", "Pleural effusion", "Pneumonia"]


def test_labels_of_a_normal_image_negate_only_what_nih_labels():
    labels = chexpert_labels([])
    assert labels["No Finding"] == 1
    assert {name for name, value in labels.items() if value == 0} == {
        "Atelectasis",
        "Cardiomegaly",
        "Consolidation",
        "Edema",
        "Lung Lesion",
        "Pleural Effusion",
        "Pneumonia",
        "Pneumothorax",
    }


@pytest.mark.parametrize(
    ("finding", "label"),
    [
        ("Effusion", "Pleural Effusion"),
        ("Mass", "Lung Lesion"),
        ("Nodule", "Lung Lesion"),
        ("Infiltration", "Lung Opacity"),
        ("Pleural_Thickening", "Pleural Other"),
        ("Edema", "Edema"),
    ],
)
def test_labels_of_a_finding(finding, label):
    assert {name for name, value in chexpert_labels([finding]).items() if value == 1} == {label}


@pytest.mark.parametrize("finding", FINDINGS)
def test_an_image_with_a_finding_is_not_no_finding(finding):
    labels = chexpert_labels([finding])
    assert labels["No Finding"] == 0 and set(labels) <= set(LABELS)


# ---------------------------------------------------------------------------------------------------------------------
# Splits


def test_hash_split_keeps_patients_apart_and_near_the_fractions(tmp_path):
    lines = [f"{n:08d}_000.png,Edema,0,{n // 2},50,M,PA,1,1,1,1\n" for n in range(4000)]
    (tmp_path / "labels.csv").write_text(SECOND_EDITION + "".join(lines))
    (tmp_path / "images").mkdir()
    config = config_for(tmp_path, validation_fraction=0.1, test_fraction=0.2)
    rows = select(config, {f"{n:08d}_000" for n in range(4000)}).rows
    assert rows.groupby("subject_id")["split"].nunique().eq(1).all()
    shares = rows["split"].value_counts(normalize=True)
    assert shares["validation"] == pytest.approx(0.1, abs=0.03)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)


def test_a_patient_with_and_without_leading_zeros_is_one(collection, capsys):
    table = collection / "labels.csv"
    lines = table.read_text().splitlines(keepends=True)
    for row in range(1, len(lines), 2):  # the first image of each patient
        name, finding, follow_up, patient, rest = lines[row].split(",", 4)
        lines[row] = f"{name},{finding},{follow_up},{patient:0>8},{rest}"
    table.write_text("".join(lines))
    assert main(config_for(collection)) == 0
    assert "40 patients are written with and without leading zeros" in capsys.readouterr().err
    assert metadata(collection / "out")["subject_id"].nunique() == 40


def test_seed_changes_the_split(collection):
    names = {f"{patient:08d}_{k:03d}" for patient in range(1, 41) for k in (0, 1)}
    first, again, other = (select(config_for(collection, seed=seed), names).rows["split"] for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)


def write_lists(folder: Path, test_patients: set[int], left_out: set[int]) -> dict[str, Path]:
    names: dict[str, list[str]] = {"train_list": [], "test_list": []}
    for patient in set(range(1, 41)) - left_out:
        of_patient = [f"{patient:08d}_{k:03d}.png" for k in (0, 1)]
        names["test_list" if patient in test_patients else "train_list"] += of_patient
    for name, lines in names.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return {name: folder / name for name in names}


def test_official_lists(collection):
    lists = write_lists(collection, test_patients={3, 4}, left_out={5})
    assert main(config_for(collection, **lists, validation_fraction=0.2)) == 0
    rows = metadata(collection / "out")
    assert set(rows.loc[rows["split"] == "test", "subject_id"]) == {"3", "4"}
    assert (rows["split"] == "validation").any() and "5" not in set(rows["subject_id"])
    rejected = pd.read_csv(collection / "out" / "rejected.csv")
    assert rejected["reason"].tolist() == ["in neither official list"] * 2


def test_lists_may_be_saved_by_windows(collection):
    lists = write_lists(collection, test_patients={3, 4}, left_out=set())
    for path in lists.values():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert main(config_for(collection, **lists)) == 0
    assert pd.read_csv(collection / "out" / "rejected.csv").empty


def test_lists_may_have_folders_and_one_that_names_no_image_is_refused(collection, capsys):
    lists = write_lists(collection, test_patients={3, 4}, left_out=set())
    for path in lists.values():
        path.write_text("".join(f"images/images_001\\{line}\n" for line in path.read_text().split()))
    assert main(config_for(collection, **lists)) == 0
    assert pd.read_csv(collection / "out" / "rejected.csv").empty
    assert "official lists: 80 of 80 images" in capsys.readouterr().out
    lists["train_list"].write_text("a.png\n")
    lists["test_list"].write_text("b.png\n")
    with pytest.raises(
        UserError, match=r"official lists: none of the 80 images .* \(looked for 00000001_000; it has a\)"
    ):
        main(config_for(collection, output_dir=collection / "other", **lists))


def test_lists_that_share_an_image_or_a_patient_are_refused(collection):
    lists = write_lists(collection, test_patients={3}, left_out=set())
    lists["test_list"].write_text("00000003_000.png\n00000007_001.png\n")
    with pytest.raises(UserError, match="share 1 images, such as 00000007_001"):
        main(config_for(collection, **lists))
    lists["train_list"].write_text("00000003_001.png\n")
    with pytest.raises(UserError, match="1 patients are in more than one split"):
        main(config_for(collection, **lists))


# ---------------------------------------------------------------------------------------------------------------------
# The command


def test_dataset_folder(collection):
    assert main(config_for(collection, prompt_template=PERSON)) == 0
    rows = metadata(collection / "out")
    assert len(rows) == 80 and set(rows["split"]) == set(SPLITS)
    row = rows.set_index("dicom_id").loc["00000002_001"]
    assert row["text"] == "22 year old male. Pleural effusion and pneumonia."
    assert (row["subject_id"], row["study_id"], row["view"]) == ("2", "00000002_001", "AP")
    assert (row["Pneumonia"], row["No Finding"]) == (1, 0) and np.isnan(row["Fracture"])
    assert (row["age"], row["sex"]) == ("22.0", "male")
    with Image.open(collection / "out" / row["split"] / row["file_name"]) as image:
        assert (image.size, image.mode) == ((16, 16), "L")


def test_imagefolder_reads_it(collection, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    main(config_for(collection))
    cache = str(tmp_path_factory.mktemp("cache"))
    loaded = datasets.load_dataset("imagefolder", data_dir=str(collection / "out"), cache_dir=cache)
    assert sum(len(loaded[split]) for split in SPLITS) == 80
    assert loaded["train"][0]["text"] in ("No finding.", "Pleural effusion and pneumonia.")
    kinds = {(loaded[split].features["age"].dtype, loaded[split].features["sex"].dtype) for split in SPLITS}
    assert len(kinds) == 1 and next(iter(kinds))[0] == "float64"


def test_views(collection):
    assert main(config_for(collection, views="PA")) == 0
    assert set(metadata(collection / "out")["view"]) == {"PA"}


def test_absent_images_are_listed_and_are_no_failure(collection):
    for patient in range(1, 31):
        for path in (collection / "images").rglob(f"{patient:08d}_*.png"):
            path.unlink()
    assert main(config_for(collection)) == 0
    assert len(metadata(collection / "out")) == 20
    rejected = pd.read_csv(collection / "out" / "rejected.csv")
    assert rejected["reason"].value_counts().to_dict() == {"missing image": 60}


def test_a_picture_of_the_same_name_in_another_format_is_not_taken(collection):
    table = collection / "labels.csv"
    table.write_text(table.read_text().replace("00000001_000.png", "00000001_000.jpg"))
    pixels = np.random.default_rng(0).integers(150, 256, (24, 24), dtype=np.uint8)
    Image.fromarray(pixels).save(collection / "images" / "00000001_000.jpg", quality=95)
    assert main(config_for(collection)) == 0
    written = next((collection / "out").rglob("00000001_000.png"))
    with Image.open(written) as image:
        assert np.asarray(image).min() > 100


def test_images_that_come_later_are_taken_up(collection, capsys):
    late = [(path, path.read_bytes()) for path in sorted((collection / "images" / "images_003").rglob("*.png"))]
    for path, _ in late:
        path.unlink()
    assert main(config_for(collection)) == 0
    assert "images: 54 of 80 images of the table" in capsys.readouterr().out
    for path, data in late:
        path.write_bytes(data)
    assert main(config_for(collection)) == 0
    printed = capsys.readouterr().out
    assert "is updated: images changed" in printed and "26 to convert, 54 are up to date" in printed
    assert len(metadata(collection / "out")) == 80
    assert main(config_for(collection)) == 0
    assert "nothing to do (compared with 80 source images)" in capsys.readouterr().out


def test_earlier_results_below_the_images_are_no_sources(collection):
    small = config_for(collection, images=collection, output_dir=collection / "a", resolution=8)
    assert main(small) == 0
    assert main(config_for(collection, images=collection, output_dir=collection / "b")) == 0
    assert main(config_for(collection, output_dir=collection / "direct")) == 0
    for path in (collection / "direct").rglob("*.png"):
        assert path.read_bytes() == (collection / "b" / path.relative_to(collection / "direct")).read_bytes()
    assert main(small) == 0
    with pytest.raises(UserError, match="was written by data_prep: give the folder of the original images"):
        main(config_for(collection, images=collection / "a" / "train", output_dir=collection / "c"))


def test_images_that_the_table_does_not_name_are_counted(collection, capsys):
    path = collection / "labels.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:41]))
    assert main(config_for(collection)) == 0
    assert "warning: 40 images in" in capsys.readouterr().err


def test_names_that_are_unsafe_count_as_failures(collection, capsys):
    path = collection / "labels.csv"
    path.write_text(path.read_text().replace("0000000", "left chest "))
    for image in sorted((collection / "images").rglob("0000000*.png")):
        image.rename(image.with_name(image.name.replace("0000000", "left chest ")))
    assert main(config_for(collection)) == 1
    assert "18 of 80 images cannot be used" in capsys.readouterr().err


def test_unreadable_images_are_a_failure(collection):
    for path in (collection / "images" / "images_001").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    assert main(config_for(collection)) == 1
    assert read_json(collection / "out" / "prep.json")["usable"] is False


def test_row_with_an_unknown_label_is_rejected_and_the_rest_goes_on(collection):
    path = collection / "labels.csv"
    path.write_text(path.read_text().replace("Effusion|Pneumonia", "Effusion|Cough", 1))
    assert main(config_for(collection)) == 0
    rejected = pd.read_csv(collection / "out" / "rejected.csv", dtype=str)
    assert rejected[["dicom_id", "reason", "detail"]].to_numpy().tolist() == [
        ["00000002_000", "no patient or unknown label", "Effusion|Cough"]
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": Path("/nowhere")}, "--images /nowhere: does not exist"),
        (
            {"images": "empty"},
            r"none of the 80 images of the table is in --images .*empty \(looked for 00000001_000; it is empty\)",
        ),
        ({"labels": "none.csv"}, "none.csv does not exist"),
        ({"labels": "bbox.csv"}, r"has no column 'Finding Labels' \(it has: Image Index, Bbox\)"),
        ({"labels": "images"}, "is not a readable CSV table"),
        ({"train_list": "labels.csv"}, "--train_list and --test_list belong together"),
        ({"prompt_template": "{finding}s, {vieww}"}, r"unknown field 'vieww' .there are: view, .*did you mean {view}."),
        ({"prompt_template": "findings"}, "would be the prompt itself"),
        ({"prompt_template": "{findings"}, "expected text with fields in braces"),
        ({"text": "clean"}, "--text clean: ChestX-ray14 has no reports"),
        ({"field_dropout": 1.5}, "--field_dropout 1.5: expected 0 to 1"),
        ({"views": "LATERAL"}, "--views LATERAL: expected one or more of PA, AP"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(collection, changes, message):
    (collection / "empty").mkdir()
    (collection / "bbox.csv").write_text("Image Index,Bbox\nx,1\n")
    words = ("prompt_template", "views", "text")
    paths = {
        name: collection / value if isinstance(value, str) and name not in words else value
        for name, value in changes.items()
    }
    with pytest.raises(UserError, match=message) as error:
        main(config_for(collection, **paths))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real radiographs are not beside the repository")
def test_real_radiographs(tmp_path, capsys):
    argv = [f"--images={REAL / 'images'}", f"--labels={REAL / 'Data_Entry_2017_v2020.csv'}"]
    with pytest.raises(SystemExit) as end:
        run(main, [*argv, f"--output_dir={tmp_path / 'out'}", "--resolution=64", "--workers=1"])
    assert end.value.code == 0
    rows = metadata(tmp_path / "out")
    assert len(rows) == 203 and rows["subject_id"].nunique() == 138
    assert rows["view"].value_counts().to_dict() == {"AP": 122, "PA": 81}
    assert (rows["No Finding"] == 1).sum() == 101
    assert rows.groupby("subject_id")["split"].nunique().eq(1).all()
