import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from maskdiff_jax.data import pipeline
from maskdiff_jax.data.prepared import records as prepared


def test_parts_are_tfds_data_sets(shapes_data, test_split):
    (folder,) = Path(shapes_data.root).glob("test-images-*")
    source = tfds.builder_from_directory(str(folder / "shard-00000")).as_data_source("data")
    assert len(source) == 12
    example, info = source[4], test_split.infos[4]
    np.testing.assert_array_equal(example["image"], test_split.read(4))
    assert example["file_name"].decode() == info.file_name
    assert [r.decode() for r in example["objects"]["rle"]] == [a.rle["counts"] for a in info.annotations]
    np.testing.assert_allclose(example["objects"]["box"], [a.box for a in info.annotations])


def test_no_tensorflow():
    code = "import sys, maskdiff_jax.data.pipeline; print('tensorflow' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_crops_and_shots_are_tfds_data_sets(shapes_data, support_split, tmp_path):
    data = shapes_data.copy_and_resolve_references()
    data.root = str(tmp_path)
    _, folder, shots = pipeline.prepare_split(data, "support", shot_size=16)
    kept = prepared.open_crops(Path(folder))
    read = prepared.open_shots(Path(shots), kept)
    for which, name in ((folder, "crop"), (shots, "shot")):
        example = tfds.builder_from_directory(f"{which}/shard-00000").as_data_source("data")[5]
        assert example["annotation_id"] == kept.infos[5].annotation_id
        hw = (example["height"], example["width"]) if name == "crop" else (example["size"],) * 2
        planes = np.cumsum(example["pixels"].reshape(4, *hw), 1, dtype=np.uint8)  # as the docstring of `encode` says
        rgb = kept.read(5)[0] if name == "crop" else read(5)[..., :3]
        np.testing.assert_array_equal(planes[:3].transpose(1, 2, 0), rgb)
