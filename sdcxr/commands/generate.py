"""Synthetic chest radiographs from prompts.

    accelerate launch generate.py --model RUN --prompts "Large left pneumothorax." --output_dir samples
    accelerate launch generate.py --model RUN --prompts prompts.csv --output_dir samples --scheduler ddim
    accelerate launch --num_processes 8 generate.py --model RUN --prompts DATASET/test --output_dir samples
    accelerate launch generate.py --model RUN/checkpoints/checkpoint-500 --prompts prompts.txt --output_dir samples
    accelerate launch generate.py --model BASE --adapter RUN:0.8 --prompts prompts.txt --output_dir samples

Images are 8-bit grey PNGs, <id>_<k>.png, with a metadata.csv that says how each was made.
The same command again continues where it stopped; with more prompts or more images per prompt it adds those.
"""

from sdcxr.generation.config import GenerateConfig
from sdcxr.runtime.cli import run


def main(config: GenerateConfig) -> int:
    from sdcxr.generation.samples_folder import generate  # torch only once the arguments are known to be good

    return generate(config)


def entry() -> None:
    """Parse sys.argv and exit with the code of `main`."""
    run(main)


if __name__ == "__main__":
    entry()
