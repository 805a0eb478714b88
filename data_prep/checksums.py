"""SHA-256 sums that a collection publishes of its own files: PhysioNet's SHA256SUMS.txt, which MIMIC-CXR-JPG has."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from sdcxr.io.files import checksum
from sdcxr.runtime.errors import UserError

SUMS = "SHA256SUMS.txt"
_LINE = re.compile(r"([0-9a-fA-F]{64})\s+\*?(.+)")  # PhysioNet has one blank; an asterisk is for binary mode


def read_sums(path: Path) -> dict[str, str]:
    """SHA-256 in lower case of every file that a list of sums names, by its name relative to the list's folder.

    Raises:
        UserError: the file cannot be read, or a line has another form; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    sums = {}
    for number, line in enumerate(lines, start=1):
        if match := _LINE.fullmatch(line.strip()):
            sums[match[2].removeprefix("./")] = match[1].lower()
        elif line.strip():
            raise UserError(f"{path}, line {number}: expected a SHA-256 and a file name: download the list again")
    return sums


def expected_sums(files: Sequence[str]) -> list[str]:
    """The published SHA-256 of each file (absolute paths), "" where the list does not name it.

    The list lies in the folder that all files have in common, or in one above it.

    Raises:
        UserError: there is no list, or it names none of the files; says where it was looked for.
    """
    if not files:
        return []
    common = Path(os.path.commonpath([os.path.dirname(file) for file in files]))  # noqa: PTH120
    for folder in (common, *common.parents):
        if (folder / SUMS).is_file():
            sums = read_sums(folder / SUMS)
            prefix = f"{folder}/".replace("//", "/")
            expected = [sums.get(file.removeprefix(prefix), "") for file in files]
            if not any(expected):
                raise UserError(f"--verify_checksums: {folder / SUMS} names none of the images, such as {files[0]}")
            return expected
    raise UserError(
        f"--verify_checksums: no {SUMS} in {common} or a folder above it: "
        "download it to where the collection has it, or leave the flag out"
    )


def difference(file: str, expected: str) -> str:
    """What is wrong with a file by its SHA-256, in words; "" if nothing, or if no sum is `expected`.

    A missing or unreadable file is left to whoever decodes it.
    """
    try:
        found = checksum(Path(file)) if expected else ""
    except OSError:
        return ""
    return "" if found == expected else f"SHA-256 {found[:12]}…, listed {expected[:12]}…: download the file again"
