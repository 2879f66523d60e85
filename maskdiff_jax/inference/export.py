"""An exported model: a folder with everything that inference needs, without the run and its dataset.

    export.json    the config, and the categories in the order of class ids
    support.npz    the support set: shots uint8 [C, K, M, M, 4], count [C]
    features.npz   box features of known classes, which classes that are added later are fitted against
    base_shots/    on request: photos of known classes as a COCO-format dataset, which stage 2 needs for a new class
    params/        the parameters (orbax)

With half=True parameters and features are stored as float16, in half the space; reading converts them to float32.

Files are checked before anything is built from them.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from maskdiff_jax import atomic, checkpoint, config_fields, workdir
from maskdiff_jax.config_fields import Fields
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.dataset import Category, Dataset
from maskdiff_jax.data.support import make_support_set
from maskdiff_jax.inference import base_shots, calibration
from maskdiff_jax.inference.calibration import Calibration
from maskdiff_jax.model import build
from maskdiff_jax.types import PyTree, SupportSet

if TYPE_CHECKING:  # an export is used without ml_collections
    from ml_collections import ConfigDict

DOCUMENT, SUPPORT, FEATURES, PARAMS = "export.json", "support.npz", "features.npz", "params"
CATEGORY_ID = config_fields.whole(0, 2**63 - 1)
WEIGHTS = ("float32", "float16")  # types that floating-point parameters and features are stored as
AGAIN = "export the run again with launch/export.py"


class TrainedModel(NamedTuple):
    """Everything that inference needs."""

    params: PyTree
    config: "ConfigDict | Fields"  # of the run
    categories: tuple[Category, ...]  # C, by class id
    support: SupportSet
    calibration: Calibration | None = None  # None: no class can be added
    base_shots: Dataset | None = None  # None: the export keeps no photos


def run(
    config: "ConfigDict", folder: str | Path, output: str | Path, *,
    features: bool = True, photos: bool = False, half: bool = False,
) -> int:  # fmt: skip
    """Exports the weights of a finished run.

    Args:
      config: of the run.
      folder: of the run.
      output: folder of the export; an older export there is replaced.
      features: whether classes can be added to the export, see `calibration.compute`.
      photos: whether photos of known classes are copied into the export, see `base_shots`.
      half: whether parameters and features are stored as float16.

    Returns:
      The number of parameters.

    Raises:
      FileNotFoundError: the run is missing or not finished, or there is no dataset to crop the shots from.
      ValueError: the weights are of another model, or the dataset gives other shots than those of the run; with
        ``half``, a number is too large for float16.
      FileExistsError: ``output`` holds something else.
      OSError: ``output`` cannot be written.
    """
    check_output(output)
    model = from_run(config, folder, calibrated=features, photos=photos)
    write(output, model, half=half)
    return sum(int(np.size(x)) for x in jax.tree.leaves(model.params))


def from_run(
    config: "ConfigDict", folder: str | Path, *, calibrated: bool = False, photos: bool = False
) -> TrainedModel:
    """The model of a run, with shots cropped from the dataset; raises as ``run``.

    Args:
      config: of the run.
      folder: of the run.
      calibrated: with the features that adding a class needs; computing them reads up to ten images of each class.
      photos: with photos of known classes, see `base_shots`.
    """
    params = workdir.load_weights(folder, build(config.model))
    support_split = pipeline.open_split(config.data, "support")
    shots, support = make_support_set(config, support_split)
    workdir.check_shots(folder, shots)
    features = calibration.compute(config, params, support_split, shots) if calibrated else None
    kept = base_shots.sample(config, support_split, shots) if photos else None
    return TrainedModel(params, config, tuple(support_split.categories), support, features, kept)


def check_output(output: str | Path, document: str = DOCUMENT) -> None:
    """Whether an export can be written there; ``document`` is the file that every export of its format holds.

    Raises:
      FileExistsError: the folder holds something that is not an export.
      OSError: the folder above cannot be written to.
    """
    output = Path(output).absolute()
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file: give another folder with --output")
    if output.exists() and any(output.iterdir()) and not (output / document).is_file():
        raise FileExistsError(
            f"{output} is not empty and not an export of this format: give another folder with --output"
        )
    atomic.check_writable(output.parent)


def write(output: str | Path, model: TrainedModel, *, half: bool = False) -> None:
    """Writes an export; an older one is replaced when the new one is complete.

    Args:
      output: its folder.
      model: what it holds.
      half: whether parameters and features are stored as float16.

    Raises:
      ValueError: with ``half``, a number is too large for float16; names where it is.
      FileExistsError, OSError: as ``check_output``.
    """
    check_output(output)
    stored, weights = (_as_half(model), "float16") if half else (model, "float32")
    output = Path(output).absolute()
    new = output.with_name(output.name + ".partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    checkpoint.save_params(new / PARAMS, stored.params)
    atomic.write(new / SUPPORT, lambda file: np.savez_compressed(file, **stored.support._asdict()))
    if stored.calibration is not None:
        calibration.write(new / FEATURES, stored.calibration)
    if stored.base_shots is not None:
        base_shots.write(new, stored.base_shots)
    categories = [c._asdict() for c in stored.categories]
    document = {"config": workdir.as_json(stored.config), "categories": categories, "weights": weights}
    atomic.write_json(new / DOCUMENT, document)
    shutil.rmtree(output, ignore_errors=True)
    new.rename(output)


def _as_half(model: TrainedModel) -> TrainedModel:
    """The model with floating-point parameters and features as float16; raises ValueError as ``write``."""

    def stored(x: Any, name: str) -> Any:
        x = np.asarray(x)
        if not np.issubdtype(x.dtype, np.floating):
            return x
        largest, limit = float(np.max(np.abs(x), initial=0.0)), float(np.finfo(np.float16).max)
        if largest > limit:
            raise ValueError(
                f"{name} holds a value of size {largest:.4g}, too large for float16 (at most {limit:g}): export "
                "without --half"
            )
        return x.astype(np.float16)

    def stored_parameter(path: tuple, x: Any) -> Any:
        return stored(x, f"the parameter {jax.tree_util.keystr(path, simple=True, separator='/')}")

    features = model.calibration
    if features is not None:
        features = features._replace(features=stored(features.features, "the features of the classes"))
    return model._replace(params=jax.tree_util.tree_map_with_path(stored_parameter, model.params), calibration=features)


def read(folder: str | Path) -> TrainedModel:
    """Reads an export.

    Raises:
      FileNotFoundError: not an export.
      ValueError: damaged, or of another version of the package; names the file and the fix.
    """
    folder = Path(folder)
    config, categories, weights = _read_document(folder)
    support = _read_support(folder / SUPPORT, config)
    try:
        features = calibration.read(folder / FEATURES, config.model.detector.fc_channels, config.model.num_classes)
    except ValueError as error:
        raise ValueError(f"{error}: {AGAIN}") from error
    params = _read_params(folder, config, weights)
    return TrainedModel(params, config, categories, support, features, base_shots.read(folder))


def read_document(folder: str | Path) -> tuple[Fields, tuple[Category, ...]]:
    """The config and the categories of an export; raises as ``read``."""
    return _read_document(Path(folder))[:2]


def _read_document(folder: Path) -> tuple[Fields, tuple[Category, ...], str]:
    """The config, the categories, and the type that the weights are stored as."""
    path = folder / DOCUMENT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not an exported model: make one with launch/export.py")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): {AGAIN}") from error
    if not isinstance(document, dict) or document.keys() - {"weights"} != {"config", "categories"}:
        raise ValueError(f"{path} is damaged (it must hold 'config' and 'categories'): {AGAIN}")
    weights = document.get("weights", WEIGHTS[0])  # older exports do not say it
    if weights not in WEIGHTS:
        raise ValueError(f"{path} cannot be used: its weights must be {' or '.join(WEIGHTS)}; {AGAIN}")
    try:
        config = config_fields.fields(document["config"])
        return config, _categories(document["categories"], config.model.num_classes), weights
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}; {AGAIN}") from error


def _categories(document: Any, count: int) -> tuple[Category, ...]:
    """The categories of an export; ValueError if they are damaged."""
    if not isinstance(document, list) or len(document) != count:
        raise ValueError(f"it must list model.num_classes={count} categories")
    for c in document:
        fits = isinstance(c, dict) and c.keys() == {"id", "name", "novel"}
        if not (
            fits and CATEGORY_ID.accepts(c["id"]) and config_fields.is_text(c["name"]) and type(c["novel"]) is bool
        ):
            raise ValueError('a category is not of the form {"id": 1, "name": "cat", "novel": false}')
    if len({c["id"] for c in document}) != count:
        raise ValueError("two categories have the same id")
    return tuple(Category(**c) for c in document)


def _read_support(path: Path, config: Fields) -> SupportSet:
    """The support set of an export, of the shape that the config says."""
    classes, slots, side = config.model.num_classes, config.model.mask.slots, config.model.mask.size
    try:
        with np.load(path) as arrays:
            support = SupportSet(arrays["shots"], arrays["count"])
    except Exception as error:  # numpy and zipfile raise many kinds on damaged files
        raise ValueError(f"{path} is missing or damaged ({_first_line(error)}): {AGAIN}") from error
    shape = (classes, slots, side, side, 4)
    shots, count = support
    if shots.dtype != np.uint8 or shots.shape != shape or count.shape != (classes,) or count.dtype.kind not in "iu":
        raise ValueError(f"{path} holds shots {list(shots.shape)}, but the config says {list(shape)}: {AGAIN}")
    if (count < 0).any() or (count > slots).any():
        raise ValueError(f"{path} has shot counts outside 0..{slots}: {AGAIN}")
    return support


def _read_params(folder: Path, config: Fields, weights: str) -> PyTree:
    """The parameters of an export, of the model that the config describes.

    Args:
      folder: of the export.
      config: of the export.
      weights: the type that floating-point parameters are stored as; they are returned with the model's own type.
    """
    try:
        template = jax.eval_shape(build(config.model).init, jax.random.key(0))
    except Exception as error:  # fields that are in range, but do not go together: flax and jax raise many kinds
        raise ValueError(
            f"{folder / DOCUMENT} describes a model that cannot be built ({_first_line(error)}): {AGAIN}"
        ) from error
    stored = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, weights if np.issubdtype(x.dtype, np.floating) else x.dtype), template
    )
    try:
        params = checkpoint.load_params(folder / PARAMS, stored)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"{folder / PARAMS} is missing, damaged or of another model ({_first_line(error)}): {AGAIN}"
        ) from error
    return params if stored == template else jax.tree.map(lambda x, t: x.astype(t.dtype), params, template)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
