"""A lock on a folder that a command writes: run folders, dataset folders, the user's cache."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdcxr.runtime.errors import UserError

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems without them
REQUEUED = 120.0  # seconds: a file server keeps the locks of a node that has died for up to 90


@contextmanager
def locked(folder: Path, patience: float | None = None) -> Iterator[None]:
    """Hold a folder against other commands that write to it; it is made if missing, and removed if it stays empty.

    A POSIX record lock, not filelock's: it ends with the process that holds it, however that dies, and is not inherited
    by worker processes. Within one process it excludes nothing.

    Args:
        folder: the folder.
        patience: seconds to wait for another process; None: 0, and `REQUEUED` in a requeued SLURM job.

    Raises:
        UserError: another process holds it; names it.
        OSError: the folder cannot be made or written to.
    """
    made = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    if patience is None:
        patience = REQUEUED if "SLURM_RESTART_COUNT" in os.environ else 0.0
    lock = _acquire(folder / LOCK, patience)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(lock)
        if made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _acquire(path: Path, patience: float) -> int:
    """The descriptor of a locked file; waits for `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                print(f"{path.parent}: this file system has no locks: start no second command that writes to it")
                return lock
            owner = os.read(lock, 200).decode(errors="replace")
            os.close(lock)
            if time.monotonic() < deadline:
                time.sleep(1.0)
                continue
            raise UserError(
                f"{path.parent} is in use by another command ({owner or 'unknown'}): wait until it has ended, or use "
                "another --output_dir"
            ) from None
        if os.fstat(lock).st_nlink:  # else it was removed by its last holder between the two calls
            os.truncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return lock
        os.close(lock)
