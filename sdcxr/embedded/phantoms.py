"""The embedded dataset of chest phantoms, drawn and prepared by the project's own commands like a real one."""

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sdcxr.io.files import read_json, user_cache
from sdcxr.io.locks import locked
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.processes import environment_alone, processes


def ensure_phantoms(masks: bool = False) -> Path:
    """The dataset folder of phantoms in the user's cache, with masks if wanted, built first where it is absent.

    Raises:
        UserError: they cannot be prepared.
    """
    raw, dataset = user_cache() / "phantom", user_cache() / f"phantom-dataset{'-masks' if masks else ''}"
    record = dataset / "prep.json"
    with processes().main_process_first():
        # A preparation that was stopped has left a record, too, but not a usable dataset.
        if not (record.is_file() and read_json(record).get("usable")):
            print(f"building the embedded phantoms once, in {dataset} (drawn by a program: no patients)", flush=True)
            prepare_phantoms(raw, dataset, masks=masks)
    return dataset


def prepare_phantoms(raw: Path, dataset: Path, options: Sequence[str] = (), masks: bool = False) -> None:
    """Draw phantoms and prepare them with the commands of data_prep, which this package does not import.

    Args:
        raw: folder in MIMIC-CXR-JPG's layout.
        dataset: dataset folder.
        options: more flags of `data_prep.phantom`.
        masks: whether masks are drawn and prepared, too.

    Raises:
        UserError: a command failed.
    """
    reports = str(raw / "mimic-cxr-reports.zip")
    prepare = ["--images", str(raw), "--reports", reports, "--output_dir", str(dataset), "--views", "PA,AP"]
    if masks:
        options, prepare = [*options, "--masks", "true"], [*prepare, "--masks", str(raw / "masks")]
    for command in (
        ["data_prep.phantom", "--output_dir", str(raw), *options],
        ["data_prep.mimic_cxr", *prepare, "--resolution", "128"],
    ):
        done = subprocess.run([sys.executable, "-m", *command], env=environment_alone(), check=False)
        if done.returncode:
            raise UserError(
                f"the embedded phantoms are not ready (see above): run the same command again; if that does not help, "
                f"delete {raw} and {dataset}"
            )


@contextmanager
def building() -> Iterator[None]:
    """Lock the user's cache against other commands that build in it."""
    with locked(user_cache(), math.inf) if processes().is_main_process else nullcontext():
        yield
