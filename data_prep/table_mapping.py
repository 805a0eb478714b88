"""Mapping of a table's columns to those of metadata.csv: by flags, shipped files (mappings/*.yaml), one's own files."""

import csv
import difflib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from data_prep.images import ImageType
from sdcxr.io.labels import chexpert_name
from sdcxr.io.manifest import CLASS_COLUMN, IDS, LABELS, LONGEST_SHOWN
from sdcxr.runtime.errors import UserError

SHIPPED = Path(__file__).with_name("mappings")
OURS = ("image", "text", *IDS, "view", "split", CLASS_COLUMN, "labels")
"""What --columns can name beside the labels: the image's path or name, and `labels`, a list of findings in one cell."""
Repeats = Literal["refuse", "first", "any", "majority"]
ALTERNATIVE, UNION = "|", "+"
_ASSUMED = {"image": ("image", "file_name"), "labels": ()}  # columns that are taken without being named


@dataclass(frozen=True)
class TableMapping:
    """How a table is to be read; the keys of a mapping file.

    Columns of the table are named as `a`, `a|b` (the first that is not empty), `a?` (may be missing), and for labels
    also `a+b` (positive if one of them is).
    """

    description: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    """name in metadata.csv, image or labels → column of the table"""
    patterns: dict[str, str] = field(default_factory=dict)
    """name in metadata.csv, or image → regular expression; its first group in the cell is the value"""
    path_patterns: dict[str, str] = field(default_factory=dict)
    """name in metadata.csv → regular expression for the path of the image in --images"""
    replacements: dict[str, dict[str, str]] = field(default_factory=dict)
    """column of the table → cell → what to read instead, except in labels"""
    label_values: dict[str, str] = field(default_factory=dict)
    """cell of a label → 1, 0, -1 or nothing"""
    label_names: dict[str, str] = field(default_factory=dict)
    """name in a list of findings → CheXpert label"""
    findings: dict[str, str] = field(default_factory=dict)
    """column of the table → words for {findings} in the prompt; default: the CheXpert labels"""
    positive_only: list[str] = field(default_factory=list)
    """labels of which the table tells only a part, so that 0 does not mean absent"""
    join: dict[str, str] = field(default_factory=dict)
    """column of the table of --join → column of the table that names the same"""
    keep: list[str] = field(default_factory=list)
    """columns of the table that metadata.csv has, too"""
    prompt_template: list[str] | str = ""
    """one template, or several of which each image gets one"""
    views: str = "all"
    repeats: Repeats = "refuse"
    impression: bool = False
    image_type: ImageType = "radiograph"
    masks_beside_images: bool = False
    """files NAME_mask.png and NAME_mask_1.png are the masks of NAME.png"""


def load_mapping(name: str | None) -> TableMapping:
    """A shipped mapping by name, or that of a YAML file; the default if `name` is None.

    Raises:
        UserError: no such mapping, or the file is no mapping.
    """
    if name is None:
        return TableMapping()
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    path = shipped.get(name, Path(name).expanduser())
    if not path.is_file():
        raise UserError(
            f"--mapping {name}: is neither a YAML file nor one of {', '.join(shipped)}{_near(name, shipped)}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--mapping {path}: is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"--mapping {path}: is not a YAML file of keys and values, such as `columns:`")
    return _checked(content, path)


def _checked(content: dict[Any, Any], path: Path) -> TableMapping:
    """The mapping with texts for the values of dictionaries; unknown keys and wrong types are refused."""
    known = {key.name: key for key in fields(TableMapping)}
    read: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise UserError(f"--mapping {path}: unknown key {key!r}{_near(str(key), known)}")
        default = getattr(TableMapping(), key)
        several = key == "prompt_template" and isinstance(value, list) and all(isinstance(one, str) for one in value)
        if not isinstance(value, type(default)) and not several:
            raise UserError(f"--mapping {path}: {key} is a {type(value).__name__}, not a {type(default).__name__}")
        read[key] = _texts(value) if isinstance(value, dict) else value
    for patterns in (read.get("patterns", {}), read.get("path_patterns", {})):
        for ours, pattern in patterns.items():
            _check_pattern(path, ours, pattern)
    return TableMapping(**read)


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _texts(item) for key, item in value.items()}
    return "" if value is None else str(value)


def _check_pattern(path: Path, ours: str, pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"--mapping {path}: the pattern of {ours} is no regular expression ({error})") from None
    if groups != 1:
        raise UserError(f"--mapping {path}: the pattern of {ours} has {groups} groups in parentheses: one is needed")


def with_flags(
    mapping: TableMapping, columns: str, label_values: str, prompt_template: list[str] | str, **others: Any
) -> TableMapping:
    """The mapping with what the flags say over it; those that are None leave it as it is.

    Raises:
        UserError: a flag is not of the form name=value,name=value, or names something unknown.
    """
    own = {_our_name("--columns", name): column for name, column in _pairs("--columns", columns)}
    template = mapping.prompt_template
    if "text" in own:
        template = ""
    if prompt_template:
        template = prompt_template
    given = {name: value for name, value in others.items() if value is not None}
    named = {_our_name("--mapping, columns:", name): column for name, column in mapping.columns.items()} | own
    values = mapping.label_values | dict(_pairs("--label_values", label_values))
    return replace(mapping, columns=named, label_values=values, prompt_template=template, **given)


