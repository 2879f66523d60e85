"""Compiles the coco preset's programs for a GPU that this machine need not have, and counts what they would do.

    pip install -r requirements.txt                         # jax[cuda12]: 3 GB of wheels; no GPU and no driver
    python benchmarks/timing/gpu_compile.py  # -> benchmarks/results/gpu_compile_h200.json
    python benchmarks/timing/gpu_compile.py --gpu=a100             # or rtx3090
    python benchmarks/timing/gpu_compile.py --only=sample_16,train_detector_16   # the rest of the json stays
    python benchmarks/timing/gpu_compile.py --table  # prints the table of the json

Nothing runs. Memory is what the compiler planned; launches, FLOPs and bytes are read from the optimized program
(benchmarks/timing/hlo.py). "roofline" is the sum over all kernels of max(FLOPs / peak, bytes / bandwidth), a lower
bound for kernels that each reach 80 % of the dense bfloat16 peak or 90 % of the memory bandwidth. Without a device
the compiler cannot try out tiles and algorithms, so a real one will choose others.
"""

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

# XLA reads its flags once. Without a device to try tiles on, Triton's default ones do not fit some products
FLAGS = "--xla_gpu_force_compilation_parallelism=1 --xla_gpu_enable_triton_gemm=false"
HW = (800, 1344)  # px, the largest padded size of the preset
ROOM = 20.0  # GiB that a program may take: a 24 GB card less what the driver and the allocator keep

# what differs between the GPUs [XLA's GpuTargetConfigProto], and their dense bfloat16 peak with float32 sums
COMMON = (
    "threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 "
    "block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 "
    "registers_per_core_limit: 65536 registers_per_block_limit: 65536"
)
GPUS: dict[str, dict[str, Any]] = {
    "h200": {
        "name": "NVIDIA H200", "capability": "major: 9", "peak": 989e12,
        "fields": {
            "shared_memory_per_core": 233472, "threads_per_core_limit": 2048, "core_count": 132, "fpus_per_core": 128,
            "memory_bandwidth": 4814400000000, "l2_cache_size": 52428800, "clock_rate_ghz": 1.98,
            "device_memory_size": 150000000000, "shared_memory_per_block_optin": 232448,
        },
    },
    "a100": {
        "name": "NVIDIA A100-SXM4-80GB", "capability": "major: 8", "peak": 312e12,
        "fields": {
            "shared_memory_per_core": 167936, "threads_per_core_limit": 2048, "core_count": 108, "fpus_per_core": 64,
            "memory_bandwidth": 2039000000000, "l2_cache_size": 41943040, "clock_rate_ghz": 1.41,
            "device_memory_size": 85094105088, "shared_memory_per_block_optin": 166912,
        },
    },
    "rtx3090": {
        "name": "NVIDIA GeForce RTX 3090", "capability": "major: 8 minor: 6", "peak": 71e12,
        "fields": {
            "shared_memory_per_core": 102400, "threads_per_core_limit": 1536, "core_count": 82, "fpus_per_core": 128,
            "memory_bandwidth": 936096000000, "l2_cache_size": 6291456, "clock_rate_ghz": 1.695,
            "device_memory_size": 25425608704, "shared_memory_per_block_optin": 101376,
        },
    },
}  # fmt: skip


def target(gpu: str) -> str:
    """A GPU as XLA's GpuTargetConfigProto in text form."""
    g = GPUS[gpu]
    fields = " ".join(f"{k}: {v}" for k, v in g["fields"].items())
    return (
        f"gpu_device_info {{ {COMMON} {fields} cuda_compute_capability {{ {g['capability']} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 28 } '
        f'runtime_version {{ major: 12 minor: 9 patch: 0 }} device_description_str: "{g["name"]}"'
    )


def make_mesh(gpu: str, devices: int) -> Any:
    """A mesh of GPUs that only the compiler knows, of one host."""
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import AxisType, Mesh

    found = topologies.get_topology_desc(platform="cuda", target_config=target(gpu), topology=f"1x1x{devices}")
    return Mesh(np.array(found.devices).reshape(devices), ("data",), axis_types=(AxisType.Auto,))


