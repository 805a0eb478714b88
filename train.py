"""Fine-tune Stable Diffusion on chest radiographs.

    accelerate launch train.py --tune unet+text                            # embedded model and phantoms, no network
    accelerate launch train.py --config configs/roentgen.yaml --data DIR   # the published recipe
    accelerate launch --num_processes 8 train.py --config configs/roentgen.yaml --data DIR
    accelerate launch train.py --tune vae --base ID --data DIR
    accelerate launch train.py --tune classifier --data DIR
    accelerate launch train.py --tune clip --data DIR                      # for eval.retrieval and eval.alignment

The same command again resumes.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdcxr.config import NO_BASE, TrainConfig
from sdcxr.io.files import read_json, user_cache
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.signals import leaving


def main(config: TrainConfig) -> int:
    with leaving():
        from sdcxr.training.loop import train  # torch only once the arguments are known to be good
        from sdcxr.training.progress import require_tracker

        require_tracker(config.report_to)
        return train(fill_in(config))


def fill_in(config: TrainConfig) -> TrainConfig:
    """Settings with nothing left open: the embedded phantoms and base where none was named, and what these need."""
    from sdcxr.embedded import base as tiny

    embedded_base = config.base is None and not config.parts & NO_BASE
    if config.base is None or config.parts & NO_BASE:  # from random weights
        config = config.filled(tiny.DEFAULTS)
    phantoms, base = Path(), config.base
    if config.data is None or embedded_base:
        with building():
            phantoms = embedded_phantoms()
            if embedded_base:
                base = str(tiny.ensure(phantoms, user_cache()))
    output_dir = config.output_dir or f"runs/{config.tune}"
    return dataclasses.replace(config, base=base, data=config.data or str(phantoms), output_dir=output_dir)


@contextmanager
def building() -> Iterator[None]:
    """Inside the block no other command builds in the user's cache."""
    from filelock import FileLock

    from sdcxr.runtime.processes import processes

    if not processes().is_main_process:
        yield
        return
    user_cache().mkdir(parents=True, exist_ok=True)
    with FileLock(user_cache() / ".lock"):
        yield


def embedded_phantoms() -> Path:
    """The dataset folder of phantoms in the user's cache, built once, the same way as a real one."""
    from data_prep import mimic_cxr
    from data_prep.phantom import __main__ as phantom
    from sdcxr.runtime.processes import processes

    raw, dataset = user_cache() / "phantom", user_cache() / "phantom-dataset"
    record = dataset / "prep.json"
    with processes().main_process_first():
        # A preparation that was stopped has left a record, too, but not a usable dataset.
        if not (record.is_file() and read_json(record).get("usable")):
            print(f"building the embedded phantoms once, in {dataset} (drawn by a program: no patients)", flush=True)
            phantom.main(phantom.PhantomConfig(output_dir=raw))
            preparation = mimic_cxr.MimicCxrConfig(
                images=raw,
                reports=raw / "mimic-cxr-reports.zip",
                output_dir=dataset,
                views="PA,AP",
                resolution=128,
            )
            if mimic_cxr.main(preparation):
                raise UserError(f"the phantoms in {raw} are damaged: delete {raw} and {dataset}, and run again")
    return dataset


if __name__ == "__main__":
    run(main)
