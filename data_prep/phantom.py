"""Draw a chest phantom dataset: radiographs and reports in the layout of MIMIC-CXR-JPG 2.1.0, free of any patient.

    python -m data_prep.phantom --output_dir phantom
    python -m data_prep.phantom --output_dir phantom --studies 200 --resolution 128 --seed 1
    python -m data_prep.mimic_cxr --images phantom --reports phantom/mimic-cxr-reports.zip --output_dir dataset

The same settings give the same bytes, whatever the number of workers. The same command again resumes.
phantom-truth.csv says what each picture shows, measured.
"""

import csv
import gzip
import io
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.dataset import progress
from data_prep.phantom_anatomy import Anatomy, View
from data_prep.phantom_render import render
from data_prep.phantom_reports import report
from data_prep.phantom_sample import sample_acquisition, sample_build, sample_findings
from data_prep.phantom_truth import truth
from data_prep.workers import in_workers
from sdcxr.cli import run
from sdcxr.errors import UserError
from sdcxr.files import atomic, check_same_settings, read_json, write_json, write_text
from sdcxr.manifest import LABELS

VERSION = 1  # of the phantom: raised when the same settings come to give other bytes
SETTINGS_FILE = "phantom.json"
JPEG_QUALITY = 95  # as MIMIC-CXR-JPG
LIMITS = (("studies", 1, 500_000), ("resolution", 32, 4096), ("seed", 0, 2**63 - 1), ("workers", 0, 4096))
SPLITS = ("train",) * 8 + ("validate", "test")
VIEWS: tuple[tuple[tuple[View, ...], float], ...] = (
    (("PA", "LATERAL"), 0.26),
    (("PA", "LL"), 0.08),
    (("PA",), 0.30),
    (("AP",), 0.32),
    (("AP", "AP"), 0.04),
)
VIEW_MEANING = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "LL": "lateral"}
METADATA_COLUMNS = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)


@dataclass
class PhantomConfig:
    """What to draw, and where to."""

    output_dir: Path
    """folder to write the dataset to"""
    studies: int = 2000
    """number of studies; there are about 1.4 images in each"""
    resolution: int = 256
    """shorter side of the images in pixels"""
    seed: int = 0
    """another seed draws other patients"""
    workers: int = 0
    """processes that draw; 0: one per core"""


class Patient(NamedTuple):
    """A patient to draw: its place in the dataset, and the numbers it goes by."""

    number: int
    subject_id: int
    study_ids: tuple[int, ...]
    split: str

    def folder(self, study_id: int) -> str:
        """Where a study's images lie; with ".txt", where its report lies."""
        return f"files/p{str(self.subject_id)[:2]}/p{self.subject_id}/s{study_id}"


class Drawn(NamedTuple):
    """The rows and texts that one patient adds to the tables."""

    metadata: list[dict[str, Any]]
    truth: list[dict[str, Any]]
    labels: list[dict[str, Any]]
    reports: list[tuple[str, str]]  # path in the archive, text


def main(config: PhantomConfig) -> None:
    """Write the dataset, or say that it is there."""
    for flag, least, most in LIMITS:
        value = getattr(config, flag)
        if not least <= value <= most:
            raise UserError(f"--{flag} {value}: it must lie between {least} and {most}")
    output_dir = Path(config.output_dir).expanduser()
    settings = {"studies": config.studies, "resolution": config.resolution, "seed": config.seed, "version": VERSION}
    if _finished(output_dir, settings):
        print(f"{output_dir}: finished already ({config.studies} studies)")
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / SETTINGS_FILE, {"settings": settings, "finished": False})
    patients = plan(config.studies, config.seed)
    drawn = _draw_all(patients, output_dir, config)
    images = _write_tables(output_dir, drawn, config.seed)
    write_json(output_dir / SETTINGS_FILE, {"settings": settings, "finished": True, "images": images})
    print(f"{output_dir}: {images} images of {config.studies} studies of {len(patients)} patients")


