"""Folders of images: what is resampled together, whose prompt an image is of, and sides that are one folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eval import text_encoder
from eval.inputs.folders import (
    PHANTOM,
    is_phantom,
    pair_prompts,
    read_folder,
    read_samples,
    read_sides,
    same_prompts,
    spread_out,
)
from eval.scores import Result
from sdcxr.runtime.errors import UserError
from tests.eval.features import folder_of


def test_an_image_whose_patient_is_unknown_does_not_part_the_images_of_the_others():
    images = folder_of(subject_id=["7", "", "7", ""], id=["a", "b", "c", ""])
    assert images.groups == ["7", "b", "7", "3.png"]
    assert folder_of(id=["a", "a"]).groups == ["a", "a"]
    assert folder_of(text=["", ""]).groups == ["0.png", "1.png"]


def test_partners_are_found_by_id_or_file_name():
    real = folder_of(text=["", "", ""], dicom_id=["x", "", "z"])
    assert pair_prompts(real, folder_of(text=[""] * 4, id=["z", "1", "w", "z"])).rows.tolist() == [2, 1, -1, 2]


def test_an_id_that_two_images_have_is_refused_where_a_prompt_has_it():
    real = folder_of(text=["", "", ""], dicom_id=["x", "x", "z"])
    assert pair_prompts(real, folder_of(text=[""], id=["z"])).rows.tolist() == [2]
    with pytest.raises(UserError, match="here: two images have the id x"):
        pair_prompts(real, folder_of(text=["", ""], id=["z", "x"]))


def test_a_copy_of_the_real_images_is_said(two_folders, tmp_path, capfd):
    real = Path(two_folders[0])
    copy = shutil.copytree(real, tmp_path / "copy")
    read_sides(real, copy)
    assert f"{real} and {copy} hold the same files" in capfd.readouterr().out
    (copy / "train0.png").write_bytes((copy / "train0.png").read_bytes() + b"0")
    read_sides(real, copy)
    assert capfd.readouterr().out == ""


def test_folders_without_images_name_their_splits(micro_dataset, tmp_path):
    with pytest.raises(UserError, match=r"--real .* holds no images; give one of its splits: test, train, validation"):
        read_folder(micro_dataset, "--real")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds no images \(it has: .txt\): names of images end in .png, .jpg"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    ("record", "phantom"),
    [
        ({"phantom": True}, True),
        ({"phantom": False, "settings": {"images": "no/such"}}, False),
        ({"settings": {"source": "nih14"}}, False),
        ({"settings": {"images": "RAW"}}, True),
    ],
)
def test_phantoms_are_known_by_the_record_of_their_preparation(tmp_path, record, phantom):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "phantom.json").write_text("{}")
    if record.get("settings", {}).get("images") == "RAW":
        record["settings"]["images"] = str(tmp_path / "raw")
    (tmp_path / "test").mkdir()
    (tmp_path / "prep.json").write_text(json.dumps(record))
    assert is_phantom(tmp_path / "test") is phantom
    assert not is_phantom(tmp_path / "test" / "deeper")


def test_a_folder_is_of_phantoms_by_whatever_name(tmp_path, monkeypatch):
    (tmp_path / "test").mkdir()
    (tmp_path / "prep.json").write_text('{"phantom": true}')
    for here, name in ((tmp_path / "test", "."), (tmp_path, "."), (tmp_path, "test")):
        monkeypatch.chdir(here)
        assert is_phantom(Path(name))


@pytest.mark.parametrize("side", [0, 1])
def test_phantoms_on_a_side_are_said_once(folders, capsys, side):
    sides = [folders.real, folders.synthetic]
    read_sides(*sides)
    assert capsys.readouterr().out == ""
    (sides[side] / "prep.json").write_text('{"phantom": true}')
    read_sides(*sides)
    assert capsys.readouterr().out == f"{PHANTOM}\n"


def test_a_command_on_a_whole_dataset_says_phantoms_too(folders, capsys, monkeypatch):
    data = folders.real.parent
    (data / "prep.json").write_text('{"phantom": true}')
    monkeypatch.setattr(text_encoder, "evaluate", lambda *_, **__: Result([]))
    monkeypatch.setattr(text_encoder, "publish", lambda *_: None)
    assert text_encoder.main(text_encoder.TextEncoderConfig(model="m", data=str(data), base="b")) == 0
    assert capsys.readouterr().out == f"{PHANTOM}\n"


def test_pairs_are_of_one_prompt_in_the_order_of_their_ids(folders):
    table = folders.synthetic / "metadata.csv"
    header, *lines = table.read_text().splitlines()
    turned = [line for two in reversed([lines[i : i + 2] for i in range(0, len(lines), 2)]) for line in two]
    table.write_text("\n".join([header, *turned]))
    pairs = same_prompts(read_folder(folders.real, "--real"), read_samples(folders.synthetic))
    assert [name for _, _, name, _ in pairs] == [f"te0{i:02}-aa" for i in range(0, 24, 2)]
    for real, synthetic, name, text in pairs:
        assert real == folders.real / f"{name}.png" and synthetic == folders.synthetic / f"{name}_0.png"
        assert text in table.read_text()


def test_pairs_without_ids_are_of_equal_texts():
    real, synthetic = folder_of(text=["Edema.", "Clear", ""]), folder_of(text=["clear.", "None", ""])
    pairs = same_prompts(real, replace(synthetic, synthetic=True))
    assert pairs == [(Path("nowhere/1.png"), Path("nowhere/0.png"), "1", "clear.")]


def test_items_are_spread_evenly():
    assert spread_out(list(range(24)), 4) == [0, 6, 12, 18]
    assert spread_out(list(range(7)), 4) == [0, 1, 3, 5]
    assert spread_out([1, 2], 4) == [1, 2] and spread_out([], 4) == []
