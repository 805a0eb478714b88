"""Reports of the Indiana University collection (Open-i): XML files in a folder or tar archive, or Kaggle's CSV tables.

The collection: Demner-Fushman et al., JAMIA 2016;23(2):304-310. On Kaggle: raddar/chest-xrays-indiana-university.
"""

import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from data_prep.raw_tables import OTHER_TABLE, read_table
from data_prep.report_text import decode
from sdcxr.io.ids import print_join, read_ids
from sdcxr.runtime.errors import UserError

KAGGLE_REPORTS = "indiana_reports.csv"
KAGGLE_PROJECTIONS = "indiana_projections.csv"
_EXPECTED = "give the unpacked ecgen-radiology folder, NLMCXR_reports.tgz, or the folder of Kaggle's CSV tables"
MAX_REPORT_BYTES = 4 << 20  # the largest report of the collection has about 20 kB

# CheXpert label to the MeSH headings that imply it without doubt, some only with a qualifier (nodule/lung). Headings
# such as Deformity, Density or Pulmonary Congestion fit several labels or none and are left out.
MESH_LABELS: dict[str, set[str]] = {
    "No Finding": {"normal"},
    "Atelectasis": {"pulmonary atelectasis"},
    "Cardiomegaly": {"cardiomegaly", "cardiac shadow/enlarged"},
    "Consolidation": {"consolidation"},
    "Edema": {"pulmonary edema"},
    "Fracture": {"fractures, bone"},
    "Lung Lesion": {"nodule/lung", "mass/lung"},
    "Lung Opacity": {"opacity/lung", "infiltrate", "airspace disease"},
    "Pleural Effusion": {"pleural effusion", "hemothorax", "hydropneumothorax", "hemopneumothorax"},
    "Pleural Other": {"thickening/pleura"},
    "Pneumonia": {"pneumonia"},
    "Pneumothorax": {"pneumothorax", "hydropneumothorax", "hemopneumothorax"},
    "Support Devices": {"catheters, indwelling", "implanted medical device", "medical device", "tube, inserted"},
}


class BadReport(ValueError):
    """A report that cannot be used. The message is the reason and never quotes the report."""


@dataclass(frozen=True)
class Report:
    """One report: `uid` such as "CXR1", sections by lower-case name, major MeSH terms, image stems in figure order.

    `figures` has the figure number of each image, 1 for F1, 0 if it has none.
    """

    uid: str
    sections: dict[str, str] = field(default_factory=dict)
    majors: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    figures: tuple[int, ...] = ()


def parse_report(data: bytes) -> Report:
    """Parse one XML report.

    MeSH and parentImage may be at any depth, which differs between distributions of the collection.

    Raises:
        BadReport: not XML, with a document type declaration, or without an id.
    """
    root = _parse_xml(data)
    uid = next((_collapse(element.get("id")) for element in root.iter("uId")), "")
    if not uid:
        raise BadReport("report without an id")
    texts: dict[str, list[str]] = {}
    for element in root.iter("AbstractText"):
        if text := section_text("".join(element.itertext())):
            texts.setdefault(_collapse(element.get("Label")).lower(), []).append(text)
    majors = (_collapse("".join(element.itertext())) for element in root.iter("major"))
    parents = [element for element in root.iter("parentImage") if _collapse(element.get("id"))]
    return Report(
        uid=uid,
        sections={name: " ".join(parts) for name, parts in texts.items()},
        majors=tuple(major for major in majors if major),
        images=tuple(_collapse(element.get("id")) for element in parents),
        figures=tuple(_figure_number(element) for element in parents),
    )


def section_text(text: str | None) -> str:
    """Text of a section, white space collapsed; "" for an empty one ("None.", or a redaction mark only)."""
    text = _collapse(text)
    return "" if re.fullmatch(r"((?i:none)|X{3,})?[\s.]*", text) else text


def mesh_labels(majors: Iterable[str]) -> dict[str, int]:
    """CheXpert labels that major MeSH terms such as "Pleural Effusion/left" imply, all 1. Others are unknown."""
    stated: set[str] = set()
    for major in majors:
        heading, *qualifiers = (part.strip().lower() for part in major.split("/"))
        stated |= {heading, *(f"{heading}/{qualifier}" for qualifier in qualifiers)}
    return {label: 1 for label, headings in MESH_LABELS.items() if stated & headings}


