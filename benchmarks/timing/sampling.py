"""What sampling a mask and training the head cost: the coco preset's UNet at 128 px, 5 shots, guidance.

    python benchmarks/timing/sampling.py  # -> benchmarks/results/sampling_cpu.json
    python benchmarks/timing/sampling.py --torch=VENV/bin/python  # beside torch_unet.py, eager and compiled
    python benchmarks/timing/sampling.py --plan=gpu --peak-tflops=790 # default where a GPU is

Each number comes from a separate process; engines take turns, the median of the rounds counts. MFU counts
the products and sums of a network evaluation (132.7 GFLOP each, 3 of them for a training step) over
the peak. float32 uses TF32 in neither engine.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure as timing

GFLOP = {
    1: 132.215,
    5: 132.668,
    10: 133.235,
}  # of one network evaluation at 128 px, by shots; counted with torch.utils.flop_counter
SIZE = 128
# what, batch, dtype, steps, guidance
PLANS = {
    "cpu": [("sample", 1, "float32", 1, 1.0), ("sample", 8, "float32", 1, 1.0), ("train", 2, "float32", 1, 1.0)],
    "gpu": [
        *[("sample", n, "bfloat16", 10, 5.0) for n in (1, 7, 15, 64, 128)],
        ("sample", 64, "bfloat16", 10, 1.0), ("sample", 64, "bfloat16", 4, 5.0), ("sample", 64, "float32", 10, 5.0),
        ("train", 8, "bfloat16", 1, 1.0), ("train", 64, "bfloat16", 1, 1.0),
    ],
}  # fmt: skip


def main() -> None:
    """Starts the workers, prints the table, writes the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", help="python interpreter with torch")
    parser.add_argument("--modes", default="eager,compile", help="of the PyTorch port")
    parser.add_argument("--plan", choices=tuple(PLANS), help="what to measure; default: by the machine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=5, choices=tuple(GFLOP))
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, for MFU")
    for name in ("what", "batch", "dtype", "steps", "guidance", "cache", "convolutions"):  # one worker
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what:
        print(json.dumps(measure(args)))
        return
    import jax

    args.plan = plan = args.plan or ("cpu" if jax.default_backend() == "cpu" else "gpu")
    rows = []
    for what, batch, dtype, steps, guidance in PLANS[plan]:
        same = {"what": what, "batch": batch, "dtype": dtype, "steps": steps, "guidance": guidance}
        same["shots"] = args.shots
        print(", ".join(f"{k} {v}" for k, v in same.items()), flush=True)
        nfe = 3 if what == "train" else steps * (1 if guidance == 1.0 else 2)
        for engine, r in timing.rounds(jobs(same, args), args.rounds).items():
            row = same | {"engine": engine} | r
            if "error" not in r:
                row["objects_per_s"] = round(batch / r["seconds"], 3)
                row["tflops"] = round(GFLOP[args.shots] * nfe * batch / r["seconds"] / 1e3, 3)
                if args.peak_tflops:
                    row["mfu"] = round(row["tflops"] / args.peak_tflops, 4)
            rows.append(row)
    print(
        f"\n{'what':6}{'engine':20}{'dtype':10}{'batch':>6}{'steps':>6}{'w':>5}{'ms':>10}{'objects/s':>11}{'TFLOP/s':>9}"
    )
    for r in rows:
        head = f"{r['what']:6}{r['engine']:20}{r['dtype']:10}{r['batch']:6d}{r['steps']:6d}{r['guidance']:5.1f}"
        if "error" in r:
            print(head, r["error"])
        else:
            print(f"{head}{1e3 * r['seconds']:10.1f}{r['objects_per_s']:11.2f}{r['tflops']:9.2f}")
    result = {"size": SIZE, "rows": rows, "compile_s": compile_times(args), "peak_tflops": args.peak_tflops}
    timing.write(f"sampling_{plan}", result | timing.machine())


def jobs(same: dict, args: argparse.Namespace) -> dict:
    """Ours and the PyTorch ports, each a call that starts a worker."""
    made = {"ours": partial(timing.worker, "sampling.py", **same)}
    if args.plan == "cpu":  # what jaxlib 0.10 would choose on a CPU
        made["ours, YNNPACK"] = partial(timing.worker, "sampling.py", convolutions="default", **same)
    for mode in args.modes.split(",") if args.torch else ():
        made[f"torch, {mode}"] = partial(timing.worker, "torch_unet.py", python=args.torch, mode=mode, **same)
    return made


def compile_times(args: argparse.Namespace) -> dict:
    """Seconds of compiling guided sampling, with an empty compilation cache and with a full one."""
    same = dict(what="sample", batch=1, dtype="float32", steps=1, guidance=5.0, shots=args.shots)
    with tempfile.TemporaryDirectory() as cache:
        runs = {name: timing.worker("sampling.py", cache=cache, **same) for name in ("cold", "cached")}
    return {name: round(r["compile_s"], 2) for name, r in runs.items() if "error" not in r}


def measure(args: argparse.Namespace) -> dict:
    """One worker."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from configs import base
    from launch import cli
    from maskdiff_jax import sharding
    from maskdiff_jax.model import build
    from maskdiff_jax.training import loop, optim
    from maskdiff_jax.types import MaskBatch, TrainState

    config = base.get_config("coco").unlock()
    cli.set_up_jax(0 if args.convolutions else config.model.mask.size)
    if args.cache:
        jax.config.update("jax_compilation_cache_dir", args.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_default_matmul_precision", "highest" if args.dtype == "float32" else None)
    config.model.dtype = args.dtype
    config.model.mask.slots = args.shots
    config.model.mask.diffusion.update(steps=int(args.steps), guidance=float(args.guidance))
    # a small detector: only the mask head is measured
    config.model.detector.update(width=8, blocks=(1, 1, 1, 1), fpn_channels=8, fc_channels=8)
    model = build(config.model)
    n, k = int(args.batch), args.shots
    rng = np.random.default_rng(0)
    rgb = lambda *shape: rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    mask = rng.integers(0, 2, (n, SIZE, SIZE), dtype=np.uint8)
    batch = MaskBatch(rgb(SIZE, SIZE, 3), mask, rgb(k, SIZE, SIZE, 4), np.arange(n, dtype=np.int32) % 80)
    params = jax.jit(model.init)(jax.random.key(0))
    if args.what == "sample":
        batch = jax.device_put(batch)
        keys = jax.random.split(jax.random.key(1), n)
        inputs = (params, keys, batch.region, batch.shots, batch.classes)
        start = time.perf_counter()
        compiled = jax.jit(model.segment).lower(*inputs).compile()
        compile_s = time.perf_counter() - start
        call = lambda: jax.block_until_ready(compiled(*inputs))
    else:
        labels = optim.label_parameters(params, [("detector/.*", optim.FROZEN), ("mask_head/.*", "mask")])
        r = config.train.mask
        keys = ("lr", "schedule", "decay_at", "warmup", "weight_decay", "betas", "clip_norm", "optimizer")
        adam = optim.combine({"mask": optim.make_optimizer(steps=r.steps, **{k: r[k] for k in keys})}, labels)
        trainable, _ = optim.split(params, labels)
        copy = jax.tree.map(jnp.copy, trainable)
        mesh = sharding.make_mesh(1)
        state = TrainState(jnp.zeros((), jnp.int32), params, adam.init(trainable), copy)
        state = jax.device_put(state, sharding.replicated(mesh))
        batch = sharding.put_batch(batch, mesh)
        key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))
        step = loop.make_step(model.mask_loss, adam, labels, {"mask": r.ema}, mesh)
        start = time.perf_counter()
        compiled = step.lower(state, batch, key).compile()
        compile_s = time.perf_counter() - start
        box = [state]

        def call():
            box[0], metrics = compiled(box[0], batch, key)
            jax.block_until_ready(metrics)

    seconds = statistics.median(timing.seconds_of(call, least=3.0))
    return {"seconds": seconds, "compile_s": compile_s, "gb": timing.compiled_gb(compiled)}


if __name__ == "__main__":
    main()
