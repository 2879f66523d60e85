"""What the sizes of the presets custom and coco cost: parameters, FLOPs of a detection, of a mask and of training.

    python benchmarks/timing/model_sizes.py                   # -> benchmarks/results/model_sizes.json, a minute
    python benchmarks/timing/model_sizes.py --seconds=tiny    # also times training steps of that size on this machine
    VENV/bin/python benchmarks/timing/model_sizes.py --gpu=rtx3090 --gpu=h200  # compiles them for these GPUs

Nothing is compiled or run without --seconds and --gpu. The latter needs jax[cuda12] but no GPU, as gpu_compile.py
does, which explains what is counted: the memory that the compiler plans, FLOPs, a roofline. Other FLOPs are jax's count
for the traced program, before XLA optimizes it: of one image of the largest padded size, of one mask in the preset's
steps, and of the training steps of stage 1, from scratch and from a public detector. Work in loops of unknown length
(adaptive RoIAlign, non-maximum suppression) is counted once: the compiled detection of size paper has half as much
again (docs/gpu_compile.md).
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measure
from benchmarks.timing import gpu_compile

OBJECTS = 8  # per image that is timed
STEPS = 10  # that are timed, after two that are not


def main() -> None:
    """Counts each size, keeps the seconds that the json has of sizes that are not timed now."""
    from configs import presets

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", choices=tuple(presets.SIZES), action="append", default=[], help="time this size")
    parser.add_argument("--gpu", choices=tuple(gpu_compile.GPUS), action="append", default=[], help="compile for this")
    args = parser.parse_args()
    if args.gpu:
        gpu_compile.set_up()
    path = measure.RESULTS / "model_sizes.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    counted = {name: count(name) for name in presets.SIZES}
    timed = old.get("seconds_per_step", {}) | {name: seconds(name) for name in args.seconds}
    planned = old.get("compiled", {}) | {gpu: compiled(gpu) for gpu in args.gpu}
    result = {
        "command": "python benchmarks/timing/model_sizes.py", "sizes": counted, "seconds_per_step": timed,
        "compiled": planned,
    }  # fmt: skip
    measure.write(path.stem, result | {k: v for k, v in measure.machine().items() if k != "device"})
    print(json.dumps(result, indent=1))


def count(size: str) -> dict[str, Any]:
    """Parameters, GFLOP and lengths of a size."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from configs import base
    from maskdiff_jax import model

    config = base.get_config(f"coco,size={size},weights=scratch").unlock()
    steps = config.model.mask.diffusion.steps
    m = model.build(config.model)
    params = jax.eval_shape(m.init, jax.random.key(0))
    active = np.ones(config.model.num_classes, bool)
    image, objects = images(config, 1), gpu_compile.mask_batch(config, 1)
    key = jax.eval_shape(lambda: jax.random.key(0))
    config.model.mask.diffusion.steps = 1  # the loop over the steps would be counted once
    one = model.build(config.model)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    detection = gflop(m.detect, params, image.image, image.image_hw, active)
    mask = steps * gflop(one.segment, params, keys, objects.region, objects.shots, objects.classes)
    detector_loss = lambda p, k, b: m.detector_loss(p, k, b, jnp.asarray(active))[0]  # noqa: E731
    detector_step = gflop(jax.grad(detector_loss), params, key, image)
    mask_step = gflop(jax.grad(lambda p, k, b: m.mask_loss(p, k, b)[0]), params, key, objects)
    train = config.train
    row = {
        "parameters": {k: sum(int(np.prod(p.shape)) for p in jax.tree.leaves(tree)) for k, tree in params.items()},
        "padded_hw": list(largest(config)), "short_side": config.data.test_short_side,
        "mask_size": config.model.mask.size,
        "gflop": {
            "detection": detection, "mask": mask, "train_detector_image": detector_step, "train_mask_object": mask_step,
        },
        "steps": {k: train[k].steps for k in ("detector", "mask")},
        "batch": {k: train[k].batch for k in ("detector", "mask")},
    }  # fmt: skip
    work = {"detector": detector_step, "mask": mask_step}
    row["pflop_stage_1"] = {k: round(train[k].steps * train[k].batch * work[k] / 1e6, 3) for k in work}
    row["public_detector"] = public_detector(size, image, key)
    print(size, json.dumps(row), flush=True)
    return row


