"""Shipped mappings: a made-up table of every form gives the right text, labels, patient and split."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep.table import TableConfig, select
from data_prep.table_files import read_any_table
from data_prep.table_mapping import SHIPPED, TableMapping, load_mapping, with_flags
from sdcxr.io.image_files import IMAGE_SUFFIXES
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.errors import UserError
from tests.data_prep.folders import touch

CHEXPERT = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS]
PLUS = [
    "path_to_image",
    "frontal_lateral",
    "ap_pa",
    "deid_patient_id",
    "section_findings",
    "section_impression",
    "split",
]
PADCHEST = ["", "ImageID", "ImageDir", "StudyID", "PatientID", "ViewPosition_DICOM", "Projection", "Report", "Labels"]
VINDR = ["image_id", "rad_id", "Aortic enlargement", "Cardiomegaly", "Rib fracture", "Clavicle fracture", "Nodule/Mass"]
VINDR += [
    "Atelectasis",
    "Consolidation",
    "Edema",
    "Lung Opacity",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumonia",
]
VINDR += ["Pneumothorax", "Other diseases", "No finding"]


def prepared(name: str, table: Path, images: Path, **flags: object) -> pd.DataFrame:
    """The rows that reach the writer, by dicom_id."""
    config = TableConfig(table=table, images=images, output_dir=images / "out", mapping=name, **flags)  # type: ignore[arg-type]
    mapping = with_flags(load_mapping(name), config.columns, config.label_values, config.prompt_template)
    read = read_any_table(table, images)
    files = sorted(path for path in images.rglob("*") if path.name.lower().endswith(IMAGE_SUFFIXES))
    return select(config, mapping, read, files).rows.set_index("dicom_id")


def write_csv(path: Path, columns: list[str], *rows: dict[str, object]) -> Path:
    pd.DataFrame(list(rows), columns=columns).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("root", ["", "CheXpert-v1.0-small", "CheXpert-v1.0-small/train"])
def test_chexpert(tmp_path, root):
    """Whichever folder of the collection --images is."""
    place = "CheXpert-v1.0-small/train/patient00001/study1"
    rows = [
        {"Path": f"{place}/view1_frontal.jpg", "Frontal/Lateral": "Frontal", "AP/PA": "AP", "No Finding": "1.0"},
        {"Path": f"{place}/view2_lateral.jpg", "Frontal/Lateral": "Lateral", "No Finding": "1.0"},
        {"Path": place.replace("1/", "2/") + "/view1_frontal.jpg", "Frontal/Lateral": "Frontal", "AP/PA": "PA"}
        | {"Edema": "1.0", "Pleural Effusion": "1.0", "Pneumonia": "-1.0", "Fracture": "0.0"},
        {"Path": place.replace("1/", "3/") + "/view1_frontal.jpg", "Frontal/Lateral": "Frontal", "AP/PA": "PA"},
    ]
    images = touch(tmp_path / "data", *(row["Path"] for row in rows))
    found = prepared(
        "chexpert", write_csv(tmp_path / "train.csv", CHEXPERT, *rows), images / root, validation_fraction=0
    )
    assert found["text"].to_dict() == {
        "patient00001_study1_view1_frontal": "No finding.",
        "patient00002_study1_view1_frontal": "Edema and pleural effusion.",
    }
    assert found["subject_id"].tolist() == ["patient00001", "patient00002"] and set(found["split"]) == {"train"}
    assert found["view"].tolist() == ["AP", "PA"]
    second = found.iloc[1]
    assert (second["Pneumonia"], second["Fracture"]) == (-1, 0) and np.isnan(second["Cardiomegaly"])
    assert Path(second["source"]) == images / rows[2]["Path"]


def test_chexpert_plus(tmp_path):
    """PNGs under the paths of JPEGs; the split is that of the table."""
    rows = [
        {"path_to_image": f"{split}/patient{i}/study1/view1_frontal.jpg", "frontal_lateral": "Frontal", "ap_pa": "PA"}
        | {"deid_patient_id": f"patient{i}", "section_impression": f"  Impression\n {i}.", "split": split}
        for i, split in enumerate(["train", "valid"])
    ]
    rows.append(rows[0] | {"section_impression": "", "path_to_image": "train/patient0/study2/view1_frontal.jpg"})
    images = touch(tmp_path / "PNG", *(row["path_to_image"].replace(".jpg", ".png") for row in rows))
    found = prepared("chexpert_plus", write_csv(tmp_path / "df.csv", PLUS, *rows), images)
    assert found["text"].tolist() == ["Impression 0.", "Impression 1."]
    assert found["split"].tolist() == ["train", "validation"] and found["subject_id"].tolist() == [
        "patient0",
        "patient1",
    ]
    assert found["study_id"].iloc[0] == "patient0/study1"


def test_padchest(tmp_path):
    """Lists of labels; images by name in numbered folders; views by the curated column first."""
    rows = [
        {
            "ImageID": "1_a.png",
            "ImageDir": "0",
            "StudyID": "1",
            "PatientID": "7",
            "ViewPosition_DICOM": "POSTEROANTERIOR",
        }
        | {"Projection": "PA", "Labels": "['COPD signs', ' cardiomegaly', 'pleural effusion', 'unchanged']"},
        {
            "ImageID": "2_b.png",
            "ImageDir": "3",
            "StudyID": "2",
            "PatientID": "8",
            "ViewPosition_DICOM": "ANTEROPOSTERIOR",
        }
        | {"Projection": "UNK", "Labels": "['normal']"},
        {
            "ImageID": "3_c.png",
            "ImageDir": "3",
            "StudyID": "2",
            "PatientID": "8",
            "Projection": "L",
            "Labels": "['normal']",
        },
        {"ImageID": "4_d.png", "ImageDir": "3", "StudyID": "4", "PatientID": "9", "Projection": "AP_horizontal"}
        | {"Labels": "['rib fracture', '']", "Report": "fractur costal ."},
    ]
    images = touch(tmp_path / "images", *(f"{row['ImageDir']}/{row['ImageID']}" for row in rows))
    table = write_csv(tmp_path / "PADCHEST.csv.gz", PADCHEST, *rows)
    found = prepared("padchest", table, images)
    assert found["text"].to_dict() == {
        "1_a": "COPD signs, cardiomegaly and pleural effusion.",
        "2_b": "No finding.",
        "4_d": "Rib fracture.",
    }
    assert found["view"].tolist() == ["PA", "AP", "AP"] and found["subject_id"].tolist() == ["7", "8", "9"]
    assert found.loc["1_a", ["Cardiomegaly", "Pleural Effusion"]].tolist() == [1, 1]
    assert np.isnan(found.loc["1_a", "No Finding"]) and found.loc["4_d", "Fracture"] == 1
    reports = prepared("padchest", table, images, columns="text=Report")
    assert reports["text"].tolist() == ["fractur costal ."]


def test_vindr_cxr(tmp_path):
    """The majority of three radiologists; findings that CheXpert does not have are in the prompt."""
    zeros = dict.fromkeys(VINDR[2:], 0)
    heart, aorta, rib = ({name: 1} for name in ("Cardiomegaly", "Aortic enlargement", "Rib fracture"))
    votes: list = [
        ("a", [heart | aorta, heart | rib, aorta]),
        ("b", [{"No finding": 1}, {"No finding": 1}, {"Edema": 1}]),
        ("c", [rib | {"Other diseases": 1}] * 2 + [{"No finding": 1}]),
    ]
    rows = [zeros | {"image_id": name, "rad_id": "R9"} | vote for name, given in votes for vote in given]
    images = touch(tmp_path / "train", *(f"{name}.dicom" for name, _ in votes))
    found = prepared("vindr_cxr", write_csv(tmp_path / "image_labels_train.csv", VINDR, *rows), images)
    assert found["text"].to_dict() == {
        "a": "Aortic enlargement and cardiomegaly.",
        "b": "No finding.",
        "c": "Rib fracture and other disease.",
    }
    assert found["Cardiomegaly"].tolist() == [1, 0, 0] and found["No Finding"].tolist() == [0, 1, 0]
    assert np.isnan(found.loc["a", "Fracture"]) and found.loc["c", "Fracture"] == 1
    test = write_csv(tmp_path / "image_labels_test.csv", ["image_id", *VINDR[2:]], rows[0])
    assert len(prepared("vindr_cxr", test, images)) == 1


def test_rsna(tmp_path):
    """A row per box is one image."""
    columns = ["patientId", "x", "y", "width", "height", "Target"]
    boxes = [{"patientId": "q", "x": x, "Target": 1} for x in (1.0, 9.0)]
    rows = [{"patientId": "p", "Target": 0}, *boxes]
    images = touch(tmp_path / "stage_2_train_images", "p.dcm", "q.dcm")
    found = prepared("rsna", write_csv(tmp_path / "stage_2_train_labels.csv", columns, *rows), images)
    assert found["text"].to_dict() == {"p": "No pneumonia.", "q": "Pneumonia."}
    assert found["Pneumonia"].tolist() == [0, 1] and np.isnan(found.loc["p", "Lung Opacity"])


@pytest.mark.parametrize("above", ["", "jpg/"])
def test_mimic_cxr_sectioned(tmp_path, above):
    """Studies are found in the paths of the images, and so is the patient."""
    columns = ["study", "impression", "findings", "last_paragraph", "comparison"]
    rows = [{"study": f"s5000000{i}", "impression": f"Invented\ntext {i}." if i else ""} for i in range(4)]
    places = [f"{above}files/p10/p1000000{i}/s5000000{i}/{i}{k}.jpg" for i in range(3) for k in "ab"]
    images = touch(tmp_path / "mimic", *places)
    found = prepared("mimic_cxr_sectioned", write_csv(tmp_path / "mimic_cxr_sectioned.csv", columns, *rows), images)
    assert found["text"].tolist() == ["Invented text 1."] * 2 + ["Invented text 2."] * 2
    assert found["study_id"].tolist() == ["50000001"] * 2 + ["50000002"] * 2
    assert found["subject_id"].tolist() == ["10000001"] * 2 + ["10000002"] * 2
    assert found.index.tolist() == ["1a", "1b", "2a", "2b"]


def test_r2gen_for_mimic_cxr(tmp_path):
    entries = {
        split: [
            {"id": f"d{i}", "study_id": 50000000 + i, "subject_id": 10000000 + i, "report": f"Text {i} ."}
            | {"image_path": [f"p10/p1000000{i}/s5000000{i}/d{i}.jpg"], "split": split}
        ]
        for i, split in enumerate(["train", "val", "test"])
    }
    (tmp_path / "annotation.json").write_text(json.dumps(entries))
    images = touch(tmp_path / "images", *(f"p10/p1000000{i}/s5000000{i}/d{i}.jpg" for i in range(3)))
    found = prepared("r2gen", tmp_path / "annotation.json", images)
    assert found["split"].to_dict() == {"d0": "train", "d1": "validation", "d2": "test"}
    assert found.loc["d1", ["subject_id", "study_id", "text"]].tolist() == ["10000001", "50000001", "Text 1 ."]


def test_r2gen_for_open_i(tmp_path):
    """Two images of an examination, of the same names in every folder."""
    entries = {
        "train": [
            {"id": f"CXR{i}_IM-1", "report": f"Text {i}.", "image_path": [f"CXR{i}_IM-1/{k}.png" for k in (0, 1)]}
            for i in range(3)
        ],
        "val": [],
    }
    (tmp_path / "annotation.json").write_text(json.dumps(entries))
    images = touch(tmp_path / "images", *(f"CXR{i}_IM-1/{k}.png" for i in range(3) for k in (0, 1)))
    found = prepared("r2gen", tmp_path / "annotation.json", images, validation_fraction=0)
    assert found["subject_id"].to_dict() == {f"CXR{i}_IM-1_{k}": f"CXR{i}_IM-1" for i in range(3) for k in (0, 1)}
    last = found.loc["CXR2_IM-1_1"]
    assert last["text"] == "Text 2." and last["source"].endswith("CXR2_IM-1/1.png")


def test_roentgen_v2(tmp_path):
    """Both layouts: texts beside images, and a table of prompts."""
    (tmp_path / "prompt_dir").mkdir()
    for i in range(2):
        (tmp_path / f"prompt_dir/demo{i}.txt").write_text(f"5{i} year old WHITE female. Normal.\n")
    images = touch(tmp_path / "image_dir", "demo0.jpg", "demo1.jpg")
    expected = {"demo0": "50 year old WHITE female. Normal.", "demo1": "51 year old WHITE female. Normal."}
    assert prepared("roentgen_v2", tmp_path / "prompt_dir", images)["text"].to_dict() == expected
    columns = ["dicom_id", "gender", "anchor_age", "race", "impression_short", "prompt_variation"]
    rows = [{"dicom_id": name, "prompt_variation": text} for name, text in expected.items()]
    assert prepared("roentgen_v2", write_csv(tmp_path / "p.csv", columns, *rows), images)["text"].to_dict() == expected


def test_chexgenbench(tmp_path):
    """Tables of real and of synthetic images."""
    place = "files/p10/p10000000/s50000000/d0.jpg"
    labels = dict.fromkeys(LABELS) | {"Edema": 1, "Pneumonia": -1, "Fracture": 0}
    real = {"path": place, "annotated_prompt": "Edema.", "chexpert_labels": str(labels)}
    images = touch(tmp_path / "images", place, "SyntheticImg_d0.png")
    found = prepared("chexgenbench", write_csv(tmp_path / "real.csv", list(real), real), images)
    assert found.loc["d0", ["text", "subject_id", "study_id"]].tolist() == ["Edema.", "10000000", "50000000"]
    assert found.loc["d0", ["Edema", "Pneumonia", "Fracture"]].tolist() == [1, -1, 0]
    assert np.isnan(found.loc["d0", "Atelectasis"])
    synthetic = {"prompt": "Edema.", "img_savename": "SyntheticImg_d0.png"}
    found = prepared("chexgenbench", write_csv(tmp_path / "prompt_INFO.csv", list(synthetic), synthetic), images)
    assert found["text"].to_dict() == {"SyntheticImg_d0": "Edema."}


def test_chexgenbench_parquet_with_images_inside(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.linear_gradient("L").rotate(90 * i) for i in range(2)]
    rows = {
        "image": pictures,
        "filename": ["SyntheticImg_a.png", "SyntheticImg_b.png"],
        "prompt": ["Edema.", "Clear."],
        "labels_dict": [{"Edema": 1, "No Finding": 0}, {"Edema": 0, "No Finding": 1}],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "filename": datasets.Value("string"), "prompt": datasets.Value("string")}
        | {"labels_dict": {name: datasets.Value("int64") for name in ("Edema", "No Finding")}}
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    found = prepared("chexgenbench", tmp_path / "train-00000-of-00001.parquet", tmp_path / "unpacked")
    assert found["text"].tolist() == ["Edema.", "Clear."] and found["Edema"].tolist() == [1, 0]
    assert [np.asarray(Image.open(path))[0, -1] for path in found["source"]] == [np.asarray(p)[0, -1] for p in pictures]


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_every_shipped_mapping_is_valid_and_says_where_it_comes_from(name):
    mapping = load_mapping(name)
    assert isinstance(mapping, TableMapping) and mapping.description
    assert mapping.prompt_template or "text" in mapping.columns
    assert (SHIPPED / f"{name}.yaml").read_text().startswith("#")


# ---------------------------------------------------------------------------------------------------------------------
# Mappings of one's own


def own(tmp_path: Path, text: str) -> str:
    (tmp_path / "own.yaml").write_text(text)
    return str(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colums: {image: a}", "unknown key 'colums': did you mean 'columns'?"),
        ("columns: [a]", "columns is a list, not a dict"),
        ("- a", "is not a YAML file of keys and values"),
        ("columns: {image: [", "is not YAML"),
        ("patterns: {subject_id: '(a'}", "the pattern of subject_id is no regular expression"),
        ("patterns: {subject_id: 'a'}", "has 0 groups in parentheses: one is needed"),
    ],
)
def test_a_wrong_mapping_file_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message.replace("?", "[?]")) as error:
        load_mapping(own(tmp_path, text))
    assert "\n" not in str(error.value)


def test_an_unknown_mapping_lists_the_shipped_ones():
    with pytest.raises(UserError, match=r"one of busi, chexgenbench, chexpert, .*: did you mean 'chexpert'\?"):
        load_mapping("chexprt")


def test_flags_override_a_mapping(tmp_path):
    path = own(tmp_path, "columns: {image: a, text: b}\nprompt_template: '{b}.'\nlabel_values: {y: 1, n: 0}")
    mapping = with_flags(load_mapping(path), "text=c,edema=d", "n=-1", None, views="PA", repeats=None)
    assert mapping.columns == {"image": "a", "text": "c", "Edema": "d"} and mapping.prompt_template == ""
    assert mapping.label_values == {"y": "1", "n": "-1"} and (mapping.views, mapping.repeats) == ("PA", "refuse")
