"""Eight fake devices give what one gives."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import pytest

from maskdiff_jax import sharding

ROOT = Path(__file__).resolve().parents[1]

CODE = """
    import jax, jax.numpy as jnp, numpy as np
    from maskdiff_jax import sharding
    from maskdiff_jax.training import loop, optim
    from maskdiff_jax.types import TrainState
    assert jax.device_count() == 8
    labels = {"w": "x"}
    tx = optim.combine({"x": optim.make_optimizer(steps=9, optimizer="adamw", lr=0.1, schedule="constant",
        decay_at=(), warmup=0, weight_decay=0.0, betas=(0.9, 0.999), clip_norm=1.0)}, labels)

    def loss(params, key, batch):
        keys = jax.random.split(key, 16)
        noise = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
        error = (batch + noise) @ params["w"] - 1.0
        return jnp.mean(error**2), {}

    results = []
    for n in (1, 8):
        mesh = sharding.make_mesh(n)
        params = {"w": jnp.ones(3)}
        state = TrainState(jnp.int32(0), params, tx.init(params), jax.tree.map(jnp.copy, params))
        state = jax.device_put(state, sharding.replicated(mesh))
        key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))
        step = loop.make_step(loss, tx, labels, {"x": 0.5}, mesh)
        for i in range(5):
            batch = np.random.default_rng(i).normal(size=(16, 3)).astype(np.float32)
            placed = sharding.put_batch(batch, mesh)
            assert len(placed.sharding.device_set) == n
            state, metrics = step(state, placed, key)
        results.append(jax.device_get((state.params, state.ema, metrics["loss"])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *results)
    print("equal")
"""

SMALL = """
    import jax, numpy as np
    from configs import base
    from maskdiff_jax import model, sharding
    from maskdiff_jax.types import Batch, Instances, MaskBatch
    c = base.get_config().unlock()
    c.model.detector.update(blocks=(1, 1, 1, 1), width=8, fpn_channels=16, fc_channels=32)
    c.model.mask.size = 16
    c.model.mask.unet.update(width=16, multipliers=(1,), attention=())
    m, r, n = model.build(c.model), np.random.default_rng(0), 8
    low, side = r.uniform(0, 80, (n, 3, 2)), r.uniform(24, 48, (n, 3, 2))
    truth = Instances(
        np.concatenate([low, low + side], -1).astype(np.float32), r.integers(0, 12, (n, 3)).astype(np.int32),
        np.zeros((n, 3), bool),
    )
    size = np.full((n, 2), 128, np.int32)
    pixels = r.integers(0, 255, (n, 128, 128, 3), dtype=np.uint8)
    images = Batch(pixels, size, size, np.arange(n, dtype=np.int32), truth)
    objects = MaskBatch(
        r.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8), r.integers(0, 2, (n, 16, 16), dtype=np.uint8),
        r.integers(0, 255, (n, 5, 16, 16, 4), dtype=np.uint8), r.integers(0, 12, n).astype(np.int32),
    )
"""

MODEL = (
    SMALL
    + """
    loss = lambda params, key, batches: (
        m.detector_loss(params, key, batches[0], jax.numpy.ones(12, bool))[0] + m.mask_loss(params, key, batches[1])[0]
    )
    results = []
    for devices in (1, 8):
        mesh = sharding.make_mesh(devices)
        params = jax.device_put(jax.jit(m.init)(jax.random.key(0)), sharding.replicated(mesh))
        key = jax.device_put(jax.random.key(1), sharding.replicated(mesh))
        with jax.set_mesh(mesh):
            value = jax.jit(jax.value_and_grad(loss))(params, key, sharding.put_batch((images, objects), mesh))
            found = jax.jit(m.detect)(params, *sharding.put_batch((pixels, size), mesh), np.ones(12, bool))
        results.append(jax.device_get((*value, found)))
    (a, ga, fa), (b, gb, fb) = results
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-3), fa, fb)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    size = max(float(np.abs(x).max()) for x in jax.tree.leaves(ga))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4 * size), ga, gb)
    print("equal")
"""
)

PROGRAMS = (
    SMALL
    + """
    import jax.numpy as jnp
    from benchmarks.timing import hlo
    from maskdiff_jax.training import loop, optim
    from maskdiff_jax.types import TrainState
    mesh = sharding.make_mesh(8)
    same, divided = sharding.replicated(mesh), sharding.split(mesh)
    place = lambda tree, s: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree)
    params, key = jax.eval_shape(m.init, jax.random.key(0)), jax.eval_shape(lambda: jax.random.key(0))

    def reductions(part, loss, batch):
        # the training step of a part has no collective but all-reduces, of about its gradients' size
        labels = optim.label_parameters(params, [(f"{part}/.*", "x"), (".*", optim.FROZEN)])
        tx = optim.combine({"x": optim.make_optimizer(steps=9, optimizer="sgd", lr=0.1, schedule="constant",
            decay_at=(), warmup=0, weight_decay=1e-4, betas=(0.9, 0.999), clip_norm=1.0)}, labels)
        trained = jax.eval_shape(lambda p: optim.split(p, labels)[0], params)
        state = TrainState(jax.ShapeDtypeStruct((), np.int32), params, jax.eval_shape(tx.init, trained), trained)
        step = loop.make_step(loss, tx, labels, {"x": 0.9}, mesh)
        step = step.lower(place(state, same), place(batch, divided), place(key, same)).compile()
        step = hlo.analyze(step.as_text())
        kinds = {k.instruction.opcode for k in step.collectives}
        assert kinds == {"all-reduce"}, (part, step.collectives)
        assert not any(loop.collectives for loop in step.loops)
        # counts, metrics, losses and gradients; of a layer that all levels share, one gradient each
        reduced = sum(hlo.size(k.instruction.type) for k in step.collectives)
        assert reduced <= 1.1 * sum(x.size * 4 for x in trained.values()), (part, reduced)
        return step

    loss = lambda params, key, batch: m.detector_loss(params, key, batch, jnp.ones(12, bool))
    step = reductions("detector", loss, images)
    assert any(loop.trips is None for loop in step.loops)
    reductions("mask_head", m.mask_loss, objects)
    with jax.set_mesh(mesh):
        inputs = place((pixels, size), divided)
        detect = jax.jit(m.detect).lower(place(params, same), *inputs, np.ones(12, bool)).compile()

    detect = hlo.analyze(detect.as_text())
    assert any(loop.trips is None for loop in detect.loops)
    assert not detect.collectives, [k.source for k in detect.collectives]
    print("equal")
"""
)


@pytest.mark.parametrize(
    "code",
    [CODE, PROGRAMS, pytest.param(MODEL, marks=pytest.mark.slow)],
    ids=["step", "collectives", "model"],
)
def test_eight_devices_equal_one(code):
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900
    )
    assert out.stdout.strip().endswith("equal"), out.stderr[-2000:]


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match="train.devices=1000"):
        sharding.make_mesh(1000)
    assert sharding.make_mesh(1).shape["data"] == 1
    assert sharding.make_mesh().shape["data"] == jax.device_count()
