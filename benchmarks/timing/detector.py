"""Speed and memory of the full ResNet-50-FPN detector on 800 x 1344 px: training step, inference, its parts.

    python benchmarks/timing/detector.py                                  # -> benchmarks/results/detector_cpu.json
    python benchmarks/timing/detector.py --torch=VENV/bin/python          # beside torchvision's fasterrcnn_resnet50_fpn
    python benchmarks/timing/detector.py --batches=1,2,8,16 --dtypes=float32,bfloat16      # default on a GPU

Each number comes from a separate process; engines take turns, the median of the rounds counts. Both
engines freeze stem, res2 and the norms, take 512 of 1,000 proposals per image in training and 1,000 in test,
81 classes. Weights are random, so no score passes the threshold before the last NMS: that one costs ours what it
always costs and torchvision nothing. VENV needs torch and torchvision; matrix products of float32 use TF32 in neither.
"""

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure as timing

HW = (800, 1344)
OBJECTS = 8  # per image


def main() -> None:
    """Starts the workers, prints the table, writes the json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", help="python interpreter with torch and torchvision")
    parser.add_argument("--batches", help="images per batch, e.g. 1,2,8,16; default on a CPU: 1")
    parser.add_argument("--dtypes", help="of float32, bfloat16; default on a CPU: float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sampling", default="0,2", help="model.detector.roi_sampling: 0 adaptive, 2 fixed 2 x 2")
    for name in ("what", "batch", "dtype", "roi_sampling", "convolutions"):  # one worker
        parser.add_argument(f"--{name.replace('_', '-')}", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what:
        print(json.dumps(measure(args)))
        return
    import jax

    on_cpu = jax.default_backend() == "cpu"
    batches = [int(b) for b in (args.batches or ("1" if on_cpu else "1,2,8,16")).split(",")]
    dtypes = (args.dtypes or ("float32" if on_cpu else "float32,bfloat16")).split(",")
    rows = []
    for dtype in dtypes:
        for batch in batches:
            for what in ("train", "detect"):
                rows += compare(what, batch, dtype, args)
    parts = {
        dtype: timing.worker("detector.py", what="parts", batch=batches[-1], dtype=dtype, roi_sampling=0)
        for dtype in dtypes
    }
    print(f"\n{'what':7}{'engine':32}{'dtype':10}{'batch':>6}{'images/s':>10}{'GB':>7}")
    for r in rows:
        speed = f"{r['images_per_s']:10.2f}{r.get('gb') or 0:7.2f}" if "error" not in r else f"  {r['error'][:60]}"
        print(f"{r['what']:7}{r['engine']:32}{r['dtype']:10}{r['batch']:6d}{speed}")
    print("\nseconds of the parts of inference:", json.dumps(parts))
    done = [r for r in rows if "error" not in r]  # an engine that does not run here has no number
    result = {"image_hw": HW, "rows": done, "parts": {"batch": batches[-1]} | parts} | timing.machine()
    timing.write("detector_cpu" if on_cpu else "detector_gpu", result)


def compare(what: str, batch: int, dtype: str, args: argparse.Namespace) -> list[dict]:
    """Rows of one table line: ours with each kind of RoIAlign, and torchvision eager and compiled."""
    import jax

    same = {"what": what, "batch": batch, "dtype": dtype}
    jobs = {
        f"ours, roi_sampling={s}": partial(timing.worker, "detector.py", roi_sampling=s, **same)
        for s in args.sampling.split(",")
    }
    if jax.default_backend() == "cpu":  # what jaxlib 0.10 would choose
        jobs["ours, roi_sampling=2, YNNPACK"] = partial(
            timing.worker, "detector.py", roi_sampling=2, convolutions="default", **same
        )
    if args.torch:
        for mode in ("eager", "compile"):
            jobs[f"torchvision, {mode}"] = partial(
                timing.worker, "torch_detector.py", python=args.torch, mode=mode, **same
            )
    print(f"{what}, batch {batch}, {dtype}", flush=True)
    rows = []
    for engine, r in timing.rounds(jobs, args.rounds).items():
        speed = {} if "error" in r else {"images_per_s": round(batch / r["seconds"], 3)}
        rows.append(same | {"engine": engine} | speed | r)
    return rows


def measure(args: argparse.Namespace) -> dict:
    """One worker: seconds per call and memory."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from configs import base
    from launch import cli
    from maskdiff_jax import detector, sharding
    from maskdiff_jax.training import loop, optim
    from maskdiff_jax.types import Batch, Instances, TrainState

    what, batch, dtype = args.what, int(args.batch), args.dtype
    config = base.get_config("coco").unlock()
    config.model.detector.roi_sampling = int(args.roi_sampling)
    cli.set_up_jax(0 if args.convolutions else config.model.mask.size)
    jax.config.update("jax_default_matmul_precision", "highest" if dtype == "float32" else None)
    fields = dict(num_classes=80, dtype=dtype, **config.model.detector.to_dict())
    made = detector.make_detector(**fields)
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.6, (batch, OBJECTS, 2)) * HW[::-1]
    side = rng.uniform(40, 300, (batch, OBJECTS, 2))
    boxes = np.concatenate([corner, np.minimum(corner + side, HW[::-1])], -1).astype(np.float32)
    classes = rng.integers(0, 80, (batch, OBJECTS)).astype(np.int32)
    hw = np.tile(np.array(HW, np.int32), (batch, 1))
    instances = Instances(boxes, classes, np.zeros((batch, OBJECTS), bool))
    image = rng.integers(0, 256, (batch, *HW, 3), dtype=np.uint8)
    data = jax.device_put(Batch(image, hw, hw, np.arange(batch), instances))
    params = {"detector": made.init(jax.random.key(0))}
    active = jnp.ones(80, bool)

    if what == "parts":
        return parts(detector, fields, params["detector"], data)
    if what == "detect":
        compiled = jax.jit(made.detect).lower(params["detector"], data.image, data.image_hw, active).compile()
        call = lambda: jax.block_until_ready(compiled(params["detector"], data.image, data.image_hw, active))
        return {"seconds": statistics.median(timing.seconds_of(call)), "gb": timing.compiled_gb(compiled)}

    patterns = [*((p, optim.FROZEN) for p in config.train.frozen), ("detector/.*", "detector")]
    labels = optim.label_parameters(params, patterns)
    r = config.train.detector
    keys = ("lr", "schedule", "decay_at", "warmup", "weight_decay", "betas", "clip_norm", "optimizer")
    sgd = optim.combine({"detector": optim.make_optimizer(steps=r.steps, **{k: r[k] for k in keys})}, labels)
    trainable, _ = optim.split(params, labels)
    copy = jax.tree.map(jnp.copy, trainable)
    state = TrainState(jnp.zeros((), jnp.int32), params, sgd.init(trainable), copy)
    mesh = sharding.make_mesh(1)
    state = jax.device_put(state, sharding.replicated(mesh))
    data = sharding.put_batch(data, mesh)
    key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))
    step = loop.make_step(
        lambda p, k, b: made.loss(p["detector"], k, b, active), sgd, labels, {"detector": r.ema}, mesh
    )
    compiled = step.lower(state, data, key).compile()
    box = [state]

    def call():
        box[0], metrics = compiled(box[0], data, key)
        jax.block_until_ready(metrics)

    return {"seconds": statistics.median(timing.seconds_of(call)), "gb": timing.compiled_gb(compiled)}


