"""What benchmarks/timing/hlo.py counts in a small program that was written by hand."""

import json
from pathlib import Path

import pytest

from benchmarks.timing import gpu_compile, hlo

ROOT = Path(__file__).resolve().parents[2]

TEXT = """
HloModule jit_f, is_scheduled=true

%fused_update (p0: f32[10,4], p1: f32[4], p2: s32[]) -> f32[10,4] {
  %p0 = f32[10,4]{1,0} parameter(0)
  %p1 = f32[4]{0} parameter(1)
  %b = f32[1,4]{1,0} bitcast(%p1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %dus = f32[10,4]{1,0} dynamic-update-slice(%p0, %b, %p2, %zero)
}

%fused_take (q0: bf16[10,8], q1: s32[]) -> f32[8] {
  %q0 = bf16[10,8]{1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %z = s32[] constant(0)
  %ds = bf16[1,8]{1,0} dynamic-slice(%q0, %q1, %z), dynamic_slice_sizes={1,8}
  %r = bf16[8]{0} bitcast(%ds)
  ROOT %c = f32[8]{0} convert(%r)
}

%body (s: (s32[], f32[10,4], f32[4], bf16[10,8])) -> (s32[], f32[10,4], f32[4], bf16[10,8]) {
  %s = (s32[], f32[10,4]{1,0}, f32[4]{0}, bf16[10,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %y = f32[10,4]{1,0} get-tuple-element(%s), index=1
  %v = f32[4]{0} get-tuple-element(%s), index=2
  %w = bf16[10,8]{1,0} get-tuple-element(%s), index=3
  %new = f32[10,4]{1,0} fusion(%y, %v, %i), kind=kLoop, calls=%fused_update, metadata={op_name="jit(f)/update"}
  %taken = f32[8]{0} fusion(%w, %i), kind=kLoop, calls=%fused_take
  %sum = f32[4]{0} all-reduce(%v), replica_groups={}, to_apply=%add
  ROOT %out = (s32[], f32[10,4]{1,0}, f32[4]{0}, bf16[10,8]{1,0}) tuple(%i, %new, %sum, %w)
}

%condition (t: (s32[], f32[10,4], f32[4], bf16[10,8])) -> pred[] {
  %t = (s32[], f32[10,4]{1,0}, f32[4]{0}, bf16[10,8]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%t), index=0
  %n = s32[] constant(10)
  ROOT %less = pred[] compare(%j, %n), direction=LT
}

ENTRY %main (a: bf16[16,32], k: bf16[32,8], x: bf16[2,6,6,3], f: bf16[4,3,3,3]) -> f32[10,4] {
  %a = bf16[16,32]{1,0} parameter(0)
  %k = bf16[32,8]{1,0} parameter(1)
  %x = bf16[2,6,6,3]{3,2,1,0} parameter(2)
  %f = bf16[4,3,3,3]{3,2,1,0} parameter(3)
  %gemm = (f32[16,8]{1,0}, s8[4194304]{0}) custom-call(%a, %k), custom_call_target="__cublas$lt$matmul", CONFIG
  %conv = (bf16[2,6,6,4]{3,2,1,0}, u8[0]{0}) custom-call(%x, %f), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %again = bf16[512]{0} bitcast(%a)
  %twice = bf16[16,64]{1,0} concatenate(%a, %again), dimensions={1}
  %init = (s32[], f32[10,4]{1,0}, f32[4]{0}, bf16[10,8]{1,0}) tuple(%c0, %c1, %c2, %c3)
  %loop = (s32[], f32[10,4]{1,0}, f32[4]{0}, bf16[10,8]{1,0}) while(%init), condition=%condition, body=%body, TRIPS
  ROOT %result = f32[10,4]{1,0} get-tuple-element(%loop), index=1
}
""".replace(
    "CONFIG",
    'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}',
)
TRIPS = 'backend_config={"known_trip_count":{"n":"10"}}'


def kernels(text):
    return {k.instruction.name: k for k in hlo.analyze(text).kernels}


def test_flops_and_bytes():
    found = kernels(TEXT.replace("TRIPS", TRIPS))
    assert found["gemm"].flops == 2 * 16 * 8 * 32
    assert found["gemm"].bytes == 2 * (16 * 32 + 32 * 8) + 4 * 16 * 8  # without the workspace
    assert found["conv"].flops == 2 * (2 * 6 * 6 * 4) * (3 * 3 * 3)
    assert found["twice"].bytes == 2 * 16 * 32 + 2 * 16 * 64  # two names of one buffer
    assert found["new"].bytes == 4 * 4 + 4 + 4 * 4  # in place: the update and its index are read, the update written
    assert found["taken"].bytes == 2 * 8 + 4 + 4 * 8  # a row of ten
    assert set(found) == {"gemm", "conv", "twice", "new", "taken", "sum"}
    assert found["new"].source == "jit(f)/update"


@pytest.mark.parametrize("known", [True, False])
def test_loops_and_collectives(known):
    program = hlo.analyze(TEXT.replace("TRIPS", TRIPS if known else ""))
    (loop,) = program.loops
    assert loop.trips == (10 if known else None) and loop.outer_times == 1 and loop.collectives == 1
    assert loop.launches == (3 if known else 4)  # the host reads the condition
    assert sum(k.times for k in program.kernels) == (33 if known else 7)
    assert [(k.instruction.opcode, k.times) for k in program.collectives] == [("all-reduce", 10 if known else 1)]


def test_the_document_shows_the_json():
    programs = json.loads((ROOT / "benchmarks/results/gpu_compile_h200.json").read_text())["programs"]
    text = (ROOT / "docs/gpu_compile.md").read_text()
    assert set(programs) == set(gpu_compile.PROGRAMS)
    assert gpu_compile.table(programs) in text and gpu_compile.norm_table(programs) in text
    few, many = (programs[name]["launches_in_longest_loop"][1] for name in ("sample_16", "sample_128_guided"))
    assert f"launches {few} kernels per step for 16 masks and {many} for 128 guided ones" in text
    assert max(r["peak_gib"] for r in programs.values()) < gpu_compile.ROOM
    assert max(r["unknown_loops"] for r in programs.values()) <= 3
    assert not any(r["collectives_in_loops"] for r in programs.values())
