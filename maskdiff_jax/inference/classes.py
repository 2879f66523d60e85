"""A trained model with other classes: one more from a few shots without training, one fewer, or fewer slots.

Class ids are positions in `TrainedModel.categories`. Nothing here changes the model that it is given. The result is a
trained model like any other: it can be exported, and no later step knows that a class was added.
"""

from typing import Any

import jax
import numpy as np

from maskdiff_jax import config_fields, workdir
from maskdiff_jax.config_fields import Fields
from maskdiff_jax.data.dataset import Category
from maskdiff_jax.data.support import active_class_ids
from maskdiff_jax.imprinting import KEEP, PULL, class_vector
from maskdiff_jax.inference.calibration import CLASSIFIER, Calibration
from maskdiff_jax.inference.export import AGAIN, TrainedModel
from maskdiff_jax.types import PyTree, SupportSet

NEW = -1  # in place of the id of a class that a model has no weights of


def check_can_add(trained: TrainedModel, name: Any) -> None:
    """Whether a class of this name can be added.

    Raises:
      ValueError: the name is missing or taken; or no class can be added to a model with this classifier or to this
        export.
    """
    if not config_fields.is_text(name) or not name.strip():
        raise ValueError(f"a class needs a name, but {name!r} was given")
    taken = [trained.categories[i].name for i in active_class_ids(trained.config, trained.categories)]
    if name in taken:
        raise ValueError(
            f"there is a class '{name}' already: give another name, or call remove_class('{name}') first; the classes "
            f"are {', '.join(taken)}"
        )
    classifier = trained.config.model.detector.classifier
    if classifier != CLASSIFIER:
        raise ValueError(
            f"a class can only be added to a model with a cosine classifier, but this model's is {classifier}: "
            "train stage 2 "
            "with --config.model.detector.classifier=cosine"
        )
    if trained.calibration is None:
        raise ValueError(
            "this model holds no features of its classes, against which a new class is fitted: it is a run, an "
            f"export of an older version, or one made with --nofeatures; {AGAIN}"
        )


def active_only(trained: TrainedModel) -> TrainedModel:
    """The model of the classes that it can detect: those that its stage never trained are dropped."""
    kept = active_class_ids(trained.config, trained.categories)
    return trained if len(kept) == len(trained.categories) else _chosen(trained, kept)


def added(
    trained: TrainedModel, name: str, features: np.ndarray, shots: np.ndarray, *,
    keep: float = KEEP, pull: float = PULL,
) -> TrainedModel:  # fmt: skip
    """The model with one more class, the last.

    The classifier's vector is fitted, see `imprinting.class_vector`. Class-agnostic boxes are as before; class-specific
    ones start as the mean of the other classes'. The mask head's class input of the new class is that of "no class":
    only the shots say what to segment.

    Args:
      trained: of classes that are all detected, see `active_only`.
      name: of the class.
      features: [n, F] of its shots' boxes.
      shots: uint8 [n, M, M, 4], n up to K.
      keep, pull: as in `imprinting.class_vector`.
    """
    count, calibration = len(trained.categories), trained.calibration
    assert calibration is not None, "check_can_add says so before"
    grown = resized(trained, np.append(np.arange(count), NEW))
    predictor = grown.params["detector"]["box_predictor"]
    kernel = np.array(predictor["cls_score"]["kernel"])
    scale = trained.config.model.detector.cosine_scale
    known = np.delete(kernel, count, axis=1)
    kernel[:, count] = class_vector(known, features, calibration.features, scale=scale, keep=keep, pull=pull)
    grown.params["detector"]["box_predictor"]["cls_score"]["kernel"] = kernel
    grown.support.shots[count, : len(shots)] = shots
    grown.support.count[count] = len(shots)
    category = Category(max(c.id for c in trained.categories) + 1, name, novel=True)
    return grown._replace(
        categories=(*trained.categories, category),
        calibration=Calibration(
            np.concatenate([calibration.features, np.asarray(features, np.float32)]),
            np.concatenate([calibration.labels, np.full(len(features), count, np.int32)]),
        ),
    )


