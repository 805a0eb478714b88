"""Which of Open-i's images are frontal: the XML reports do not say it, two tables do, one of them in part."""

import re
from collections.abc import Sequence
from pathlib import Path

from data_prep.raw_tables import read_table
from sdcxr.runtime.errors import UserError

FRONTAL_VIEWS = ("PA", "AP", "FRONTAL")
LATERAL_VIEWS = ("LATERAL", "LL", "RL", "LARGE LATERAL")


def image_key(name: str) -> str:
    """What one image is called whatever the distribution.

    "1_IM-0001-4001" for "CXR1_1_IM-0001-4001.png" (Open-i), "1_IM-0001-4001.dcm.png" (Kaggle) and "CXR1_IM-0001-4001"
    (torchxrayvision's table of DICOM headers). The number between the report's and IM, where there is one, tells
    nothing apart: without it the collection's 7,470 names are still different.
    """
    match = re.match(r"(?:CXR)?(\d+)_(?:\d+_)?(IM-[\w-]*)", name, re.IGNORECASE)
    return f"{match[1]}_{match[2]}".upper() if match else name.split(".")[0].upper()


def read_views(path: Path) -> dict[str, str]:
    """PA, AP, FRONTAL or LATERAL by image key, from Kaggle's projections or a table of DICOM headers.

    Raises:
        UserError: it is neither.
    """
    table = read_table(path, ())
    if {"filename", "projection"} <= set(table.columns):
        names, views = table["filename"], table["projection"]
    elif {"imageid", "View Position"} <= set(table.columns):
        names, views = table["imageid"], table["View Position"]
    else:
        raise UserError(
            f"--views_table {path} has neither the columns filename and projection (indiana_projections.csv) nor "
            f"imageid and View Position (nlmcxr_dicom_metadata.csv.gz); it has: {', '.join(table.columns[:8])}"
        )
    known = {view: view for view in FRONTAL_VIEWS} | dict.fromkeys(LATERAL_VIEWS, "LATERAL")
    return {
        image_key(name): known[view.strip().upper()]
        for name, view in zip(names, views, strict=True)
        if view.strip().upper() in known
    }


def study_views(names: Sequence[str], table: dict[str, str]) -> list[str]:
    """The view of each image of one report, "" where it is unknown.

    The DICOM headers call both images of 1,088 of the 3,208 two-image reports PA, though most captions name a lateral.
    So PA and AP count only beside an image that the table calls lateral.
    """
    views = [table.get(image_key(name), "") for name in names]
    if "LATERAL" not in views:
        views = ["" if view in ("PA", "AP") else view for view in views]
    return views


def figure_views(figures: Sequence[int]) -> list[str]:
    """A guess: the first figure is the frontal one, the others lateral.

    Right for 90 % of the 768 two-image reports whose DICOM headers call exactly one of the images lateral.
    """
    numbers = [figure or position for position, figure in enumerate(figures, start=1)]
    return ["FRONTAL" if number == 1 else "LATERAL" for number in numbers]
