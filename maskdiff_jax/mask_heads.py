"""Mask heads: from a region, the shots of its class and the class to the mask of the object in the region.

N objects, M mask side (px), K shots, `slots` >= K that the net has channels for, T diffusion steps, S sampling steps.
Inside, masks are coded as -b and +b (b = `signal_scale`); outside they are 0..1. A head is a tuple of pure functions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maskdiff_jax import diffusion as df
from maskdiff_jax import distillation, losses, sampler
from maskdiff_jax.nets.unet import UNet, attention_levels, block_vectors, cast_weights
from maskdiff_jax.ops import masks
from maskdiff_jax.types import Array, MaskBatch, MaskHead, PyTree


# ---------------------------------------------------------------------------------- the net and its input
class Net(NamedTuple):
    """A UNet and the input that it takes."""

    unet: UNet
    size: int  # M
    slots: int
    shot_background: str  # "gray" or "black", see `ops.masks.composite_shot`

    def init(self, key: Array) -> PyTree:
        x = jnp.zeros((1, self.size, self.size, 4 + 3 * self.slots))
        return self.unet.init(key, x, jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32))["params"]

    def condition(self, region: Array, shots: Array) -> Array:
        return masks.condition(region, shots, slots=self.slots, background=self.shot_background)


def _make_net(
    unet: dict[str, Any],
    out_channels: int,
    *,
    num_classes: int,
    dtype: str,
    size: int,
    slots: int,
    class_input: bool,
    shot_background: str,
) -> Net:
    options = dict(unet)
    levels = len(options["multipliers"])
    options["attention"] = attention_levels(options["attention"], size, options["stem_patch"], levels)
    options["multipliers"] = tuple(options["multipliers"])
    classes = num_classes if class_input else 0
    module = UNet(out_channels=out_channels, num_classes=classes, dtype=jnp.dtype(dtype), **options)
    return Net(module, size, slots, shot_background)


# ---------------------------------------------------------------------------------- the diffusion head
class Settings(NamedTuple):
    """All that the functions of a diffusion head share; made by `_make_settings`."""

    net: Net
    schedule: df.Schedule
    plan: sampler.Plan
    spacing: str
    prediction: str  # a name in `df.PREDICTIONS`
    precondition: str  # a name in `df.PRECONDITIONS`
    scale: float  # b
    learn_sigma: bool  # a second output channel gives the reverse variance
    loss_weights: np.ndarray | None  # [T] of the squared error; None: 1
    p_uncond: float  # share of training samples without their class
    guidance: float  # w; 1 for a head without a class
    guidance_interval: tuple[float, float]  # share of the steps that are guided
    clip: bool  # estimates are clipped to -b..b at each step
    averaged: int  # the mask is the mean of this many last estimates


def diffusion_head(*, unet: dict[str, Any], diffusion: dict[str, Any], **inputs: Any) -> MaskHead:
    """The paper's head: a conditional diffusion model of masks.

    Args:
      unet: width, multipliers, blocks, attention (sides in px, see `nets.unet.attention_levels`), heads,
        head_channels, scale_shift, stem_patch, resblock_updown, dropout.
      diffusion: timesteps, schedule, prediction, precondition, signal_scale, loss_weight, snr_gamma, learn_sigma,
        p_uncond, sampler, steps, spacing, variance, eta, clip, averaged, guidance, guidance_interval; see
        configs/base.py.
      **inputs: num_classes (C), dtype (of the convolutions), size (M), slots, class_input (the class goes into every
        residual block; guidance strengthens its influence), shot_background (see `ops.masks.composite_shot`).

    Raises:
      ValueError: options that do not fit together.
    """
    net = _make_net(unet, 1 + bool(diffusion["learn_sigma"]), **inputs)
    s = _make_settings(net, diffusion)
    return MaskHead(
        init=net.init,
        loss=partial(diffusion_loss, s),
        predict=partial(_predict, s),
        trajectory=partial(_trajectory, s),
        distill=partial(_distill, s),
        side=net.size,
    )


def _make_settings(net: Net, diffusion: dict[str, Any]) -> Settings:
    d = diffusion
    prediction, scale = d["prediction"], float(d["signal_scale"])
    df.choose(df.PREDICTIONS, prediction, "diffusion.prediction")
    df.choose(df.PRECONDITIONS, d["precondition"], "diffusion.precondition")
    if scale <= 0:
        raise ValueError(f"diffusion.signal_scale is {scale}, must be above 0")
    if d["precondition"] != "none" and prediction != "eps":
        raise ValueError(
            f"diffusion.precondition='{d['precondition']}' needs diffusion.prediction='eps', not '{prediction}'"
        )
    first, last = d["guidance_interval"]
    if not 0 <= first < last <= 1:
        raise ValueError(
            f"diffusion.guidance_interval is {first, last}: it must be two fractions of the steps, 0 <= from < to <= 1"
        )

    schedule = df.make_schedule(d["schedule"], d["timesteps"])
    plan = sampler.make_plan(schedule, **{k: d[k] for k in ("sampler", "steps", "spacing", "variance", "eta")})
    if plan.log_variance is not None and not d["learn_sigma"]:
        raise ValueError("diffusion.variance 'learned' needs a net trained with diffusion.learn_sigma = True")
    if not 1 <= d["averaged"] <= len(plan.t):
        raise ValueError(f"diffusion.averaged is {d['averaged']}, must be 1..{len(plan.t)} (diffusion.steps)")
    weights = df.loss_weights(schedule, d["loss_weight"], prediction, gamma=d["snr_gamma"], scale=scale)
    return Settings(
        net=net,
        schedule=schedule,
        plan=plan,
        spacing=d["spacing"],
        prediction=prediction,
        precondition=d["precondition"],
        scale=scale,
        learn_sigma=bool(d["learn_sigma"]),
        loss_weights=None if d["loss_weight"] == "none" else weights,
        p_uncond=d["p_uncond"],
        guidance=float(d["guidance"]) if net.unet.num_classes else 1.0,
        guidance_interval=(first, last),
        clip=d["clip"],
        averaged=d["averaged"],
    )


def _coded(s: Settings, mask: Array) -> Array:
    """Masks [N, M, M, 1] of 0.0 and 1.0 -> [N, M, M, 1] of -b and b."""
    return s.scale * (2.0 * mask - 1.0)


def _decoded(s: Settings, x0: Array) -> Array:
    """The inverse of `_coded`: [..., M, M, 1] around -b..b -> [..., M, M] around 0..1, not clipped."""
    return 0.5 * (x0[..., 0] / s.scale + 1.0)


def denoise(
    s: Settings, params: PyTree, y: Array, t: Array, cond: Array, classes: Array | None, *, key: Array | None = None,
    vectors: dict | None = None,
) -> tuple[Array, Array | None]:  # fmt: skip
    """One evaluation of the net.

    Args:
      y: y_t [N, M, M, 1]. t: [N] in 0..T-1. cond: see `ops.masks.condition`. classes: [N], -1 for no class.
      key: for dropout, or None. vectors: see `nets.unet.block_vectors`; they replace the classes.

    Returns:
      output [N, M, M, 1], as `s.prediction` says; v [N, M, M, 1] of the learned variance, or None.
    """
    noisy = y
    # a weaker signal has less variance: bring the input back to about 1 [Chen 2023, arXiv:2301.10972]
    if s.scale != 1.0:
        abar = jnp.asarray(s.schedule.alphas_cumprod, jnp.float32)[t].reshape(-1, 1, 1, 1)
        y = y / jnp.sqrt(s.scale * s.scale * abar + 1.0 - abar)
    x = jnp.concatenate([y, cond], -1)
    out = s.net.unet.apply({"params": params}, x, t, classes, key=key, vectors=vectors)
    output, v = out[..., :1], out[..., 1:] if s.learn_sigma else None
    if s.prediction == "eps":
        output = df.precondition(s.schedule, s.precondition, noisy, t, output, s.scale)
    return output, v


def _estimate(s: Settings, y: Array, t: Array, output: Array) -> Array:
    """The estimate of y_0 [N, M, M, 1] that the net's output encodes."""
    return df.to_x0(s.schedule, s.prediction, y, t, output, s.scale)


