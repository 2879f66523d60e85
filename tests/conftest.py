"""Set-up of every test, before jax is imported: the CPU, and compiled programs kept between runs.

Environment variables, not `jax.config`, so that the subprocesses which tests start inherit them. Tests that
need several devices run in a subprocess with XLA_FLAGS=--xla_force_host_platform_device_count=8; forcing that
here would split the two cores of a small machine for all the others.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
# a program that compiles faster than this is not worth a file
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
