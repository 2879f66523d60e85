"""What the stages train: the detector and the mask head, each a function that runs its phases.

Stage 1 trains the detector and the mask head on base classes. Stage 2 starts from it: rows for the novel
classes first (phase "novel"), then classifier and box regressor (phase "detector") and the mask head (phase "mask")
on the same K shots. The paper trains these together; they share no trained parameter, so the sum of their losses has
the same gradients as each loss alone, and apart each may have its own number of steps (`side_by_side`). Afterwards
stage "distill", which is not the paper's, may teach the mask head to draw in fewer passes.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.support import active_class_ids, active_mask, class_ids, sample_shots
from maskdiff_jax.model import Model, build
from maskdiff_jax.training import compatibility, novel_classes, optim
from maskdiff_jax.training.loop import Loader, PairLoader, Phase
from maskdiff_jax.training.side_by_side import Parts, Train
from maskdiff_jax.types import PyTree
from maskdiff_jax.workdir import SHOTS, initial_params, load_weights

# the cosine classifier's weight [F, C + 1], whose columns keep unit length
CLASS_VECTORS = "detector/box_predictor/cls_score/kernel"
PREDICTOR_ONLY = [("detector/box_predictor/.*", "detector"), (".*", optim.FROZEN)]
MASK_HEAD_ONLY = [("detector/.*", optim.FROZEN), ("mask_head/.*", "mask")]


def base_stage(config: ConfigDict, workdir: Path) -> Parts:
    """Detector and mask head, each on its own (paper, "Diffusion-based two-stage training")."""
    c = config
    dataset = pipeline.open_split(c.data, "train")
    model = build(c.model)
    base = active_class_ids(c, dataset.categories)
    dataset = fewshot.restrict(dataset, base)
    if c.model.detector.norm == "frozen_bn" and not c.init_from:
        raise ValueError(
            "model.detector.norm='frozen_bn' is for imported weights: give --config.init_from=WORKDIR, where "
            f"launch/import_weights.py put them, or train from scratch with configs/base.py:{c.preset},weights=scratch"
        )
    # both phases before one trains: what is wrong with the second is not to be found out days later
    detector = _detector_phase(c, model, "detector", dataset, base)
    mask = _mask_phase(c, model, pipeline.open_crops(c.data, dataset, "train"))
    params = initial_params(c, model)
    return {"detector": lambda train: train(detector, params), "mask_head": lambda train: train(mask, params)}


def _detector_phase(
    config: ConfigDict, model: Model, name: str, dataset: Dataset, ids: np.ndarray, patterns: list | None = None
) -> Phase:
    """Trains what `train.frozen` (or `patterns`) leaves free of the detector on the classes ``ids``."""
    c, p = config, config.train[name]
    active = active_mask(ids, c.model.num_classes)  # numpy: a device array may not be closed over

    def loss(params, key, batch):
        return model.detector_loss(params, key, batch, jnp.asarray(active))

    frozen = [(x, optim.FROZEN) for x in c.train.frozen]
    return Phase(
        name, p.steps, loss, pipeline.detector_loader(dataset, c.data, batch=p.batch, seed=c.seed),
        patterns or [*frozen, ("detector/.*", "detector"), ("mask_head/.*", optim.FROZEN)], {"detector": p},
        frozenset([CLASS_VECTORS] if c.model.detector.classifier == "cosine" else []),
    )  # fmt: skip


def _mask_phase(config: ConfigDict, model: Model, crops) -> Phase:
    """Trains the mask head."""
    p = config.train.mask
    return Phase("mask", p.steps, model.mask_loss, _mask_loader(config, crops), MASK_HEAD_ONLY, {"mask": p})


def fewshot_stage(config: ConfigDict, workdir: Path) -> Parts:
    """The heads on K shots of every class; the features stay [TFA]."""
    c = config
    compatibility.check_start(c, Path(c.init_from))
    model = build(c.model)
    params = load_weights(c.init_from, model)
    support_split = pipeline.open_split(c.data, "support")
    base, new = (class_ids(support_split.categories, novel=novel) for novel in (False, True))
    shots = sample_shots(c, support_split)
    fewshot.save_shots(workdir / SHOTS, shots)
    dataset = fewshot.shot_dataset(support_split, shots, c.data.shot_unlabeled)
    ids = active_class_ids(c, support_split.categories)
    # before the first phase trains, as in stage 1
    detector = _detector_phase(c, model, "detector", dataset, ids)
    mask = _mask_phase(c, model, pipeline.open_crops(c.data, dataset, "support"))

    def train_detector(train: Train) -> PyTree:
        return train(detector, _novel_rows(c, model, params, support_split, shots, base, new, train))

    return {"detector": train_detector, "mask_head": lambda train: train(mask, params)}


def distill_stage(config: ConfigDict, workdir: Path) -> Parts:
    """The mask head of a run of stage 2 learns to do without guidance, then with half of the steps, and again.

    It sees the base classes' training objects and as many of that run's shots.

    Raises:
      FileNotFoundError: that run is missing or not finished.
      ValueError: see ``compatibility.check_teacher`` and ``check_rounds``.
    """
    c, d = config, config.distill
    compatibility.check_rounds(c)
    compatibility.check_teacher(c, Path(c.init_from))
    model = build(c.model)
    params = load_weights(c.init_from, model)
    dataset, support_split = pipeline.open_split(c.data, "train"), pipeline.open_split(c.data, "support")
    shots = sample_shots(c, support_split)
    fewshot.save_shots(workdir / SHOTS, shots)
    base = fewshot.restrict(dataset, class_ids(dataset.categories, novel=False))
    crops = (
        pipeline.open_crops(c.data, base, "train"),
        pipeline.open_crops(c.data, fewshot.shot_dataset(support_split, shots, c.data.shot_unlabeled), "support"),
    )
    first = [(d.steps, d.guidance)] if d.guidance != 1.0 else []  # else there is nothing that one pass cannot do

    def teach(train: Train) -> PyTree:
        student = params
        for steps, weight in (*first, *((s, 1.0) for s in d.rounds)):
            halve = steps != d.steps
            loss = model.distill(steps, halve, weight)

            def of_both(params, key, batches, loss=loss):
                return loss(params, key, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *batches))

            phase = Phase(
                f"steps{steps}" if halve else "guidance", c.train.mask.steps, of_both,
                PairLoader(*(_mask_loader(c, x) for x in crops)),
                [("teacher/.*", optim.FROZEN), *MASK_HEAD_ONLY], {"mask": c.train.mask},
            )  # fmt: skip
            student = train(phase, student | {"teacher": student["mask_head"]})
        return student

    return {"detector": lambda train: params, "mask_head": teach}


def _novel_rows(
    config: ConfigDict, model: Model, params: PyTree, support_split: Dataset, shots: dict, base: np.ndarray,
    new: np.ndarray, train: Train,
) -> PyTree:  # fmt: skip
    """Box-predictor rows for the novel classes, as ``fewshot.novel_init`` says."""
    c, count = config, config.model.num_classes
    old = params["detector"]["box_predictor"]
    if not len(new):
        return params
    rows = novel_classes.fresh_rows(old, jax.random.key(c.seed + 1), base, new, count)
    started = params | {"detector": params["detector"] | {"box_predictor": rows}}
    if c.fewshot.novel_init == "random":
        return started
    if c.fewshot.novel_init == "imprint":
        dataset = fewshot.shot_dataset(support_split, shots, "background")
        features, labels = shot_features(c, model, params, dataset)
        rows = novel_classes.imprint(rows, features, labels, base, new)
        return params | {"detector": params["detector"] | {"box_predictor": rows}}
    dataset = fewshot.shot_dataset(support_split, {k: v for k, v in shots.items() if k in new}, c.data.shot_unlabeled)
    phase = _detector_phase(c, model, "novel", dataset, new, PREDICTOR_ONLY)
    tuned = train(phase, started)["detector"]["box_predictor"]
    rows = novel_classes.take_rows(old, tuned, new, count)
    return params | {"detector": params["detector"] | {"box_predictor": rows}}


def shot_features(config: ConfigDict, model: Model, params: PyTree, dataset: Dataset):
    """Features [n, F] and class ids [n] of the labeled boxes of K-shot dataset."""
    forward = jax.jit(model.box_features)
    features, labels = [], []
    for batch in pipeline.eval_batches(dataset, config.data, batch=config.eval.batch):
        x = np.asarray(forward(params, batch.image, batch.image_hw, batch.instances.boxes))
        use = (batch.instances.classes >= 0) & ~batch.instances.ignore
        features.append(x[use])
        labels.append(batch.instances.classes[use])
    return np.concatenate(features), np.concatenate(labels)


def _mask_loader(config: ConfigDict, crops) -> Loader:
    k = config.model.mask
    return pipeline.mask_loader(
        crops, config.data, slots=k.slots, min_shots=k.min_shots, size=k.size,
        batch=config.train.mask.batch, seed=config.seed,
    )  # fmt: skip


STAGES = {"base": base_stage, "fewshot": fewshot_stage, "distill": distill_stage}
