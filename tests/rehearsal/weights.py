"""Files of recipe weights as other projects write them, narrow and never trained: He's initialization."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.pretrained import third_party_names as names

BLOCKS = (3, 4, 6, 3)  # of ResNet-50
RESIDUAL = 0.3  # scale of each block's last norm: with 1 the features would grow twofold from block to block


def write_msra(path: Path, width: int) -> None:
    """detectron2's ``ImageNetPretrained/MSRA/R-50.pkl``: a flat dict with Caffe2's names."""
    rng = np.random.default_rng(0)
    state = {"conv1_b": np.zeros(width, np.float32)}  # the published file holds it, and nobody uses it
    _save(path, state | _backbone(rng, names.msra_name, width))


def write_zoo(path: Path, width: int, fpn: int, fc: int) -> None:
    """detectron2's ``faster_rcnn_R_50_FPN_1x`` of the model zoo: everything under "model", linear classifier."""
    rng = np.random.default_rng(1)
    whole = names.detector(width, (1, 1, 1, 1), fpn, fc)  # of which only what lies beyond the backbone is taken
    state = {k: _filled(rng, k, w.shape) for k, w in whole.items() if "bottom_up" not in k}
    body = _backbone(rng, names.detectron2_name, width)
    state |= {f"backbone.bottom_up.{k}": w for k, w in body.items()}
    _save(path, {"model": state, "__author__": "generated"})


def _backbone(rng: np.random.Generator, name: Callable[..., str], width: int) -> dict[str, np.ndarray]:
    state = {}
    for at, shape in names.backbone_shapes(width, BLOCKS).items():
        state[name(*at, None)] = _filled(rng, "conv.weight", shape)
        out = shape[0]
        scale = RESIDUAL if at[2] == "conv3" else 1.0
        state[name(*at, "weight")] = np.full(out, scale, np.float32)
        state[name(*at, "bias")] = np.zeros(out, np.float32)
        state[name(*at, "running_mean")] = rng.normal(0, 0.1, out).astype(np.float32)
        state[name(*at, "running_var")] = rng.uniform(0.8, 1.2, out).astype(np.float32)
    return state


def _filled(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)


def _save(path: Path, state: dict) -> None:
    path.write_bytes(pickle.dumps(state, 2))
