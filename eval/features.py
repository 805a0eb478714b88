"""Extract image features of a folder into a safetensors file; list the feature extractors.

    python -m eval.features --list                                                     # all extractors
    python -m eval.features --images DIR --extractor xrv-all --weights_dir DIR --output FILE.safetensors
    accelerate launch -m eval.features --images DIR --extractor RUN --output FILE      # sharded over processes

Arrays are cached: a second call with the same images and weights does not run the network.
"""

from dataclasses import dataclass
from pathlib import Path

from eval import extractors
from eval.command import weights_folder
from eval.extractors.cache import extract, write_features
from eval.inputs.folders import read_folder
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError


@dataclass
class FeaturesConfig:
    """Images and extractor."""

    images: str | None = None
    """Folder of images: a split of a dataset folder, a samples folder, or a plain folder."""
    extractor: str | None = None
    """Name of an extractor, with an optional @variant, or a folder with a model (see --list)."""
    output: str | None = None
    """Safetensors file: `values` (images, dimension), and `ids` and `provenance` as JSON in its metadata."""
    weights_dir: str | None = None
    """Folder with the weights of named extractors."""
    list: bool = False
    """Only print the names of extractors."""


def main(config: FeaturesConfig) -> int:
    if config.list:
        known = extractors.names()
        width = max(map(len, known))
        print("\n".join(f"{name:{width}}  {about}" for name, about in known.items()))
        return 0
    if config.images is None or config.extractor is None or config.output is None:
        absent = [name for name in ("images", "extractor", "output") if getattr(config, name) is None]
        raise UserError(f"missing {', '.join('--' + name for name in absent)}")
    images = read_folder(config.images, "--images")
    features = extract(images, extractors.find_extractor(config.extractor, weights_folder(config.weights_dir)))

    from sdcxr.runtime.processes import processes

    if processes().is_main_process:
        output = Path(config.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_features(output, features)
        n, dimension = features.values.shape
        print(f"{output}: {n} images × {dimension} features of {features.provenance['extractor']}")
    return 0


if __name__ == "__main__":
    run(main)
