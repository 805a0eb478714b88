"""UserError, the exception for mistakes of the user, and one-line explanations of operating-system errors."""

import errno
import os
import re
import traceback


class UserError(Exception):
    """A mistake of the user; ends a command with exit code 2. One line: what is wrong, where, and what to do."""


class NotWritten(OSError):
    """Writing a file failed; `filename` is the intended name, not that of a temporary file."""


def first_line(error: BaseException) -> str:
    """What a library's error says in 300 characters: its first line, with the next where that only announces it."""
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join([first, *map(str.strip, others[: first.endswith(":")])])[:300]


def os_error_behind(error: Exception) -> OSError | None:
    """The operating-system error behind an exception: itself, or the one that a library in Rust quotes in its own.

    safetensors raises a SafetensorError, tokenizers a bare Exception.
    """
    if isinstance(error, OSError):
        return error
    in_rust = type(error).__name__ in ("SafetensorError", "Exception")
    found = re.search(r"\(os error (\d+)\)", str(error)) if in_rust else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def explain_os_error(error: OSError) -> str | None:
    """One line about an operating-system error that the user can fix, else None.

    Covers full disks, permissions, and paths that cannot be created. Missing and unreadable inputs are reported by the
    code that reads them.
    """
    where = error.filename or "the output folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk while writing {where}: free some space and run the same command again"
    if error.errno == errno.EFBIG:
        return f"the system's limit on the size of a file is exceeded by {where}: raise it (ulimit -f) and run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {where}: {os.strerror(error.errno)}"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{where} is a file, but a folder is needed: give another folder"
    if error.errno == errno.EISDIR:  # from a rename: the second name is the target
        return f"{error.filename2 or where} is a folder, but a file is needed: give another name"
    if error.errno == errno.ENAMETOOLONG:
        return f"{where}: the name is too long for this file system"
    if isinstance(error, NotWritten) or _makes_a_folder(error):
        return f"{where} cannot be created: {error.strerror}: give another name"
    return None


def _makes_a_folder(error: OSError) -> bool:
    """Whether `Path.mkdir` or `os.makedirs` raised the error, which has no other sign of it than its traceback."""
    calls = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    return calls[-1:] in (["mkdir"], ["makedirs"])
