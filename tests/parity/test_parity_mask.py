"""The mask head against numbers computed with the original PyTorch code (guided-diffusion, detectron2)."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax import diffusion as df
from maskdiff_jax import losses, sampler
from maskdiff_jax.data.formats.segmentation import decode_mask
from maskdiff_jax.inference import paste
from maskdiff_jax.nets.norm import GroupNorm
from maskdiff_jax.nets.resample import UpConv, upsample
from maskdiff_jax.nets.unet import UNet, timestep_embedding
from maskdiff_jax.nets.unet_blocks import Attention, ResBlock
from maskdiff_jax.pretrained.rules import GUIDED_DIFFUSION, convert
from tests.compiling import jit
from tests.parity.compare import find, load, within
from tests.parity.weight_recipe import recipe

SCHEDULES = {"linear1000": "linear", "cosine1000": "cosine"}


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, -3)


# ---------------------------------------------------------------------------------- UNet, pieces
def piece(name: str, prefix: str):
    """A stored piece as (params of ours, arrays): `prefix` is where the original keeps such a piece."""
    z = {k.removeprefix(name + "/"): v for k, v in load("unet_ops.npz").items() if k.startswith(name + "/")}
    state = {f"{prefix}.{k}": v for k, v in z.items() if k.endswith((".weight", ".bias"))}
    return state, z


@pytest.mark.parametrize("name", ["resblock_ssn0", "resblock_ssn1", "resblock_same_channels"])
def test_parity_resblock(name):
    state, z = piece(name, "middle_block.0")
    block = ResBlock(64, groups=32, scale_shift=name != "resblock_ssn0")
    x, emb = nhwc(z["in0"]), z["in1"]
    template = {"middle0_res": jax.eval_shape(block.init, jax.random.key(0), x, emb)["params"]}
    params = convert(state, GUIDED_DIFFUSION, template)["middle0_res"]
    within(nchw(block.apply({"params": params}, x, emb)), z["out"], 2e-6)


@pytest.mark.parametrize("name", ["attention_heads4", "attention_head_channels32"])
def test_parity_attention(name):
    state, z = piece(name, "middle_block.1")
    heads = z["in0"].shape[1] // 32 if "channels32" in name else 4
    block = Attention(heads, groups=32)
    x = nhwc(z["in0"])
    template = {"middle1_attention": jax.eval_shape(block.init, jax.random.key(0), x)["params"]}
    params = convert(state, GUIDED_DIFFUSION, template)["middle1_attention"]
    within(nchw(block.apply({"params": params}, x)), z["out"], 2e-6)


def test_parity_small_pieces():
    z = load("unet_ops.npz")
    params = {"scale": z["groupnorm_small_variance/weight"], "bias": z["groupnorm_small_variance/bias"]}
    out = GroupNorm(32).apply({"params": params}, nhwc(z["groupnorm_small_variance/in0"]))
    within(nchw(out), z["groupnorm_small_variance/out"], 2e-6)

    for width in ("32", "128", "33", "fractional_64"):
        times, theirs = (z[f"timestep_embedding_{width}/{k}"] for k in ("timesteps", "out"))
        within(timestep_embedding(times, theirs.shape[1]), theirs, 1e-4)

    conv = partial(jax.lax.conv_general_dilated, padding=((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))
    kernel = z["upsample/conv.weight"].transpose(2, 3, 1, 0)
    params = {"kernel": kernel, "bias": z["upsample/conv.bias"]}
    for out in (
        UpConv(kernel.shape[-1]).apply({"params": params}, nhwc(z["upsample/in0"])),
        conv(upsample(nhwc(z["upsample/in0"])), kernel, (1, 1)) + params["bias"],
    ):
        within(nchw(out), z["upsample/out"], 2e-6)
    kernel = z["downsample/op.weight"].transpose(2, 3, 1, 0)
    out = conv(nhwc(z["downsample/in0"]), kernel, (2, 2)) + z["downsample/op.bias"]
    within(nchw(out), z["downsample/out"], 2e-6)


# ---------------------------------------------------------------------------------- UNet, whole
def whole(name: str):
    """A stored net: ours with its weights, the arrays, the json beside them."""
    z, info = load(f"{name}.npz"), json.loads(find(f"{name}.json").read_text())
    c = info["config"]
    net = UNet(
        out_channels=c["out_channels"], width=c["model_channels"], multipliers=tuple(c["channel_mult"]),
        blocks=c["num_res_blocks"], attention=tuple(int(np.log2(r)) for r in c["attention_resolutions"]),
        heads=c["num_heads"], head_channels=c["num_head_channels"], scale_shift=c["use_scale_shift_norm"],
        groups=32,
    )  # fmt: skip
    template = jax.eval_shape(net.init, jax.random.key(0), nhwc(z["x"]), z["timesteps"].reshape(-1)[: len(z["x"])])
    state = {}
    for t in info["tensors"]:
        state[t["name"]] = w = recipe(t["name"], tuple(t["shape"]))
        np.testing.assert_allclose(w.ravel()[:3], t["first"], rtol=1e-6)
        np.testing.assert_allclose(w.sum(dtype=np.float64), t["sum"], rtol=1e-4, atol=1e-4)
    params = convert(state, GUIDED_DIFFUSION, template["params"])
    assert sum(p.size for p in jax.tree.leaves(params)) == info["total_parameters"]
    return net, params, z, info


def taps_of(intermediates: dict) -> dict[str, np.ndarray]:
    """Guided-diffusion's block outputs: the last of our modules that carry the block's number."""
    taps = {}
    for block in [f"input{i}" for i in range(15)] + [f"output{i}" for i in range(15)]:
        names = [f"{block}{part}" for part in ("_up", "_down", "_attention", "_res")]
        module = next((n for n in names if n in intermediates), "stem")
        taps[f"tap/{block.replace('put', 'put_blocks.')}"] = intermediates[module]["__call__"][0]
    return taps | {"tap/middle_block": intermediates["middle2_res"]["__call__"][0]}


def check_outputs(name: str, limit: float):
    net, params, z, _ = whole(name)
    steps = z["timesteps"].reshape(len(z["timesteps"]), -1)
    x = nhwc(z["x"])
    # weights that a program holds as constants make it larger and slower to compile
    apply = jit(partial(net.apply, capture_intermediates=True, mutable=["intermediates"]))
    for run, t in enumerate(steps):
        out, captured = apply({"params": params}, x, t)
        within(nchw(out), z["output"][run], limit)
        if run == 0:
            inter = captured["intermediates"]
            within(inter["time2"]["__call__"][0], z["tap/time_embed"], 2e-5)
            for tap, value in taps_of(inter).items():
                value = nchw(value)[0]
                if name.startswith("unet_128"):
                    c, stride = len(value), max(1, value.shape[-1] // 16)
                    stat = z[tap.replace("tap", "tapstat")]
                    np.testing.assert_allclose([value.mean(), value.std()], stat, rtol=1e-4, atol=1e-4)
                    value = value[[0, c // 3, c - 1], ::stride, ::stride]
                    within(value, z[tap], limit)
                else:
                    within(value[None], z[tap], limit)


@pytest.mark.parametrize("name", ["unet_small_ssn1", "unet_small_ls_ssn0"])
def test_parity_unet(name):
    check_outputs(name, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_small_ssn0", "unet_small_ls_ssn1_in34_rect"])
def test_parity_unet_small_more(name):
    check_outputs(name, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_128_in7_ssn1", "unet_128_in7_ssn0", "unet_128_in34_ssn1"])
def test_parity_unet_128(name):
    check_outputs(name, 2e-5)


def test_parity_unet_gradients():
    net, params, z, info = whole("unet_small_ssn1")
    target = nhwc(z["grad/target"])

    @jit
    def backward(params, x):
        return jax.value_and_grad(
            lambda p, x: ((net.apply({"params": p}, x, z["timesteps"][0]) - target) ** 2).mean(), (0, 1)
        )(params, x)

    loss, (grads, grad_x) = backward(params, nhwc(z["x"]))
    within(loss, z["grad/loss"], 1e-5)
    within(nchw(grad_x), z["grad/x"], 1e-5)  # below, the table says whose gradient each of ours is
    names = [t["name"] for t in info["tensors"]]
    tagged = {n: np.full([t["shape"] for t in info["tensors"] if t["name"] == n][0], i) for i, n in enumerate(names)}
    where = convert(tagged, GUIDED_DIFFUSION, jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, int), grads))
    ours = {
        names[int(np.ravel(tag)[0])]: float(jnp.linalg.norm(g))
        for tag, g in zip(jax.tree.leaves(where), jax.tree.leaves(grads), strict=True)
    }
    theirs = {n: v["norm"] for n, v in info["grad_of_mse_loss"].items()}
    assert ours.keys() == theirs.keys()
    within([ours[n] for n in names], [theirs[n] for n in names], 1e-5)
    within(np.sqrt(sum(v**2 for v in ours.values())), z["grad/total_norm"], 1e-5)


# ---------------------------------------------------------------------------------- diffusion
@pytest.mark.parametrize("name", SCHEDULES)
def test_parity_diffusion_tables(name):
    z = {k.removeprefix(name + "/"): v for k, v in load("diffusion_tables.npz").items() if k.startswith(name)}
    s = df.make_schedule(SCHEDULES[name], 1000)
    renamed = {"posterior_mean_x0": "posterior_mean_coef1", "posterior_mean_yt": "posterior_mean_coef2"}
    for field, ours in s._asdict().items():
        np.testing.assert_allclose(ours, z[renamed.get(field, field)], rtol=1e-12, atol=1e-15, err_msg=field)
    # the noise of ancestral sampling, in the order of sampling; the last step adds none
    for variance in ("fixed_small", "fixed_large"):
        plan = sampler.make_plan(s, sampler="ddpm", steps=1000, spacing="even", variance=variance)
        np.testing.assert_allclose(plan.coefficients.s[:-1] ** 2, z[f"{variance}_variance"][:0:-1], rtol=1e-11)
    for r in ("1000", "250", "50", "ddim25"):
        steps, spacing = int(r.removeprefix("ddim")), "leading" if r.startswith("ddim") else "even"
        kept = sampler.spaced(1000, steps, spacing)
        assert kept == z[f"respaced_{r}/timestep_map"].tolist()
        short = df.respace(s, kept)
        for field in ("betas", "alphas_cumprod", "posterior_log_variance_clipped"):
            np.testing.assert_allclose(getattr(short, field), z[f"respaced_{r}/{field}"], rtol=1e-11, err_msg=field)


def test_parity_timesteps():
    for case, kept in json.loads(find("diffusion_timesteps.json").read_text()).items():
        timesteps, how = case.split("|")
        if how.startswith("ddim"):
            ours = sampler.spaced(int(timesteps), int(how[4:]), "leading")
        else:
            ours, counts = [], [int(n) for n in how.split(",")]
            size, extra = divmod(int(timesteps), len(counts))
            for i, count in enumerate(counts):  # guided-diffusion's sections: equal parts, each spaced on its own
                start, length = i * size + min(i, extra), size + (i < extra)
                ours += [start + t for t in sampler.spaced(length, count, "even")]
        assert ours == kept, case


def model(x, t, a=0.7, b=0.001):
    """The analytic net of the goldens: the noise, and v of the learned variance."""
    t = jnp.asarray(t, jnp.float32).reshape((-1,) + (1,) * (x.ndim - 1))
    return jnp.tanh(a * x + b * t), 0.5 * jnp.sin(3 * x)


@pytest.mark.parametrize("name", SCHEDULES)
def test_parity_diffusion_single(name):
    every = load("diffusion_single.npz")
    z = {k.removeprefix(name + "/"): v for k, v in every.items() if k.startswith(name)}
    x0, noise, t = every["x_start"], every["noise"], z["t"]
    s = df.make_schedule(SCHEDULES[name], 1000)
    y = z["q_sample"]
    within(df.add_noise(s, x0, t, noise), y, 1e-6)
    mean, log_var = df.posterior(s, x0, y, t)
    within(mean, z["q_posterior_mean"], 1e-5)
    within(log_var.ravel(), z["q_posterior_log_variance"].ravel(), 1e-6)
    last = t < 999  # there the estimate is a small difference of huge numbers
    within(df.to_x0(s, "eps", y, t, noise)[last], z["predict_xstart_from_eps"][last], 1e-5)

    eps, v = model(y, t)
    log_vars = {
        "fixed_small": np.asarray(log_var).ravel(),
        "fixed_large": np.log(np.append(s.posterior_variance[1], s.betas[1:]))[t],
        "learned_range": df.learned_log_variance(s, t, v),
    }
    for kind, log_variance in log_vars.items():
        for clip in (0, 1):
            w = {k.split("/")[1]: a for k, a in z.items() if k.startswith(f"p_{kind}_clip{clip}/")}
            estimate = df.to_x0(s, "eps", y, t, eps)
            estimate = jnp.clip(estimate, -1, 1) if clip else estimate
            within(estimate, w["pred_xstart"], 1e-4)
            within(df.posterior(s, estimate, y, t)[0], w["mean"], 1e-5)
            within(log_variance, np.asarray(w["log_variance"]).reshape(np.shape(log_variance)), 1e-5)

    mse = losses.squared_error(eps, noise)
    within(mse, z["training_mse/mse"], 1e-5)
    estimate = df.to_x0(s, "eps", y, t, eps)
    vb = losses.variational_bound(
        x0, *df.posterior(s, x0, y, t), df.posterior(s, estimate, y, t)[0], log_vars["learned_range"], t
    )
    for kind in ("learned_range_mse", "learned_range_rescaled_mse"):  # T / 1000 is 1 here
        within(vb, z[f"training_{kind}/vb"], 2e-4)
        within(mse + vb, z[f"training_{kind}/loss"], 2e-4)


CHAINS = {
    "p_fixed_large": ("ddpm", "fixed_large", 0.0),
    "p_fixed_small": ("ddpm", "fixed_small", 0.0),
    "p_learned_range": ("ddpm", "learned", 0.0),
    "ddim_eta0": ("ddim", "fixed_small", 0.0),
    "ddim_eta1": ("ddim", "fixed_small", 1.0),
}


@pytest.mark.parametrize("respacing", ["1000", "50", "ddim25", pytest.param("250", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_parity_chains(name, respacing):
    z = {k.removeprefix(respacing + "/"): v for k, v in load(f"diffusion_chain_{name}.npz").items()}
    given = load("diffusion_noise.npz")
    noise = jnp.concatenate([given["x_T"][None], given["noise"]])
    s = df.make_schedule(SCHEDULES[name], 1000)
    steps = int(respacing.removeprefix("ddim"))
    spacing = "leading" if respacing.startswith("ddim") else "even"

    def denoise(y, t):
        eps, v = model(y, t)
        return df.to_x0(s, "eps", y, t, eps), v

    for chain, (name, variance, eta) in CHAINS.items():
        plan = sampler.make_plan(s, sampler=name, steps=steps, spacing=spacing, variance=variance, eta=eta)
        assert plan.t.tolist() == z["model_timesteps"].tolist()
        run = jit(lambda bound, p=plan: sampler.sample(denoise, p, lambda i: noise[i], clip=bound))
        for clip in (0, 1):
            limit = 3e-5 if name == "ddpm" else 5e-4 if clip else 5e-5
            out, (y, x0) = run(1.0 if clip else np.inf)
            within(out, z[f"{chain}_clip{clip}/sample"], limit)
            if f"{chain}_clip{clip}/samples_all" in z:
                after = np.concatenate([y[1:], out[None]])
                within(after, z[f"{chain}_clip{clip}/samples_all"], limit)
                stored = z[f"{chain}_clip{clip}/pred_xstart_all"]
                within(x0[:: steps // len(stored)], stored, 5 * limit)


# ---------------------------------------------------------------------------------- paste
def test_parity_paste():
    z = load("mask_head.npz")
    hw = tuple(int(v) for v in z["image_hw"])
    soft = np.stack([paste.paste(m, b, hw) for m, b in zip(z["blob_probs28"], z["boxes"], strict=True)])
    np.testing.assert_allclose(soft[:4], z["blob_pasted_soft"], atol=2e-5)
    for probs, name in ((z["blob_probs28"], "blob_pasted_0.5"), (z["specific/probs"], "pasted_0.5")):
        ours = [decode_mask(paste.paste_rle(m, b, hw, 0.5)) for m, b in zip(probs, z["boxes"], strict=True)]
        theirs = np.unpackbits(z[f"{name}_packbits"], axis=-1)[..., : hw[1]].astype(bool)
        different = (np.array(ours, bool) != theirs).sum((1, 2))
        assert (different <= 2).all(), different
