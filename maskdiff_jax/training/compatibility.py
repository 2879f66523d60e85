"""Whether one run can start from another: what must be the same in both configs, told before any data are read.

A run leaves its config in WORKDIR/config.json as soon as it starts, so nothing here waits for its weights.
"""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

# what weights were trained with and cannot do without: fields of config.model.detector
LAYOUT = ("pixel_mean", "pixel_std", "channel_order", "stride_in_1x1", "norm")
# how masks are drawn, which training does not see: fields of config.model.mask.diffusion
DRAWING = ("sampler", "steps", "spacing", "variance", "eta", "clip", "averaged", "guidance_interval", "guidance")
# what a later stage may choose anew beside that: how boxes are trained and found, and what a step of training sees
FREE = (
    "model.dtype", "model.mask.min_shots", "model.mask.unet.dropout",
    *(f"model.mask.diffusion.{k}" for k in ("p_uncond", "loss_weight", "snr_gamma", *DRAWING)),
    *(f"model.detector.{k}" for k in (
        "rpn_iou", "rpn_samples", "rpn_positive", "rpn_beta", "rpn_pre_nms_train", "rpn_pre_nms_test", "rpn_nms",
        "proposals_train", "proposals_test", "roi_samples", "roi_positive", "roi_iou", "roi_sampling", "box_beta",
        "min_score", "nms", "max_detections",
    )),
)  # fmt: skip
NOVEL_INITS = ("finetune", "random", "imprint")


def check_layout(config: ConfigDict, workdir: Path) -> None:
    """Whether the weights of a run saw the pixels that this config gives them, in the same net.

    Raises:
      FileNotFoundError: no run there.
      ValueError: fields of ``LAYOUT`` differ; names them.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no run to start from: train that stage, or give --config.init_from")
    ours = json.loads(config.to_json_best_effort())["model"]["detector"]
    theirs = json.loads(path.read_text())["model"]["detector"]
    differ = [f"{k}={theirs.get(k)!r} there, {ours[k]!r} here" for k in LAYOUT if ours[k] != theirs.get(k)]
    if differ:
        raise ValueError(
            f"the weights of {workdir} are for another model.detector ({'; '.join(differ)}): give the same weights= in "
            "--config as that run, or another --config.init_from"
        )


def check_model(config: ConfigDict, workdir: Path) -> None:
    """Whether the weights of a run fit the nets of this config.

    Raises:
      FileNotFoundError: no run there.
      ValueError: they do not; names the fields.
    """
    check_layout(config, workdir)
    differ = differences(config, json.loads((workdir / "config.json").read_text()))
    if differ:
        raise ValueError(f"the weights of {workdir} are of another model: {'; '.join(differ)}")


def check_start(config: ConfigDict, workdir: Path) -> None:
    """Whether stage 2 can start from a run of stage 1, finished or not.

    Raises:
      FileNotFoundError: no run there.
      ValueError: it cannot; names the fields.
    """
    check_layout(config, workdir)
    problems = stage2_problems(config, json.loads((workdir / "config.json").read_text()))
    if problems:
        raise ValueError(f"stage 2 cannot start from {workdir}: {'; '.join(problems)}")


def stage2_problems(config: ConfigDict, before: dict) -> list[str]:
    """What keeps a config of stage 2 from starting with the weights of stage 1; needs no data and no weights.

    Args:
      config: of stage 2.
      before: config of stage 1, as its config.json holds it.

    Returns:
      One clause per problem; empty where all is well.
    """
    shots, slots = config.fewshot.shots, before["model"]["mask"]["slots"]
    if shots > slots:
        return [
            f"fewshot.shots={shots}, but its mask head has model.mask.slots={slots}: lower shots, or train stage 1 "
            "with more slots"
        ]
    if config.fewshot.novel_init not in NOVEL_INITS:
        return [f"unknown fewshot.novel_init '{config.fewshot.novel_init}': choose {', '.join(NOVEL_INITS)}"]
    return differences(config, before, "data.novel_classes", "data.context")


def differences(config: ConfigDict, before: dict, *others: str) -> list[str]:
    """The fields of the model that make its weights, and ``others``, that two configs give different values."""
    ours, theirs = flat(json.loads(config.to_json_best_effort())), flat(before)
    same = {k for k in ours.keys() | theirs.keys() if k.startswith("model.") and k not in FREE}
    differ = sorted(k for k in same.union(others) if ours.get(k) != theirs.get(k))
    return [f"{k} is {theirs.get(k)!r} there and {ours.get(k)!r} here: give both the same" for k in differ[:8]]


def check_rounds(config: ConfigDict) -> None:
    """Whether masks will be drawn in the steps that distillation teaches.

    Raises:
      ValueError: `distill.rounds` are not halves, or `model.mask.diffusion` draws otherwise.
    """
    d, f = config.distill, config.model.mask.diffusion
    halves = [d.steps // 2 ** (i + 1) for i in range(len(d.rounds))]
    if list(d.rounds) != halves or d.steps % 2 ** len(halves) or (not halves and d.guidance == 1.0):
        raise ValueError(
            f"distill.rounds is {tuple(d.rounds)}: each must be half of the one before, from "
            f"distill.steps={d.steps} on; without guidance there must be one"
        )
    last = (d.rounds or (d.steps,))[-1]
    if (f.sampler, f.eta, f.steps, f.guidance) != ("ddim", 0.0, last, 1.0):
        raise ValueError(
            f"model.mask.diffusion draws in {f.steps} steps of {f.sampler}, eta={f.eta}, with guidance={f.guidance}, "
            f"but what distill.rounds={tuple(d.rounds)} teaches is {last} steps of ddim without guidance: "
            f"set sampler=ddim, eta=0.0, steps={last}, guidance=1.0"
        )


def check_teacher(config: ConfigDict, workdir: Path) -> None:
    """Whether a run has the mask head, the shots and the regions of this config.

    Raises:
      FileNotFoundError: no run there.
      ValueError: it is not one of stage 2, or fields differ; names them.
    """
    check_layout(config, workdir)
    ours, theirs = json.loads(config.to_json_best_effort()), json.loads((workdir / "config.json").read_text())
    if theirs["stage"] != "fewshot":
        raise ValueError(f"{workdir} is a run of stage '{theirs['stage']}': distillation starts from one of stage 2")
    differ = []
    for path, free in (("model.mask.diffusion", DRAWING), ("model.mask", ("diffusion",)), ("fewshot", ("novel_init",))):
        a, b = ours, theirs
        for part in path.split("."):
            a, b = a[part], b[part]
        differ += [f"{path}.{k}={b.get(k)!r}" for k in a if k not in free and a[k] != b.get(k)]
    a, b = ours["data"], theirs["data"]
    differ += [f"data.{k}={b[k]!r}" for k in ("root", "novel_classes", "context") if a[k] != b[k]]
    if differ:
        raise ValueError(f"{workdir} was trained with {', '.join(differ)}: give the same to distil it")


def flat(tree: Any, prefix: str = "") -> dict:
    """Nested dicts -> {"a.b.c": leaf}."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key, sub in tree.items() for k, v in flat(sub, f"{prefix}{key}.").items()}
