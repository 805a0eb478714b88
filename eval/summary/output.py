"""The tables beside report.html: scores.json, differences.json and nearest.csv."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from eval.scores import Rows, write_scores
from eval.summary.comparison import compare_models, shared_rows
from eval.summary.models import Model
from eval.summary.steps import Outcome, plain_name
from sdcxr.io.files import atomic

SCORES, DIFFERENCES = "scores.json", "differences.json"


def write_tables(folder: Path, outcome: Outcome, models: Sequence[Model]) -> Rows:
    """Write the scores of all models as one list of rows, the tables of the steps, and differences of several models.

    A table has the model's name in its own where there are several. Returns the rows of differences.
    """
    write_scores(folder / SCORES, shared_rows(outcome.rows))
    differences = compare_models(outcome.rows, models)
    if differences:
        write_scores(folder / DIFFERENCES, differences)
    else:
        (folder / DIFFERENCES).unlink(missing_ok=True)
    for (name, model), kept in outcome.tables.items():
        path = folder / own_table(name, model if len(models) > 1 else None)
        with atomic(path) as temporary:
            shutil.copyfile(kept, temporary)
    return differences


def own_table(name: str, model: str | None) -> str:
    """The file name of a table, with that of the model where there are several."""
    path = Path(name)
    return name if model is None else f"{path.stem}-{plain_name(model)}{path.suffix}"
