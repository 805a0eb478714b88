"""Writer of dataset folders: converts, rejects, resumes, refuses, and accounts for everything."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep import writer
from data_prep.cohort import Cohort
from data_prep.sources import input_states
from data_prep.writer import check_settings, is_finished, recorded_settings, write_dataset
from sdcxr.io.files import read_json
from sdcxr.io.manifest import COLUMNS, read_metadata
from sdcxr.runtime.errors import UserError
from tests.data_prep.folders import files_of


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (30, 20), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return sorted(folder.iterdir())


def table(sources: list[Path]) -> pd.DataFrame:
    """Twenty images: 0–13 train, 14–16 validation, 17–19 test; two images to a study."""
    n = len(sources)
    ids = [path.stem for path in sources]
    splits = ["train"] * 14 + ["validation"] * 3 + ["test"] * 3
    return pd.DataFrame(
        {
            "dicom_id": [f"d{name}" for name in ids],
            "study_id": [f"s{number // 2}" for number in range(n)],
            "subject_id": [f"{split}-{number // 2}" for number, split in enumerate(splits)],
            "text": 'Commas, and "quotes".',
            "view": "PA",
            "split": splits,
            "source": [str(path) for path in sources],
            "Edema": [1.0, None] * (n // 2),
        }
    )


@dataclass
class Config:
    output_dir: Path
    resolution: int = 16
    square: str = "crop"
    verify_checksums: bool = False
    workers: int = 1
    max_rejected_fraction: float = 0.05
    duplicates: str = "keep"
    image_type: str = "radiograph"
    masks: Path | None = None


SETTINGS = {"source": "test", "resolution": 16}
INPUTS = input_states(Path("/nowhere"))


def write(output: Path, rows: pd.DataFrame | Cohort, **changes) -> int:
    settings = changes.pop("settings", SETTINGS)
    if is_finished(output, settings, INPUTS):
        return 0
    cohort = rows if isinstance(rows, Cohort) else Cohort(rows, "all images")
    return write_dataset(Config(output_dir=output, **changes), settings, cohort, INPUTS)


def filtered(rows: pd.DataFrame, n: int) -> Cohort:
    """The first `n` rows; a filter has dropped the others."""
    cohort = Cohort(rows, "all images")
    cohort.apply("view", pd.Series([""] * n + ["view not wanted"] * (len(rows) - n)))
    return cohort


def rejected_of(output: Path) -> pd.DataFrame:
    return pd.read_csv(output / "rejected.csv", dtype=str, keep_default_na=False)


def test_writes_images_tables_and_the_account(sources, tmp_path, capsys):
    cohort = Cohort(table(sources), "all images")
    cohort.reject(pd.DataFrame({"study_id": ["s77"]}), "no report", "nowhere")
    assert write(tmp_path / "out", cohort) == 0
    for split, n in {"train": 14, "validation": 3, "test": 3}.items():
        rows = read_metadata(tmp_path / "out" / split)
        assert tuple(rows.columns) == COLUMNS
        assert rows["dicom_id"].tolist() == sorted(rows["dicom_id"])
        assert set(rows["text"]) == {'Commas, and "quotes".'}
        assert len(rows) == n
        for name in rows["file_name"]:
            with Image.open(tmp_path / "out" / split / name) as image:
                assert (image.mode, image.size) == ("L", (16, 16))
    assert rejected_of(tmp_path / "out").to_numpy().tolist() == [["", "s77", "", "no report", "nowhere"]]
    prep = read_json(tmp_path / "out" / "prep.json")
    assert prep["usable"] and not prep["phantom"]
    assert prep["settings"] == SETTINGS
    assert set(prep["versions"]) == {"sdcxr", "python", "pillow", "pandas"}
    assert prep["counts"][-1] == {"filter": "readable image", "images": 20, "studies": 10}
    assert prep["splits"] == {"train": 14, "validation": 3, "test": 3}
    assert prep["rejected"] == {"no report": 1}
    printed = capsys.readouterr().out
    assert "readable image" in printed
    assert "train: 14 images of 7 patients, 7 with labels" in printed


@pytest.mark.parametrize(("place", "phantom"), [("files", True), ("mimic-cxr-jpg/files", False)])
def test_phantoms_are_marked_and_nobody_else_who_lies_in_their_folder(sources, tmp_path, place, phantom):
    image = tmp_path / "raw" / place / "p10" / "p10000032" / "s50414267" / "x.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(sources[0].read_bytes())
    (tmp_path / "raw" / "phantom.json").write_text("{}")
    write(tmp_path / "out", table(sources).assign(source=str(image)))
    assert read_json(tmp_path / "out" / "prep.json")["phantom"] == phantom


def test_the_order_of_rows_and_the_number_of_workers_do_not_matter(sources, tmp_path):
    rows = table(sources)
    write(tmp_path / "a", rows)
    write(tmp_path / "b", rows.sample(frac=1, random_state=0), workers=2)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_what_cannot_be_used_is_rejected_and_the_rest_goes_on(sources, tmp_path):
    rows = table(sources)
    (tmp_path / "flat.png").write_bytes(b"")
    rows.loc[3, "source"] = str(tmp_path / "flat.png")
    rows.loc[4, "source"] = str(tmp_path / "gone.png")
    rows.loc[6, "dicom_id"] = "../escape"
    rows.loc[9, "dicom_id"] = "d08"
    assert write(tmp_path / "out", rows, max_rejected_fraction=0.2) == 0
    rejected = rejected_of(tmp_path / "out").set_index("dicom_id")["reason"].to_dict()
    assert rejected == {
        "d03": "empty file",
        "d04": "missing image",
        "../escape": "name with a blank or other characters than A–Z, a–z, 0–9, '.', '_', '-'",
        "d08": "duplicate dicom_id",
    }
    train = read_metadata(tmp_path / "out" / "train")
    assert len(train) == 10
    assert train.set_index("dicom_id").loc["d08", "study_id"] == "s4"
    assert len(list((tmp_path / "out" / "train").glob("*.png"))) == 10


@pytest.mark.parametrize(("n_bad", "code"), [(1, 0), (2, 1)])
def test_too_many_bad_images_make_the_result_unusable(sources, tmp_path, capsys, n_bad, code):
    rows = table(sources)
    rows.loc[: n_bad - 1, "source"] = str(tmp_path / "gone.png")  # of twenty: 5 % is allowed, 10 % is not
    assert write(tmp_path / "out", rows) == code
    assert len(read_metadata(tmp_path / "out" / "train")) == 14 - n_bad
    assert read_json(tmp_path / "out" / "prep.json")["usable"] == (code == 0)
    assert ("2 of 20 images cannot be used" in capsys.readouterr().err) == (code == 1)


def test_an_unusable_result_is_mended_by_running_again(sources, tmp_path):
    rows = table(sources)
    gone = rows.assign(source=[str(tmp_path / "gone.png")] * 10 + rows["source"].tolist()[10:])
    assert write(tmp_path / "out", gone) == 1
    assert write(tmp_path / "out", rows) == 0
    write(tmp_path / "fresh", rows)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


def test_filters_may_reject_any_number(sources, tmp_path):
    assert write(tmp_path / "out", filtered(table(sources), 2)) == 0


def test_what_is_no_longer_wanted_goes(sources, tmp_path):
    rows = table(sources)
    bad = rows.assign(source=[str(tmp_path / "gone.png")] * 2 + rows["source"].tolist()[2:])
    write(tmp_path / "out", bad)
    (tmp_path / "out" / "train" / ".d00.png.99.tmp").write_bytes(b"half")
    write(tmp_path / "out", rows.iloc[:5])
    write(tmp_path / "fresh", rows.iloc[:5])
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")
    assert not (tmp_path / "out" / "test").exists()


def test_nothing_left_is_an_error_that_points_to_the_reasons(sources, tmp_path):
    rows = table(sources)
    with pytest.raises(UserError, match=r"no image is left after the filters.*rejected\.csv"):
        write(tmp_path / "filtered", filtered(rows, 0))
    assert len(rejected_of(tmp_path / "filtered")) == 20
    with pytest.raises(UserError, match=r"none of the 20 images.*rejected\.csv"):
        write(tmp_path / "bad", rows.assign(source="/nowhere.png"))
    assert len(rejected_of(tmp_path / "bad")) == 20


def test_a_patient_in_two_splits_is_refused_before_anything_is_written(sources, tmp_path):
    rows = table(sources).assign(subject_id="p1")
    with pytest.raises(UserError, match=r"1 patients are in more than one split \(the first: p1\)"):
        write(tmp_path / "out", rows)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------------
# The folder's state


def test_a_finished_folder_is_left_alone(sources, tmp_path, capsys):
    assert not is_finished(tmp_path / "out", SETTINGS, INPUTS)
    write(tmp_path / "out", table(sources))
    before = files_of(tmp_path / "out")
    assert is_finished(tmp_path / "out", SETTINGS, INPUTS)
    assert write(tmp_path / "out", table(sources).head(3)) == 0
    assert "is finished" in capsys.readouterr().out
    assert files_of(tmp_path / "out") == before


def test_other_settings_are_refused_and_listed(sources, tmp_path):
    write(tmp_path / "out", table(sources))
    other = SETTINGS | {"resolution": 32, "views": "PA"}
    message = r"other settings \(resolution 16 → 32; views None → PA\): use another --output_dir"
    with pytest.raises(UserError, match=message):
        write(tmp_path / "out", table(sources), settings=other)


@pytest.mark.parametrize("content", ["{}", "[]", '{"settings": 3}', "no json"])
def test_a_foreign_folder_is_refused(tmp_path, content):
    (tmp_path / "prep.json").write_text(content)
    with pytest.raises(UserError, match=r"prep\.json"):
        is_finished(tmp_path, SETTINGS, INPUTS)


def test_a_folder_with_other_files_and_a_file_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(UserError, match="has other files"):
        is_finished(tmp_path, SETTINGS, INPUTS)
    with pytest.raises(UserError, match="is a file"):
        is_finished(tmp_path / "thesis.txt", SETTINGS, INPUTS)


def test_recorded_settings_are_what_decides_the_content(tmp_path, monkeypatch):
    @dataclass
    class Source(Config):
        images: Path = Path("raw")
        views: tuple[str, ...] = ("PA", "AP")

    monkeypatch.chdir(tmp_path)
    settings = recorded_settings(Source(Path("out"), workers=4), "openi")
    kept = {"verify_checksums": False, "duplicates": "keep"}
    kept |= {"image_type": "radiograph"}
    expected = {"source": "openi", "resolution": 16, "square": "crop"} | kept  # paths tell where, not what
    assert settings == expected | {"views": ["PA", "AP"]}
    assert json.loads(json.dumps(settings)) == settings  # compared after a round trip


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"resolution": 0}, "--resolution 0: expected 1 or more"),
        ({"max_rejected_fraction": 1.5}, "--max_rejected_fraction 1.5: expected 0 to 1"),
        ({"min_chars": 9, "max_chars": 8}, "--min_chars 9 is more than --max_chars 8"),
        ({"validation_fraction": 1.0}, "--validation_fraction 1: expected 0 or more and less than 1"),
        (
            {"validation_fraction": 0.5, "test_fraction": 0.5},
            "--validation_fraction 0.5 and --test_fraction 0.5: expected 0 or more each and less than 1 together",
        ),
    ],
)
def test_numbers_out_of_range_are_refused_with_their_flag(numbers, message):
    config = Config(Path("out"))
    vars(config).update(numbers)
    with pytest.raises(UserError) as refused:
        check_settings(config)
    assert str(refused.value) == message


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = Config(Path("~/out"))
    check_settings(config)
    assert config.output_dir == tmp_path / "out"


# ---------------------------------------------------------------------------------------------------------------------
# Trouble from outside


def test_a_full_disk_is_no_rejection(sources, tmp_path, monkeypatch):
    def full_disk(*args: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "train/d00.png")

    monkeypatch.setattr(writer, "convert", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "out", table(sources))
    assert not (tmp_path / "out" / "rejected.csv").exists()


def test_a_worker_that_cannot_write_stops_the_run_with_its_error(sources, tmp_path):
    rows = table(sources)
    rows.loc[5, "dicom_id"] = "d" * 300  # no file system takes such a name
    with pytest.raises(OSError, match="ddd") as caught:
        write(tmp_path / "out", rows, workers=2)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert not (tmp_path / "out" / "rejected.csv").exists()


PROGRAM = """
import sys
from pathlib import Path
import pandas as pd
from data_prep.cohort import Cohort
from data_prep.writer import write_dataset
from sdcxr.runtime.cli import run
from dataclasses import dataclass

