"""The phantom command: layout, tables, reproducibility, resumption."""

import gzip
import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep import report_sections as reports
from data_prep.phantom.__main__ import SETTINGS_FILE, VERSION, PhantomConfig, main
from data_prep.phantom.layout import plan_patients
from data_prep.phantom.truth import FLAGS
from sdcxr.io.files import read_json, write_json
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.errors import UserError

STUDIES = 150
TABLES = {
    "mimic-cxr-2.0.0-metadata.csv.gz": (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
    ),
    "mimic-cxr-2.0.0-split.csv.gz": "dicom_id,study_id,subject_id,split",
    "mimic-cxr-2.0.0-chexpert.csv.gz": "subject_id,study_id," + ",".join(LABELS),
    "mimic-cxr-2.0.0-negbio.csv.gz": "subject_id,study_id," + ",".join(LABELS),
    "mimic-cxr-2.1.0-test-set-labeled.csv": "study_id," + ",".join(LABELS),
    "cxr-record-list.csv.gz": "subject_id,study_id,dicom_id,path",
    "cxr-study-list.csv.gz": "subject_id,study_id,path",
}


def draw(folder: Path, studies: int = 6, **settings: int) -> Path:
    """A dataset of small pictures."""
    main(PhantomConfig(output_dir=folder, studies=studies, resolution=32, **{"workers": 1, **settings}))
    return folder


def digests(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("phantom") / "raw", STUDIES)


@pytest.fixture(scope="module")
def metadata(dataset: Path) -> pd.DataFrame:
    return pd.read_csv(dataset / "mimic-cxr-2.0.0-metadata.csv.gz")


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_published_columns(dataset: Path, name: str) -> None:
    content = (dataset / name).read_bytes()
    if name.endswith(".gz"):
        assert content[4:8] == b"\0\0\0\0"  # no time stamp
        content = gzip.decompress(content)
    assert content.decode().split("\n", 1)[0] == TABLES[name]


def test_images_lie_where_the_tables_say(dataset: Path, metadata: pd.DataFrame) -> None:
    names = (dataset / "IMAGE_FILENAMES").read_text().splitlines()
    assert sorted(names) == sorted(str(path.relative_to(dataset)) for path in dataset.rglob("*.jpg"))
    pattern = r"files/p(1\d)/p(\1\d{6})/s(5\d{7})/([0-9a-f]{8}(?:-[0-9a-f]{8}){4})\.jpg"
    found = [re.fullmatch(pattern, name) for name in names]
    assert all(found)
    ids = [(match[4], int(match[2]), int(match[3])) for match in found if match]
    assert ids == list(metadata[["dicom_id", "subject_id", "study_id"]].itertuples(index=False, name=None))
    assert metadata["dicom_id"].is_unique and metadata["study_id"].nunique() == STUDIES


def test_images_are_grey_jpegs_of_the_stated_size(dataset: Path, metadata: pd.DataFrame) -> None:
    rows = metadata.set_index("dicom_id")
    for path in list(dataset.rglob("*.jpg"))[:40]:
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "L")
            assert (image.height, image.width) == tuple(rows.loc[path.stem, ["Rows", "Columns"]])
            assert min(image.size) == 32


def test_splits_and_folders_are_spread_and_share_no_patient(dataset: Path) -> None:
    split = pd.read_csv(dataset / "mimic-cxr-2.0.0-split.csv.gz")
    assert split.groupby("subject_id")["split"].nunique().max() == 1
    assert set(split["split"]) == {"train", "validate", "test"}
    patients = split.drop_duplicates("subject_id")
    per_folder = (patients["subject_id"] // 1_000_000).value_counts()
    assert sorted(per_folder.index) == list(range(10, 20))
    assert per_folder.max() - per_folder.min() <= 1
    tested = pd.read_csv(dataset / "mimic-cxr-2.1.0-test-set-labeled.csv")
    assert set(tested["study_id"]) == set(split.loc[split["split"] == "test", "study_id"])


def test_plan_gives_each_patient_one_to_four_studies() -> None:
    patients = plan_patients(500, seed=3)
    counts = [len(patient.study_ids) for patient in patients]
    assert sum(counts) == 500 and set(counts) == {1, 2, 3, 4}
    assert len({patient.subject_id for patient in patients}) == len(patients)


def test_few_view_positions_are_missing_and_then_the_code_tells(metadata: pd.DataFrame) -> None:
    shares = metadata["ViewPosition"].value_counts(normalize=True, dropna=False)
    assert set(shares.index.dropna()) == {"PA", "AP", "LATERAL", "LL"}
    assert 0 < metadata["ViewPosition"].isna().mean() < 0.1
    assert shares["PA"] + shares["AP"] > 0.6
    meanings = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "LL": "lateral"}
    known = metadata.dropna(subset="ViewPosition")
    assert (known["ViewPosition"].map(meanings) == known["ViewCodeSequence_CodeMeaning"]).all()
    assert metadata["ViewCodeSequence_CodeMeaning"].notna().all()


