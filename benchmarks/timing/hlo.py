"""Reads an optimized GPU program (HLO text): its kernels, their FLOPs and bytes, its loops and collectives.

A kernel is an instruction that launches work on the device: a fusion, a library call, a copy, a sort. What loops do
is multiplied by their trip count; a loop whose count the compiler does not know counts once and is listed. FLOPs are
those of matrix products and convolutions. Bytes are those of operands and results, once each; of an operand that a
fusion only slices or gathers, what it takes.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

BITS = {"pred": 8, "bf16": 16, "token": 0}  # other types end in their number of bits: f32, s8, u64, f8e4m3fn
# instructions that launch nothing, or whose work another one of this list or below counts
SILENT = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "add-dependency", "copy-done", "async-done", "async-update", "all-reduce-done", "all-gather-done",
    "collective-permute-done", "iota-done", "get-dimension-size",
}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "collective-broadcast", "reduce-scatter")
SLICING = ("dynamic-slice", "gather", "slice")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """One line of HLO."""

    name: str
    type: str  # "bf16[8,200]{1,0}", or a tuple of such
    opcode: str
    operands: tuple[str, ...]  # names; of a parameter its number
    rest: str  # attributes: windows, called computations, metadata, backend_config


class Kernel(NamedTuple):
    """One launch, `times` over."""

    instruction: Instruction
    flops: float
    bytes: float
    times: int
    source: str  # jax's name of the operation, "jit(step)/UNet/..."


class Loop(NamedTuple):
    """One while loop."""

    source: str
    trips: int | None  # None: not known to the compiler
    launches: int  # of one iteration, inner loops included
    outer_times: int  # how often the loop itself runs
    collectives: int  # of one iteration


class Program(NamedTuple):
    """What a program does when it runs once."""

    kernels: list[Kernel]
    loops: list[Loop]
    collectives: list[Kernel]


def read(text: str) -> dict[str, list[Instruction]]:
    """Computations by name; the entry's is "ENTRY"."""
    computations: dict[str, list[Instruction]] = {}
    body: list[Instruction] = []
    for line in text.splitlines():
        if line.endswith("{") and (line.startswith("%") or line.startswith("ENTRY")):
            name = "ENTRY" if line.startswith("ENTRY") else line.split()[0].lstrip("%")
            body = computations.setdefault(name, [])
        elif " = " in line and line.startswith("  "):
            body.append(_instruction(line))
    return computations


def _instruction(line: str) -> Instruction:
    name, _, right = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    kind, right = right[:end], right[end:].lstrip()
    start = right.index("(")
    end = _closing(right, start)
    inside = right[start + 1 : end]
    if right[:start] == "parameter":
        operands = (inside,)  # its number
    else:
        operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name.lstrip("%"), kind, right[:start], operands, right[end + 1 :])


