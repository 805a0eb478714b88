"""The account of a cohort: what every filter dropped and left."""

import pandas as pd

from data_prep.cohort import REJECTED_COLUMNS, Cohort


def cohort() -> Cohort:
    rows = {"subject_id": ["1", "1", "2", "3"], "study_id": ["a", "a", "b", "c"], "dicom_id": ["w", "x", "y", ""]}
    return Cohort(pd.DataFrame(rows), "all reports")


def test_filters_count_images_and_studies_that_are_left():
    images = cohort()
    images.apply("view", pd.Series(["", "lateral", "", ""]))
    images.apply("images", pd.Series(["", "", "no image"], index=images.rows.index))
    assert images.counts == [
        {"filter": "all reports", "images": 3, "studies": 3},
        {"filter": "view", "images": 2, "studies": 3},
        {"filter": "images", "images": 2, "studies": 2},
    ]
    assert images.rows["dicom_id"].tolist() == ["w", "y"]


def test_dropped_rows_keep_their_ids_reason_and_own_detail():
    images = cohort()
    images.drop(pd.Series(["", "short", "short", ""]), pd.Series(["0", "3 characters", "4 characters", "0"]))
    images.drop(pd.Series("", index=images.rows.index))
    images.reject(pd.DataFrame({"study_id": ["d"]}), "broken report", "no XML")
    assert tuple(images.rejected.columns) == REJECTED_COLUMNS
    assert images.rejected.fillna("").to_numpy().tolist() == [
        ["1", "a", "x", "short", "3 characters"],
        ["2", "b", "y", "short", "4 characters"],
        ["", "d", "", "broken report", "no XML"],
    ]
    assert [count["filter"] for count in images.counts] == ["all reports"]
