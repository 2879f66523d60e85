"""import_weights.py as a user calls it: from a weight file to a run folder."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from maskdiff_jax.model import build
from maskdiff_jax.workdir import load_weights
from tests.pretrained import third_party_names as names
from tests.pretrained.tiny_config import TINY, config

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_from_file_to_run(tmp_path):
    """As docs/paper_recipe.md says it; the file's numbers arrive, the other parameters come from the seed."""
    state = names.backbone(names.msra_name) | {"conv1_b": np.zeros(8, np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(state, 2))
    flags = [f"--config.{k}={v}" for k, v in TINY.items()]
    command = [sys.executable, f"{ROOT}/launch/import_weights.py", f"--config={ROOT}/configs/base.py:coco,weights=msra"]
    # what is compiled runs once: optimizing it would take longer than it saves
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    out = subprocess.run([*command, *flags, "R-50.pkl"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    count = sum(w.size for w in state.values()) - 8
    assert out.stdout.splitlines() == [
        f"R-50.pkl: msra, {len(state) - 1} tensors with {count:,} parameters; round trip: equal",
        "  unused keys: conv1_b",
        "loaded from the files: detector/backbone",
        "new weights, to be trained: detector/box_head, detector/box_predictor, detector/fpn, detector/rpn, mask_head",
        "imported: runs/weights-msra",
        "to start training from these weights: launch/train.py with the same --config and "
        "--config.init_from=runs/weights-msra",
    ]
    folder = tmp_path / "runs/weights-msra"
    params = load_weights(folder, build(config("coco,weights=msra").model))
    got = flatten_dict(jax.device_get(params), sep="/")
    stem = state["conv1_w"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(got["detector/backbone/stem/conv1/kernel"], stem)
    assert got["detector/fpn/output2/kernel"].std() > 0
    document = json.loads((folder / "weights.json").read_text())
    assert set(document["filled"]) | set(document["new"]) == got.keys()
    assert not set(document["filled"]) & set(document["new"])
    assert document["files"][0]["unused"] == ["conv1_b"] and len(document["files"][0]["sha256"]) == 64
    assert json.loads((folder / "config.json").read_text())["weights"] == "msra"