def _closing(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i
    raise ValueError(f"no closing bracket in: {text[:200]}")


def shapes(kind: str) -> list[tuple[str, tuple[int, ...]]]:
    """Element type and sides of each array of a type."""
    return [(t, tuple(int(n) for n in s.split(",") if n)) for t, s in _SHAPE.findall(kind)]


def size(kind: str) -> float:
    """Bytes of a type."""
    total = 0.0
    for element, sides in shapes(kind):
        bits = BITS.get(element)
        if bits is None:
            found = re.search(r"\d+", element)
            bits = int(found.group()) if found else 0
        total += math.prod(sides) * bits / 8
    return total


def analyze(text: str) -> Program:
    """Kernels, loops and collectives of a compiled program."""
    computations = read(text)
    kernels: list[Kernel] = []
    loops: list[Loop] = []
    _walk("ENTRY", 1, computations, kernels, loops)
    return Program(kernels, loops, [k for k in kernels if k.instruction.opcode.startswith(COLLECTIVES)])


def _walk(name: str, times: int, computations: dict, kernels: list[Kernel], loops: list[Loop]) -> None:
    types = {i.name: i.type for i in computations[name]}
    by_name = {i.name: i for i in computations[name]}
    for i in computations[name]:
        if i.opcode == "while":
            found = re.search(r'"known_trip_count":\{"n":"(\d+)"', i.rest)
            trips = int(found.group(1)) if found else None
            before = len(kernels)
            _walk(_called(i, "body"), times * (trips or 1), computations, kernels, loops)
            if trips is None:  # the condition is looked at on the device, then by the host
                _walk(_called(i, "condition"), times, computations, kernels, loops)
            inside, once = kernels[before:], times * (trips or 1)
            busy = [k for k in inside if k.instruction.opcode.startswith(COLLECTIVES)]
            launches = sum(k.times for k in inside) // once
            loops.append(Loop(_source(i), trips, launches, times, sum(k.times for k in busy) // once))
        elif i.opcode in ("call", "async-start") or (i.opcode == "conditional" and "branch" in i.rest):
            for inner in _branches(i):
                _walk(inner, times, computations, kernels, loops)
        elif i.opcode not in SILENT:
            buffers = [_buffer(o, by_name) for o in i.operands]
            kernels.append(_kernel(i, times, types, buffers, computations))


def _buffer(name: str, by_name: dict[str, Instruction]) -> str:
    """The instruction whose memory another name for it means: two names of one operand are read once."""
    while True:
        i = by_name[name]
        if i.opcode in ("bitcast", "opt-barrier") and size(i.type) == size(by_name[i.operands[0]].type):
            name = i.operands[0]
        elif i.opcode == "get-tuple-element" and by_name[_buffer(i.operands[0], by_name)].opcode == "tuple":
            index = re.search(r"index=(\d+)", i.rest)
            assert index, i
            name = by_name[_buffer(i.operands[0], by_name)].operands[int(index.group(1))]
        else:
            return name


def _called(i: Instruction, what: str) -> str:
    found = re.search(rf"\b{what}=%?([\w.\-]+)", i.rest)
    assert found, f"{i.name} has no {what}"
    return found.group(1)


def _branches(i: Instruction) -> list[str]:
    if i.opcode == "conditional":
        found = re.search(r"branch_computations=\{([^}]*)\}", i.rest)
        if found:
            return [b.strip().lstrip("%") for b in found.group(1).split(",")]
        return [_called(i, "true_computation"), _called(i, "false_computation")]
    return [_called(i, "calls" if "calls=" in i.rest else "to_apply")]


def _source(i: Instruction) -> str:
    found = re.search(r'op_name="([^"]*)"', i.rest)
    return found.group(1) if found else ""


def _kernel(i: Instruction, times: int, types: dict[str, str], buffers: list[str], computations: dict) -> Kernel:
    flops = 0.0
    operands = {b: size(types[o]) for b, o in zip(buffers, i.operands, strict=True)}
    result = size(i.type)
    if i.opcode == "fusion":
        body = computations[_called(i, "calls")]
        inner = {x.name: x.type for x in body}
        flops = sum(_flops(x, inner) for x in body)
        operands, result = _fusion_bytes(body, inner, buffers)
    elif i.opcode == "custom-call":
        flops = _flops(i, types)
        result = sum(size(f"{t}[{','.join(map(str, s))}]") for t, s in shapes(i.type) if t != "s8")  # workspace
    else:
        flops = _flops(i, types)
        if i.opcode in SLICING:
            operands = {"slice": result}
        elif i.opcode == "dynamic-update-slice":
            operands = {"update": size(types[i.operands[1]])}
            result = operands["update"]
    return Kernel(i, flops, result + sum(operands.values()), times, _source(i))


def _fusion_bytes(body: list[Instruction], inner: dict, buffers: list[str]) -> tuple[dict, float]:
    """Bytes of each operand that a fusion reads, and of what it writes."""
    parameters = [x for x in body if x.opcode == "parameter"]
    by_name = {x.name: x for x in body}
    result = 0.0
    updated = set()
    for root in _roots(body, by_name):
        if root.opcode == "dynamic-update-slice":  # written in place
            updated.add(_origin(root.operands[0], by_name))
            result += size(inner[root.operands[1]])
        else:
            result += size(root.type)
    read_bytes = {}
    for p in parameters:
        operand = buffers[int(p.operands[0])]
        users = [x for x in body if p.name in x.operands]
        if p.name in updated and all(u.opcode in ("dynamic-update-slice", "bitcast") for u in users):
            taken = 0.0
        elif users and all(u.opcode in SLICING and u.operands[0] == p.name for u in users):
            taken = min(sum(size(u.type) for u in users), size(p.type))
        else:
            taken = size(p.type)
        read_bytes[operand] = max(read_bytes.get(operand, 0.0), taken)
    return read_bytes, result


def _roots(body: list[Instruction], by_name: dict[str, Instruction]) -> Iterator[Instruction]:
    root = body[-1]
    while root.opcode == "bitcast":
        root = by_name[root.operands[0]]
    if root.opcode != "tuple":
        yield root
        return
    for name in root.operands:
        x = by_name[name]
        while x.opcode == "bitcast":
            x = by_name[x.operands[0]]
        yield x


def _origin(name: str, by_name: dict[str, Instruction]) -> str:
    while by_name[name].opcode == "bitcast":
        name = by_name[name].operands[0]
    return name


def _flops(i: Instruction, types: dict[str, str]) -> float:
    """2 times the products of a matrix product or a convolution, 0 of all else."""
    if i.opcode == "dot":
        lhs = shapes(types[i.operands[0]])[0][1]
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest)
        contracted = math.prod(lhs[int(d)] for d in found.group(1).split(",")) if found and found.group(1) else 1
        return 2.0 * math.prod(shapes(i.type)[0][1]) * contracted
    target = re.search(r'custom_call_target="([^"]*)"', i.rest)
    target = target.group(1) if target else ""
    if target.startswith("__cublas"):
        config = _backend(i)["gemm_backend_config"]
        lhs = shapes(types[i.operands[0]])[0][1]
        dims = config["dot_dimension_numbers"]["lhs_contracting_dimensions"]
        return 2.0 * math.prod(shapes(i.type)[0][1]) * math.prod(lhs[int(d)] for d in dims)
    if i.opcode == "convolution" or target.startswith("__cudnn$conv"):
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", i.rest)
        assert labels, i
        first, second = (shapes(types[o])[0][1] for o in i.operands[:2])
        kernel, out = second, shapes(i.type)[0][1]
        if "BackwardFilter" in target:
            kernel, out = out, second
        elif "BackwardInput" in target:
            out = first
        return 2.0 * math.prod(out) * math.prod(kernel) / kernel[labels.group(2).index("o")]
    assert "conv" not in target.lower() and "fmha" not in target.lower(), f"FLOPs of {target} are not counted"
    return 0.0


def _backend(i: Instruction) -> dict[str, Any]:
    start = i.rest.index("backend_config=") + len("backend_config=")
    return json.JSONDecoder().raw_decode(i.rest[start:])[0]
