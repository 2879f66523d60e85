"""Runs a script of launch/ as a user does, in a new process or, much faster, in this one."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from unittest import mock

from absl import flags

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 900  # seconds


def start(script: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """In a process of its own: what only a new one shows, such as imports and what libraries print."""
    return subprocess.run(_command(script, arguments), cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT)


def call(script: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """In this process, which has jax and what it compiled: same arguments, exit code and output as `start`.

    An error that the script does not handle becomes a traceback on stderr and code 1, as in a process of its own.
    """
    command, known = _command(script, arguments), set(flags.FLAGS)
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(cwd)
    try:
        with (
            mock.patch.object(sys, "argv", command[1:]),
            mock.patch.object(sys, "path", sys.path[:]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = _run(command[1])
    finally:
        os.chdir(before)
        for name in set(flags.FLAGS) - known:  # the next script defines its own
            delattr(flags.FLAGS, name)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def _command(script: str, arguments: tuple) -> list[str]:
    return [sys.executable, str(ROOT / "launch" / f"{script}.py"), *map(str, arguments)]


def _run(path: str) -> int:
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0
