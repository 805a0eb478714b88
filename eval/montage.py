"""Montage of real radiographs beside the synthetic ones of the same prompts, as one PNG.

    python -m eval.montage --real DATASET/test --synthetic SAMPLES --output montage.png

The prompts are chosen evenly from all, not by how their images look.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from eval.command import check_at_least
from eval.inputs.folders import read_sides, same_prompts, spread_out
from sdcxr.io.files import atomic
from sdcxr.runtime.cli import run
from sdcxr.runtime.errors import UserError

GAP = 12  # pixels between pairs
LINE = 15  # pixels per line of text


@dataclass
class MontageConfig:
    """What to show."""

    real: str
    """Split of a dataset folder whose rows were the prompts."""
    synthetic: str
    """Samples folder."""
    output: str
    """PNG file."""
    pairs: int = 12
    """Prompts shown."""
    columns: int = 4
    """Pairs in a row."""
    size: int = 160
    """Side of an image in pixels."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "pairs", "columns", "size")
        if Path(self.output).suffix.lower() != ".png":
            raise UserError(f"--output {self.output}: name a file that ends in .png")


def main(config: MontageConfig) -> int:
    real, synthetic = read_sides(config.real, config.synthetic)
    pairs = spread_out(same_prompts(real, synthetic), config.pairs)
    if not pairs:
        raise UserError(f"no image of {config.synthetic} was made by generate.py from a prompt of {config.real}")
    output = Path(config.output).expanduser()
    picture = draw_montage([(left, right, text) for left, right, _, text in pairs], config.columns, config.size)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic(output) as temporary:
        picture.save(temporary, format="PNG")
    print(f"{output}: {len(pairs)} prompts, real on the left, synthetic on the right")
    return 0


def draw_montage(pairs: list[tuple[Path, Path, str]], columns: int, size: int) -> Image.Image:
    """Pairs tiled row by row, each with up to three lines of its prompt.

    Raises:
        UserError: an image cannot be read.
    """
    from eval.inputs.images import Unusable, read_grey  # torch comes with it

    font = ImageFont.load_default(size=12)
    width, height = 2 * size + GAP, size + 3 * LINE + GAP
    rows = -(-len(pairs) // columns)
    picture = Image.new("L", (columns * width + GAP, rows * height + 2 * GAP), 0)
    pen = ImageDraw.Draw(picture)
    for i, (real, synthetic, text) in enumerate(pairs):
        x, y = GAP + (i % columns) * width, 2 * GAP + (i // columns) * height
        for path, left, name in ((real, x, "real"), (synthetic, x + size, "synthetic")):
            try:
                grey, _ = read_grey(path)
            except Unusable as problem:
                raise UserError(f"{path} {problem}") from None
            picture.paste(grey.resize((size, size), Image.Resampling.LANCZOS), (left, y))
            pen.text((left + 3, y + 1), name, fill=255, font=font, stroke_width=1, stroke_fill=0)
        for number, line in enumerate(textwrap.wrap(text, width=2 * size // 7)[:3]):
            pen.text((x, y + size + 2 + number * LINE), line, fill=230, font=font)
    return picture


if __name__ == "__main__":
    run(main)
