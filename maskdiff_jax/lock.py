"""One owner at a time: the lock that keeps other processes out of a run folder."""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maskdiff_jax import atomic

LOCK = "lock"
# what flock says on a file system that has no locks
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def owned(folder: str | Path, name: str = LOCK) -> Iterator[None]:
    """Keeps other processes out of a run folder while this one trains there.

    The kernel releases the lock when its process ends, however that ends: a lock is never left behind.

    Args:
      folder: is made when missing.
      name: of the lock's file; locks of other names are independent of it.

    Raises:
      BlockingIOError: another process trains there; names its host and process id.
      OSError: the folder cannot be written to.
    """
    path = Path(folder) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    except OSError as error:
        raise atomic.cannot_write(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise BlockingIOError(
                f"{folder} is in use by {owner}: wait until it ends, stop it, or give another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise atomic.cannot_write(path, error) from error
            print(
                f"note: the file system of {folder} does not support locks: make sure that only one process "
                "trains in this folder",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
