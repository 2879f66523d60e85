"""What the stages train: the detector and the mask head, each a function that runs its phases.

Stage 1 trains the detector and the mask head on base classes; a detector with a second pass learns that at the end
(phase "refine"). Stage 2 starts from it: first weights for the novel classes (phase "novel"), then classifier and box
regressor (phase "detector") and the mask head (phase "mask") on the same K shots. The paper trains these together; they
share no trained parameter, so the sum of their losses has the same gradients as each loss alone, and apart each may
have its own number of steps (`side_by_side`). For the same reason a run may copy the trained detector of another
one (`config.detector_from`) and train only its mask head. Stage "distill", which is not the paper's, may then teach
the mask head to sample in fewer steps.

Mask R-CNN's mask head, that of the baselines, shares its features with the detector: there the phases "novel" and
"detector" train both with the sum of their losses, and there is no phase "mask".
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Dataset
from maskdiff_jax.data.fewshot import shots as fewshot
from maskdiff_jax.data.support import active_class_ids, active_mask, class_ids, sample_shots
from maskdiff_jax.imprinting import features_of
from maskdiff_jax.model import Model
from maskdiff_jax.nets.classifiers import CLASSIFIERS
from maskdiff_jax.shared import OF_A_RUN, Shared, fingerprint
from maskdiff_jax.training import compatibility, novel_classes, optim
from maskdiff_jax.training.loop import Loader, PairLoader, Phase
from maskdiff_jax.training.side_by_side import Parts, Train
from maskdiff_jax.training.starting_weights import starting_params
from maskdiff_jax.types import PyTree
from maskdiff_jax.workdir import SHOTS, check_shots, load_weights, saved_phases

# the cosine classifier's weight [F, C + 1], whose columns keep unit length
CLASS_VECTORS = "detector/box_predictor/cls_score/kernel"
# a second pass has its own phase
DETECTOR_ONLY = [("detector/refine/.*|mask_head/.*", optim.FROZEN), ("detector/.*", "detector")]
JOINT = [("detector/refine/.*", optim.FROZEN), (".*", "detector")]
PREDICTOR_ONLY = [("detector/box_predictor/.*", "detector"), (".*", optim.FROZEN)]
JOINT_PREDICTOR_ONLY = [("mask_head/predictor/.*", "detector"), *PREDICTOR_ONLY]
# of phase "refine" [iFS-RCNN]
SECOND_PASS = [("detector/(refine|box_predictor/bbox_(pred|variance))/.*", "detector"), (".*", optim.FROZEN)]
MASK_HEAD_ONLY = [("detector/.*", optim.FROZEN), ("mask_head/.*", "mask")]


def base_stage(config: ConfigDict, workdir: Path, shared: Shared | None = None) -> Parts:
    """Detector and mask head, each on its own (paper, "Diffusion-based two-stage training").

    Raises:
      FileNotFoundError: the dataset is missing, or the run ``config.init_from`` or ``config.detector_from``.
      ValueError: frozen norms without imported weights, or data or weights that do not fit the config.
    """
    shared = shared or Shared()
    if config.model.detector.norm == "frozen_bn" and not (config.init_from or config.detector_from):
        size = "" if config.size == "paper" else f",size={config.size}"
        raise ValueError(
            "model.detector.norm='frozen_bn' needs imported weights: give --config.init_from=WORKDIR, the "
            "folder that launch/import_weights.py wrote, or train from scratch with "
            f"configs/base.py:{config.preset}{size},weights=scratch"
        )
    # the data before the weights: an error in the data shows at once, and the weights take a minute to compile
    train_split = shared.split(config.data, "train")
    base = active_class_ids(config, train_split.categories)
    dataset = fewshot.restrict(train_split, base)
    model = shared.model(config)
    params = starting_params(config, model)
    # all phases before one trains, so that an error in the second does not show up days later
    detector = _detector_phase(config, model, "detector", dataset, base)
    joint = model.gt_mask_side > 0
    mask = None if joint else _mask_phase(config, model, pipeline.open_crops(config.data, dataset, "train"))
    second_pass = config.model.detector.refine
    refine = _detector_phase(config, model, "refine", dataset, base, SECOND_PASS) if second_pass else None

    def train_detector(train: Train) -> PyTree:
        if config.detector_from:
            return params
        trained = train(detector, params)
        return train(refine, trained) if refine else trained

    if mask is None:
        return _together(train_detector)
    return {"detector": train_detector, "mask_head": lambda train: train(mask, params)}


def fewshot_stage(config: ConfigDict, workdir: Path, shared: Shared | None = None) -> Parts:
    """The heads on K shots of every class; backbone, FPN and RPN stay as they are, as in TFA.

    Leaves ``shots.json``. Where ``train.frozen`` says so the features are trained too.

    Raises:
      FileNotFoundError: the dataset or the run of stage 1 is missing, or the one of ``config.detector_from``.
      ValueError: see `compatibility.check_start`; or the shots cannot be sampled, or are not those of the detector.
    """
    shared = shared or Shared()
    compatibility.check_start(config, Path(config.init_from))
    model, first = shared.model(config), compatibility.with_classifier_of_stage1(config)
    params = starting_params(first, shared.model(first))
    support_split = shared.split(config.data, "support")
    shots = _sampled_shots(config, workdir, support_split)
    dataset = fewshot.shot_dataset(support_split, shots, config.data.shot_unlabeled)
    active = active_class_ids(config, support_split.categories)
    # before the first phase trains, as in stage 1
    detector = _detector_phase(config, model, "detector", dataset, active)

    def train_detector(train: Train) -> PyTree:
        if config.detector_from:
            return params
        started = _with_novel_classes(first, shared.model(first), params, support_split, shots, train)
        if first.model.detector.classifier != config.model.detector.classifier:
            started = _replaced(started, novel_classes.without_bias(started["detector"]["box_predictor"]))
        return train(detector, started)

    if model.gt_mask_side and config.fewshot.novel_init == "fresh" and config.fewshot.classes == "novel":
        novel_only = _detector_phase(config, model, "novel", dataset, active, _predictors(model))
        return _together(lambda train: train(novel_only, _with_fresh_predictors(config, model, params)))
    if model.gt_mask_side:
        return _together(train_detector)
    mask = _mask_phase(config, model, pipeline.open_crops(config.data, dataset, "support"))
    return {"detector": train_detector, "mask_head": lambda train: train(mask, params)}


def distill_stage(config: ConfigDict, workdir: Path, shared: Shared | None = None) -> Parts:
    """The mask head of a run of stage 2 learns to do without guidance, then to sample in half of the steps, repeatedly.

    It sees the training objects of the base classes and as many shots of that run. Leaves ``shots.json``.

    Raises:
      FileNotFoundError: the dataset is missing; that run is missing or not finished.
      ValueError: see `compatibility.check_teacher` and `check_rounds`.
    """
    shared = shared or Shared()
    compatibility.check_rounds(config)
    compatibility.check_teacher(config, Path(config.init_from))
    model = shared.model(config)
    params = load_weights(config.init_from, model)
    train_split, support_split = (shared.split(config.data, split) for split in ("train", "support"))
    shots = _sampled_shots(config, workdir, support_split)
    base_objects = fewshot.restrict(train_split, class_ids(train_split.categories, novel=False))
    shot_objects = fewshot.shot_dataset(support_split, shots, config.data.shot_unlabeled)
    crops = (
        pipeline.open_crops(config.data, base_objects, "train"),
        pipeline.open_crops(config.data, shot_objects, "support"),
    )

    def teach(train: Train) -> PyTree:
        student = params
        for phase in _distillation_phases(config, model, crops):
            student = train(phase, student | {"teacher": student["mask_head"]})
        return student

    return {"detector": lambda train: params, "mask_head": teach}


STAGES = {"base": base_stage, "fewshot": fewshot_stage, "distill": distill_stage}


def _together(run: Callable[[Train], PyTree]) -> Parts:
    """Detector and mask head, trained by the same phases."""
    return {"detector": run, "mask_head": run}


def _sampled_shots(config: ConfigDict, workdir: Path, support_split: Dataset) -> fewshot.ShotSet:
    """Samples the shots and leaves them in ``shots.json``; a run that resumes must get the same ones."""
    shots = sample_shots(config, support_split)
    if saved_phases(workdir):
        check_shots(workdir, shots)
    if config.detector_from:
        check_shots(config.detector_from, shots)
    fewshot.save_shots(workdir / SHOTS, shots)
    return shots


def _detector_phase(
    config: ConfigDict, model: Model, name: str, dataset: Dataset, class_ids: np.ndarray, patterns: list | None = None
) -> Phase:
    """Trains the parameters of the detector that `train.frozen` (or ``patterns``) does not freeze, on some classes.

    So are those of a mask head that is trained with the detector.
    """
    fields = config.train[name]
    frozen = [(pattern, optim.FROZEN) for pattern in config.train.frozen]
    return Phase(
        name=name,
        steps=fields.steps,
        loss=_over_classes(model.refine_loss if name == "refine" else model.detector_loss, config, class_ids),
        loader=pipeline.detector_loader(
            dataset, config.data, batch=fields.batch, seed=config.seed, mask_side=model.gt_mask_side
        ),
        patterns=patterns or [*frozen, *(JOINT if model.gt_mask_side else DETECTOR_ONLY)],
        configs={"detector": fields},
        unit_columns=frozenset([CLASS_VECTORS] if config.model.detector.classifier == "cosine" else []),
        loss_key=(fingerprint(config, without=OF_A_RUN), tuple(class_ids.tolist())),
    )


def _over_classes(loss: Callable, config: ConfigDict, class_ids: np.ndarray) -> Callable:
    """A loss of the detector with its last argument, the active classes, filled in."""
    active = active_mask(class_ids, config.model.num_classes)  # numpy: a device array may not be closed over
    return lambda params, key, batch: loss(params, key, batch, jnp.asarray(active))


def _mask_phase(config: ConfigDict, model: Model, crops) -> Phase:
    """Trains the mask head."""
    fields = config.train.mask
    return Phase(
        "mask", fields.steps, model.mask_loss, _mask_loader(config, crops), MASK_HEAD_ONLY, {"mask": fields},
        loss_key=fingerprint(config, without=OF_A_RUN),
    )  # fmt: skip


def _mask_loader(config: ConfigDict, crops) -> Loader:
    mask = config.model.mask
    return pipeline.mask_loader(
        crops, config.data, slots=mask.slots, min_shots=mask.min_shots, size=mask.size,
        batch=config.train.mask.batch, seed=config.seed,
    )  # fmt: skip


def _distillation_phases(config: ConfigDict, model: Model, crops: tuple) -> list[Phase]:
    """A phase that teaches guidance, if there is any, then one for each halving of the steps."""
    fields = config.train.mask

    def loss(of_batch, params, key, batches):
        return of_batch(params, key, jax.tree.map(lambda *x: jnp.concatenate(x), *batches))

    return [
        Phase(
            name=name,
            steps=fields.steps,
            loss=partial(loss, model.distill(steps, name != "guidance", weight)),
            loader=PairLoader(*(_mask_loader(config, x) for x in crops)),
            patterns=[("teacher/.*", optim.FROZEN), *MASK_HEAD_ONLY],
            configs={"mask": fields},
        )
        for name, steps, weight in compatibility.distillation_phases(config)
    ]


def _with_novel_classes(
    config: ConfigDict, model: Model, params: PyTree, support_split: Dataset, shots: fewshot.ShotSet, train: Train
) -> PyTree:
    """The parameters with weights for the novel classes, made as ``fewshot.novel_init`` says.

    Args:
      config: with the classifier of stage 1; ``model`` is its model.
      params: of stage 1.
      support_split: what the shots were sampled from.
      shots: class id -> annotation ids.
      train: runs a phase.
    """
    base, novel = (class_ids(support_split.categories, novel=x) for x in (False, True))
    predictor, num_classes = params["detector"]["box_predictor"], config.model.num_classes
    if not len(novel):
        return params
    key, bias = jax.random.key(config.seed + 1), CLASSIFIERS[config.model.detector.classifier].bias(len(novel))
    initial = _replaced(params, novel_classes.initialize(predictor, key, base, novel, num_classes, bias=bias))
    if model.gt_mask_side:
        masks = params["mask_head"]["predictor"]
        initial = _replaced(initial, None, novel_classes.initialize_masks(masks, base, novel, num_classes))
    if config.fewshot.novel_init == "random":
        return initial
    if config.fewshot.novel_init == "imprint":
        dataset = fewshot.shot_dataset(support_split, shots, "background")
        features, labels = shot_features(config, model, params, dataset)
        imprinted = novel_classes.imprint(
            initial["detector"]["box_predictor"], features, labels, base, novel,
            scale=config.model.detector.cosine_scale,
        )  # fmt: skip
        return _replaced(initial, imprinted)
    if config.fewshot.novel_init == "fresh":
        initial = _with_fresh_predictors(config, model, params)
    novel_shots = {class_id: ids for class_id, ids in shots.items() if class_id in novel}
    if config.fewshot.novel_init == "mean_embedding":
        dataset = fewshot.shot_dataset(support_split, novel_shots, "background")
        features, labels = shot_features(config, model, params, dataset)
        embedded = novel_classes.set_to_mean_embeddings(initial["detector"]["box_predictor"], features, labels, novel)
        return _replaced(initial, embedded)
    dataset = fewshot.shot_dataset(support_split, novel_shots, config.data.shot_unlabeled)
    tuned = train(_detector_phase(config, model, "novel", dataset, novel, _predictors(model)), initial)
    source = tuned["detector"]["box_predictor"]
    combined = _replaced(params, novel_classes.copy_classes(predictor, source, novel, num_classes))
    if not model.gt_mask_side:
        return combined
    masks, source = (x["mask_head"]["predictor"] for x in (params, tuned))
    return _replaced(combined, None, novel_classes.copy_masks(masks, source, novel, num_classes))


def _predictors(model: Model) -> list[tuple[str, str]]:
    """Patterns that train only the last layers."""
    return JOINT_PREDICTOR_ONLY if model.gt_mask_side else PREDICTOR_ONLY


def _with_fresh_predictors(config: ConfigDict, model: Model, params: PyTree) -> PyTree:
    """The parameters with new last layers, of all classes (TFA, tools/ckpt_surgery.py, `remove`)."""
    new = jax.jit(model.init)(jax.random.key(config.seed + 1))
    predictor = new["detector"]["box_predictor"]
    classes = novel_classes.with_variances(predictor["cls_score"], np.arange(config.model.num_classes))
    masks = new["mask_head"]["predictor"] if model.gt_mask_side else None
    return _replaced(params, predictor | {"cls_score": classes}, masks)


def _replaced(params: PyTree, box_predictor: PyTree | None, mask_predictor: PyTree | None = None) -> PyTree:
    """The parameters with other last layers; None: as it is."""
    if box_predictor is not None:
        params = params | {"detector": params["detector"] | {"box_predictor": box_predictor}}
    if mask_predictor is not None:
        params = params | {"mask_head": params["mask_head"] | {"predictor": mask_predictor}}
    return params


def shot_features(config: ConfigDict, model: Model, params: PyTree, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, F] and class ids [n] of the labeled boxes of a K-shot dataset."""
    return features_of(dataset, config.data, config.eval.batch, params, jax.jit(model.box_features))
