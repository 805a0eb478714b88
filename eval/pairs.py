"""Which pictures stand beside each other: real and synthetic ones of one prompt, chosen evenly from all."""

from pathlib import Path
from typing import Any

from eval.folders import ImageFolder
from sdcxr.files import inside
from sdcxr.manifest import image_ids


def same_prompts(real: ImageFolder, synthetic: ImageFolder) -> list[tuple[Path, Path, str, str]]:
    """(real image, first synthetic image, id, prompt) for every prompt that has both, in the order of their ids."""
    if "id" not in synthetic.rows or "text" not in real.rows:
        return []
    originals = dict(zip(image_ids(real.rows), real.paths, strict=True))
    rows = synthetic.rows.drop_duplicates("id")
    found = [
        (originals[row["id"]], inside(synthetic.folder, row["file_name"]), row["id"], row.get("text") or "")
        for row in rows.to_dict("records")
        if row["id"] in originals
    ]
    return sorted(found, key=lambda pair: pair[2])


def spread_out(items: list[Any], count: int) -> list[Any]:
    """At most `count` items, evenly from the list."""
    step = max(len(items) / count, 1.0)
    return [items[int(i * step)] for i in range(min(count, len(items)))]
