"""Prompts from a text, a file or a dataset split; what is a file, or looks like one, is never itself a prompt."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sdcxr.io.manifest import LABELS, SPLITS, image_ids, read_metadata, with_labels
from sdcxr.io.table_formats import REFUSED, TABLE_KINDS, kind_of, read_lines, read_table
from sdcxr.runtime.errors import UserError
from sdcxr.text.fields import person_fields
from sdcxr.text.prompt_writer import note_on_text, prompts_of
from sdcxr.text.refocusing import TextMode, describe_change, use_mode
from sdcxr.text.templates import places

TEXTS = ("text", "prompt", "impression")
IDS = ("id", "dicom_id")
# Suffixes that make a text the name of a file, also where there is none.
OTHER_FILES = (*REFUSED, ".yaml", ".yml", ".xml", ".feather", ".gz", ".docx", ".pdf")


def read_prompts(prompts: str, mode: TextMode = "raw", templates: Sequence[str] = (), seed: int = 0) -> pd.DataFrame:
    """Rows with `id`, `text` and, where the source has them, other columns and the labels.

    Args:
        prompts: one prompt, a file (.txt, or a table of any kind in `TABLE_KINDS`), or a folder with a metadata.csv.
        mode: what becomes of the texts.
        templates: templates of the prompts, see `sdcxr.text.templates`; none: the texts.
        seed: which of several templates a prompt gets depends on it and on the id.

    Raises:
        UserError: a file or folder is missing, empty, of an unknown kind or has no text column; a text is empty, or
            nothing is left of it; ids repeat or are no file names; a template has a field that there is not.
    """
    if not prompts.strip():
        raise UserError("--prompts: is empty")
    path = _path(prompts)
    if path and path.is_dir():
        rows = _read_split(path)
        if note := note_on_text(path, templates):
            print(note)
    elif path and (path.exists() or path.is_symlink()):
        rows = _read_file(path, templates)
    elif path and speaks_for_a_path(prompts, path):
        raise UserError(f"--prompts {prompts}: no such file or folder")
    else:
        rows = pd.DataFrame({"id": ["prompt"], "text": [prompts]})
    if not len(rows):
        raise UserError(f"--prompts {prompts}: holds no prompt")
    odd = rows["id"][~rows["id"].map(lambda name: bool(re.fullmatch(r"[\w.-]*\w[\w.-]*", name)))]
    if len(odd):
        raise UserError(f"--prompts {prompts}: the id {odd.iloc[0]!r} is no file name (use letters, digits, - and _)")
    if rows["id"].duplicated().any():
        raise UserError(f"--prompts {prompts}: the id {rows['id'][rows['id'].duplicated()].iloc[0]} comes twice")
    needed = not templates or "text" in places(templates)
    empty = rows["id"][rows["text"].str.strip() == ""] if needed and "text" in rows else rows["id"][:0]
    if len(empty):
        raise UserError(f"--prompts {prompts}: the text of {empty.iloc[0]} is empty ({len(empty)} in all)")
    return _used_prompts(rows, mode, templates, seed) if mode != "raw" or templates else rows


def _used_prompts(rows: pd.DataFrame, mode: TextMode, templates: Sequence[str], seed: int) -> pd.DataFrame:
    """The rows with the texts in a mode, and written by templates."""
    written = _written_columns(rows, templates)
    if mode != "raw" and written:
        used = {name: rows[name].map(lambda text: use_mode(text, mode)) for name in written}
        print(describe_change(mode, pd.concat([rows[name] for name in written]), pd.concat(used.values())))
        empty = rows["id"][used["text"] == ""] if "text" in used else rows["id"][:0]
        if len(empty):
            which = f" {empty.iloc[0]} ({len(empty)} in all)" if len(rows) > 1 else ""
            raise UserError(
                f"--text {mode}: nothing is left of the prompt{which}: leave it out, or use another setting"
            )
        rows = rows.assign(**used)
    if not templates:
        return rows
    return rows.assign(text=pd.Series(prompts_of(rows, templates, seed), rows.index, dtype=object))


def _written_columns(rows: pd.DataFrame, templates: Sequence[str]) -> list[str]:
    """The columns that prompts take and somebody wrote: not labels, ids, views or persons."""
    if not templates:
        return ["text"]
    others = {*LABELS, "id", "view", *person_fields(rows)}
    return [name for name in places(templates) if name in rows and name not in others]


def _path(prompts: str) -> Path | None:
    """The prompts as a path; None for a text that cannot be one (too long, or an unknown ~user).

    Raises:
        UserError: it may be one, in a folder that cannot be looked into.
    """
    try:
        path = Path(prompts).expanduser()
        path.is_dir()
        path.exists()
    except PermissionError:
        raise UserError(f"--prompts {prompts}: no permission to look there") from None
    except (OSError, RuntimeError, ValueError):
        return None
    return path


def speaks_for_a_path(prompts: str, path: Path) -> bool:
    """Whether a text that is no file or folder was meant as one: `./x`, `x.csv` or one word with any other suffix,
    `data/x` in an existing data/, …/test.

    "Pneumonia/effusion" and "..." are prompts.
    """
    if re.match(r"\.{0,2}/|~/|\w+://", prompts) or re.fullmatch(r"[\w-]+(\.[\w-]+)*\.[A-Za-z]\w{1,6}", prompts):
        return True
    if kind_of(path) in TABLE_KINDS or path.suffix.lower() in OTHER_FILES:
        return True
    return "/" in prompts and (path.parent.is_dir() or path.name in SPLITS or prompts.endswith("/"))


def _read_split(folder: Path) -> pd.DataFrame:
    splits = [name for name in SPLITS if (folder / name / "metadata.csv").is_file()]
    if splits and not (folder / "metadata.csv").is_file():
        raise UserError(
            f"--prompts {folder}: has no metadata.csv, it is a whole dataset: give one of its splits "
            f"({folder / splits[-1]})"
        )
    rows = read_metadata(folder)
    rows["id"] = image_ids(rows)
    return rows


def _read_file(path: Path, templates: Sequence[str]) -> pd.DataFrame:
    if not path.is_file():
        what = "a link to what is not there" if path.is_symlink() else "neither a file nor a folder"
        raise UserError(f"--prompts {path}: {what}")
    if kind_of(path) == ".txt":
        return _read_lines(path)
    rows = read_table(path, "--prompts", text_column="text")
    text = _column(rows, TEXTS)
    if text is not None and not rows[text].map(lambda cell: isinstance(cell, str)).all():
        raise UserError(f"--prompts {path}: its column {text} holds something else than texts")
    return prompt_rows(rows.astype(str), path, templates)


def _read_lines(path: Path) -> pd.DataFrame:
    lines = [line.strip() for line in read_lines(path, f"--prompts {path}") if line.strip()]
    if lines and ("\t" in lines[0] or {*lines[0].lower().split(",")} & {*TEXTS}):
        raise UserError(
            f"--prompts {path}: begins as a table does: name it .tsv or .csv (.txt has one prompt per line)"
        )
    return pd.DataFrame({"id": [f"{i:05d}" for i in range(len(lines))], "text": lines}, dtype=str)


def _column(rows: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """The first of these columns that there is, in upper or lower case."""
    there = {str(column).strip().lower(): column for column in reversed(rows.columns)}
    return next((there[name] for name in names if name in there), None)


def prompt_rows(rows: pd.DataFrame, path: Path, templates: Sequence[str] = ()) -> pd.DataFrame:
    """`id`, `text` and labels of a table, for templates also its other columns; numbers as ids where it has none.

    Raises:
        UserError: it has no text column and needs one, or a label has another value.
    """
    text, ids = _column(rows, TEXTS), _column(rows, IDS)
    if text is None and (not templates or "text" in places(templates)):
        # Its columns are not listed: without a header they are the first prompt, which may be a patient's report.
        raise UserError(f"--prompts {path}: no column text or prompt (its first line has to name the columns)")
    numbered = pd.Series([f"{i:05d}" for i in range(len(rows))], dtype=str)
    prompts = pd.DataFrame({"id": rows[ids] if ids else numbered})
    prompts = prompts if text is None else prompts.assign(text=rows[text])
    others = rows[[name for name in rows if name not in prompts and (templates or name in LABELS)]]
    return with_labels(prompts.join(others), prompts["id"], f"--prompts {path}")
