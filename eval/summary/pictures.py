"""Pictures of report.html: real images beside synthetic ones, and the nearest training images."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from eval.inputs.folders import ImageFolder, is_phantom, same_prompts, spread_out
from eval.summary.blocks import Group, Picture, Section
from eval.summary.models import Model
from sdcxr.io.files import inside

PROMPTS = 12  # pairs in the sample grid
NEIGHBOURS = 8  # nearest pairs shown
THUMBNAIL = 192  # pixels


def pictures(real: ImageFolder, models: Sequence[Model], show_prompts: bool = False) -> Section:
    """Real images beside the synthetic ones of the same prompts; without such prompts, images of either side."""
    shown = show_prompts or is_phantom(real.folder)
    names = ["synthetic"] if len(models) == 1 else [model.name for model in models]
    by_prompt = [{key: (a, b, text) for a, b, key, text in same_prompts(real, model.images)} for model in models]
    common = [key for key in by_prompt[0] if all(key in found for found in by_prompt)]
    groups = []
    for key in spread_out(common, PROMPTS if len(models) == 1 else PROMPTS // 2):
        path, _, text = by_prompt[0][key]
        made = [picture(found[key][1], name) for found, name in zip(by_prompt, names, strict=True)]
        groups.append(Group([picture(path, "real"), *made], text if shown and text else key))
    if groups:
        each = "one" if len(models) == 1 else "one of each model"
        about = (
            f"Each group has one prompt: its real image on the left, then the first synthetic {each}. Chosen evenly "
            "from all prompts, not by how they look."
        )
        hint = (
            "Prompts are hidden, because they may be text of patients' reports (--show_prompts shows them). Below each "
            "group is the id of its row."
        )
        return Section("pictures", [about], "" if shown else hint, groups=groups)
    about = "No prompt is known to have images of all sides: the images of a group do not belong together."
    sides = [real, *(model.images for model in models)]
    count = min(PROMPTS, *map(len, sides))
    for paths in zip(*(spread_out(side.paths, count) for side in sides), strict=True):
        row = [picture(path, name) for path, name in zip(paths, ["real", *names], strict=True)]
        groups.append(Group(row, "; ".join(path.name for path in paths)))
    return Section("pictures", [about], groups=groups)


def nearest_images(table: Path, model: Model, train: ImageFolder, several: bool = False) -> Section:
    """The synthetic images that are most similar to a training image, beside that image."""
    import pandas as pd

    found = pd.read_csv(table, dtype={"synthetic": str, "train": str}).head(NEIGHBOURS)
    groups = []
    for row in found.to_dict("records"):
        copy = ", a copy" if row["copy"] else ""
        caption = f"correlation {row['correlation']:.3f}{copy}: {row['synthetic']}, training image {row['train']}"
        left = picture(inside(model.images.folder, row["synthetic"]), "synthetic")
        groups.append(Group([left, picture(inside(train.folder, row["train"]), "training")], caption))
    title = f"Nearest training images: {model.name}" if several else ""
    return Section("nearest", groups=groups, title=title)


def picture(path: Path, name: str, size: int = THUMBNAIL) -> Picture:
    """A grey thumbnail of at most size × size pixels; what is not square is centred on black."""
    from PIL import Image, ImageOps

    from eval.inputs.images import Unusable, read_grey  # torch comes with it

    try:
        grey, _ = read_grey(path)
    except Unusable as problem:
        return Picture(name, problem=f"{path.name} {problem}")
    grey = ImageOps.pad(grey, (min(size, max(grey.size)),) * 2, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG", optimize=True)
    return Picture(name, "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"))