def _pairs(flag: str, text: str) -> list[tuple[str, str]]:
    """name=value,name=value; a value with a comma is put in quotes, as in CSV."""
    words = next(csv.reader([text], skipinitialspace=True), []) if text.strip() else []
    pairs = []
    for word in words:
        name, equals, value = (part.strip().strip('"') for part in word.partition("="))
        if not equals or not name:
            raise UserError(f"{flag} {word.strip()}: expected name=value, several joined by commas")
        pairs.append((name, value))
    return pairs


def _our_name(flag: str, name: str) -> str:
    """A name of metadata.csv, image or labels; label names in any spelling."""
    ours = name if name in OURS else chexpert_name(name)
    if ours not in (*OURS, *LABELS):
        raise UserError(
            f"{flag} {name}=…: before the = stands one of {', '.join(OURS)} or a CheXpert label, behind it a column "
            f"of the table{_near(name, (*OURS, *LABELS))}"
        )
    return ours


# ---------------------------------------------------------------------------------------------------------------------
# Columns of a table


def resolve(mapping: TableMapping, table: pd.DataFrame, where: str) -> TableMapping:
    """The mapping with the columns that the table has: those named, and those that bear our names.

    Raises:
        UserError: a column is not there; lists those that are, and the closest.
    """
    named = {}
    for ours, theirs in mapping.columns.items():
        if not theirs:  # the flag --columns split= leaves it out
            continue
        wanted, optional = theirs.removesuffix("?"), theirs.endswith("?")
        there = names_in(wanted, table, UNION if ours in LABELS else ALTERNATIVE)
        if there:
            named[ours] = there
        elif not optional:
            raise UserError(missing_column(wanted, table.columns, f"{ours}={wanted}", where))
    for ours in (*OURS, *LABELS):
        assumed = next((name for name in _ASSUMED.get(ours, (ours,)) if name in table), None)
        if assumed is not None and ours not in mapping.columns and not (ours == "text" and mapping.prompt_template):
            named[ours] = assumed
    findings = {column: words for column, words in mapping.findings.items() if column in table}
    kept = [name.removesuffix("?") for name in mapping.keep]
    for wanted, name in zip(mapping.keep, kept, strict=True):
        if name not in table and not wanted.endswith("?"):
            raise UserError(missing_column(name, table.columns, f"--keep {name}", where))
        if name in (*OURS, *LABELS, "file_name"):
            raise UserError(f"--keep {name}: metadata.csv has a column of that name: leave it out, or use --columns")
    return replace(mapping, columns=named, findings=findings, keep=[name for name in kept if name in table])


def names_in(wanted: str, table: pd.DataFrame, separator: str) -> str:
    """The columns of `a|b` or `a+b` that the table has, joined in the same way; "" if none."""
    if wanted in table:
        return wanted
    return separator.join(name for name in (word.strip() for word in wanted.split(separator)) if name in table)


def missing_column(wanted: str, columns: Iterable[str], flag: str, where: str) -> str:
    """The message about a column that a table lacks."""
    there = [str(column) for column in columns]
    shown = ", ".join(there[:30]) + (f" and {len(there) - 30} more" if len(there) > 30 else "")
    return f"--table {where}: has no column {wanted!r} ({flag}; it has: {shown}){_near(wanted, there)}"


def column_cells(mapping: TableMapping, table: pd.DataFrame, theirs: str) -> pd.Series:
    """The cells of `a` or `a|b`, with `replacements` applied."""
    names = [theirs] if theirs in table else [name.strip() for name in theirs.split(ALTERNATIVE)]
    cells = pd.Series("", index=table.index, dtype=object)
    for name in names:
        column = table[name]
        if name in mapping.replacements:
            column = column.map(
                lambda cell, read=mapping.replacements[name]: read.get(cell, cell) if _is_text(cell) else cell
            )
        cells = cells.where(cells.map(lambda cell: cell != "" and str(cell).strip() != ""), column)
    return cells


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)


def first_group(cells: pd.Series, pattern: str) -> pd.Series:
    """The first group of `pattern` in each cell, "" where it does not match."""
    return cells.astype(str).str.extract(pattern, expand=False).fillna("").astype(object)


def as_settings(mapping: TableMapping) -> dict[str, Any]:
    """What prep.json records of a mapping: all that differs from the default."""
    default = asdict(TableMapping())
    return {key: value for key, value in asdict(mapping).items() if value != default[key] and key != "description"}


def quoted(cell: Any) -> str:
    """A cell for a message: quoted if it is a word or a path, and not what may be from a patient's report."""
    text = str(cell)
    return repr(text) if len(text) <= LONGEST_SHOWN or len(text.split()) == 1 else "a text"


def _near(name: str, known: Iterable[str]) -> str:
    by_lower = {word.lower(): word for word in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f": did you mean {by_lower[near[0]]!r}?" if near else ""
