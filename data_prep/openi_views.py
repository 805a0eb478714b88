"""Views of Open-i's images from Kaggle's table or DICOM headers, or guessed: the XML reports do not have them."""

import re
from collections.abc import Sequence
from pathlib import Path

from data_prep.raw_tables import read_table
from sdcxr.runtime.errors import UserError

FRONTAL_VIEWS = ("PA", "AP", "FRONTAL")
LATERAL_VIEWS = ("LATERAL", "LL", "RL", "LARGE LATERAL")


def image_key(name: str) -> str:
    """One name for an image in all distributions.

    "1_IM-0001-4001" for "CXR1_1_IM-0001-4001.png" (Open-i), "1_IM-0001-4001.dcm.png" (Kaggle) and "CXR1_IM-0001-4001"
    (torchxrayvision's table of DICOM headers). The optional number between the report's and IM is not
    needed: without it the 7,470 names of the collection are still unique.
    """
    match = re.match(r"(?:CXR)?(\d+)_(?:\d+_)?(IM-[\w-]*)", name, re.IGNORECASE)
    return f"{match[1]}_{match[2]}".upper() if match else name.split(".")[0].upper()


def read_views(path: Path) -> dict[str, str]:
    """PA, AP, FRONTAL or LATERAL by image key, from Kaggle's projections or a table of DICOM headers.

    Raises:
        UserError: the table is neither of them.
    """
    table = read_table(path, ())
    pairs = (("filename", "projection"), ("imageid", "View Position"))
    columns = next((list(pair) for pair in pairs if set(pair) <= set(table.columns)), None)
    if columns is None:
        raise UserError(
            f"--views_table {path} has neither the columns filename and projection (indiana_projections.csv) nor "
            f"imageid and View Position (nlmcxr_dicom_metadata.csv.gz); it has: {', '.join(table.columns[:8])}"
        )
    known = {view: view for view in FRONTAL_VIEWS} | dict.fromkeys(LATERAL_VIEWS, "LATERAL")
    rows = table[columns].itertuples(index=False, name=None)
    return {image_key(name): known[view.strip().upper()] for name, view in rows if view.strip().upper() in known}


def study_views(names: Sequence[str], table: dict[str, str]) -> list[str]:
    """The view of each image of one report, "" if unknown.

    In 1,088 of the 3,208 reports with two images, the DICOM headers call both PA, although most captions name a
    lateral view. PA and AP are therefore believed only if the table calls another image of the report lateral.
    """
    views = [table.get(image_key(name), "") for name in names]
    if "LATERAL" not in views:
        views = ["" if view in ("PA", "AP") else view for view in views]
    return views


def figure_views(figures: Sequence[int]) -> list[str]:
    """A guess: the first figure is frontal, the others are lateral.

    Correct for 90 % of the 768 reports with two images of which the DICOM headers call exactly one lateral.
    """
    numbers = [figure or position for position, figure in enumerate(figures, start=1)]
    return ["FRONTAL" if number == 1 else "LATERAL" for number in numbers]
