"""What a compiled program holds as constants, read from its lowered text."""

import math
import re
from typing import Any

import jax

BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2, "i64": 8, "ui64": 8, "i32": 4, "ui32": 4, "i8": 1, "ui8": 1, "i1": 1}
# a splat, dense<0.0>, is one number whatever its shape; the others are written out
WRITTEN_OUT = re.compile(r'constant (?:dense<(?:"0x|\[)|dense_resource<)[^\n]*?: tensor<((?:\d+x)*)(\w+)>')


def constants(compiled: Any, *args: Any) -> list[int]:
    """Bytes of each constant array that jit(f) holds for these arguments, largest first."""
    found = WRITTEN_OUT.findall(compiled.lower(*args).as_text())
    sizes = [math.prod(int(n) for n in shape.split("x") if n) * BYTES[kind] for shape, kind in found]
    return sorted(sizes, reverse=True)


def device_arrays(compiled: Any, *args: Any) -> list[Any]:
    """Arrays on a device that jit(f) closes over; on a GPU, reading them stops a guarded loop."""
    found: list[Any] = []

    def walk(closed: Any) -> None:
        found.extend(c for c in closed.consts if isinstance(c, jax.Array))
        for equation in closed.jaxpr.eqns:
            for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "jaxpr")):
                if hasattr(value, "consts"):
                    walk(value)

    walk(jax.make_jaxpr(compiled)(*args))
    return found