def parts(detector, fields: dict, params: dict, data) -> dict:
    """Seconds of backbone, RPN, proposals with NMS, and RoIs, each compiled alone and fed what comes before."""
    import jax
    import jax.numpy as jnp

    s = detector.Settings(**fields)._replace(dtype=jnp.dtype(fields["dtype"]))
    nets = detector.make_nets(s)
    hw, active = data.image_hw, jnp.ones(s.num_classes, bool)
    steps = {
        "backbone and FPN": jax.jit(lambda p: detector.features(s, nets, p, data.image, hw)),
        "RPN": jax.jit(lambda p, maps: detector.rpn(s, nets, p, maps)),
        "proposals and NMS": jax.jit(
            lambda anchors: detector.propose(s, anchors, hw, pre_nms=s.rpn_pre_nms_test, count=s.proposals_test)
        ),
        "RoIs": jax.jit(
            lambda p, maps, found: detector.predict(nets, p, detector.pool(s, nets, p, maps, found.boxes), active)
        ),
    }
    maps = steps["backbone and FPN"](params)
    anchors = steps["RPN"](params, maps)
    found = steps["proposals and NMS"](anchors)
    inputs = {
        "backbone and FPN": (params,), "RPN": (params, maps), "proposals and NMS": (anchors,),
        "RoIs": (params, maps, found),
    }  # fmt: skip
    return {
        name: round(statistics.median(timing.seconds_of(lambda f=f, a=inputs[name]: jax.block_until_ready(f(*a)))), 5)
        for name, f in steps.items()
    }


if __name__ == "__main__":
    main()
