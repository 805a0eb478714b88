"""A finished folder is a claim about its sources: what is new, changed or gone is done, and nothing else."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_prep import writer
from data_prep.cohort import Cohort
from data_prep.raw_tables import index_images, read_table
from data_prep.sources import SOURCES, input_states, read_sources
from data_prep.writer import Settings, is_finished, recorded_settings, write_dataset
from sdcxr.io.files import read_json, write_json
from sdcxr.io.manifest import read_metadata
from sdcxr.runtime.errors import UserError
from tests.data_prep.folders import files_of

N_IMAGES = 12


@dataclass
class SourceConfig(Settings):
    images: Path
    table: Path


def main(config: SourceConfig) -> int:
    """A source whose table names image, patient and text; a missing image is a failure."""
    settings = recorded_settings(config, "test")
    folder = config.images.absolute()
    files = index_images(folder)
    inputs = input_states(folder, files.values(), table=config.table)
    if is_finished(config.output_dir, settings, inputs):
        return 0
    rows = read_table(config.table, ("dicom_id", "subject_id", "text"))
    source = [str(files.get(name, folder / f"{name}.png")) for name in rows["dicom_id"]]
    rows = rows.assign(study_id=rows["dicom_id"], split="train", source=source)
    return write_dataset(config, settings, Cohort(rows, "all images"), inputs)


def write_image(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 20), dtype=np.uint8)).save(path)


@pytest.fixture
def config(tmp_path: Path) -> SourceConfig:
    (tmp_path / "raw").mkdir()
    for number in range(N_IMAGES):
        write_image(tmp_path / "raw" / f"i{number:02}.png", number)
    rows = [f"i{number:02},p{number},Text {number}.\n" for number in range(N_IMAGES)]
    (tmp_path / "table.csv").write_text("dicom_id,subject_id,text\n" + "".join(rows))
    paths = {"images": tmp_path / "raw", "table": tmp_path / "table.csv", "output_dir": tmp_path / "out"}
    return SourceConfig(**paths, resolution=16, workers=1, max_rejected_fraction=0.1)


@pytest.fixture
def converted(monkeypatch) -> list[str]:
    """Names of the images that are converted."""
    names: list[str] = []
    convert = writer.convert
    monkeypatch.setattr(
        writer, "convert", lambda *args, **flags: names.append(Path(args[0]).name) or convert(*args, **flags)
    )
    return names


def fresh(config: SourceConfig) -> dict[str, bytes]:
    """Files of a preparation from nothing."""
    other = config.output_dir.with_name("fresh")
    shutil.rmtree(other, ignore_errors=True)
    main(SourceConfig(**vars(config) | {"output_dir": other}))
    return files_of(other)


def png(config: SourceConfig, number: int) -> Path:
    return config.output_dir / "train" / f"i{number:02}.png"


def raw(config: SourceConfig, number: int) -> Path:
    return config.images / f"i{number:02}.png"


def replace_table(config: SourceConfig) -> None:
    config.table.write_text(config.table.read_text().replace("Text 3.", "Another text."))


def older_file_of_another_size(config: SourceConfig) -> None:
    shutil.copy(raw(config, 7), raw(config, 3))
    raw(config, 3).write_bytes(raw(config, 3).read_bytes() + b"\n")
    os.utime(raw(config, 3), (0, 0))


def without_last_row(config: SourceConfig) -> None:
    table = png(config, 0).parent / "metadata.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))


CHANGES = {
    "source replaced": (lambda c: write_image(raw(c, 3), 77), "1 source images are new or changed", ["i03.png"]),
    "source replaced by an older one": (older_file_of_another_size, "1 source images are new or changed", ["i03.png"]),
    "source deleted": (lambda c: raw(c, 3).unlink(), "1 source images are gone", ["i03.png"]),
    "PNG deleted": (lambda c: png(c, 3).unlink(), "1 PNGs are missing or damaged", ["i03.png"]),
    "PNG cut off": (lambda c: png(c, 3).write_bytes(b"half"), "1 PNGs are missing or damaged", ["i03.png"]),
    "table replaced": (replace_table, "table changed", []),
    "metadata.csv deleted": (lambda c: (png(c, 0).parent / "metadata.csv").unlink(), "train/metadata.csv is miss", []),
    "row of metadata.csv deleted": (without_last_row, "train/metadata.csv was edited and is written again", []),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_done_and_nothing_else(config, converted, capsys, change):
    assert main(config) == 0
    spoil, told, wanted = CHANGES[change]
    spoil(config)
    converted.clear()
    assert main(config) == 0
    assert f"is updated: {told}" in capsys.readouterr().out.replace("images changed; ", "")
    assert converted == wanted
    assert files_of(config.output_dir) == fresh(config)
    converted.clear()
    assert main(config) == 0
    assert f"nothing to do (compared with {N_IMAGES} source images)" in capsys.readouterr().out
    assert converted == []


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_that_was_missing_or_broken_is_taken_up_when_it_comes(config, converted, suffix):
    raw(config, 3).unlink()
    assert main(config) == 0
    assert len(read_metadata(config.output_dir / "train")) == N_IMAGES - 1
    converted.clear()
    write_image(raw(config, 3).with_suffix(suffix), 3)
    assert main(config) == 0
    assert converted == [f"i03{suffix}"]
    assert files_of(config.output_dir) == fresh(config)


def test_a_touched_table_and_a_copied_folder_are_the_same(config, converted, tmp_path):
    main(config)
    converted.clear()
    os.utime(config.table, (5, 5))
    shutil.copytree(config.images, tmp_path / "elsewhere")
    shutil.copytree(config.output_dir, tmp_path / "moved")
    shutil.rmtree(config.images)
    moved = SourceConfig(**vars(config) | {"images": tmp_path / "elsewhere", "output_dir": tmp_path / "moved"})
    before = files_of(moved.output_dir)
    assert main(moved) == 0
    assert files_of(moved.output_dir) == before and converted == []


def test_another_collection_is_refused_before_anything_is_changed(config, tmp_path):
    main(config)
    before = files_of(config.output_dir)
    (tmp_path / "smaller").mkdir()
    for number in range(N_IMAGES):
        Image.new("L", (8, 8), number).save(tmp_path / "smaller" / f"i{number:02}.png")
    (tmp_path / "other.csv").write_text(config.table.read_text().replace("Text", "Word"))
    with pytest.raises(UserError, match=r"12 of the 12 images .*out was made from, .*raw, are others in .*smaller"):
        main(SourceConfig(**vars(config) | {"images": tmp_path / "smaller"}))
    with pytest.raises(UserError, match=r"was made from .*table\.csv, and .*other\.csv \(table\) differs from it"):
        main(SourceConfig(**vars(config) | {"table": tmp_path / "other.csv"}))
    assert files_of(config.output_dir) == before


def test_sources_that_are_gone_do_not_take_the_dataset_with_them(config):
    main(config)
    before = files_of(config.output_dir)
    for number in range(1, N_IMAGES):
        raw(config, number).unlink()
    with pytest.raises(UserError, match=r"11 of the 12 .* are missing in .*raw \(first: i01\): nothing is changed"):
        main(config)
    assert files_of(config.output_dir) == before


def test_an_interrupted_preparation_resumes(config, converted, monkeypatch):
    convert = writer.convert

    def interrupted(source: str, *args: object, **flags: object) -> object:
        if source.endswith("i07.png"):
            raise KeyboardInterrupt
        return convert(source, *args, **flags)

    monkeypatch.setattr(writer, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(config)
    with (config.output_dir / SOURCES).open("a") as file:
        file.write("train/i07.png,i07.p")  # as after a power failure
    write_image(raw(config, 2), 99)
    monkeypatch.setattr(writer, "convert", convert)
    converted.clear()
    assert main(config) == 0
    assert converted == ["i02.png", *(f"i{number:02}.png" for number in range(7, N_IMAGES))]
    assert files_of(config.output_dir) == fresh(config)


def test_a_folder_of_version_0_1_is_converted_again(config, converted, capsys):
    main(config)
    record = read_json(config.output_dir / "prep.json")
    del record["inputs"]
    record["settings"] |= {"images": str(config.images), "table": str(config.table)}
    write_json(config.output_dir / "prep.json", record)
    (config.output_dir / SOURCES).unlink()
    converted.clear()
    assert main(config) == 0
    assert "has no record of its sources (version 0.1)" in capsys.readouterr().out and len(converted) == N_IMAGES
    assert files_of(config.output_dir) == fresh(config)


def test_a_folder_that_another_process_writes_is_one_line(config):
    hold = (
        "import sys; from pathlib import Path; from sdcxr.io.locks import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    command, root = [sys.executable, "-c", hold, config.output_dir], str(Path(__file__).parents[2])
    for outcome in ("refused", "read"):  # a finished folder is only read
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root}
        ) as other:
            assert other.stdout is not None and other.stdout.readline()
            if outcome == "refused":
                with pytest.raises(UserError, match=f"out is in use by another command .process {other.pid} on"):
                    main(config)
            else:
                assert main(config) == 0
            other.communicate(b"")
        assert main(config) == 0


def test_every_image_has_a_row(config):
    raw(config, 3).write_bytes(b"half")
    main(config)
    table = read_sources(config.output_dir)
    assert table["file_name"].tolist() == [f"train/i{number:02}.png" for number in range(N_IMAGES)]
    assert table["source"].tolist() == [f"i{number:02}.png" for number in range(N_IMAGES)]
    assert table["reason"].tolist() == [""] * 3 + ["unreadable image"] + [""] * 8
    stat = raw(config, 4).stat()
    assert table.loc["train/i04.png", ["bytes", "mtime_ns"]].tolist() == [str(stat.st_size), str(stat.st_mtime_ns)]
    assert table.loc["train/i04.png", "png_bytes"] == str(png(config, 4).stat().st_size)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"', "\x00"])
def test_a_damaged_record_counts_for_nothing(config, converted, content):
    main(config)
    (config.output_dir / SOURCES).write_text(content)
    converted.clear()
    assert main(config) == 0
    assert len(converted) == N_IMAGES
    assert files_of(config.output_dir) == fresh(config)


def test_a_folder_of_inputs_is_known_by_its_files(tmp_path):
    (tmp_path / "reports" / "p10").mkdir(parents=True)
    (tmp_path / "reports" / "p10" / "s1.txt").write_text("a")
    first = input_states(tmp_path, reports=tmp_path / "reports")
    assert first == input_states(tmp_path, reports=tmp_path / "reports", views=None)
    (tmp_path / "reports" / "p10" / "s2.txt").write_text("")
    assert first != input_states(tmp_path, reports=tmp_path / "reports")


def test_splits_whose_views_are_unknown_load_in_hugging_face(config, tmp_path):
    datasets = pytest.importorskip("datasets")
    main(config)
    rows = pd.read_csv(config.table, dtype=str)
    source = [str(raw(config, number)) for number in range(N_IMAGES)]
    rows = rows.assign(study_id="s1", source=source, split=["train"] * 8 + ["test"] * 4, view=["PA"] * 8 + [""] * 4)
    out = SourceConfig(**vars(config) | {"output_dir": tmp_path / "views"})
    write_dataset(out, {}, Cohort(rows, "all images"), input_states(config.images))
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "views"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded["train"]["view"]) == {"PA"} and set(loaded["test"]["view"]) == {"unknown"}


def test_ids_that_hugging_face_reads_as_numbers_in_one_split_are_warned_of(config, capsys):
    rows = pd.read_csv(config.table, dtype=str)
    rows["subject_id"] = [f"{number}" for number in range(8)] + list("abcd")
    source = [str(raw(config, number)) for number in range(N_IMAGES)]
    rows = rows.assign(study_id="s1", source=source, split=["train"] * 8 + ["test"] * 4)
    write_dataset(config, {}, Cohort(rows, "all images"), input_states(config.images))
    assert "warning: subject_id has only numbers in the split 'train' and names in another" in capsys.readouterr().err
