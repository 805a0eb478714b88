"""Generate a synthetic chest phantom dataset: radiographs and reports in the layout of MIMIC-CXR-JPG, no patients.

    python -m data_prep.phantom --output_dir phantom
    python -m data_prep.phantom --output_dir phantom --studies 200 --resolution 128 --seed 1
    python -m data_prep.mimic_cxr --images phantom --reports phantom/mimic-cxr-reports.zip --output_dir dataset

The same settings give the same bytes with any number of workers. The same command again resumes.
phantom-truth.csv has the ground truth of every image: findings, grades and measurements. With --masks, masks/lungs,
masks/heart and masks/finding have the outlines of every frontal image, for `data_prep.mimic_cxr --masks phantom/masks`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data_prep.phantom.layout import draw_patient, plan_patients, write_tables
from data_prep.workers import in_workers, progress
from data_prep.writer import begun
from sdcxr.io.files import write_json
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

VERSION = 1  # of the phantom: to be raised whenever the same settings give other bytes

SETTINGS_FILE = "phantom.json"

LIMITS = (("studies", 1, 500_000), ("resolution", 32, 4096), ("seed", 0, 2**63 - 1), ("workers", 0, 4096))


@dataclass
class PhantomConfig:
    """Generate phantoms."""

    output_dir: Path
    """folder to write"""
    studies: int = 2000
    """number of studies, with about 1.4 images each"""
    resolution: int = 256
    """shorter side of the images in pixels"""
    seed: int = 0
    """random seed; another one gives other patients"""
    masks: bool = False
    """also write masks of lungs, heart and findings; may be added to a finished folder"""
    workers: int = 0
    """processes that draw images; 0: one per core"""


def main(config: PhantomConfig) -> None:
    """Write the dataset, unless it is finished already."""
    for flag, least, most in LIMITS:
        value = getattr(config, flag)
        if not least <= value <= most:
            raise UserError(f"--{flag} {value}: expected {least} to {most}")
    output_dir = Path(config.output_dir).expanduser()
    settings = {"studies": config.studies, "resolution": config.resolution, "seed": config.seed, "version": VERSION}
    state = begun(output_dir, SETTINGS_FILE, settings)
    if state.get("finished") and (state.get("masks") or not config.masks):
        print(f"{output_dir}: finished already ({config.studies} studies)")
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    masks = config.masks or bool(state.get("masks"))
    record = {"settings": settings, **({"masks": True} if masks else {})}
    write_json(output_dir / SETTINGS_FILE, record | {"finished": False})
    patients = plan_patients(config.studies, config.seed)
    options = {"output_dir": output_dir, "resolution_px": config.resolution, "seed": config.seed, "masks": masks}
    draw = partial(draw_patient, **options)  # type: ignore[arg-type]
    drawn = []
    with progress(config.studies, "phantom", "study") as bar:
        for one in in_workers(draw, patients, workers=config.workers, chunksize=4):
            drawn.append(one)
            bar.update(len(one.labels))
    images = write_tables(output_dir, drawn, config.seed)
    write_json(output_dir / SETTINGS_FILE, record | {"finished": True, "images": images})
    print(f"{output_dir}: {images} images of {config.studies} studies of {len(patients)} patients")


if __name__ == "__main__":
    run(main)