# ---------------------------------------------------------------------------------- abstract arguments
def placed(tree: Any, sharding: Any) -> Any:
    """Shapes that lie on the mesh."""
    import jax

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def image_batch(config: Any, images: int) -> Any:
    """A detector batch of the largest padded size, shapes alone."""
    from jax import ShapeDtypeStruct as Shape

    from maskdiff_jax.types import Batch, Instances

    b, n = images, config.data.max_boxes
    truth = Instances(Shape((b, n, 4), "float32"), Shape((b, n), "int32"), Shape((b, n), "bool"))
    sizes = Shape((b, 2), "int32")
    return Batch(Shape((b, *HW, 3), "uint8"), sizes, sizes, Shape((b,), "int32"), truth)


def mask_batch(config: Any, objects: int) -> Any:
    """A mask-head batch, shapes alone."""
    from jax import ShapeDtypeStruct as Shape

    from maskdiff_jax.types import MaskBatch

    n, m, k = objects, config.model.mask.size, config.model.mask.slots
    return MaskBatch(
        Shape((n, m, m, 3), "uint8"), Shape((n, m, m), "uint8"), Shape((n, k, m, m, 4), "uint8"), Shape((n,), "int32")
    )


# ---------------------------------------------------------------------------------- programs
def detection(mesh: Any, images: int) -> Any:
    """`detect` of a batch, lowered."""
    import jax
    import numpy as np

    from configs import base
    from maskdiff_jax import model, sharding

    c = base.get_config("coco")
    m = model.build(c.model)
    params = placed(jax.eval_shape(m.init, jax.random.key(0)), sharding.replicated(mesh))
    batch = placed(image_batch(c, images), sharding.split(mesh))
    active = placed(np.ones(c.model.num_classes, bool), sharding.replicated(mesh))
    with jax.set_mesh(mesh):
        return jax.jit(m.detect).lower(params, batch.image, batch.image_hw, active)


def sampling(mesh: Any, objects: int, *, steps: int = 0, guidance: float = 1.0) -> Any:
    """Sampling of masks, lowered; `steps` 0: the preset's."""
    import jax

    from configs import base
    from maskdiff_jax import model, sharding

    c = base.get_config("coco").unlock()
    if steps:
        c.model.mask.diffusion.update(steps=steps, guidance=guidance)
    m = model.build(c.model)
    params = placed(jax.eval_shape(m.init, jax.random.key(0)), sharding.replicated(mesh))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), objects))
    batch = mask_batch(c, objects)
    return jax.jit(m.segment).lower(
        params, *placed((keys, batch.region, batch.shots, batch.classes), sharding.split(mesh))
    )


def training(mesh: Any, part: str, count: int, *, config: str = "base") -> Any:
    """A training step of the detector or the mask head in a stage, lowered; `count` images or objects, all devices."""
    from configs import base, fewshot

    c = (fewshot if config == "fewshot" else base).get_config("coco")
    return training_step(mesh, c, part, image_batch(c, count) if part == "detector" else mask_batch(c, count))


