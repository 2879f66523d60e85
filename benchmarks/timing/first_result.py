"""What a newcomer waits for: masks of an example scene, the notebook, the page of launch/demo.py.

    python benchmarks/timing/first_result.py             # -> benchmarks/results/first_result.json, some minutes
    python benchmarks/timing/first_result.py --rounds=1 --python=VENV/bin/python

Each command runs in a separate process with an empty compilation cache, as after the installation, and then again
with the cache that it left. Seconds are wall-clock from the start of the process: of launch/sample.py and of the
notebook, all its cells, to the end; of the page until its server answers a request. Medians of the rounds. --python is
an interpreter with the packages of requirements-dev.txt and requirements-demo.txt, where this one lacks some.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure

ROOT = measure.ROOT
CACHES = ("empty", "filled")
ANSWER = 600  # seconds that a page may take
# Jupyter's own files go to the scratch folder
NOTEBOOK = "import pathlib, sys; from tests.docs import notebook; notebook.execute(pathlib.Path(sys.argv[1]))"


def main() -> None:
    """Runs each command with both caches, writes the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the commands")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    seconds = {name: medians(name, run, command, args.rounds) for name, (run, command) in commands(args.python).items()}
    result = {
        "command": "python benchmarks/timing/first_result.py", "rounds": args.rounds, "load": round(load, 1),
        "seconds": seconds,
    }  # fmt: skip
    measure.write("first_result", result | measure.machine())


def commands(python: str) -> dict[str, tuple[Callable[[list[str], Path, dict], float], list[str]]]:
    """What is timed: how, and the command; "{scratch}" in it is a new folder."""
    launch = ROOT / "launch"
    sample = [str(launch / "sample.py"), "examples/model", "examples/scene.png", "--output={scratch}/samples"]
    return {
        "sample.py": (until_end, [python, *sample]),
        "notebook": (until_end, [python, "-c", NOTEBOOK, str(ROOT / "examples")]),
        "demo.py": (until_answer, [python, str(launch / "demo.py"), "--port=0"]),
    }


def medians(
    title: str, run: Callable[[list[str], Path, dict], float], command: list[str], rounds: int
) -> dict[str, float]:
    """Seconds of a command with an empty and with a filled compilation cache."""
    found: dict[str, list[float]] = {cache: [] for cache in CACHES}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name in CACHES:
                with tempfile.TemporaryDirectory() as scratch:
                    own = {"JAX_COMPILATION_CACHE_DIR": cache, "IPYTHONDIR": scratch, "JUPYTER_RUNTIME_DIR": scratch}
                    found[name].append(run(command, Path(scratch), os.environ | own))
                print(f"{title}, {name} cache: {found[name][-1]:.1f} s", flush=True)
    return {name: round(statistics.median(seconds), 1) for name, seconds in found.items()}


def until_end(command: list[str], scratch: Path, env: dict[str, str]) -> float:
    """Seconds that a command takes; raises if it fails."""
    filled = [part.replace("{scratch}", str(scratch)) for part in command]
    start = time.monotonic()
    subprocess.run(filled, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def until_answer(command: list[str], scratch: Path, env: dict[str, str]) -> float:
    """Seconds until the page answers whose address a command prints; the command is ended then.

    Raises:
      RuntimeError: the command ends, or prints something else first.
    """
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=env | {"TMPDIR": str(scratch)}, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()  # ends when the process does
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        if not address:
            raise RuntimeError(f"no page: {line or 'the command ended'}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands between
        with opener.open(address[0], timeout=ANSWER) as reply:
            reply.read()
        return time.monotonic() - start
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
