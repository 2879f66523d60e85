"""Runs a script of launch/ with the arguments and the output of a command line: in this process, or in a new one."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

ROOT = Path(__file__).resolve().parents[1]


class Output(NamedTuple):
    """What a command leaves."""

    code: int
    out: str
    err: str


def run(script: str, *arguments: object, cwd: str | Path | None = None) -> Output:
    """Runs ``launch/<script>.py`` with these arguments in a folder; an exception it does not handle is raised here."""
    argv, folder = sys.argv, Path.cwd()
    path = str(ROOT / "launch" / f"{script}.py")
    sys.argv = [path, *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    os.chdir(cwd or folder)
    try:
        with own_flags(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        os.chdir(folder)
        sys.argv = argv
    return Output(code, out.getvalue(), err.getvalue())


def start(script: str, *arguments: object, cwd: str | Path | None = None) -> Output:
    """As ``run``, in a separate process: slower, and each script passes it once."""
    command = [sys.executable, str(ROOT / "launch" / f"{script}.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    return Output(done.returncode, done.stdout, done.stderr)


def load(script: str) -> dict[str, Any]:
    """The functions of a script by name, without running it."""
    with own_flags():
        return runpy.run_path(str(ROOT / "launch" / f"{script}.py"), run_name=f"launch.{script}")


@contextlib.contextmanager
def own_flags():
    """Puts the flags of other scripts aside, because scripts define flags of the same names."""

    def of_scripts():
        return [name for name in flags.FLAGS if "launch" in flags.FLAGS.find_module_defining_flag(name, "")]

    aside = {name: flags.FLAGS[name] for name in of_scripts()}
    for name in aside:
        delattr(flags.FLAGS, name)
    try:
        yield
    finally:
        for name in of_scripts():
            delattr(flags.FLAGS, name)
        for name, flag in aside.items():
            flags.FLAGS[name] = flag
            flags.FLAGS.register_flag_by_module("launch.cli", flag)
