"""Compiling for tests: most of a test's time. What is compared does not depend on LLVM's optimizations."""

from functools import partial

import jax

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
