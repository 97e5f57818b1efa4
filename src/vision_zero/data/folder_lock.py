"""A lock on a folder while a process writes to it; the kernel releases it when the process ends, killed or not."""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class FolderLockedError(ValueError):
    """Another process holds the folder. The message names its host and process."""


@contextmanager
def locked(folder: Path, *, keep_file: bool = False) -> Iterator[None]:
    """Lock `folder`, which is made if need be, for the block. LOCK is then removed, or left empty.

    Raises FolderLockedError. On a file system without locks one line says so.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FolderLockedError(f"{folder} is in use by {file.read().strip() or 'another process'}") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{folder}: no locks on this file system: see to it that no other run writes there", file=sys.stderr)
        with suppress(FileNotFoundError):  # the one that held it has removed the file that was just opened
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    try:
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", end="", file=file, flush=True)
        os.fsync(file.fileno())  # for other machines
        yield
    finally:
        file.truncate(0)
        if not keep_file:
            path.unlink(missing_ok=True)
        file.close()
        if is_new:
            with suppress(OSError):  # not empty: there is a run now
                folder.rmdir()
