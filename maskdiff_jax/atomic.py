"""Atomic writes: every file that the project keeps is written by `write`, completely or not at all."""

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write(path: str | Path, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Writes a file under a temporary name beside it and renames it, so that no reader ever sees half of it.

    The older file stays until the new one is complete and on the disk.

    Args:
      path: of the file; its folder must exist.
      content: text (written as UTF-8), bytes, or a function that writes to the open binary file.

    Raises:
      OSError: the disk is full or the folder cannot be written to; names the file. Nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def cannot_write(path: str | Path, error: Exception, *, full: bool = False) -> OSError:
    """A write error as one sentence that says what to do.

    Args:
      path: what could not be written.
      error: what was raised.
      full: the disk is known to be full; False: ``error.errno`` decides.
    """
    number = error.errno if isinstance(error, OSError) else None
    if full or number in (errno.ENOSPC, errno.EDQUOT):
        text = f"the disk is full: free some space, then run the command again. Not written: {path}"
        return OSError(number or errno.ENOSPC, text)
    reason = (isinstance(error, OSError) and error.strerror) or str(error).strip() or type(error).__name__
    text = f"cannot write {path}: {reason.splitlines()[0][:200]}"
    return OSError(number, text) if number else OSError(text)


def write_json(path: str | Path, document: Any, *, indent: int | None = 1) -> None:
    """Writes ``document`` as json by `write`; a NaN is an error, because most json readers reject it.

    Raises:
      OSError: as `write`.
      ValueError: a number in it is not finite, or an object cannot be written as json.
    """
    write(path, json.dumps(document, indent=indent, allow_nan=False))


def check_writable(folder: str | Path) -> None:
    """Makes a folder and writes a test file into it, so that hours of work do not end without a place for the result.

    Raises:
      OSError: the folder cannot be made or written to; says where else to write.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / ".trial", b"")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot write to {folder} ({reason}): give another folder with --output") from error
    (folder / ".trial").unlink(missing_ok=True)