def test_dates_and_times_are_written_as_in_mimic(metadata: pd.DataFrame) -> None:
    dates = pd.to_datetime(metadata["StudyDate"].astype(str), format="%Y%m%d")
    assert dates.dt.year.between(2100, 2200).all()
    clock = metadata["StudyTime"].astype(int)
    assert (clock // 10_000 < 24).all() and (clock // 100 % 100 < 60).all() and (clock % 100 < 60).all()


def test_labels_take_the_values_of_chexpert(dataset: Path) -> None:
    labels = pd.read_csv(dataset / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert set(np.unique(labels[list(LABELS)].to_numpy())[:3]) == {-1.0, 0.0, 1.0}
    assert set(labels["No Finding"].dropna()) == {1.0}
    normal = labels["No Finding"] == 1
    ill = labels[[label for label in LABELS if label not in ("No Finding", "Support Devices")]]
    assert not (ill[normal] == 1).any(axis=None)


def test_truth_has_a_row_per_image_and_agrees_with_the_labels(dataset: Path, metadata: pd.DataFrame) -> None:
    truth = pd.read_csv(dataset / "phantom-truth.csv")
    assert list(truth["dicom_id"]) == list(metadata["dicom_id"])
    assert set(truth[list(FLAGS)].to_numpy().ravel()) == {0, 1}
    frontal = truth[truth["view"].isin(["PA", "AP"])]
    assert ((frontal["cardiothoracic_ratio"] > 0.5) == (frontal["Cardiomegaly"] == 1)).all()
    labels = pd.read_csv(dataset / "mimic-cxr-2.0.0-chexpert.csv.gz").set_index("study_id").loc[truth["study_id"]]
    for label, sides in (("Pleural Effusion", "Effusion"), ("Pneumothorax", "Pneumothorax")):
        shown = truth[[f"Right {sides}", f"Left {sides}"]].max(axis=1)
        assert ((labels[label] == 1).to_numpy() == (shown == 1).to_numpy()).all()
    assert ((labels["Cardiomegaly"] == 1).to_numpy() == (truth["Cardiomegaly"] == 1).to_numpy()).all()


def test_reports_are_in_the_archive_and_most_have_an_impression(dataset: Path) -> None:
    with zipfile.ZipFile(dataset / "mimic-cxr-reports.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    studies = pd.read_csv(dataset / "cxr-study-list.csv.gz")
    assert sorted(texts) == sorted(studies["path"])
    found = [reports.impression(text) for text in texts.values()]
    assert 0.8 < np.mean([bool(text) for text in found]) < 1
    lengths = np.array([len(text) for text in found if text])
    assert ((lengths >= 7) & (lengths <= 77)).mean() >= 0.75
    assert lengths.max() > 77


@pytest.mark.slow
def test_workers_do_not_change_a_byte(tmp_path: Path) -> None:
    assert digests(draw(tmp_path / "one")) == digests(draw(tmp_path / "two", workers=2))


def test_what_is_drawn_belongs_to_a_version(dataset: Path) -> None:
    """Other words or findings than these are another phantom, and ask for another VERSION."""
    with zipfile.ZipFile(dataset / "mimic-cxr-reports.zip") as archive:
        texts = b"".join(archive.read(name) for name in archive.namelist())
    assert (VERSION, hashlib.sha256(texts).hexdigest()[:16]) == (1, "f773c0e923b5cbe7")


def test_another_seed_draws_other_patients(tmp_path: Path) -> None:
    one, two = digests(draw(tmp_path / "one")), digests(draw(tmp_path / "two", seed=1))
    assert not {name for name in one if name.endswith(".jpg")} & set(two)


def test_the_same_command_again_says_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "raw", studies=2)
    capsys.readouterr()
    draw(tmp_path / "raw", studies=2)
    assert "finished already" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    folder = draw(tmp_path / "raw")
    whole = digests(folder)
    images = sorted(folder.rglob("*.jpg"))
    images[0].unlink()
    images[2].write_bytes(b"")
    (folder / "phantom-truth.csv").unlink()
    kept = images[1].stat().st_mtime_ns
    write_json(folder / SETTINGS_FILE, read_json(folder / SETTINGS_FILE) | {"finished": False})
    assert digests(draw(folder)) | {SETTINGS_FILE: ""} == whole | {SETTINGS_FILE: ""}
    assert images[1].stat().st_mtime_ns == kept  # drawn once


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    draw(tmp_path / "raw", studies=2)
    with pytest.raises(UserError, match=r"studies 2 → 3; .*seed 0 → 5"):
        draw(tmp_path / "raw", studies=3, seed=5)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        draw(tmp_path)
    assert digests(tmp_path).keys() == {"letter.txt"}


@pytest.mark.parametrize(("flag", "value"), [("studies", 0), ("resolution", 8), ("seed", -1), ("workers", -1)])
def test_impossible_settings_are_refused(tmp_path: Path, flag: str, value: int) -> None:
    config = PhantomConfig(output_dir=tmp_path / "raw")
    setattr(config, flag, value)
    with pytest.raises(UserError, match=f"--{flag}"):
        main(config)


def test_masks_may_be_added_and_leave_everything_else_alone(tmp_path: Path) -> None:
    before = digests(draw(tmp_path / "raw"))
    after = digests(draw(tmp_path / "raw", masks=True))
    assert before.items() - after.items() <= {(SETTINGS_FILE, before[SETTINGS_FILE])}
    new = after.keys() - before.keys()
    truth = pd.read_csv(tmp_path / "raw/phantom-truth.csv")
    frontal = truth["dicom_id"][truth["view"].isin(["PA", "AP"])]
    assert new == {f"masks/{part}/{name}.png" for part in ("lungs", "heart", "finding") for name in frontal}
    assert digests(draw(tmp_path / "raw", masks=True)) == after
    again = digests(draw(tmp_path / "again", masks=True))
    assert again.items() - {(SETTINGS_FILE, again[SETTINGS_FILE])} == after.items() - {
        (SETTINGS_FILE, after[SETTINGS_FILE])
    }
