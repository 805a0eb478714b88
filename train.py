"""Fine-tune Stable Diffusion on chest radiographs.

    accelerate launch train.py --tune unet+text                            # embedded model and phantoms, no network
    accelerate launch train.py --config configs/roentgen.yaml --data DIR   # the published recipe
    accelerate launch --num_processes 8 train.py --config configs/roentgen.yaml --data DIR
    accelerate launch train.py --tune vae --base ID --data DIR
    accelerate launch train.py --tune classifier --data DIR

The same command again resumes.
"""

import dataclasses
from pathlib import Path

from sdcxr.cli import run
from sdcxr.config import TrainConfig
from sdcxr.files import user_cache


def main(config: TrainConfig) -> int:
    from sdcxr.loop import train  # torch only once the arguments are known to be good

    return train(fill_in(config))


def fill_in(config: TrainConfig) -> TrainConfig:
    """Settings with nothing left open: the embedded phantoms and base where none was named, and what these need."""
    from sdcxr import tiny

    data = config.data or str(embedded_phantoms())
    classifier = config.parts == {"classifier"}
    base = config.base
    if base is None and not classifier:
        base = str(tiny.ensure(Path(data), user_cache(), config.mixed_precision))
    defaults = tiny.DEFAULTS if config.base is None else {"learning_rate": 5e-5, "max_train_steps": 12500}
    open_settings = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    if config.num_train_epochs is not None:
        open_settings.pop("max_train_steps", None)
    output_dir = config.output_dir or f"runs/{config.tune}"
    return dataclasses.replace(config, data=data, base=base, output_dir=output_dir, **open_settings)


def embedded_phantoms() -> Path:
    """The dataset folder of phantoms in the user's cache, built once, the same way as a real one."""
    from accelerate import PartialState

    from data_prep import mimic_cxr, phantom

    raw, dataset = user_cache() / "phantom", user_cache() / "phantom-dataset"
    with PartialState().main_process_first():
        if not (dataset / "prep.json").is_file():
            print(f"no --data: building the embedded phantoms once, in {dataset} (drawn by a program, no patients)")
            phantom.main(phantom.PhantomConfig(output_dir=str(raw), studies=1500))
            mimic_cxr.main(
                mimic_cxr.MimicConfig(
                    images=str(raw),
                    reports=str(raw / "mimic-cxr-reports.zip"),
                    output_dir=str(dataset),
                    views="PA,AP",
                    resolution=128,
                )
            )
    return dataset


if __name__ == "__main__":
    run(main)
