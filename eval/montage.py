"""One picture to look at: real radiographs beside the synthetic ones of the same prompts, the prompt below.

python -m eval.montage --real DATASET/test --synthetic SAMPLES --output montage.png
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sdcxr.cli import run
from sdcxr.errors import UserError
from sdcxr.files import atomic, inside
from sdcxr.manifest import image_ids, read_metadata

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
        for name in ("pairs", "columns", "size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least 1")


def main(config: MontageConfig) -> int:
    pairs = find_pairs(Path(config.real), Path(config.synthetic))
    if not pairs:
        raise UserError(f"no image of {config.synthetic} was made from a prompt of {config.real}")
    step = max(1, len(pairs) // config.pairs)
    picture = draw(pairs[::step][: config.pairs], config.columns, config.size)
    Path(config.output).parent.mkdir(parents=True, exist_ok=True)
    with atomic(config.output) as temporary:
        picture.save(temporary, format="PNG")
    print(f"{config.output}: {min(len(pairs), config.pairs)} prompts, real on the left, synthetic on the right")
    return 0


def find_pairs(real: Path, synthetic: Path) -> list[tuple[Path, Path, str]]:
    """(real image, first synthetic image, prompt) for every prompt that has both, in the order of their ids."""
    rows, samples = read_metadata(real), read_metadata(synthetic)
    if "id" not in samples:
        raise UserError(f"--synthetic {synthetic}: its metadata.csv has no column id: it was not made by generate.py")
    originals = dict(zip(image_ids(rows), rows["file_name"], strict=True))
    pairs = [
        (inside(real, originals[row["id"]]), inside(synthetic, row["file_name"]), row["text"])
        for row in samples.drop_duplicates("id").to_dict("records")
        if row["id"] in originals
    ]
    return sorted(pairs)


def draw(pairs: list[tuple[Path, Path, str]], columns: int, size: int) -> Image.Image:
    """Pairs tiled row by row, each with up to three lines of its prompt."""
    font = ImageFont.load_default(size=12)
    width, height = 2 * size + GAP, size + 3 * LINE + GAP
    rows = -(-len(pairs) // columns)
    picture = Image.new("L", (columns * width + GAP, rows * height + 2 * GAP), 0)
    pen = ImageDraw.Draw(picture)
    for i, (real, synthetic, text) in enumerate(pairs):
        x, y = GAP + (i % columns) * width, 2 * GAP + (i // columns) * height
        for path, left, name in ((real, x, "real"), (synthetic, x + size, "synthetic")):
            with Image.open(path) as image:
                picture.paste(image.convert("L").resize((size, size), Image.Resampling.LANCZOS), (left, y))
            pen.text((left + 3, y + 1), name, fill=255, font=font, stroke_width=1, stroke_fill=0)
        for number, line in enumerate(textwrap.wrap(text, width=2 * size // 7)[:3]):
            pen.text((x, y + size + 2 + number * LINE), line, fill=230, font=font)
    return picture


if __name__ == "__main__":
    run(main)
