"""The one exception for what a user can mend: it ends a command with one line and exit code 2."""

import errno
import os


class UserError(Exception):
    """A mistake that the user can mend. The message is one line: what is wrong, where, and what to do."""


def explain_os_error(error: OSError) -> str | None:
    """One line for the operating-system failures that are the user's to mend (disk, rights), else None."""
    where = error.filename or "the output folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk while writing {where}: free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {where}: {os.strerror(error.errno)}"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{where}: a file stands where a folder is needed: give another folder"
    if error.errno == errno.ENAMETOOLONG:
        return f"{where}: the name is too long for this file system"
    return None
