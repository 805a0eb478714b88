"""Textual projection (arXiv 2210.04133): project a domain encoder's states into the space of a base's text encoder.

    python fit_projection.py --base ID --text_encoder ID --prompts DATASET/train --output_dir DIR
    accelerate launch generate.py --model DIR --prompts DATASET/test --output_dir samples
    accelerate launch train.py --base DIR --tune unet --data DATASET --output_dir RUN

No image is needed: the base's own encoder says what the states of a text should be. The result is a pipeline whose UNet
was not trained; a tenth of the texts is held out to measure it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

RECORD = "projection.json"  # begun before the pipeline is saved, with what was measured once that is there


@dataclass
class ProjectionConfig:
    """What to project, and on which texts to learn it."""

    base: str
    """Stable Diffusion 1.x or 2.x: a hub name, a pipeline folder or a run folder."""
    text_encoder: str
    """Its new text encoder, see train.py."""
    prompts: str
    """Texts: a .txt (one per line), a table (text or prompt), or a split of a dataset folder."""
    output_dir: str
    """Folder of the pipeline, and of projection.json with what was measured."""
    text_projection: Literal["linear", "mlp"] = "mlp"
    """`mlp` has one hidden layer and needs a few lines to load (docs/training.md); `linear` is solved by least squares
    and folded into the UNet."""
    max_train_steps: int = 3000
    """Optimizer steps of `mlp`."""
    train_batch_size: int = 64
    """Texts per step of `mlp`."""
    learning_rate: float = 1e-3
    """Of AdamW for `mlp`, falling to 0 as a cosine."""
    text_length: int | None = None
    """Tokens of a text. Default: as many as the base takes."""
    trust_remote_code: bool = False
    """Run the code in the repository or folder of --text_encoder."""
    seed: int = 0
    """Of the first weights, the held-out texts and the order."""

    def __post_init__(self) -> None:
        for name in ("max_train_steps", "train_batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name} {getattr(self, name)}: must be positive")
        self.output_dir = str(Path(self.output_dir).expanduser())


def main(config: ProjectionConfig) -> int:
    import dataclasses
    import hashlib

    from sdcxr.generation.prompts import read_prompts
    from sdcxr.io.files import write_json

    output = Path(config.output_dir)
    texts = list(dict.fromkeys(read_prompts(config.prompts)["text"]))
    settings = dataclasses.asdict(config)
    settings["texts_sha256"] = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    if is_finished(output, settings):
        print(f"{output} is finished")
        return 0

    from sdcxr import backbones  # torch only once the arguments are known to be good
    from sdcxr.training.projection import fit_projection

    backbone, measured = fit_projection(config, texts)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / RECORD, settings)
    backbones.save(backbone, output / "pipeline")
    write_json(output / RECORD, settings | measured)
    print(
        f"{output}: of {measured['n_held_out']} held-out texts {measured['top1']:.1%} find themselves first among the "
        f"states of the base (chance {1 / measured['n_held_out']:.1%}); {measured['explained']:.1%} of the variance "
        "explained"
    )
    return 0


def is_finished(output: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder has the projection of these settings; one that was stopped begins anew.

    Raises:
        UserError: it holds something else, or was made with other settings.
    """
    from sdcxr.io.files import check_same_settings, read_json

    if (output / RECORD).is_file():
        record = read_json(output / RECORD)
        check_same_settings(output, {name: record.get(name) for name in settings}, settings)
        return "explained" in record
    if output.exists() and any(output.iterdir()):
        raise UserError(f"--output_dir {output}: is not empty, give another folder")
    return False


def entry() -> None:
    """Parse sys.argv and exit with the code of `main`."""
    run(main)


if __name__ == "__main__":
    entry()