def diffusion_loss(
    s: Settings, params: PyTree, key: Array, batch: MaskBatch, t: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """Eq. 4 of the paper or one of its variants, at random times or at t [N]; see `types.MaskHead`."""
    time_key, noise_key, class_key, dropout_key = jax.random.split(key, 4)
    n, mask = batch.classes.shape[0], batch.mask[..., None].astype(jnp.float32)
    x0 = _coded(s, mask)
    t = jax.random.randint(time_key, (n,), 0, len(s.schedule.betas)) if t is None else t
    eps = jax.random.normal(noise_key, x0.shape)
    classes = jnp.where(jax.random.uniform(class_key, (n,)) < s.p_uncond, -1, batch.classes)
    y = df.add_noise(s.schedule, x0, t, eps)
    cond = s.net.condition(batch.region, batch.shots)
    output, v = denoise(s, params, y, t, cond, classes, key=dropout_key)

    loss = _prediction_loss(s, mask, x0, eps, t, output)
    estimate = _estimate(s, y, t, output)
    metrics = {}
    if v is not None:
        bound = _variance_loss(s, x0, estimate, y, t, v)
        metrics["vlb"] = bound.mean()
        loss = loss + bound * len(s.schedule.betas) / 1000.0
    metrics |= _metrics(loss, estimate > 0, mask > 0.5)
    return metrics["loss"], metrics


def _prediction_loss(s: Settings, mask: Array, x0: Array, eps: Array, t: Array, output: Array) -> Array:
    """[N]: cross-entropy of a logit, weighted squared error of anything else."""
    if s.prediction == "sigmoid":
        return losses.sigmoid_cross_entropy(output, mask)
    target = {"eps": eps, "x0": x0 / s.scale, "v": df.velocity(s.schedule, x0, t, eps)}[s.prediction]
    loss = losses.squared_error(output, target)
    return loss if s.loss_weights is None else jnp.asarray(s.loss_weights, jnp.float32)[t] * loss


def _variance_loss(s: Settings, x0: Array, estimate: Array, y: Array, t: Array, v: Array) -> Array:
    """[N]: the bound of the hybrid loss, which trains the variance alone [Nichol and Dhariwal 2021, Section 3.1]."""
    mean, _ = df.posterior(s.schedule, jax.lax.stop_gradient(estimate), y, t)
    log_var = df.learned_log_variance(s.schedule, t, v)
    return losses.variational_bound(x0, *df.posterior(s.schedule, x0, y, t), mean, log_var, t, scale=s.scale)


def _metrics(loss: Array, pred: Array, target: Array) -> dict[str, Array]:
    """Means over the objects of a loss [N] and of the agreement of two bool masks."""
    accuracy, iou = losses.mask_agreement(pred, target)
    return {"loss": loss.mean(), "accuracy": accuracy.mean(), "iou": iou.mean()}


def _sample(s: Settings, params: PyTree, keys: Array, region: Array, shots: Array, classes: Array) -> Any:
    """As `sampler.sample`: y_0 [N, M, M, 1] and (y [S, N, M, M, 1], x0 [S, N, M, M, 1])."""
    cond = s.net.condition(region, shots)
    both = jnp.concatenate([cond, cond])  # for guidance: with the class and without
    # the step of each time, for those times that the plan has
    step_of = np.zeros(len(s.schedule.betas), np.int32)
    step_of[s.plan.t] = np.arange(len(s.plan.t))
    table = block_vectors(params, jnp.asarray(s.plan.t), jnp.concatenate([classes, classes]))
    params = cast_weights(params, s.net.unet.dtype)

    def predict(y, t, keep):
        n, i = len(y), jnp.asarray(step_of)[t[0]]
        vectors = {
            name: (time[i][None], None if row is None else jnp.where(keep[:, None], row[:n], 0.0))
            for name, (time, row) in table.items()
        }
        output, v = denoise(s, params, y, t, both[:n], None, vectors=vectors)
        return _estimate(s, y, t, output), v

    segments = sampler.guided_segments(len(s.plan.t), s.guidance_interval, s.guidance)
    denoisers = [(count, sampler.guided(predict, weight)) for count, weight in segments]
    noise = sampler.object_noise(keys, (s.net.size, s.net.size, 1))
    return sampler.sample(denoisers, s.plan, noise, clip=s.scale if s.clip else None)


def _predict(s: Settings, params: PyTree, keys: Array, region: Array, shots: Array, classes: Array) -> Array:
    y, (_, x0) = _sample(s, params, keys, region, shots, classes)
    if s.averaged == 1:
        return jnp.clip(_decoded(s, y), 0.0, 1.0)  # the estimates of 1000 steps are never held together
    return jnp.clip(_decoded(s, x0[-s.averaged :]), 0.0, 1.0).mean(0)


def _trajectory(
    s: Settings, params: PyTree, keys: Array, region: Array, shots: Array, classes: Array
) -> tuple[Array, Array]:
    y, x0 = _sample(s, params, keys, region, shots, classes)[1]
    return _decoded(s, y), jnp.clip(_decoded(s, x0), 0.0, 1.0)


def _distill(s: Settings, steps: int, halve: bool, guidance: float) -> Callable[..., tuple[Array, dict[str, Array]]]:
    d = distillation.make_distillation(
        s.schedule, prediction=s.prediction, scale=s.scale, spacing=s.spacing, steps=steps, halve=halve,
        guidance=guidance if s.net.unet.num_classes else 1.0,
    )  # fmt: skip

    def loss(params: PyTree, teacher: PyTree, key: Array, batch: MaskBatch) -> tuple[Array, dict[str, Array]]:
        n, cond = batch.classes.shape[0], s.net.condition(batch.region, batch.shots)

        def student(y, t, key):
            return denoise(s, params, y, t, cond, batch.classes, key=key)[0]

        def teach(y, t, keep):
            copies = len(y) // n  # 2 where both branches of guidance run as one batch
            classes = jnp.where(keep, jnp.tile(batch.classes, copies), -1)
            output, v = denoise(s, teacher, y, t, jnp.tile(cond, (copies, 1, 1, 1)), classes)
            return _estimate(s, y, t, output), v

        x0 = _coded(s, batch.mask[..., None].astype(jnp.float32))
        out = distillation.distillation_loss(d, student, teach, key, x0)
        metrics = _metrics(out.loss, out.estimate > 0, out.target > 0)
        return metrics["loss"], metrics

    return loss


# ---------------------------------------------------------------------------------- the plain UNet
def plain_unet_head(*, unet: dict[str, Any], diffusion: dict[str, Any], **inputs: Any) -> MaskHead:
    """The paper's "basic UNet" (Table 7): the same net without noise, one evaluation, binary cross-entropy.

    Takes what `diffusion_head` takes; of `diffusion` only `timesteps` is read: the net sees an empty y_T.
    """
    net = _make_net(unet, 1, **inputs)

    def logits(params, region, shots, classes, key=None):
        x = jnp.pad(net.condition(region, shots), ((0, 0), (0, 0), (0, 0), (1, 0)))
        t = jnp.full(len(region), diffusion["timesteps"] - 1)
        return net.unet.apply({"params": params}, x, t, classes, key=key)[..., 0]

    def loss(params, key, batch):
        out = logits(params, batch.region, batch.shots, batch.classes, key)
        cross_entropy = losses.sigmoid_cross_entropy(out, batch.mask.astype(jnp.float32))
        metrics = _metrics(cross_entropy, out > 0, batch.mask > 0)
        return metrics["loss"], metrics

    def predict(params, keys, region, shots, classes):
        return jax.nn.sigmoid(logits(params, region, shots, classes))

    def trajectory(params, keys, region, shots, classes):
        x0 = predict(params, keys, region, shots, classes)[None]
        return jnp.full_like(x0, 0.5), x0

    def distill(steps, halve, guidance):
        raise ValueError(
            "model.mask.head='plain_unet' already needs only one network evaluation, so there is nothing to distill"
        )

    return MaskHead(net.init, loss, predict, trajectory, distill, net.size)