@dataclass
class Config:
    \"\"\"Test.\"\"\"

    workers: int
    output_dir: Path = Path("out")
    resolution: int = 256
    square: str = "crop"
    max_rejected_fraction: float = 0.05
    duplicates: str = "keep"
    verify_checksums: bool = False
    image_type: str = "radiograph"
    masks: Path | None = None

def main(config: Config) -> int:
    rows = pd.read_csv("rows.csv", dtype=str)
    return write_dataset(config, {}, Cohort(rows, "all images"), {"images": {"path": "/", "names": ""}})

if __name__ == "__main__":
    run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_at_once_with_one_line(tmp_path, workers):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (1000, 1000), dtype=np.uint8)).save(tmp_path / "x.png")
    ids = [f"d{number}" for number in range(400)]
    rows = pd.DataFrame({"dicom_id": ids, "study_id": ids, "subject_id": ids, "text": "t", "split": "train"})
    rows.assign(source=str(tmp_path / "x.png")).to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", "--workers", workers]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/train/*.png")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: parent and workers
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted: run the same command again" in err
    assert "Traceback" not in err
    assert len(list(tmp_path.glob("out/train/*.png"))) < 400
    assert not list(tmp_path.glob("out/train/.*"))


def test_captions_beyond_the_tokens_of_clip_are_counted(sources, tmp_path, capsys):
    rows = table(sources)
    rows.loc[:1, "text"] = "Effusion. " * 60
    assert write(tmp_path / "out", rows) == 0
    assert "captions: 2 of 20 (10.0%) have more than 77 tokens of CLIP" in capsys.readouterr().out
    assert read_json(tmp_path / "out" / "prep.json")["captions"] == {"cut": 2, "of": 20, "tokens": 77}
    assert write(tmp_path / "short", table(sources)) == 0
    assert "CLIP" not in capsys.readouterr().out
    assert read_json(tmp_path / "short" / "prep.json")["captions"]["cut"] == 0
