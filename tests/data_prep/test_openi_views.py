"""Views of Open-i's images: by table, or guessed."""

from pathlib import Path

import pytest

from data_prep.openi import select
from data_prep.openi_views import image_key, read_views, study_views
from tests.data_prep.openi_collection import config_for, write_collection


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_collection(tmp_path)


@pytest.mark.parametrize(
    "name", ["CXR1_1_IM-0001-4001.png", "CXR1_IM-0001-4001", "1_IM-0001-4001.dcm.png", "CXR1_1_IM-0001-4001"]
)
def test_an_image_has_one_key_in_all_distributions(name):
    assert image_key(name) == "1_IM-0001-4001"


@pytest.mark.parametrize(
    ("table", "views"),
    [
        ({}, ["", ""]),
        ({"1_IM-1": "PA", "1_IM-2": "LATERAL"}, ["PA", "LATERAL"]),
        ({"1_IM-1": "PA", "1_IM-2": "PA"}, ["", ""]),  # one of them is the lateral
        ({"1_IM-1": "FRONTAL"}, ["FRONTAL", ""]),
    ],
)
def test_views_of_a_study(table, views):
    assert study_views(["CXR1_IM-1", "CXR1_IM-2"], table) == views


def test_dicom_view_table_is_read(tmp_path):
    path = tmp_path / "views.csv"
    path.write_text("imageid,View Position\nCXR1_IM-1,PA\nCXR1_IM-2,LL\nCXR1_IM-3,\n")
    assert read_views(path) == {"1_IM-1": "PA", "1_IM-2": "LATERAL"}


@pytest.mark.parametrize(
    ("views", "unknown_views", "kept"),
    [
        ("frontal", "guess", ["1001"]),
        ("lateral", "guess", ["2001"]),
        ("all", "guess", ["1001", "2001"]),
        ("frontal", "keep", ["1001", "2001"]),
        ("frontal", "drop", []),
    ],
)
def test_images_of_unknown_view(collection, views, unknown_views, kept):
    rows = select(config_for(collection, views=views, unknown_views=unknown_views)).rows
    assert sorted(rows["dicom_id"].str[-4:].unique()) == kept
    assert (rows["view"] == "").all()  # a guess is not written down as a fact


def test_views_table_overrules_the_guess(collection):
    path = collection / "views.csv"
    path.write_text("imageid,View Position\nCXR1_IM-0001-1001,LL\nCXR1_IM-0001-2001,PA\n")
    rows = select(config_for(collection, views_table=path)).rows
    assert rows.loc[rows["study_id"] == "CXR1", ["dicom_id", "view"]].to_numpy().tolist() == [
        ["CXR1_IM-0001-2001", "PA"]
    ]
