"""ChestX-ray14: splits by patient, random or by the official lists."""

from pathlib import Path

import pandas as pd
import pytest

from data_prep.nih14 import (
    main,
    select,
)
from sdcxr.runtime.errors import UserError
from tests.data_prep.folders import metadata
from tests.data_prep.nih14_collection import SECOND_EDITION, config_for, write_collection


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_collection(tmp_path)


def test_hash_split_keeps_patients_apart_and_near_the_fractions(tmp_path):
    lines = [f"{n:08d}_000.png,Edema,0,{n // 2},50,M,PA,1,1,1,1\n" for n in range(4000)]
    (tmp_path / "labels.csv").write_text(SECOND_EDITION + "".join(lines))
    (tmp_path / "images").mkdir()
    config = config_for(tmp_path, validation_fraction=0.1, test_fraction=0.2)
    rows = select(config, {f"{n:08d}_000" for n in range(4000)}).rows
    assert rows.groupby("subject_id")["split"].nunique().eq(1).all()
    shares = rows["split"].value_counts(normalize=True)
    assert shares["validation"] == pytest.approx(0.1, abs=0.03)
    assert shares["test"] == pytest.approx(0.2, abs=0.03)


def test_a_patient_with_and_without_leading_zeros_is_one(collection, capsys):
    table = collection / "labels.csv"
    lines = table.read_text().splitlines(keepends=True)
    for row in range(1, len(lines), 2):  # the first image of each patient
        name, finding, follow_up, patient, rest = lines[row].split(",", 4)
        lines[row] = f"{name},{finding},{follow_up},{patient:0>8},{rest}"
    table.write_text("".join(lines))
    assert main(config_for(collection)) == 0
    assert "40 patients are written with and without leading zeros" in capsys.readouterr().err
    assert metadata(collection / "out")["subject_id"].nunique() == 40


def test_seed_changes_the_split(collection):
    names = {f"{patient:08d}_{k:03d}" for patient in range(1, 41) for k in (0, 1)}
    first, again, other = (select(config_for(collection, seed=seed), names).rows["split"] for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)


def write_lists(folder: Path, test_patients: set[int], left_out: set[int]) -> dict[str, Path]:
    names: dict[str, list[str]] = {"train_list": [], "test_list": []}
    for patient in set(range(1, 41)) - left_out:
        of_patient = [f"{patient:08d}_{k:03d}.png" for k in (0, 1)]
        names["test_list" if patient in test_patients else "train_list"] += of_patient
    for name, lines in names.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return {name: folder / name for name in names}


def test_official_lists(collection):
    lists = write_lists(collection, test_patients={3, 4}, left_out={5})
    assert main(config_for(collection, **lists, validation_fraction=0.2)) == 0
    rows = metadata(collection / "out")
    assert set(rows.loc[rows["split"] == "test", "subject_id"]) == {"3", "4"}
    assert (rows["split"] == "validation").any() and "5" not in set(rows["subject_id"])
    rejected = pd.read_csv(collection / "out" / "rejected.csv")
    assert rejected["reason"].tolist() == ["in neither official list"] * 2


def test_lists_may_be_saved_by_windows(collection):
    lists = write_lists(collection, test_patients={3, 4}, left_out=set())
    for path in lists.values():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert main(config_for(collection, **lists)) == 0
    assert pd.read_csv(collection / "out" / "rejected.csv").empty


def test_lists_may_have_folders_and_one_that_names_no_image_is_refused(collection, capsys):
    lists = write_lists(collection, test_patients={3, 4}, left_out=set())
    for path in lists.values():
        path.write_text("".join(f"images/images_001\\{line}\n" for line in path.read_text().split()))
    assert main(config_for(collection, **lists)) == 0
    assert pd.read_csv(collection / "out" / "rejected.csv").empty
    assert "official lists: 80 of 80 images" in capsys.readouterr().out
    lists["train_list"].write_text("a.png\n")
    lists["test_list"].write_text("b.png\n")
    with pytest.raises(
        UserError, match=r"official lists: none of the 80 images .* \(looked for 00000001_000; it has a\)"
    ):
        main(config_for(collection, output_dir=collection / "other", **lists))


def test_lists_that_share_an_image_or_a_patient_are_refused(collection):
    lists = write_lists(collection, test_patients={3}, left_out=set())
    lists["test_list"].write_text("00000003_000.png\n00000007_001.png\n")
    with pytest.raises(UserError, match="share 1 images, such as 00000007_001"):
        main(config_for(collection, **lists))
    lists["train_list"].write_text("00000003_001.png\n")
    with pytest.raises(UserError, match="1 patients are in more than one split"):
        main(config_for(collection, **lists))
