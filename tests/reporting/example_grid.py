"""A protocol's evaluations on disk: methods x K x shot seeds x noise seeds, as the protocol runner leaves them."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

THRESHOLDS = [round(0.5 + 0.05 * i, 2) for i in range(10)]
QUALITY = {"mrcn_ft_full": 1.0, "mtfa": 4.0, "imtfa": 4.5, "maskdiff": 6.0}  # mask AP of novel classes at K = 1


def config(method: str = "maskdiff", shots: int = 1, seed: int = 0, noise_seed: int = 0, dataset: str = "coco") -> dict:
    """The config fields that reports read, and two that may not differ between seeds."""
    return {
        "preset": dataset, "stage": "fewshot", "method": method, "base_method": "", "paper": False, "seed": seed,
        "init_from": f"runs/{method}/base",
        "data": {
            "source": dataset, "root": f"datasets/{dataset}", "workers": 8, "short_sides": [640, 800],
            "counts": "tfa" if dataset == "coco" else "",
        },
        "model": {"mask": {"head": "diffusion", "diffusion": {"guidance": 1.0, "steps": 2}}},
        "train": {"novel": {"lr": 0.01, "steps": 500}, "side_by_side": False, "devices": 0},
        "fewshot": {"shots": shots, "seed": seed, "classes": "all"},
        "eval": {
            "split": "test", "source": "", "images": 0, "noise_seed": noise_seed, "figures": 12, "batch": 8,
            "gt_classes_only": False, "rescore": False,
        },
    }  # fmt: skip


def document(
    method: str = "maskdiff", shots: int = 1, seed: int = 0, noise_seed: int = 0, dataset: str = "coco"
) -> dict:
    """A metrics.json with AP = (60 base AP + 20 novel AP) / 80; a shot seed moves all methods alike."""
    shared = np.random.default_rng(seed).normal(0.0, 0.5)
    own = np.random.default_rng([seed, len(method) + ord(method[0]), shots]).normal(0.0, 0.2)
    noise = np.random.default_rng([noise_seed, seed, len(method) + ord(method[0])]).normal(0.0, 0.05)
    novel = QUALITY.get(method, 5.0) + 0.6 * shots + shared + own + noise
    means = {"base": 30.0 + QUALITY.get(method, 5.0) + 0.3 * shared + own + noise, "novel": max(novel, 0.1)}
    means["all"] = (60 * means["base"] + 20 * means["novel"]) / 80
    metrics, curves = {"images": 5000, "detections": 20000}, {"iou": list(THRESHOLDS)}
    for kind, factor in (("bbox", 1.1), ("segm", 1.0)):
        for classes, mean in means.items():
            prefix = f"{kind}/" if classes == "all" else f"{kind}/{classes}/"
            curve = [factor * mean * (1.6 - 1.2 * i / 9) for i in range(10)]  # its mean is factor * mean
            metrics[f"{prefix}AP"], metrics[f"{prefix}AP50"] = factor * mean, curve[0]
            curves[f"{kind}/{classes}"] = curve
    metrics |= {f"mask_iou/{classes}": 60.0 + mean / 2 for classes, mean in means.items()}
    return {
        "config": config(method, shots, seed, noise_seed, dataset), "preset": dataset, "stage": "fewshot",
        "dataset": dataset, "split": "test", "shots": shots, "seed": seed, "noise_seed": noise_seed,
        "novel_classes": ["person"], "versions": {"jax": "0.10.2"}, "device": "1 x a GPU", "date": "2026-11-25",
        "metrics": metrics, "curves": curves, "seconds": {"novel": 300.0 + seed, "evaluation": 90.0},
        "images_per_second": 8.0,
    }  # fmt: skip


def write_document(folder: Path, doc: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(doc))
    return folder


def base_document(method: str = "maskdiff", dataset: str = "coco") -> dict:
    """A metrics.json of stage 1."""
    doc = copy.deepcopy(document(method, 10, 0, 0, dataset))
    doc["stage"] = doc["config"]["stage"] = "base"
    doc["config"]["init_from"] = ""
    for part in ("metrics", "curves"):
        doc[part] = {k: v for k, v in doc[part].items() if "novel" not in k}
    doc["seconds"] = {"detector": 7200.0, "mask": 3600.0, "evaluation": 60.0}
    return doc


def write_grid(
    root: Path, methods=("mtfa", "imtfa", "maskdiff"), shots=(1, 5), seeds=6, noise_seeds=2, dataset: str = "coco"
) -> Path:
    """ROOT/METHOD/base and ROOT/METHOD/fewshot-Kshot-seedS/noiseN, each with its metrics.json."""
    for method in methods:
        write_document(root / method / "base", base_document(method, dataset))
    for method, k, seed, noise_seed in _places(methods, shots, seeds, noise_seeds):
        folder = root / method / f"fewshot-{k}shot-seed{seed}" / f"noise{noise_seed}"
        write_document(folder, document(method, k, seed, noise_seed, dataset))
    return root


def _places(methods, shots, seeds, noise_seeds) -> Iterator[tuple[str, int, int, int]]:
    yield from ((m, k, s, n) for m in methods for k in shots for s in range(seeds) for n in range(noise_seeds))
