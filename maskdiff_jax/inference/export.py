"""From a trained workdir to a folder that draws masks: parameters, config, categories, support set."""

import json
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from maskdiff_jax import checkpoint
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.support import make_support_set
from maskdiff_jax.model import build
from maskdiff_jax.workdir import load_weights


def run(config: ConfigDict, workdir: str | Path, folder: str | Path) -> int:
    """Exports the final weights of a run.

    Args:
      config: of the run.
      workdir: where it was trained.
      folder: of the export; an older export there is replaced.

    Returns:
      The number of parameters.

    Raises:
      FileNotFoundError: no finished training there, or no data set to cut the shots from.
      FileExistsError: the folder holds something else.
    """
    params = load_weights(workdir, build(config.model))
    categories = pipeline.open_split(config.data, "support").categories
    _, support = make_support_set(config)
    document = json.loads(config.to_json_best_effort())
    checkpoint.export(folder, params, document, [c._asdict() for c in categories], support)
    return sum(int(np.size(x)) for x in jax.tree.leaves(params))