def _finished(output_dir: Path, settings: dict[str, int]) -> bool:
    """Whether the folder holds just this dataset, finished; one begun with the same settings is gone on with."""
    if not (output_dir / SETTINGS_FILE).is_file():
        if output_dir.exists() and (
            not output_dir.is_dir() or any(not path.name.startswith(".") for path in output_dir.iterdir())
        ):
            raise UserError(f"--output_dir {output_dir} is not empty and holds no phantom dataset: name another folder")
        return False
    state = read_json(output_dir / SETTINGS_FILE)
    if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
        raise UserError(f"{output_dir / SETTINGS_FILE} was not written by data_prep.phantom: name another folder")
    check_same_settings(output_dir, state["settings"], settings)
    return bool(state.get("finished"))


def plan(studies: int, seed: int) -> list[Patient]:
    """The patients and their numbers: 1 to 4 studies each, spread over p10 to p19 and, 8:1:1, over the splits."""
    rng = np.random.default_rng([seed, 0])
    counts: list[int] = []
    while sum(counts) < studies:
        counts.append(int(rng.choice([1, 2, 3, 4], p=[0.5, 0.27, 0.15, 0.08])))
    counts[-1] -= sum(counts) - studies
    tails = rng.choice(1_000_000, len(counts), replace=False)
    study_ids = iter((50_000_000 + rng.choice(10_000_000, studies, replace=False)).tolist())
    patients = []
    for index, count in enumerate(counts):
        folder, ring = index % 10, index // 10
        subject_id = (10 + folder) * 1_000_000 + int(tails[index])
        # A step of 3 visits all ten places of SPLITS within ten patients; the ring moves them on through the folders.
        split = SPLITS[(3 * folder + ring) % 10]
        patients.append(Patient(index, subject_id, tuple(next(study_ids) for _ in range(count)), split))
    return patients


def draw_patient(patient: Patient, output_dir: Path, resolution_px: int, seed: int) -> Drawn:
    """Draw one patient's images, skipping those that are there, and return the rows for the tables."""
    rng = np.random.default_rng([seed, 1, patient.number])
    build = sample_build(rng)
    drawn = Drawn([], [], [], [])
    day = int(rng.integers(0, 80 * 365))
    for study_id in patient.study_ids:
        findings = sample_findings(rng)
        views = VIEWS[int(rng.choice(len(VIEWS), p=[share for _, share in VIEWS]))][0]
        day += int(rng.integers(1, 400))
        ids = {"subject_id": patient.subject_id, "study_id": study_id}
        study = {**ids, "split": patient.split, **_study_columns(views, day, rng)}
        folder = patient.folder(study_id)
        wording = report(findings, rng, views[0])
        drawn.reports.append((f"{folder}.txt", wording.text))
        drawn.labels.append({**ids, "split": patient.split, "path": f"{folder}.txt", **wording.labels})
        for view in views:
            dicom_id = "-".join(f"{part:08x}" for part in rng.integers(0, 2**32, 5))
            anatomy = Anatomy(build, findings, sample_acquisition(rng, view))
            pixels_rng = np.random.default_rng(rng.integers(2**62))
            rows, columns = _draw_image(anatomy, resolution_px, pixels_rng, output_dir / folder / f"{dicom_id}.jpg")
            image = {"dicom_id": dicom_id, "path": f"{folder}/{dicom_id}.dcm", "Rows": rows, "Columns": columns}
            drawn.metadata.append({**study, **image, **_view_columns(view, rng)})
            drawn.truth.append({"dicom_id": dicom_id, **ids, "view": view, **truth(anatomy)})
    return drawn


def _draw_image(anatomy: Anatomy, resolution_px: int, rng: np.random.Generator, path: Path) -> tuple[int, int]:
    """Write one JPEG unless it is there; its height and width."""
    from PIL import Image

    with suppress(OSError), Image.open(path) as image:  # OSError: it is not there, or damaged
        return image.height, image.width
    pixels = render(anatomy, resolution_px, rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="JPEG", quality=JPEG_QUALITY)
    return pixels.shape[0], pixels.shape[1]