def training_step(mesh: Any, c: Any, part: str, batch: Any) -> Any:
    """A training step of the phase ``part`` of a config on a batch of these shapes, lowered."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from maskdiff_jax import model, sharding
    from maskdiff_jax.training import loop, optim
    from maskdiff_jax.types import TrainState

    m, p = model.build(c.model), c.train[part]
    params = jax.eval_shape(m.init, jax.random.key(0))
    if part == "detector":
        loss = lambda params, key, b: m.detector_loss(params, key, b, jnp.ones(c.model.num_classes, bool))  # noqa: E731
        mine = "detector/.*"
    else:
        loss, mine = m.mask_loss, "mask_head/.*"
    patterns = [*((x, optim.FROZEN) for x in c.train.frozen), (mine, part), (".*", optim.FROZEN)]
    labels = optim.label_parameters(params, patterns)
    optimizer = optim.combine({part: loop._optimizer(p.steps, p)}, labels)
    trained = jax.eval_shape(lambda x: optim.split(x, labels)[0], params)
    opt_state = jax.eval_shape(optimizer.init, trained)
    state = TrainState(jax.ShapeDtypeStruct((), np.int32), params, opt_state, trained)
    step = loop.make_step(loss, optimizer, labels, {part: p.ema}, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    same = sharding.replicated(mesh)
    return step.lower(placed(state, same), placed(batch, sharding.split(mesh)), placed(key, same))


# name -> (what it says in the table, devices, mesh -> lowered program)
PROGRAMS: dict[str, tuple[str, int, Callable[[Any], Any]]] = {
    "sample_16": ("sample 16 masks, 2 steps", 1, lambda mesh: sampling(mesh, 16)),
    "train_mask_64": ("train the mask head, 64", 1, lambda mesh: training(mesh, "mask", 64)),
    "detect_8": ("detect in 8 images", 1, lambda mesh: detection(mesh, 8)),
    "train_detector_16": ("train the detector, 16", 1, lambda mesh: training(mesh, "detector", 16)),
    "fewshot_detector_16": (
        "stage 2: train the detector's heads, 16", 1, lambda mesh: training(mesh, "detector", 16, config="fewshot"),
    ),
    "sample_128": ("sample 128 masks, 2 steps", 1, lambda mesh: sampling(mesh, 128)),
    "sample_16_guided": (
        "sample 16 masks, 10 guided steps", 1, lambda mesh: sampling(mesh, 16, steps=10, guidance=5.0),
    ),
    "sample_128_guided": (
        "sample 128 masks, 10 guided steps", 1, lambda mesh: sampling(mesh, 128, steps=10, guidance=5.0),
    ),
    "train_mask_8": ("train the mask head, 8", 1, lambda mesh: training(mesh, "mask", 8)),
    "detect_1": ("detect in 1 image", 1, lambda mesh: detection(mesh, 1)),
    "train_detector_2": ("train the detector, 2", 1, lambda mesh: training(mesh, "detector", 2)),
    "train_mask_64_on_8": ("train the mask head, 64 on 8 GPUs", 8, lambda mesh: training(mesh, "mask", 64)),
    "train_detector_16_on_8": ("train the detector, 16 on 8 GPUs", 8, lambda mesh: training(mesh, "detector", 16)),
}  # fmt: skip


def measure(name: str, gpu: str) -> dict[str, Any]:
    """Compiles one program and counts."""
    from benchmarks.timing import hlo

    _, devices, lower = PROGRAMS[name]
    start = time.monotonic()
    compiled = lower(make_mesh(gpu, devices)).compile()
    program = hlo.analyze(compiled.as_text())
    kernels = program.kernels
    inside = [loop for loop in program.loops if loop.trips is not None and loop.outer_times == 1]
    largest = max(inside, key=lambda loop: loop.launches, default=None)
    # what GroupNorm with SiLU moves: forward it reads twice and writes once, backward it reads twice two arrays and
    # writes one; a kernel that keeps an object's group on the chip would read each array once
    norms = [k for k in kernels if "norm" in k.source.rsplit("/", 1)[0].rsplit("(", 1)[-1].lower()]
    norms = norms if name.startswith(("sample", "train_mask")) else []
    gpu_seconds = partial(seconds, gpu=gpu)
    saved = sum(k.times * k.bytes * (2 / 5 if "transpose(" in k.source else 1 / 3) for k in norms)
    return {
        "devices": devices,
        **totals(compiled, kernels, gpu),
        "launches": sum(k.times for k in kernels),
        "launches_in_longest_loop": [largest.trips, largest.launches] if largest else [],  # trips, of each
        "unknown_loops": sum(loop.trips is None for loop in program.loops),
        "norm_gb": round(sum(k.bytes * k.times for k in norms) / 1e9, 1),
        "norm_ms": round(1e3 * sum(map(gpu_seconds, norms)), 2),
        "norm_launches": sum(k.times for k in norms),
        "norm_ms_saved_on_chip": round(1e3 * saved / (0.9 * GPUS[gpu]["fields"]["memory_bandwidth"]), 2),
        "collectives": sum(k.times for k in program.collectives),
        "collectives_in_loops": sum(loop.collectives for loop in program.loops),
        "compile_seconds": round(time.monotonic() - start),
    }


def totals(compiled: Any, kernels: Any, gpu: str) -> dict[str, float]:
    """Memory, FLOPs, bytes and the roofline of a compiled program, whose kernels `hlo.analyze` gave."""
    return {
        "peak_gib": round(compiled.memory_analysis().peak_memory_in_bytes / 2**30, 2),
        "tflop": round(sum(k.flops * k.times for k in kernels) / 1e12, 2),
        "gb": round(sum(k.bytes * k.times for k in kernels) / 1e9, 1),
        "roofline_ms": round(1e3 * sum(seconds(k, gpu) for k in kernels), 1),
    }


def seconds(kernel: Any, gpu: str) -> float:
    """The roofline of one kernel, times how often it runs."""
    g = GPUS[gpu]
    return kernel.times * max(kernel.flops / (0.8 * g["peak"]), kernel.bytes / (0.9 * g["fields"]["memory_bandwidth"]))


def set_up() -> None:
    """What must be set before jax is imported; ends the process where jax cannot compile for a GPU."""
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        sys.exit("jax has no CUDA compiler here: pip install -r requirements.txt (jax[cuda12], 3 GB)")
    os.environ["JAX_PLATFORMS"] = "cpu"  # else the plugin asks for a driver
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()


def main() -> None:
    """Compiles the programs one by one; writes the json after each and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", choices=tuple(GPUS), default="h200")
    parser.add_argument("--only", default=",".join(PROGRAMS), help="names of programs: " + ", ".join(PROGRAMS))
    parser.add_argument("--table", action="store_true", help="print the table of the json, compile nothing")
    args = parser.parse_args()
    from benchmarks import measure as timing

    path = timing.RESULTS / f"gpu_compile_{args.gpu}.json"
    old = json.loads(path.read_text())["programs"] if path.exists() else {}
    if args.table:
        print(table(old), norm_table(old), sep="\n\n")
        return
    names = args.only.split(",")
    if unknown := set(names) - set(PROGRAMS):
        sys.exit(f"gpu_compile.py: unknown programs {', '.join(sorted(unknown))}: choose of {', '.join(PROGRAMS)}")
    set_up()
    for name in names:
        old[name] = measure(name, args.gpu)
        print(name, json.dumps(old[name]), flush=True)
        gc.collect()
        programs = {n: old[n] for n in PROGRAMS if n in old}
        result = {"gpu": GPUS[args.gpu]["name"], "padded_size": HW, "flags": FLAGS, "programs": programs}
        timing.write(path.stem, result | {k: v for k, v in timing.machine().items() if k != "device"})
    print(table(old), norm_table(old), sep="\n\n")


