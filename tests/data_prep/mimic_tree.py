"""A tree of MIMIC-CXR-JPG, or of MIMIC-CXR, whose studies are told in groups."""

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from data_prep.mimic_cxr import MimicCxrConfig
from sdcxr.io.manifest import LABELS
from tests.data_prep.dicoms import dicom_bytes

CHARS_7, CHARS_77 = "No new.", "x" * 76 + "."
CAP = 25  # of studies with No Finding, where a test asks for no other


@dataclass
class Group:
    """`n` studies alike: what they consist of and what becomes of them."""

    n: int
    outcome: str  # a split, or the reason in rejected.csv
    report: str | None = f" FINDINGS: Long.\n \n IMPRESSION: {CHARS_77}\n"
    view: str = "PA"
    code: str = ""
    procedure: str = "CHEST (PA AND LAT)"
    folder: int = 10  # p10, p11, …
    no_finding: str = ""
    labelled: bool = True
    image: str = "whole"  # or "missing" or "cut off"


def report_of(impression: str) -> str:
    return f"                  FINAL REPORT\n FINDINGS: Long.\n \n IMPRESSION: {impression}\n"


def image_bytes(number: int, as_dicom: bool, size: tuple[int, int] = (30, 24)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
    if as_dicom:
        return dicom_bytes(pixels.astype(np.uint16) * 16)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@dataclass
class Tree:
    images: Path
    reports: Path
    metadata: list[dict] = field(default_factory=list)
    labels: list[dict] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # path below files/ of every report
    outcome: dict[str, str] = field(default_factory=dict)  # by dicom_id

    def add(self, group: Group, as_dicom: bool, **more: str) -> None:
        number = len(self.outcome)
        subject, study = f"{group.folder}{number:06d}", f"5{number:07d}"
        dicom_id = f"{number:08x}-11111111-22222222-33333333-44444444"
        row = {"subject_id": subject, "study_id": study, "dicom_id": dicom_id, "ViewPosition": group.view}
        row |= {
            "ViewCodeSequence_CodeMeaning": group.code,
            "PerformedProcedureStepDescription": group.procedure,
            "StudyTime": "80556.875",
        }
        self.metadata.append(row | more)
        self.outcome[dicom_id] = group.outcome
        if group.labelled:
            self.labels.append(
                {"subject_id": subject, "study_id": study, "No Finding": group.no_finding, "Edema": "-1.0"}
            )
        place = f"p{group.folder}/p{subject}/s{study}"
        if group.report is not None:
            self.texts[f"{place}.txt"] = group.report
        folder = self.images / "files" / place
        folder.mkdir(parents=True)
        whole = image_bytes(number, as_dicom)
        cut = whole[: len(whole) // 2 if not as_dicom else 500]
        if group.image != "missing":
            suffix = ".dcm" if as_dicom else ".jpg"
            (folder / f"{dicom_id}{suffix}").write_bytes(whole if group.image == "whole" else cut)

    def add_side_view(self, number: int) -> None:
        """A lateral image of an earlier study."""
        row = self.metadata[number] | {"dicom_id": f"{number:08x}-side", "ViewPosition": "LATERAL"}
        self.metadata.append(row)

    def write_tables(self, suffix: str) -> None:
        metadata = pd.DataFrame(self.metadata)
        labels = pd.DataFrame(self.labels).reindex(columns=["subject_id", "study_id", *LABELS])
        split = metadata[["dicom_id", "study_id", "subject_id"]].assign(split="train")
        last = metadata["subject_id"].str[-1]
        split.loc[last == "1", "split"] = "validate"
        split.loc[last == "2", "split"] = "test"
        for name, table in {"metadata": metadata, "chexpert": labels, "split": split}.items():
            table.to_csv(self.images / f"mimic-cxr-2.0.0-{name}{suffix}", index=False)

    def write_reports(self, layout: str) -> None:
        if layout.startswith("zip"):
            prefix = "mimic-cxr-reports/files/" if layout == "zip with a folder" else "files/"
            with zipfile.ZipFile(self.reports, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(prefix + "README.txt", "IMPRESSION: none of ours.")
                archive.writestr(prefix + "p10/p10999999/s50000000.txt", "IMPRESSION: another patient's.")
                for place, text in self.texts.items():
                    archive.writestr(prefix + place, text)
            return
        for place, text in self.texts.items():
            path = self.reports / "mimic-cxr-reports" / "files" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def build(folder: Path, groups: list[Group], layout: str = "zip", suffix: str = ".csv", as_dicom: bool = False) -> Tree:
    tree = Tree(folder / "mimic-cxr-jpg", folder / ("reports.zip" if layout.startswith("zip") else "reports"))
    for group in groups:
        for _ in range(group.n):
            tree.add(group, as_dicom)
    tree.write_tables(suffix)
    tree.write_reports(layout)
    return tree


def config_of(tree: Tree, output_dir: Path, **changes) -> MimicCxrConfig:
    defaults = {"validation_fraction": 0.0, "resolution": 16, "workers": 1, "max_no_finding": CAP}
    return MimicCxrConfig(tree.images, tree.reports, output_dir=output_dir, **(defaults | changes))
