"""The mask heads on 8 px regions: losses, sampling, guidance, and that they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from maskdiff_jax import diffusion, mask_heads, sampler
from maskdiff_jax.nets.unet import UNet
from tests.compiling import jit
from tests.tiny_mask_head import KEYS, M, OneBlock, objects, options, some_params, zero_params


@pytest.fixture(autouse=True)
def one_block(monkeypatch):
    monkeypatch.setattr(mask_heads, "UNet", OneBlock)


def predict(head, params, batch, keys=KEYS):
    return jit(head.predict)(params, keys, batch.region, batch.shots, batch.classes)


def test_untrained_head_predicts_one_half():
    head, batch = mask_heads.diffusion_head(**options()), objects()
    params = jit(head.init)(jax.random.key(0))
    np.testing.assert_array_equal(predict(head, params, batch), np.full((4, M, M), 0.5))
    value, metrics = jit(head.loss)(params, jax.random.key(1), batch)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-5)
    assert set(metrics) == {"loss", "accuracy", "iou"}


@pytest.mark.parametrize(("prediction", "start"), [("eps", 1.0), ("x0", 1.0), ("v", 1.0), ("sigmoid", np.log(2))])
def test_loss_of_an_untrained_head(prediction, start):
    scale = 0.5 if prediction in ("sigmoid", "x0") else 1.0
    head = mask_heads.diffusion_head(
        **options(diffusion={"prediction": prediction, "learn_sigma": True, "signal_scale": scale})
    )
    batch = jax.tree.map(lambda a: np.concatenate([a] * 16), objects())
    value, metrics = jit(head.loss)(zero_params(head), jax.random.key(1), batch)
    assert metrics["vlb"] > 0
    np.testing.assert_allclose(value - metrics["vlb"] * 100 / 1000, start, rtol=0.1)


PAPER = {"prediction": "eps", "signal_scale": 1.0, "sampler": "ddpm", "timesteps": 1000}


@pytest.mark.parametrize("weight", ["none", "min_snr", "truncated_snr"])
def test_loss_of_the_noise_at_given_times(weight, monkeypatch):
    """A net that outputs zero: its error is what the precondition alone leaves, times the weight of that time."""
    batch, key, t = jax.tree.map(lambda a: np.concatenate([a] * 8), objects()), jax.random.key(1), 600
    schedule = diffusion.make_schedule("linear", 1000)
    x0, eps = 2.0 * batch.mask[..., None] - 1.0, jax.random.normal(jax.random.split(key, 4)[1], (32, M, M, 1))
    signal, sigma = schedule.sqrt_alphas_cumprod[t], schedule.sqrt_one_minus_alphas_cumprod[t]
    y, factor = signal * x0 + sigma * eps, diffusion.loss_weights(schedule, weight, "eps")[t]
    want = {
        "none": eps**2,
        "skip": (eps - sigma * y) ** 2,
        "edm": (eps - sigma * y) ** 2,
        "logit": (signal / sigma) ** 2 * (x0 - np.tanh(signal / sigma**2 * y)) ** 2,
    }
    monkeypatch.setattr(OneBlock, "apply", lambda self, variables, x, *a, **k: x[..., :1] * 0)
    for name, error in want.items():
        head = mask_heads.diffusion_head(**options(diffusion=PAPER | {"precondition": name, "loss_weight": weight}))
        value, _ = head.loss({}, key, batch, np.full(32, t))
        np.testing.assert_allclose(value, factor * error.mean(), rtol=1e-4, err_msg=name)


def test_sampling_uses_the_precondition():
    """One step of a net that outputs zero, by hand."""
    batch, schedule = objects(), diffusion.make_schedule("linear", 1000)
    noise = sampler.object_noise(KEYS, (M, M, 1))(0)[..., 0]
    signal, sigma = schedule.sqrt_alphas_cumprod[-1], schedule.sqrt_one_minus_alphas_cumprod[-1]
    want = {"edm": signal * noise, "logit": np.tanh(signal / sigma**2 * noise)}
    for name, x0 in want.items():
        head = mask_heads.diffusion_head(**options(diffusion=PAPER | {"precondition": name, "steps": 1}))
        np.testing.assert_allclose(predict(head, zero_params(head), batch), (x0 + 1) / 2, atol=1e-4, err_msg=name)


def test_gradients_reach_everything_and_the_bound_trains_the_variance_alone():
    head, batch = (
        mask_heads.diffusion_head(**options(diffusion={"learn_sigma": True, "prediction": "eps"})),
        objects(),
    )
    params = some_params(head)

    def both(params):
        value, metrics = head.loss(params, jax.random.key(0), batch)
        return jnp.stack([value, metrics["vlb"]])

    grads = jit(jax.jacrev(both))(params)
    for path, g in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(g).all() and np.any(g[0] != 0), jax.tree_util.keystr(path)
    kernel = grads["out"]["kernel"][1]
    assert not kernel[..., 0].any() and kernel[..., 1].any()


def test_class_is_dropped_per_sample():
    """p_uncond 1: the table gets no gradient; 0: the rows of the classes in the batch do, others never."""
    batch = objects(2)
    for p_uncond, used in ((1.0, [False] * 3), (0.0, [True, True, False])):
        head = mask_heads.diffusion_head(**options(diffusion={"p_uncond": p_uncond}))
        params = some_params(head)

        def of_table(table, h=head, p=params):
            p = p | {"output1_res": p["output1_res"] | {"class_table": table}}
            return h.loss(p, jax.random.key(0), batch)[0]

        grad = jit(jax.grad(of_table))(params["output1_res"]["class_table"])
        np.testing.assert_array_equal((grad != 0).any(1), used)


def conv_batches(head) -> set[int]:
    """Batch sizes of all the convolutions in `predict`, from its trace."""
    params = jax.eval_shape(head.init, jax.random.key(0))
    batch = objects()
    sizes = set()

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "conv_general_dilated":
                sizes.add(eqn.outvars[0].aval.shape[0])
            for value in eqn.params.values():
                if hasattr(value, "jaxpr"):
                    walk(value.jaxpr)

    walk(jax.make_jaxpr(head.predict)(params, KEYS, batch.region, batch.shots, batch.classes).jaxpr)
    return sizes


def test_no_guidance_costs_one_branch():
    assert conv_batches(mask_heads.diffusion_head(**options(diffusion={"guidance": 1.0}))) == {4}
    assert conv_batches(mask_heads.diffusion_head(**options(diffusion={"guidance": 5.0}))) == {8}
    agnostic = options(diffusion={"guidance": 5.0}, class_input=False)
    assert conv_batches(mask_heads.diffusion_head(**agnostic)) == {4}


def test_guidance():
    heads = {w: mask_heads.diffusion_head(**options(diffusion={"guidance": w, "clip": False})) for w in (1.0, 5.0)}
    batch, params = objects(), some_params(heads[1.0])
    guided = {w: predict(h, params, batch) for w, h in heads.items()}
    assert np.abs(guided[1.0] - guided[5.0]).mean() > 0.01
    mute = jax.tree_util.tree_map_with_path(
        lambda path, p: jnp.zeros_like(p) if path[-1].key == "class_table" else p, params
    )
    without = {w: predict(h, mute, batch) for w, h in heads.items()}
    np.testing.assert_allclose(without[1.0], without[5.0], atol=1e-3)
    assert np.abs(without[1.0] - guided[1.0]).mean() > 1e-3


def test_guidance_interval_and_averaged_estimates():
    def head(**f):
        return mask_heads.diffusion_head(**options(diffusion={"steps": 4, "clip": False} | f))

    late = head(guidance=5.0, guidance_interval=(0.5, 1.0))
    assert conv_batches(late) == {4, 8}
    batch, params = objects(), some_params(late)
    given = (params, KEYS, batch.region, batch.shots, batch.classes)
    y, x0 = jit(late.trajectory)(*given)
    plain_y, plain_x0 = jit(head(guidance=1.0).trajectory)(*given)
    np.testing.assert_allclose(y[:3], plain_y[:3], atol=1e-4)
    np.testing.assert_allclose(x0[:2], plain_x0[:2], atol=1e-4)
    assert np.abs(x0[2] - plain_x0[2]).mean() > 0.01
    mean = jit(head(guidance=1.0, averaged=3).predict)(*given)
    np.testing.assert_allclose(mean, plain_x0[-3:].mean(0), atol=1e-4)
    for wrong, match in (({"guidance_interval": (0.5, 0.5)}, "fractions of the steps"), ({"averaged": 5}, "1..4")):
        with pytest.raises(ValueError, match=match):
            head(**wrong)


def test_a_mask_does_not_depend_on_its_neighbors():
    head, batch = mask_heads.diffusion_head(**options(diffusion={"sampler": "ddpm"})), objects()
    params = some_params(head)
    out = predict(head, params, batch)
    assert out.shape == (4, M, M) and out.dtype == jnp.float32 and out.min() >= 0 and out.max() <= 1
    pick = np.array([2, 0])
    few = predict(head, params, jax.tree.map(lambda a: a[pick], batch), KEYS[pick])
    a, b = np.asarray(out)[pick] > 0.5, np.asarray(few) > 0.5
    assert (a & b).sum() / (a | b).sum() > 0.999
    np.testing.assert_allclose(few, np.asarray(out)[pick], atol=1e-4)
    raw = predict(head, params, batch, jax.random.key_data(KEYS))
    np.testing.assert_array_equal(raw, out)
    other = predict(head, params, batch, jax.random.split(jax.random.key(8), 4))
    assert np.abs(other - out).mean() > 1e-3


def test_trajectory():
    head, batch = mask_heads.diffusion_head(**options()), objects()
    params = some_params(head)
    y, x0 = jit(head.trajectory)(params, KEYS, batch.region, batch.shots, batch.classes)
    assert y.shape == x0.shape == (3, 4, M, M)
    np.testing.assert_allclose(x0[-1], predict(head, params, batch), atol=1e-5)
    noise = sampler.object_noise(KEYS, (M, M, 1))(0)[..., 0]
    np.testing.assert_allclose(y[0], (noise / 0.5 + 1) / 2, rtol=1e-5)


def test_input_of_a_weak_signal_has_unit_variance(monkeypatch):
    """y_t is divided by its deviation, which is b at t = 0 and 1 at the end."""
    head = mask_heads.diffusion_head(**options(diffusion={"signal_scale": 0.1, "timesteps": 1000, "steps": 1}))
    seen = []
    apply = lambda self, variables, x, *a, **k: seen.append(x) or x[..., :1] * 0
    monkeypatch.setattr(OneBlock, "apply", apply)
    batch = jax.tree.map(lambda a: np.concatenate([a] * 50), objects(3))
    for seed in range(3):
        head.loss({}, jax.random.key(seed), batch)
    deviation = np.std([x[..., 0] for x in seen], axis=(0, 2, 3))
    assert 0.7 < deviation.min() and deviation.max() < 1.3


@pytest.mark.parametrize("kind", ["diffusion", "plain", "noise"])
def test_heads_learn_eight_objects(kind, monkeypatch):
    monkeypatch.setattr(mask_heads, "UNet", UNet)
    make = mask_heads.plain_unet_head if kind == "plain" else mask_heads.diffusion_head
    # the paper's loss and sampler: literal, 150 steps would leave it at noise
    paper = PAPER | {"precondition": "logit", "steps": 20} if kind == "noise" else {}
    head, batch = make(**options(unet={"scale_shift": kind == "plain"}, diffusion=paper)), objects(8)
    params = jit(head.init)(jax.random.key(0))
    tx = optax.adam(5e-3)

    @jit
    def step(carry, key):
        params, state = carry
        (_, metrics), grads = jax.value_and_grad(head.loss, has_aux=True)(params, key, batch)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), metrics

    carry = (params, tx.init(params))
    for i in range(150):
        carry, metrics = step(carry, jax.random.key(i))
    assert metrics["iou"] > 0.85 and metrics["accuracy"] > 0.85
    keys = jax.random.split(jax.random.key(1), 8)
    out = np.asarray(predict(head, carry[0], batch, keys)) > 0.5
    truth = batch.mask > 0
    assert ((out & truth).sum((1, 2)) / (out | truth).sum((1, 2))).mean() > 0.9
    if kind == "plain":
        y, x0 = jit(head.trajectory)(carry[0], keys, batch.region, batch.shots, batch.classes)
        assert y.shape == x0.shape == (1, 8, M, M)


def test_class_agnostic_head_has_no_classes():
    head, batch = mask_heads.diffusion_head(**options(class_input=False)), objects()
    params = some_params(head)
    assert not any("class_table" in jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params))
    np.testing.assert_array_equal(
        predict(head, params, batch), predict(head, params, batch._replace(classes=(batch.classes + 1) % 3))
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"diffusion": {"prediction": "noise"}}, "sigmoid"),
        ({"diffusion": {"signal_scale": 0.0}}, "signal_scale"),
        ({"diffusion": {"sampler": "ddpm", "variance": "learned"}}, "learn_sigma"),
        ({"diffusion": {"precondition": "v", "prediction": "eps"}}, "none, skip, edm, logit"),
        ({"diffusion": {"precondition": "edm"}}, "needs diffusion.prediction='eps'"),
        ({"diffusion": {"loss_weight": "min_snr"}}, "not 'sigmoid'"),
        ({"diffusion": {"steps": 101}}, "1..100"),
        ({"unet": {"attention": (16,)}}, "unet.attention"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        mask_heads.diffusion_head(**options(**changes))


@pytest.mark.parametrize("preset", ["shapes", "shapes_hard", "coco", "custom", "coco,paper=true"])
def test_every_preset_builds_a_head(preset, monkeypatch):
    monkeypatch.setattr(mask_heads, "UNet", UNet)
    config = base.get_config(preset).model
    given = {k: v for k, v in config.mask.to_dict().items() if k not in ("head", "min_shots", "cnn")}
    head = mask_heads.diffusion_head(num_classes=config.num_classes, dtype=config.dtype, **given)
    params = jax.eval_shape(head.init, jax.random.key(0))
    assert params["stem"]["kernel"].shape[2] == (4 + 3 * given["slots"]) * given["unet"]["stem_patch"] ** 2
    if preset == "coco":
        total = sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))
        assert total == 89_772_929 + 645_120  # with 10 slots, and the class tables


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sampling_casts_weights_before_its_scan(guidance):
    """A cast inside is a kernel per weight and step on a GPU."""
    head = mask_heads.diffusion_head(**options(dtype="bfloat16", diffusion={"guidance": guidance}))
    batch = objects()
    args = zero_params(head), KEYS, batch.region, batch.shots, batch.classes
    scans = [e for e in jax.make_jaxpr(head.predict)(*args).jaxpr.eqns if e.primitive.name == "scan"]
    assert scans
    for scan in scans:
        body, weights = scan.params["jaxpr"].jaxpr, scan.params["num_consts"]
        given = [v for v in body.invars[:weights] if v.aval.ndim == 4 and v.aval.dtype == jnp.float32]
        used = {id(v) for e in body.eqns if e.primitive.name == "convert_element_type" for v in e.invars}
        assert {v.aval.shape for v in given if id(v) in used} == set()
        assert any(v.aval.dtype == jnp.bfloat16 and v.aval.ndim == 4 for v in body.invars[:weights])
