"""Set-up of every test, before jax is imported: the CPU, quick compiling, compiled programs kept between runs.

Environment variables, not `jax.config`, so that the subprocesses which tests start inherit them. Tests that
need several devices run in a subprocess with XLA_FLAGS=--xla_force_host_platform_device_count=8; forcing that
here would split the two cores of a small machine for all the others.

Most of a test's time is compiling, and most of compiling is LLVM's optimization of tiny programs that run once.
So tests compile without it, except where it is part of what they check: see `optimized`.
"""

import os
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
# a program that compiles faster than this is not worth a file
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# how long an example takes says something about the machine alone
hypothesis.settings.register_profile("tests", parent=hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def optimized(request, monkeypatch):
    """Parity tests and slow ones compile as users do: with all optimizations."""
    if "parity" not in request.path.parent.parts[len(ROOT.parts) :] and not request.node.get_closest_marker("slow"):
        yield
        return
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def pytest_collection_modifyitems(items):
    """Long files first, quick ones last: then two processes (make test) end at about the same time."""
    order = {"end_to_end": 0, "benchmarks": 2, "configs": 2, "data": 2, "docs": 2}
    items.sort(key=lambda item: order.get(item.path.relative_to(ROOT / "tests").parts[0], 1))
