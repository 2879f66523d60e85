"""Mask heads: from a region, the shots of its class and the class to the mask of the object in the region.

N objects, M px mask side, K shots given, `slots` >= K that the net has channels for. Inside, masks are coded
as -b and +b (b = `signal_scale`); outside they are 0..1. A head is three pure functions and one for pictures.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import diffusion as df
from maskdiff_jax import losses, sampler
from maskdiff_jax.nets.unet import UNet, attention_levels, block_vectors, cast_weights
from maskdiff_jax.ops import masks
from maskdiff_jax.types import Array, MaskBatch, PyTree


class MaskHead(NamedTuple):
    """What the rest of the package knows of a mask head.

    `init(key) -> params`.
    `loss(params, key, batch) -> (scalar, {"loss", "accuracy", "iou", ...})`, the last two (0..1) of the
    head's one-pass estimate at the times that were drawn. A diffusion head's also takes these times, t [N] in 0..T-1,
    as a fourth argument, to look at one of them.
    `predict(params, keys [N], region [N, M, M, 3] 0..255, shots [N, K, M, M, 4] 0..255, classes [N])
    -> [N, M, M] float32 in 0..1`; an object's mask follows from its own key and inputs alone.
    `trajectory(params, keys, region, shots, classes) -> (y [S, N, M, M], x0 [S, N, M, M])`: what each step
    saw, noise included, and its estimate, both scaled so that the mask is 0..1; the prediction is x0[-1], or the
    mean of the last estimates if a head averages them.
    `distill(steps, halve, weight) -> loss`: the loss (params, teacher's params, key, batch) -> as `loss` that
    teaches a net to draw in `steps` passes what a frozen one draws in more.
    """

    init: Callable[[Array], PyTree]
    loss: Callable[..., tuple[Array, dict[str, Array]]]
    predict: Callable[[PyTree, Array, Array, Array, Array], Array]
    trajectory: Callable[[PyTree, Array, Array, Array, Array], tuple[Array, Array]]
    distill: Callable[[int, bool, float], Callable[[PyTree, PyTree, Array, MaskBatch], tuple[Array, dict]]]


def condition(region: Array, shots: Array, *, slots: int, background: str) -> Array:
    """Region and shots as channels beside each other.

    Args:
      region: [N, M, M, 3] 0..255. shots: [N, K, M, M, 4] 0..255 RGBA; all zero = empty.
      slots: shots that the result has room for; missing ones are zero.
      background: see `ops.masks.composite_shot`.

    Returns:
      [N, M, M, 3 + 3 slots] float32 in -1..1.

    Raises:
      ValueError: more shots than slots.
    """
    n, k, m = shots.shape[:3]
    if k > slots:
        raise ValueError(f"{k} shots are given to {slots} slots: train a mask head with mask.slots >= {k}")
    cut = masks.composite_shot(shots, background)
    cut = jnp.moveaxis(cut, 1, 3).reshape(n, m, m, 3 * k)
    cut = jnp.pad(cut, ((0, 0), (0, 0), (0, 0), (0, 3 * (slots - k))))
    return jnp.concatenate([masks.unit_rgb(region), cut], -1)


def _make_net(unet: dict, *, num_classes: int, dtype: str, size: int, class_input: bool, out_channels: int) -> UNet:
    options = dict(unet)
    levels = len(options["multipliers"])
    options["attention"] = attention_levels(options["attention"], size, options["stem_patch"], levels)
    options["multipliers"] = tuple(options["multipliers"])
    classes = num_classes if class_input else 0
    return UNet(out_channels=out_channels, num_classes=classes, dtype=jnp.dtype(dtype), **options)


def diffusion_head(
    *,
    num_classes: int,
    dtype: str,
    size: int,
    slots: int,
    class_input: bool,
    shot_background: str,
    unet: dict,
    diffusion: dict,
) -> MaskHead:
    """The paper's head: a conditional diffusion model that draws the mask.

    Args:
      num_classes: C. dtype: of the convolutions. size: M.
      class_input: the class goes into every residual block and is what guidance strengthens.
      unet: width, multipliers, blocks, attention (sides in px, see `nets.unet.attention_levels`), heads,
        head_channels, scale_shift, stem_patch, resblock_updown, dropout.
      diffusion: timesteps, schedule, prediction, precondition, signal_scale, loss_weight, snr_gamma, learn_sigma,
        p_uncond, sampler, steps, spacing, variance, eta, clip, averaged, guidance, guided; see configs/base.py.

    Raises:
      ValueError: options that do not fit together.
    """
    f = diffusion
    schedule = df.make_schedule(f["schedule"], f["timesteps"])
    plan = sampler.make_plan(schedule, **{k: f[k] for k in ("sampler", "steps", "spacing", "variance", "eta")})
    if plan.log_variance is not None and not f["learn_sigma"]:
        raise ValueError("diffusion.variance 'learned' needs a net trained with diffusion.learn_sigma = True")
    kind, b, learn_sigma = f["prediction"], float(f["signal_scale"]), bool(f["learn_sigma"])
    if kind not in df.PREDICTIONS or b <= 0:
        raise ValueError(
            f"diffusion.prediction is '{kind}', must be one of {', '.join(df.PREDICTIONS)}; "
            f"diffusion.signal_scale is {b}, must be above 0"
        )
    df.choose(df.PRECONDITIONS, f["precondition"], "diffusion.precondition")
    if f["precondition"] != "none" and kind != "eps":
        raise ValueError(f"diffusion.precondition='{f['precondition']}' needs diffusion.prediction='eps', not '{kind}'")
    weights = df.loss_weights(schedule, f["loss_weight"], kind, gamma=f["snr_gamma"], scale=b)
    shape = {"num_classes": num_classes, "dtype": dtype, "size": size, "class_input": class_input}
    net = _make_net(unet, out_channels=1 + learn_sigma, **shape)
    cond_of = partial(condition, slots=slots, background=shot_background)
    # a class-agnostic head has nothing to guide by
    weight = float(f["guidance"]) if class_input else 1.0
    first, last = f["guidance_interval"]
    if not 0 <= first < last <= 1:
        raise ValueError(f"diffusion.guidance_interval is {first, last}: two shares of the steps, 0 <= from < to <= 1")
    middles = (np.arange(len(plan.t)) + 0.5) / len(plan.t)
    if not 1 <= f["averaged"] <= len(plan.t):
        raise ValueError(f"diffusion.averaged is {f['averaged']}, must be 1..{len(plan.t)} (diffusion.steps)")
    guided_steps = (middles >= first) & (middles < last)

    def apply(params, y, t, cond, classes, key=None, vectors=None):
        """y_t, its time and the condition -> (what `prediction` names [N, M, M, 1], v or None)."""
        noisy = y
        if b != 1.0:  # weaker signals have less variance: bring the input back to about 1 [Chen 2023]
            abar = jnp.asarray(schedule.alphas_cumprod, jnp.float32)[t].reshape(-1, 1, 1, 1)
            y = y / jnp.sqrt(b * b * abar + 1.0 - abar)
        x = jnp.concatenate([y, cond], -1)
        out = net.apply({"params": params}, x, t, classes, key=key, vectors=vectors)
        mean, v = out[..., :1], out[..., 1:] if learn_sigma else None
        return (df.precondition(schedule, f["precondition"], noisy, t, mean, b) if kind == "eps" else mean), v

    def init(key):
        x = jnp.zeros((1, size, size, 4 + 3 * slots))
        return net.init(key, x, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))["params"]

    def loss(params, key, batch, t=None):
        n = batch.classes.shape[0]
        keys = jax.random.split(key, 4)
        mask = batch.mask[..., None].astype(jnp.float32)
        x0 = b * (2.0 * mask - 1.0)
        t = jax.random.randint(keys[0], (n,), 0, len(schedule.betas)) if t is None else t
        eps = jax.random.normal(keys[1], x0.shape)
        classes = jnp.where(jax.random.uniform(keys[2], (n,)) < f["p_uncond"], -1, batch.classes)
        y = df.add_noise(schedule, x0, t, eps)
        out, v = apply(params, y, t, cond_of(batch.region, batch.shots), classes, keys[3])

        if kind == "sigmoid":
            value = losses.sigmoid_cross_entropy(out, mask)
        else:
            target = {"eps": eps, "x0": x0 / b, "v": df.velocity(schedule, x0, t, eps)}[kind]
            value = losses.squared_error(out, target)
            if f["loss_weight"] != "none":
                value = jnp.asarray(weights, jnp.float32)[t] * value
        estimate = df.to_x0(schedule, kind, y, t, out, b)
        metrics = {}
        if v is not None:  # the hybrid loss: the bound trains the variance alone [Nichol and Dhariwal]
            mean, _ = df.posterior(schedule, jax.lax.stop_gradient(estimate), y, t)
            log_var = df.learned_log_variance(schedule, t, v)
            bound = losses.variational_bound(x0, *df.posterior(schedule, x0, y, t), mean, log_var, t, scale=b)
            metrics["vlb"] = bound.mean()
            value = value + bound * len(schedule.betas) / 1000.0
        accuracy, iou = losses.mask_agreement(estimate > 0, mask > 0.5)
        metrics |= {"loss": value.mean(), "accuracy": accuracy.mean(), "iou": iou.mean()}
        return metrics["loss"], metrics

    def distill(steps, halve, weight):
        """See `MaskHead`.

        Args:
          steps: S of the student, who is asked at the times of this many steps only.
          halve: two DDIM steps of the teacher become one [Salimans and Ho 2022]; False: as many steps as the teacher,
            whose guidance goes into one pass [Meng et al. 2023].
          weight: of the teacher's guidance.

        Raises:
          ValueError: the steps of the student are none of the teacher's, or the head predicts eps.
        """
        if kind == "eps":  # (1 - abar) / abar, 24,777 at the first step, times an error of eps [Salimans and Ho 2022]
            raise ValueError("a head with diffusion.prediction='eps' cannot be distilled: use sigmoid, x0 or v")
        stride = 2 if halve else 1
        asked = (stride * steps, steps)
        grid, own = (sampler.make_plan(schedule, sampler="ddim", steps=s, spacing=f["spacing"]) for s in asked)
        if not np.array_equal(grid.t[::stride], own.t):
            raise ValueError(f"diffusion.spacing='{f['spacing']}' has no {steps} of {2 * steps} steps: use 'trailing'")

        def loss(params, teacher, key, batch):
            n, cond = batch.classes.shape[0], cond_of(batch.region, batch.shots)
            keys = jax.random.split(key, 3)
            i = stride * jax.random.randint(keys[0], (n,), 0, steps)
            t = jnp.asarray(grid.t)[i]

            def predict(y, t, keep):
                copies = len(y) // n  # both branches of guidance
                classes = jnp.where(keep, jnp.tile(batch.classes, copies), -1)
                out, v = apply(teacher, y, t, jnp.tile(cond, (copies, 1, 1, 1)), classes)
                return df.to_x0(schedule, kind, y, t, out, b), v

            def taught(y, t):
                return jnp.clip(sampler.guided(predict, weight if class_input else 1.0)(y, t)[0], -b, b)

            mask = batch.mask[..., None].astype(jnp.float32)
            y = df.add_noise(schedule, b * (2.0 * mask - 1.0), t, jax.random.normal(keys[1], mask.shape))
            target = sampler.two_as_one(taught, grid, y, i) if halve else taught(y, t)
            target = jax.lax.stop_gradient(target)

            out, _ = apply(params, y, t, cond, batch.classes, keys[2])
            estimate = df.to_x0(schedule, kind, y, t, out, b)
            if kind == "sigmoid":
                value = losses.sigmoid_cross_entropy(out, 0.5 * (target / b + 1.0))
            else:
                abar = jnp.asarray(schedule.alphas_cumprod, jnp.float32)[t]
                snr = b * b * abar / (1.0 - abar)
                value = jnp.maximum(snr, 1.0) * losses.squared_error(estimate / b, target / b)
            accuracy, iou = losses.mask_agreement(estimate > 0, target > 0)
            value = value.mean()
            return value, {"loss": value, "accuracy": accuracy.mean(), "iou": iou.mean()}

        return loss

    step_of = np.zeros(len(schedule.betas), np.int32)
    step_of[plan.t] = np.arange(len(plan.t))

    def draw(params, keys, region, shots, classes):
        cond = cond_of(region, shots)
        both = jnp.concatenate([cond, cond])
        table = block_vectors(params, jnp.asarray(plan.t), jnp.concatenate([classes, classes]))
        params = cast_weights(params, net.dtype)

        def predict(y, t, keep):
            n, i = len(y), jnp.asarray(step_of)[t[0]]
            vectors = {
                name: (time[i][None], None if row is None else jnp.where(keep[:, None], row[:n], 0.0))
                for name, (time, row) in table.items()
            }
            out, v = apply(params, y, t, both[:n], None, vectors=vectors)
            return df.to_x0(schedule, kind, y, t, out, b), v

        noise = sampler.object_noise(keys, (size, size, 1))
        strong, plain = sampler.guided(predict, weight), sampler.guided(predict, 1.0)
        each = [strong if guide else plain for guide in guided_steps]
        return sampler.sample(each, plan, noise, clip=b if f["clip"] else None)

    def unit(x0):
        return 0.5 * (x0[..., 0] / b + 1.0)

    def predict(params, keys, region, shots, classes):
        y, (_, x0) = draw(params, keys, region, shots, classes)
        if f["averaged"] == 1:
            return jnp.clip(unit(y), 0.0, 1.0)  # the estimates of 1000 steps are never held together
        return jnp.clip(unit(x0[-f["averaged"] :]), 0.0, 1.0).mean(0)

    def trajectory(params, keys, region, shots, classes):
        y, x0 = draw(params, keys, region, shots, classes)[1]
        return unit(y), jnp.clip(unit(x0), 0.0, 1.0)

    return MaskHead(init, loss, predict, trajectory, distill)


def plain_unet_head(
    *,
    num_classes: int,
    dtype: str,
    size: int,
    slots: int,
    class_input: bool,
    shot_background: str,
    unet: dict,
    diffusion: dict,
) -> MaskHead:
    """The paper's "basic UNet" (Table 7): the same net without noise, one pass, binary cross-entropy.

    Takes what `diffusion_head` takes; of `diffusion` only `timesteps` is read: the net sees an empty y_T.
    """
    shape = {"num_classes": num_classes, "dtype": dtype, "size": size, "class_input": class_input}
    net = _make_net(unet, out_channels=1, **shape)

    def logits(params, region, shots, classes, key=None):
        cond = condition(region, shots, slots=slots, background=shot_background)
        x = jnp.pad(cond, ((0, 0), (0, 0), (0, 0), (1, 0)))
        t = jnp.full(len(region), diffusion["timesteps"] - 1)
        return net.apply({"params": params}, x, t, classes, key=key)[..., 0]

    def init(key):
        x = jnp.zeros((1, size, size, 4 + 3 * slots))
        return net.init(key, x, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))["params"]

    def loss(params, key, batch):
        out = logits(params, batch.region, batch.shots, batch.classes, key)
        value = losses.sigmoid_cross_entropy(out, batch.mask.astype(jnp.float32)).mean()
        accuracy, iou = losses.mask_agreement(out > 0, batch.mask > 0)
        return value, {"loss": value, "accuracy": accuracy.mean(), "iou": iou.mean()}

    def predict(params, keys, region, shots, classes):
        return jax.nn.sigmoid(logits(params, region, shots, classes))

    def trajectory(params, keys, region, shots, classes):
        x0 = predict(params, keys, region, shots, classes)[None]
        return jnp.full_like(x0, 0.5), x0

    def distill(steps, halve, weight):
        raise ValueError("model.mask.head='plain_unet' draws in one pass already: there is nothing to distil")

    return MaskHead(init, loss, predict, trajectory, distill)