def removed(trained: TrainedModel, name: str) -> TrainedModel:
    """The model without a class.

    Raises:
      ValueError: there is no such class, or it is the only one.
    """
    names = [c.name for c in trained.categories]
    if name not in names:
        raise ValueError(f"there is no class '{name}': the classes are {', '.join(names)}")
    if len(names) == 1:
        raise ValueError(f"'{name}' is the only class, and a model needs one")
    return _chosen(trained, np.array([i for i, other in enumerate(names) if other != name]))


def _chosen(trained: TrainedModel, kept: np.ndarray) -> TrainedModel:
    """The model of the classes `kept`, ids in ascending order."""
    smaller, calibration = resized(trained, kept), trained.calibration
    if calibration is not None:
        mine = np.isin(calibration.labels, kept)
        labels = np.searchsorted(kept, calibration.labels[mine]).astype(np.int32)
        calibration = Calibration(calibration.features[mine], labels)
    categories = tuple(trained.categories[i] for i in kept)
    return smaller._replace(categories=categories, calibration=calibration)


def resized(trained: TrainedModel, source: np.ndarray) -> TrainedModel:
    """The model with other slots for classes; the categories and the calibration stay as they are.

    Args:
      trained: any.
      source: int [C'], for each slot the class id that it keeps, or `NEW`: its class vector is zero, its shots are
        empty, its boxes and masks are the mean of the others' where they are class-specific, and the mask head sees
        "no class".
    """
    fresh = source == NEW
    shots, count = (np.asarray(x)[np.where(fresh, 0, source)] for x in trained.support)
    shots[fresh], count[fresh] = 0, 0
    return trained._replace(
        params=_params(trained.params, source, trained.config.model),
        config=_config(trained.config, len(source)),
        support=SupportSet(shots, count),
    )


def _params(params: PyTree, source: np.ndarray, model: Any) -> PyTree:
    """New parameters of the slots `source`; other leaves are the same arrays."""
    detector = dict(params["detector"])
    predictor = dict(detector["box_predictor"])
    predictor["cls_score"] = {k: _class_columns(x, source) for k, x in predictor["cls_score"].items()}
    if not model.detector.class_agnostic_boxes:
        for part in predictor.keys() - {"cls_score"}:
            predictor[part] = {k: _with_mean(x, source, model.num_classes) for k, x in predictor[part].items()}
    detector["box_predictor"] = predictor
    mask_head = jax.tree_util.tree_map_with_path(
        lambda path, x: _rows(x, source) if path[-1].key == "class_table" else x, params["mask_head"]
    )
    if model.mask.head == "cnn" and not model.mask.cnn.class_agnostic:
        last = {k: _with_mean(x, source, model.num_classes) for k, x in mask_head["predictor"].items()}
        mask_head = mask_head | {"predictor": last}
    return params | {"detector": detector, "mask_head": mask_head}


def _class_columns(weight: Any, source: np.ndarray) -> np.ndarray:
    """[..., C + 1] -> [..., C' + 1], background last; zero for new classes."""
    weight = np.asarray(weight)
    return np.concatenate([_rows(weight[..., :-1].T, source).T, weight[..., -1:]], -1)


def _rows(table: Any, source: np.ndarray) -> np.ndarray:
    """[C, ...] -> [C', ...]; zero for new classes."""
    table = np.array(table)[np.where(source == NEW, 0, source)]
    table[source == NEW] = 0
    return table


def _with_mean(weight: Any, source: np.ndarray, num_classes: int) -> np.ndarray:
    """[..., C n] -> [..., C' n], n columns for each class; new classes have the mean of those that are kept."""
    weight = np.asarray(weight)
    by_class = np.moveaxis(weight.reshape(*weight.shape[:-1], num_classes, -1), -2, 0)
    chosen = _rows(by_class, source)
    chosen[source == NEW] = chosen[source != NEW].mean(0)
    return np.moveaxis(chosen, 0, -2).reshape(*weight.shape[:-1], -1)


def _config(config: Any, num_classes: int) -> Fields:
    """The config of a model that detects all of its classes."""
    document = workdir.as_json(config)
    document["model"]["num_classes"] = num_classes
    document["fewshot"]["classes"] = "all"
    if document["stage"] == "base":  # whose novel classes are not detected
        document["stage"] = "fewshot"
    return config_fields.fields(document)