def table(programs: dict[str, dict]) -> str:
    """The table of docs/gpu_compile.md."""
    lines = [
        "| program | peak GiB | TFLOP | GB moved | roofline ms | launches | loops of unknown length |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (title, _, _) in PROGRAMS.items():
        if name in programs:
            r = programs[name]
            lines.append(
                f"| {title} | {r['peak_gib']:.1f} | {r['tflop']:.1f} | {r['gb']:.0f} | {r['roofline_ms']:.1f} | "
                f"{r['launches']:,} | {r['unknown_loops']} |"
            )
    return "\n".join(lines)


def norm_table(programs: dict[str, dict]) -> str:
    """GroupNorm's share of the programs of the mask head, and what a fused kernel would save."""
    lines = [
        "| program | GroupNorm's GB | its roofline ms | its launches | saved at most, ms | of the program |",
        "|---|---|---|---|---|---|",
    ]
    for name, (title, devices, _) in PROGRAMS.items():
        r = programs.get(name)
        if r and r["norm_gb"] and devices == 1:
            share = r["norm_ms_saved_on_chip"] / r["roofline_ms"]
            lines.append(
                f"| {title} | {r['norm_gb']:.1f} | {r['norm_ms']:.1f} | {r['norm_launches']:,} | "
                f"{r['norm_ms_saved_on_chip']:.1f} | {100 * share:.0f} % |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
