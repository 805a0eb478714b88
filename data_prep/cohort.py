"""Cohort of images during preparation: the rows still included, the rejected ones with reasons, counts per filter."""

from typing import Any

import pandas as pd

from sdcxr.io.manifest import IDS

REJECTED_COLUMNS = (*IDS, "reason", "detail")


class Cohort:
    """Applies filters in turn and keeps the account that ends up in rejected.csv and prep.json.

    Attributes:
        rows: what is still included, one row per image, ids in the columns subject_id, study_id and dicom_id. A study
            without images may have a row with an empty dicom_id.
        rejected: what was dropped, in `REJECTED_COLUMNS`.
        counts: images and studies left after each filter: {"filter", "images", "studies"}.
        extra: columns of `rows` that metadata.csv has beside those of every dataset.
        texts: what `--text` did, for prep.json; empty for sources without texts.
    """

    def __init__(self, rows: pd.DataFrame, name: str) -> None:
        """Start with `rows`; `name` heads the counts, such as "all images"."""
        self.rows = rows
        self.rejected = pd.DataFrame(columns=list(REJECTED_COLUMNS))
        self.counts: list[dict[str, Any]] = []
        self.extra: list[str] = []
        self.texts: dict[str, Any] = {}
        self._count(name)

    def apply(self, name: str, reasons: pd.Series, detail: str | pd.Series = "") -> None:
        """Drop the rows whose reason is not empty, and count what is left.

        Args:
            name: what the filter is called in the counts.
            reasons: a few words per row to group by, "" to keep it; index of the rows.
            detail: more about each dropped row; one text for all or a series with the index of the rows.
        """
        self.drop(reasons, detail)
        self._count(name)

    def drop(self, reasons: pd.Series, detail: str | pd.Series = "") -> None:
        """Drop rows as `apply` does, without a count."""
        dropped = reasons != ""
        if dropped.any():
            self.reject(self.rows[dropped], reasons[dropped], detail if isinstance(detail, str) else detail[dropped])
            self.rows = self.rows[~dropped]

    def reject(self, rows: pd.DataFrame, reasons: str | pd.Series, detail: str | pd.Series = "") -> None:
        """Record rows as rejected, such as reports that could not be parsed; ids that they lack stay empty."""
        new = rows.reindex(columns=list(IDS)).assign(reason=reasons, detail=detail)
        self.rejected = pd.concat([self.rejected, new]) if len(self.rejected) else new

    def _count(self, name: str) -> None:
        images, studies = int((self.rows["dicom_id"] != "").sum()), int(self.rows["study_id"].nunique())
        self.counts.append({"filter": name, "images": images, "studies": studies})