def _study_columns(views: tuple[View, ...], day: int, rng: np.random.Generator) -> dict[str, Any]:
    """The metadata that the images of a study share."""
    bedside = views[0] == "AP"
    procedure = "CHEST (PORTABLE AP)" if bedside else "CHEST (PA AND LAT)"
    seconds = int(rng.integers(0, 86_400))
    clock = seconds // 3600 * 10_000 + seconds // 60 % 60 * 100 + seconds % 60 + int(rng.integers(1000)) / 1000
    orientation = "Recumbent" if bedside and rng.random() < 0.25 else "Erect"
    return {
        "PerformedProcedureStepDescription": procedure,
        "StudyDate": str(np.datetime64("2105-01-01") + day).replace("-", ""),
        "StudyTime": f"{clock:.3f}".rstrip("0").rstrip(".") if clock % 1 else f"{clock:.1f}",
        "ProcedureCodeSequence_CodeMeaning": procedure,
        "PatientOrientationCodeSequence_CodeMeaning": orientation if rng.random() < 0.9 else "",
    }


def _view_columns(view: View, rng: np.random.Generator) -> dict[str, Any]:
    """The view position, missing in 3 % of images as it is in 4 % of MIMIC-CXR's, and its code's meaning."""
    missing = rng.random() < 0.03
    return {"ViewPosition": "" if missing else view, "ViewCodeSequence_CodeMeaning": VIEW_MEANING[view]}


def _draw_all(patients: Sequence[Patient], output_dir: Path, config: PhantomConfig) -> list[Drawn]:
    """Draw all patients in parallel; the results come in the patients' order."""
    draw = partial(draw_patient, output_dir=output_dir, resolution_px=config.resolution, seed=config.seed)
    drawn = []
    with progress(config.studies, "phantom", "study") as bar:
        for one in in_workers(draw, patients, workers=config.workers, chunksize=4):
            drawn.append(one)
            bar.update(len(one.labels))
    return drawn


def _by_study(row: dict[str, Any]) -> tuple[int, int]:
    return row["subject_id"], row["study_id"]


def _write_tables(output_dir: Path, drawn: Sequence[Drawn], seed: int) -> int:
    """Write the tables and the reports' archive; the number of images."""
    metadata = sorted((row for one in drawn for row in one.metadata), key=_by_study)
    labels = sorted((row for one in drawn for row in one.labels), key=_by_study)
    tested = [row for row in labels if row["split"] == "test"]
    # NegBio reads the same reports and overlooks a mention now and then.
    rng = np.random.default_rng([seed, 2])
    negbio = [
        {name: value for name, value in row.items() if name not in LABELS or rng.random() > 0.02} for row in labels
    ]
    study_columns = ("subject_id", "study_id")
    _write_csv(output_dir / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA_COLUMNS, metadata)
    _write_csv(output_dir / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), metadata)
    _write_csv(output_dir / "mimic-cxr-2.0.0-chexpert.csv.gz", (*study_columns, *LABELS), labels)
    _write_csv(output_dir / "mimic-cxr-2.0.0-negbio.csv.gz", (*study_columns, *LABELS), negbio)
    _write_csv(output_dir / "mimic-cxr-2.1.0-test-set-labeled.csv", ("study_id", *LABELS), tested)
    _write_csv(output_dir / "cxr-record-list.csv.gz", (*study_columns, "dicom_id", "path"), metadata)
    _write_csv(output_dir / "cxr-study-list.csv.gz", (*study_columns, "path"), labels)
    answers = sorted((row for one in drawn for row in one.truth), key=_by_study)
    _write_csv(output_dir / "phantom-truth.csv", tuple(answers[0]), answers)
    write_text(output_dir / "IMAGE_FILENAMES", "".join(row["path"].replace(".dcm", ".jpg\n") for row in metadata))
    with atomic(output_dir / "mimic-cxr-reports.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, text in sorted(text for one in drawn for text in one.reports):
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(member, text, compress_type=zipfile.ZIP_DEFLATED)
    return len(metadata)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a table atomically, what is missing as nothing; gzip without a time stamp, so that bytes repeat."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


if __name__ == "__main__":
    run(main)
