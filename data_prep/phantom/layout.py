"""Files and tables of a phantom dataset in the layout of MIMIC-CXR-JPG 2.1.0: patients, images, reports, metadata."""

import csv
import gzip
import io
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_prep.phantom.anatomy import Anatomy, View
from data_prep.phantom.masks import STRUCTURES, film_masks
from data_prep.phantom.render import render
from data_prep.phantom.reports import report
from data_prep.phantom.sampling import sample_acquisition, sample_build, sample_findings
from data_prep.phantom.truth import truth
from sdcxr.io.files import atomic, write_text
from sdcxr.io.image_files import BadImage
from sdcxr.io.manifest import LABELS
from sdcxr.io.pixels import open_image, write_png

JPEG_QUALITY = 95  # as MIMIC-CXR-JPG
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
    *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition"),
    *("Rows", "Columns", "StudyDate", "StudyTime"),
    *(f"{name}CodeSequence_CodeMeaning" for name in ("Procedure", "View", "PatientOrientation")),
)


class Patient(NamedTuple):
    """A patient to draw: index in the dataset, ids, and split."""

    number: int
    subject_id: int
    study_ids: tuple[int, ...]
    split: str

    def folder(self, study_id: int) -> str:
        """The folder of a study's images; with ".txt" appended, the path of its report."""
        return f"files/p{str(self.subject_id)[:2]}/p{self.subject_id}/s{study_id}"


class Drawn(NamedTuple):
    """The rows and texts that one patient adds to the tables."""

    metadata: list[dict[str, Any]]
    truth: list[dict[str, Any]]
    labels: list[dict[str, Any]]
    reports: list[tuple[str, str]]  # path in the archive, text


def plan_patients(studies: int, seed: int) -> list[Patient]:
    """Patients with ids and 1 to 4 studies each, spread evenly over p10 to p19 and 8:1:1 over the splits."""
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
        # Steps of 3 reach all ten entries of SPLITS within ten patients; `ring` shifts them from folder to folder.
        split = SPLITS[(3 * folder + ring) % 10]
        patients.append(Patient(index, subject_id, tuple(next(study_ids) for _ in range(count)), split))
    return patients


def draw_patient(patient: Patient, output_dir: Path, resolution_px: int, seed: int, masks: bool = False) -> Drawn:
    """Draw the images of a patient, and masks of the frontal ones if asked for, skipping those that exist.

    Returns the rows of the tables.
    """
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
            pixels_seed = rng.integers(2**62)
            pixels_rng = np.random.default_rng(pixels_seed)
            rows, columns = _draw_image(anatomy, resolution_px, pixels_rng, output_dir / folder / f"{dicom_id}.jpg")
            if masks and anatomy.acquisition.frontal:
                _draw_masks(anatomy, resolution_px, np.random.default_rng(pixels_seed), output_dir, dicom_id)
            position = "" if rng.random() < 0.03 else view  # missing in 4 % of the images of MIMIC-CXR
            shown = {"ViewPosition": position, "ViewCodeSequence_CodeMeaning": VIEW_MEANING[view]}
            image = {"dicom_id": dicom_id, "path": f"{folder}/{dicom_id}.dcm", "Rows": rows, "Columns": columns}
            drawn.metadata.append({**study, **image, **shown})
            drawn.truth.append({"dicom_id": dicom_id, **ids, "view": view, **truth(anatomy)})
    return drawn


def _draw_image(anatomy: Anatomy, resolution_px: int, rng: np.random.Generator, path: Path) -> tuple[int, int]:
    """Write one JPEG unless it exists; return its height and width."""
    with suppress(BadImage), open_image(path) as image:  # missing or damaged
        return image.height, image.width
    pixels = render(anatomy, resolution_px, rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="JPEG", quality=JPEG_QUALITY)
    return pixels.shape[0], pixels.shape[1]


def _draw_masks(
    anatomy: Anatomy, resolution_px: int, rng: np.random.Generator, output_dir: Path, dicom_id: str
) -> None:
    """Write masks/STRUCTURE/DICOM_ID.png of each structure, unless all exist."""
    paths = {name: output_dir / "masks" / name / f"{dicom_id}.png" for name in STRUCTURES}
    if all(path.is_file() for path in paths.values()):
        return
    for name, mask in film_masks(anatomy, resolution_px, rng).items():
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        write_png(paths[name], mask)


def _study_columns(views: tuple[View, ...], day: int, rng: np.random.Generator) -> dict[str, Any]:
    """Metadata that all images of a study have in common."""
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


def write_tables(output_dir: Path, drawn: Sequence[Drawn], seed: int) -> int:
    """Write the tables and the archive of reports; return the number of images."""
    study_columns = ("subject_id", "study_id")
    by_study = itemgetter(*study_columns)
    metadata = sorted((row for one in drawn for row in one.metadata), key=by_study)
    labels = sorted((row for one in drawn for row in one.labels), key=by_study)
    answers = sorted((row for one in drawn for row in one.truth), key=by_study)
    tested = [row for row in labels if row["split"] == "test"]
    # NegBio labels the same reports and misses a mention now and then.
    rng = np.random.default_rng([seed, 2])
    negbio = [{key: value for key, value in row.items() if key not in LABELS or rng.random() > 0.02} for row in labels]
    # No code here reads negbio, test-set-labeled, the two lists and IMAGE_FILENAMES. They are part of the published
    # layout, so that other people's code for MIMIC-CXR-JPG can be tried on phantoms.
    _write_csv(output_dir / "mimic-cxr-2.0.0-metadata.csv.gz", METADATA_COLUMNS, metadata)
    _write_csv(output_dir / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), metadata)
    _write_csv(output_dir / "mimic-cxr-2.0.0-chexpert.csv.gz", (*study_columns, *LABELS), labels)
    _write_csv(output_dir / "mimic-cxr-2.0.0-negbio.csv.gz", (*study_columns, *LABELS), negbio)
    _write_csv(output_dir / "mimic-cxr-2.1.0-test-set-labeled.csv", ("study_id", *LABELS), tested)
    _write_csv(output_dir / "cxr-record-list.csv.gz", (*study_columns, "dicom_id", "path"), metadata)
    _write_csv(output_dir / "cxr-study-list.csv.gz", (*study_columns, "path"), labels)
    _write_csv(output_dir / "phantom-truth.csv", tuple(answers[0]), answers)
    write_text(output_dir / "IMAGE_FILENAMES", "".join(row["path"].replace(".dcm", ".jpg\n") for row in metadata))
    with atomic(output_dir / "mimic-cxr-reports.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, text in sorted(text for one in drawn for text in one.reports):
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(member, text, compress_type=zipfile.ZIP_DEFLATED)
    return len(metadata)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write a table atomically, missing values empty; gzip without a time stamp, so that the bytes are reproducible."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
