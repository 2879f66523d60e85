"""What the benchmark scripts share: timing, memory, workers in separate processes, the json they leave."""

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def seconds_of(call: Callable[[], Any], *, least: float = 2.0, most: int = 50) -> list[float]:
    """Seconds of each of several calls, after one that is not counted.

    Args:
      call: must return when the work is done.
      least: seconds to go on for; three calls are made in any case.
      most: calls.
    """
    call()
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < least and len(seconds) < most):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def compiled_gb(compiled: Any) -> float:
    """GB (10**9 bytes) that a program compiled by jax holds while it runs: arguments, results, temporaries."""
    m = compiled.memory_analysis()
    total = m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes
    return total / 1e9


def machine() -> dict[str, Any]:
    """Accelerator or processor, versions, date: what a measured number needs beside it."""
    from maskdiff_jax.evaluation.metrics_document import device_name

    return {
        "device": device_name(),
        "versions": {p: version(p) for p in ("jax", "jaxlib", "flax", "numpy")},
        "date": datetime.date.today().isoformat(),
    }


def worker(script: str, *, python: str = sys.executable, **options: Any) -> dict[str, Any]:
    """Runs a benchmark script in a separate process; its last line of stdout is json.

    Args:
      script: file name in benchmarks/timing/.
      python: the interpreter.
      **options: flags of the script, `name=value` becomes `--name=value`.
    """
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"}
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    command = [python, str(ROOT / "benchmarks" / "timing" / script), *flags]
    out = subprocess.run(command, env=env, capture_output=True, text=True)
    if out.returncode:
        last = (out.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": last[:300]}
    return json.loads(out.stdout.strip().splitlines()[-1])


def rounds(jobs: dict[str, Callable[[], dict]], count: int) -> dict[str, dict]:
    """Runs jobs in turn, `count` times each; for each the median of its "seconds", and all other entries."""
    runs: dict[str, list[dict]] = {name: [] for name in jobs}
    for _ in range(count):
        for name, job in jobs.items():
            if not any("error" in r for r in runs[name]):
                runs[name].append(job())
                print(f"  {name}: {runs[name][-1].get('seconds', runs[name][-1])}", flush=True)
    merged = {}
    for name, results in runs.items():
        merged[name] = dict(results[-1])
        if "error" not in results[-1]:
            merged[name]["seconds"] = statistics.median(r["seconds"] for r in results)
            merged[name]["rounds"] = [round(r["seconds"], 5) for r in results]
    return merged


def write(name: str, result: dict[str, Any]) -> None:
    """benchmarks/results/NAME.json"""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.relative_to(ROOT))