def read_reports(source: Path) -> Iterator[tuple[str, Report | BadReport]]:
    """Yield (file or row, report) for every report of a folder, tar archive or Kaggle table; `BadReport` if broken.

    Raises:
        UserError: the source does not exist, has no reports, or is a damaged archive.
    """
    kaggle = source / KAGGLE_REPORTS if source.is_dir() else source
    if kaggle.is_file() and kaggle.name.endswith((".csv", ".csv.gz")):
        yield from _read_kaggle(kaggle)
        return
    if source.suffix.lower() in (".json", ".jsonl", ".tsv", ".parquet", ".xlsx"):
        raise UserError(f"--reports {source}: {_EXPECTED}; {OTHER_TABLE}")
    found = False
    for name, data in _read_folder(source) if source.is_dir() else _read_tar(source):
        found = True
        try:
            if data is None:
                raise BadReport(f"report larger than {MAX_REPORT_BYTES >> 20} MiB")
            yield name, parse_report(data)
        except BadReport as error:
            yield name, error
    if not found:
        raise UserError(f"--reports {source} has no .xml reports and no {KAGGLE_REPORTS}: {_EXPECTED}")


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes | None]]:
    for path in sorted(folder.rglob("*.xml"), key=_natural):
        yield path.name, path.read_bytes() if path.stat().st_size <= MAX_REPORT_BYTES else None


def _read_tar(path: Path) -> Iterator[tuple[str, bytes | None]]:
    if not path.is_file():
        raise UserError(f"--reports {path}: does not exist")
    try:
        with tarfile.open(path) as archive:  # members are read as streams: nothing is extracted to their paths
            for member in archive:
                if member.isfile() and member.name.endswith(".xml"):
                    stream = archive.extractfile(member) if member.size <= MAX_REPORT_BYTES else None
                    yield member.name.rsplit("/", 1)[-1], stream.read() if stream else None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if getattr(error, "errno", None) is not None:  # an error of the operating system, not of the decompressor
            raise
        raise UserError(
            f"--reports {path} is not a complete tar archive: download it again if it is one, or {_EXPECTED}"
        ) from None


def _read_kaggle(path: Path) -> Iterator[tuple[str, Report | BadReport]]:
    reports = read_table(path, ("uid", "MeSH", "findings", "impression"), f"{OTHER_TABLE}.")
    projections = path.with_name(KAGGLE_PROJECTIONS)
    if not projections.is_file():
        raise UserError(
            f"{path.parent} has no {KAGGLE_PROJECTIONS}, which lists the images of {path.name}: get it, too; "
            f"{OTHER_TABLE}"
        )
    table = read_table(projections, ("uid", "filename", "projection"))
    images = table["filename"].groupby(read_ids(table["uid"], "CXR", f"{projections}, uid")).agg(list)
    reports["uid"] = read_ids(reports["uid"], "CXR", f"{path}, uid")
    print_join("reports", reports["uid"], images.index, "reports with images", str(projections))
    for row in reports.to_dict("records"):
        uid = row["uid"]
        where = f"{path.name}, uid {uid}"
        if not uid:
            yield where, BadReport("report without an id")
            continue
        names = images.get(uid, [])
        known = ("comparison", "indication", "findings", "impression")
        sections = {name: text for name in known if (text := section_text(row.get(name)))}
        majors = tuple(filter(None, map(_collapse, row["MeSH"].split(";"))))
        yield where, Report(f"CXR{uid}", sections, majors, images=tuple(names), figures=(0,) * len(names))


def _parse_xml(data: bytes) -> Element:
    """Parse to an element tree; bytes that are not in the encoding they claim are read as what they look like."""
    try:
        return _parse_document(data)
    except BadReport:
        if data.isascii():
            raise
        return _parse_document(decode(data))


def _parse_document(data: bytes | str) -> Element:
    """Parse to an element tree; document type declarations are refused: entities can read files and exhaust memory."""
    parser, builder = expat.ParserCreate(), TreeBuilder()

    def refuse(*_: object) -> NoReturn:
        raise BadReport("report with a document type declaration")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    except BadReport:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise BadReport(f"report is not readable XML ({error})") from None


def _figure_number(image: Element) -> int:
    match = re.fullmatch(r"\s*F(\d{1,3})\s*", image.findtext("figureId") or "")
    return int(match[1]) if match else 0


def _collapse(text: str | None) -> str:
    return " ".join((text or "").split())


def _natural(path: Path) -> list[int | str]:
    """Sort key that puts 10.xml after 9.xml."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]
