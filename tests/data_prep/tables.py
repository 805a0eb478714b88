"""Rows of an invented table, and the command `data_prep.table` on them."""

from pathlib import Path

import pandas as pd
import pytest

from data_prep.table import TableConfig, main
from sdcxr.runtime.errors import UserError
from tests.data_prep.folders import metadata

ROWS = [
    {"image": f"i{n}.png", "text": f"Invented text {n}.", "subject_id": str(n // 2), "view": "PA", "Edema": str(n % 2)}
    for n in range(6)
]


def prepare(table: Path, images: Path, **flags: object) -> pd.DataFrame:
    """Run the command; all rows that were written, by the name of the image."""
    output_dir = table.with_name("out")
    settings: dict = {"validation_fraction": 0, "test_fraction": 0, "resolution": 24, "workers": 1} | flags
    assert main(TableConfig(table=table, images=images, output_dir=output_dir, **settings)) == 0
    rows = metadata(output_dir)
    return rows.set_index(rows["file_name"].str.removesuffix(".png")).sort_index()


def refusal(table: Path, images: Path, **flags: object) -> str:
    with pytest.raises(UserError) as error:
        prepare(table, images, **flags)
    assert "\n" not in str(error.value)
    return str(error.value)


def save(path: Path, rows: list[dict] | None = None, **options: object) -> Path:
    pd.DataFrame(ROWS if rows is None else rows).to_csv(path, index=False, **options)  # type: ignore[call-overload]
    return path


def changed(**cells: object) -> list[dict]:
    """The rows with other cells; a list has one for each row."""
    return [
        row | {name: cell[n] if isinstance(cell, list) else cell for name, cell in cells.items()}
        for n, row in enumerate(ROWS)
    ]
