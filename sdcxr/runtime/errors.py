"""The one exception for what a user can mend: it ends a command with one line and exit code 2."""

import errno
import os
import re
import traceback


class UserError(Exception):
    """A mistake that the user can mend. The message is one line: what is wrong, where, and what to do."""


class NotWritten(OSError):
    """The system refused to write a file; `filename` is the name that the file was to have."""


def os_error_behind(error: Exception) -> OSError | None:
    """The operating system's failure in an exception: itself, or what safetensors tells in the words of its own one."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def explain_os_error(error: OSError) -> str | None:
    """One line for the operating-system failures that are the user's to mend, else None.

    These are those of disk and rights, and all that stand in the way of a folder or file that is to be made. A file
    that cannot be read, or is not there, is told where it is read.
    """
    where = error.filename or "the output folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk while writing {where}: free some space and run the same command again"
    if error.errno == errno.EFBIG:
        return f"the system's limit on the size of a file is reached by {where}: raise it (ulimit -f) and run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {where}: {os.strerror(error.errno)}"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{where}: a file stands where a folder is needed: give another folder"
    if error.errno == errno.EISDIR:  # a finished file is moved to where it belongs: the second name
        return f"{error.filename2 or where}: a folder stands where a file is needed: give another name"
    if error.errno == errno.ENAMETOOLONG:
        return f"{where}: the name is too long for this file system"
    if isinstance(error, NotWritten) or _makes_a_folder(error):
        return f"{where} cannot be made: {error.strerror}: give another name"
    return None


def _makes_a_folder(error: OSError) -> bool:
    """Whether the call that failed is that of `Path.mkdir` or `os.makedirs`: error and name do not tell."""
    calls = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    return calls[-1:] in (["mkdir"], ["makedirs"])
