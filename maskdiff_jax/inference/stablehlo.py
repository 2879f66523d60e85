"""An exported model that needs only jax: StableHLO programs, weights and a script.

    serving.json            class names, image sizes, thresholds, what the programs were exported for
    weights.npz             the parameters by name, in their dtype, and the shots of every class
    detect_HxW.jax_export   image -> boxes, scores, classes, regions; one for each padded size, one image at a time
    masks_N.jax_export      N regions -> soft masks; one for each number of objects whose masks are sampled together
    run.py                  segments images with these files: `stablehlo_run.py`, which imports nothing of this package

The programs are those of the predictor (`segment.make_segmenter`), written by `jax.export`. The weights are arguments
and not constants, so a program is a few hundred kilobytes whatever the size of the model. Shapes are fixed: the last
batch of objects is filled up, as in the predictor. One program with a symbolic number of objects would be compiled for
each number all the same.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import export as jax_export

from maskdiff_jax import atomic
from maskdiff_jax.data.support import active_class_ids
from maskdiff_jax.inference import export, predictor, segment
from maskdiff_jax.inference.export import TrainedModel
from maskdiff_jax.model import build
from maskdiff_jax.types import Array, PyTree

if TYPE_CHECKING:  # an export is used without ml_collections
    from ml_collections import ConfigDict

DOCUMENT, WEIGHTS, SCRIPT, SUFFIX = "serving.json", "weights.npz", "run.py", ".jax_export"
PLATFORMS = ("cpu", "cuda")
KNOWN_PLATFORMS = ("cpu", "cuda", "tpu")
SHOTS = "support/shots"  # its name among the weights


def run(config: "ConfigDict", folder: str | Path, output: str | Path, platforms: Sequence[str] = PLATFORMS) -> int:
    """Exports a finished run; arguments, result and errors as `export.run` and `write`."""
    _check(output, platforms)
    model = export.from_run(config, folder)
    write(output, model, platforms)
    return sum(int(np.size(x)) for x in jax.tree.leaves(model.params))


def write(output: str | Path, model: TrainedModel, platforms: Sequence[str] = PLATFORMS) -> None:
    """Writes a model as programs that need only jax; an older export of this kind is replaced when the new one is
    complete.

    Args:
      output: folder of the export.
      model: from ``export.from_run`` or ``export.read``.
      platforms: what the programs can run on, of KNOWN_PLATFORMS; no such device is needed here.

    Raises:
      ValueError: an unknown platform, or the package flatbuffers is missing.
      FileExistsError: ``output`` holds something else.
      OSError: ``output`` cannot be written.
    """
    _check(output, platforms)
    output = Path(output).absolute()
    new = output.with_name(output.name + ".partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        document = _document(model, platforms)
        for name, program in _programs(model, document, platforms):
            atomic.write(new / (name + SUFFIX), bytes(program.serialize()))
        arrays = _named(model.params) | {SHOTS: model.support.shots}
        atomic.write(new / WEIGHTS, lambda file: np.savez(file, **jax.device_get(arrays)))
        atomic.write(new / SCRIPT, Path(__file__).with_name("stablehlo_run.py").read_bytes())
        atomic.write_json(new / DOCUMENT, document)
        shutil.rmtree(output, ignore_errors=True)
        new.rename(output)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check(output: str | Path, platforms: Sequence[str]) -> None:
    """Raises as `write`, before any work is done."""
    unknown = [p for p in platforms if p not in KNOWN_PLATFORMS]
    if unknown or not platforms:
        what = f"unknown platform '{unknown[0]}'" if unknown else "no platform"
        raise ValueError(f"{what}: choose from {', '.join(KNOWN_PLATFORMS)}, e.g. --platforms={','.join(PLATFORMS)}")
    try:
        import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("jax.export needs the package flatbuffers: pip install flatbuffers") from None
    export.check_output(output, DOCUMENT)


def _document(model: TrainedModel, platforms: Sequence[str]) -> dict[str, Any]:
    """What run.py has to know."""
    config, data, options = model.config, model.config.data, model.config.eval
    net = build(config.model)
    batches = sorted(predictor.MASK_BATCHES)
    enough = next((i for i, size in enumerate(batches) if size >= _top_n(config)), len(batches) - 1)
    return {
        "jax": jax.__version__,
        "platforms": list(platforms),
        "categories": [c._asdict() for c in model.categories],
        "active": active_class_ids(config, model.categories).tolist(),
        "short_side": data.test_short_side,
        "long_side": data.long_side,
        "region_long_side": data.region_long_side,
        "padded_sizes": list(dict.fromkeys((int(h), int(w)) for h, w in data.buckets)),
        "mask_batches": batches[: enough + 1],
        "context": 0.0 if net.mask_features else float(data.context),
        "threshold": float(options.mask_threshold),
        "min_score": float(options.mask_min_score),
        "mask_side": net.mask_side,
        "noise_key": np.asarray(jax.random.key_data(jax.random.key(options.noise_seed))).tolist(),
    }


def _top_n(config: Any) -> int:
    """Detections per image that can get a mask."""
    return min(config.eval.mask_top_n, config.model.detector.max_detections)


def _programs(
    trained: TrainedModel, document: dict[str, Any], platforms: Sequence[str]
) -> Iterator[tuple[str, jax_export.Exported]]:
    """The programs by name, traced for shapes alone: nothing is computed."""
    config, options = trained.config, trained.config.eval
    model = build(config.model)
    segmenter = segment.make_segmenter(
        model, trained.support, size=config.model.mask.size, context=config.data.context, top_n=_top_n(config),
        mask_batches=tuple(document["mask_batches"]), threshold=options.mask_threshold, samples=options.samples,
        noise_seed=options.noise_seed,
    )  # fmt: skip
    detector, mask_head = ({part: trained.params[part]} for part in ("detector", "mask_head"))
    blank = predictor.as_batch(np.zeros((1, 1, 3), np.uint8), 0, config.data)

    def detect(weights, image, image_hw, original_hw, region_image, region_hw, active):
        batch = blank._replace(
            image=image, image_hw=image_hw, original_hw=original_hw, region_image=region_image, region_hw=region_hw
        )
        return segmenter.detect(_unnamed(detector, weights), batch, active)

    def masks(weights, shots, noise_key, image_id, rank, class_id, region):
        n = len(rank)
        objects = segment.Objects(image_id, rank, class_id, np.zeros(n, np.float32), np.zeros((n, 4)), region)
        noise = jax.random.wrap_key_data(noise_key)
        return segmenter.sample(_unnamed(mask_head, weights), shots, noise, objects)[0]

    hw, active = np.zeros((1, 2), np.int32), np.zeros(len(trained.categories), bool)
    region: Any = None
    for height, width in document["padded_sizes"]:
        image = np.zeros((1, height, width, 3), np.uint8)
        program = _export(detect, platforms, _named(detector), image, hw, hw, blank.region_image, hw, active)
        region = program.out_avals[-1]  # [1, top_n, ...]
        yield f"detect_{height}x{width}", program
    noise_key = np.array(document["noise_key"], np.uint32)
    for n in document["mask_batches"]:
        ids, regions = np.zeros(n, np.int32), jax.ShapeDtypeStruct((n, *region.shape[2:]), region.dtype)
        arguments = _named(mask_head), trained.support.shots, noise_key, ids, ids, ids, regions
        yield f"masks_{n}", _export(masks, platforms, *arguments)


def _export(function: Any, platforms: Sequence[str], *arguments: PyTree) -> jax_export.Exported:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    return jax_export.export(jax.jit(function), platforms=platforms)(*shapes)


def _named(params: PyTree) -> dict[str, Array]:
    """{"detector/fpn/...": array}"""
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def _unnamed(template: PyTree, weights: dict[str, Array]) -> PyTree:
    """The inverse of `_named`, in the structure of ``template``."""
    return jax.tree.unflatten(jax.tree.structure(template), [weights[name] for name in _named(template)])
