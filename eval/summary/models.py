"""The models that a report compares: their samples, and a short name for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eval.inputs.folders import ImageFolder
from sdcxr.runtime.errors import UserError

PARTS_OF_RUN = ("pipeline", "adapter")  # folders in a run folder, which do not name it


class Model(NamedTuple):
    """A model by its samples."""

    name: str
    images: ImageFolder


def name_models(sides: Sequence[ImageFolder]) -> list[Model]:
    """The models with names that differ: of the run that made the samples where it is known, else of the folder.

    Raises:
        UserError: a folder is given twice.
    """
    places = [side.folder.resolve() for side in sides]
    for place, side in zip(places, sides, strict=True):
        if places.count(place) > 1:
            raise UserError(f"--synthetic {side.folder} is given twice")
    schemes = [[_run(side) for side in sides]]
    longest = max(len(place.parts) for place in places)
    schemes += [["/".join(place.parts[-n:]) for place in places] for n in range(1, longest + 1)]
    names = next(names for names in schemes if all(names) and len(set(names)) == len(names))
    return [Model(name, side) for name, side in zip(names, sides, strict=True)]


def _run(side: ImageFolder) -> str:
    """Name of the run or base that its table names; empty where there is none or several."""
    models = set(side.rows["model"].astype(str)) if "model" in side.rows else set()
    parts = [part for part in Path(models.pop()).parts if part not in (*PARTS_OF_RUN, "/")] if len(models) == 1 else []
    return parts[-1] if parts else ""