def public_detector(size: str, image: Any, key: Any) -> dict[str, Any]:
    """Stage 1 of the detector with weights=detector, whose last layers alone are trained; {} for a size without it."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from configs import base
    from maskdiff_jax import model
    from maskdiff_jax.training import optim

    if base.get_config(f"coco,size={size}").weights == "scratch":
        return {}
    config = base.get_config(f"coco,size={size},weights=detector")
    m, phase = model.build(config.model), config.train.detector
    frozen = [(pattern, optim.FROZEN) for pattern in (*config.train.frozen, "mask_head/.*")]
    params = jax.eval_shape(m.init, jax.random.key(0))
    trained, rest = optim.split(params, optim.label_parameters(params, [*frozen, (".*", "detector")]))
    active = np.ones(config.model.num_classes, bool)
    loss = lambda t, f, k, b: m.detector_loss(optim.merge(t, f), k, b, jnp.asarray(active))[0]  # noqa: E731
    one = gflop(jax.grad(loss), trained, rest, key, image)
    pflop = round(phase.steps * phase.batch * one / 1e6, 3)
    return {"steps": phase.steps, "batch": phase.batch, "gflop_train_image": one, "pflop": pflop}


# training steps of stage 1 that are compiled: name -> the option weights=, the phase
COMPILED = {
    "detector": ("msra", "detector"), "public_detector": ("detector", "detector"), "mask": ("msra", "mask"),
}  # fmt: skip


def compiled(gpu: str) -> dict[str, dict[str, dict[str, float]]]:
    """size -> training step -> what its program needs on a GPU, see `gpu_compile.totals`; size tiny is for CPUs."""
    from benchmarks.timing import hlo
    from configs import base

    mesh, found = gpu_compile.make_mesh(gpu, 1), {}
    for size in ("paper", "small"):
        found[size] = {}
        for name, (weights, part) in COMPILED.items():
            config = base.get_config(f"coco,size={size},weights={weights}")
            batch = config.train[part].batch
            shapes = images(config, batch) if part == "detector" else gpu_compile.mask_batch(config, batch)
            program = gpu_compile.training_step(mesh, config, part, shapes).compile()
            found[size][name] = gpu_compile.totals(program, hlo.analyze(program.as_text()).kernels, gpu)
            print(gpu, size, name, json.dumps(found[size][name]), flush=True)
    return found


def gflop(function: Any, *args: Any) -> float:
    """GFLOP of the program that jax traces for these arguments."""
    import jax

    return round(jax.jit(function).lower(*args).cost_analysis()["flops"] / 1e9, 3)


def seconds(size: str) -> dict[str, Any]:
    """Median seconds of a training step of stage 1, detector and mask head, on random images; compiles both."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from configs import base
    from launch import cli
    from maskdiff_jax import model, sharding
    from maskdiff_jax.training import loop, optim
    from maskdiff_jax.types import TrainState

    config = base.get_config(f"coco,size={size},weights=scratch")
    found: dict[str, Any] = {"load": round(os.getloadavg()[0], 1)}  # processes that want the cores, with this one
    cli.set_up_jax(config.model.mask.size)
    m, mesh = model.build(config.model), sharding.make_mesh(1)
    active = np.ones(config.model.num_classes, bool)
    losses = {"detector": lambda p, k, b: m.detector_loss(p, k, b, jnp.asarray(active)), "mask": m.mask_loss}
    batches = {
        "detector": random_images(config, config.train.detector.batch),
        "mask": jax.tree.map(
            lambda s: np.ones(s.shape, s.dtype), gpu_compile.mask_batch(config, config.train.mask.batch)
        ),
    }
    for part, mine in (("detector", "detector/.*"), ("mask", "mask_head/.*")):
        phase = config.train[part]
        params = jax.jit(m.init)(jax.random.key(0))
        labels = optim.label_parameters(params, [(mine, part), (".*", optim.FROZEN)])
        optimizer = optim.combine({part: loop._optimizer(phase.steps, phase)}, labels)
        trained = optim.split(params, labels)[0]
        state = TrainState(np.zeros((), np.int32), params, optimizer.init(trained), jax.tree.map(np.asarray, trained))
        step = loop.make_step(losses[part], optimizer, labels, {part: phase.ema}, mesh)
        times = []
        for i in range(2 + STEPS):
            start = time.perf_counter()
            state, metrics = step(state, batches[part], jax.random.key(i))
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
        found[part] = round(statistics.median(times[2:]), 3)
    return found | {k: v for k, v in measure.machine().items() if k != "versions"}


def random_images(config: Any, count: int) -> Any:
    """A detector batch of noise, each image with a few objects."""
    import numpy as np

    rng = np.random.default_rng(0)
    hw = largest(config)
    shapes = images(config, count)
    corner = rng.uniform(0, 0.6, (count, OBJECTS, 2)) * hw[::-1]
    boxes = np.zeros(shapes.instances.boxes.shape, np.float32)
    boxes[:, :OBJECTS] = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (count, OBJECTS, 2)) * hw[::-1]], -1)
    classes = np.full(boxes.shape[:2], -1, np.int32)
    classes[:, :OBJECTS] = rng.integers(0, config.model.num_classes, (count, OBJECTS))
    sizes = np.tile(np.array(hw, np.int32), (count, 1))
    instances = shapes.instances._replace(boxes=boxes, classes=classes, ignore=np.zeros(classes.shape, bool))
    image = rng.integers(0, 256, (count, *hw, 3), dtype=np.uint8)
    return shapes._replace(
        image=image, image_hw=sizes, original_hw=sizes, image_id=np.arange(count, dtype=np.int32), instances=instances
    )


def largest(config: Any) -> tuple[int, int]:
    """The padded size with the most pixels: height, width."""
    height, width = max(config.data.buckets, key=math.prod)
    return height, width


def images(config: Any, count: int) -> Any:
    """A detector batch of the largest padded size, shapes alone."""
    from jax import ShapeDtypeStruct as Shape

    return gpu_compile.image_batch(config, count)._replace(image=Shape((count, *largest(config), 3), "uint8"))


if __name__ == "__main__":
    main()
