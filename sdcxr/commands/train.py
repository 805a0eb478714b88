"""Fine-tune Stable Diffusion on chest radiographs.

    accelerate launch train.py --tune unet+text                            # embedded model and phantoms, no network
    accelerate launch train.py --config configs/roentgen.yaml --data DIR   # the published recipe
    accelerate launch --num_processes 8 train.py --config configs/roentgen.yaml --data DIR
    accelerate launch train.py --tune vae --base ID --data DIR
    accelerate launch train.py --tune classifier --data DIR
    accelerate launch train.py --tune segmenter --data DIR                 # of a dataset with masks
    accelerate launch train.py --tune clip --data DIR                      # for eval.retrieval and eval.alignment

The same command again resumes.
"""

import dataclasses

from sdcxr.config import NO_BASE, TrainConfig
from sdcxr.io.files import user_cache
from sdcxr.io.run_folder import parent_run, read_config
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError
from sdcxr.runtime.signals import leaving


def main(config: TrainConfig) -> int:
    with leaving():
        from sdcxr.backbones.segmenter import require_package
        from sdcxr.training.loop import train  # torch only once the arguments are known to be good
        from sdcxr.training.progress import require_tracker
        from sdcxr.tuning import choose_methods

        require_tracker(config.report_to)
        choose_methods(config)
        if "segmenter" in config.parts:
            require_package()
        return train(fill_in(config))


def fill_in(config: TrainConfig) -> TrainConfig:
    """Fill in base and data of the run that goes on, or else the embedded ones, with the settings that they need."""
    from sdcxr.embedded import base, phantoms
    from sdcxr.tuning import default_rates

    if config.continue_from is not None:
        config = _as_parent(config, config.continue_from)
    embedded_base = config.base is None and not config.parts & NO_BASE
    if config.base is None or config.parts & NO_BASE:  # tiny, or from random weights
        config = config.filled(default_rates(config, base.DEFAULTS))
    start, data = config.base, config.data
    if data is None or embedded_base:
        with phantoms.building():
            data = data or str(phantoms.ensure_phantoms(masks="segmenter" in config.parts))
            start = str(base.ensure_base(user_cache())) if embedded_base else start
    return dataclasses.replace(config, base=start, data=data, output_dir=config.output_dir or f"runs/{config.tune}")


def _as_parent(config: TrainConfig, continue_from: str) -> TrainConfig:
    """Base and data of the run that goes on, where none were named.

    Raises:
        UserError: it is no run folder.
    """
    record = parent_run(continue_from) / "config.yaml"
    if not record.is_file():
        raise UserError(f"--continue_from {continue_from}: is no run folder of train.py")
    parent = read_config(record)
    return dataclasses.replace(config, **{name: getattr(config, name) or parent[name] for name in ("base", "data")})


def entry() -> None:
    """Parse sys.argv and exit with the code of `main`."""
    run(main)


if __name__ == "__main__":
    entry()
