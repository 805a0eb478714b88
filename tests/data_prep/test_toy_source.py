"""How to add a data source without a change in data_prep: copy all but the test, adapt it, end with `run(main)`."""

from dataclasses import dataclass
from pathlib import Path

import datasets
import pandas as pd
import pytest
from PIL import Image

from data_prep import filters, splits
from data_prep.cohort import Cohort
from data_prep.raw_tables import index_images, read_table
from data_prep.sources import input_states
from data_prep.writer import Settings, is_finished, recorded_settings, write_dataset
from sdcxr.io.ids import print_join, read_ids
from sdcxr.runtime.cli import run


@dataclass
class ToyConfig(Settings):
    """Flags of the command, beside those that every source has."""

    images: Path
    table: Path


def main(config: ToyConfig) -> int:
    settings = recorded_settings(config, "toy")  # goes to prep.json; other settings in the same folder are refused
    files = index_images(config.images)  # at any depth, by name without suffix
    inputs = input_states(config.images, files.values(), table=config.table)
    if is_finished(config.output_dir, settings, inputs):  # compared with what was read then
        return 0
    # One row per image, ids as text. Labels and view may be added under their names in sdcxr.io.manifest.COLUMNS.
    table = read_table(config.table, ("image", "patient", "report"))
    rows = table.rename(columns={"image": "dicom_id", "patient": "subject_id", "report": "text"})
    rows = rows.assign(subject_id=read_ids(rows["subject_id"], "p"))  # 7.0, " 7" and p7 are one patient
    cohort = Cohort(rows.assign(study_id=rows["dicom_id"]), "all images")
    cohort.apply("7 to 77 characters", filters.length_reasons(cohort.rows["text"], 7, 77))  # reasons to drop, or ""
    if config.limit is not None:
        cohort.apply(f"limit {config.limit:,}", filters.limit_reasons(cohort.rows, config.limit, config.seed))
    split = splits.hash_splits(cohort.rows["subject_id"], validation_fraction=0.2, test_fraction=0.2, seed=config.seed)
    print_join("images", rows["dicom_id"], files, "images", f"--images {config.images}")
    source = [str(files.get(name, name)) for name in cohort.rows["dicom_id"]]  # a missing file is rejected and counted
    cohort.rows = cohort.rows.assign(split=split, source=source)
    return write_dataset(config, settings, cohort, inputs)


def test_a_source_from_outside_writes_a_dataset_that_hugging_face_reads(tmp_path):
    for i in range(30):
        Image.linear_gradient("L").rotate(i).save(tmp_path / f"i{i}.png")
    rows = [(f"i{i}", f"p{i // 2}", "Clear lungs." if i else "Clear.") for i in range(30)]
    pd.DataFrame(rows, columns=["image", "patient", "report"]).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(SystemExit, match="0"):
        run(main, f"--images={tmp_path} --table={tmp_path}/table.csv --output_dir={tmp_path}/out --workers=1".split())
    loaded = datasets.load_dataset("imagefolder", data_dir=f"{tmp_path}/out", cache_dir=f"{tmp_path}/cache")
    assert set(loaded) == {"train", "validation", "test"} and sum(map(len, loaded.values())) == 29
    assert loaded["train"][0]["image"].size == (512, 512) and loaded["train"][0]["text"] == "Clear lungs."
