"""launch/shots.py: files in TFA's format. The sampler: tests/data/fewshot/test_tfa.py."""

import json

import pytest

from maskdiff_jax.data.formats import coco
from maskdiff_jax.data.synthetic import scenes
from tests import launched

CONFIGS = launched.ROOT / "configs"


def test_a_file_for_each_class_seed_and_k(tmp_path):
    coco.save(scenes.scenes("shapes", "support", 0, 150), tmp_path / "train.json", tmp_path / "train")
    flags = {"data.root": ".", "data.train_json": "train.json", "data.train_images": "train", "model.num_classes": 12}
    flags["fewshot.sampler"] = "imtfa"
    config = [f"--config={CONFIGS}/fewshot.py:custom", *(f"--config.{k}={v}" for k, v in flags.items())]
    done = launched.run("shots", *config, "--seeds=3,5", "--output=out", cwd=tmp_path)
    assert done.code == 0, done.err
    files = sorted(x.relative_to(tmp_path / "out") for x in (tmp_path / "out").rglob("*.json"))
    assert done.out == f"wrote {len(files)} files to out\n"
    assert {x.parts[0] for x in files} == {"seed3", "seed5"}
    assert len(files) == 2 * 3 * 12  # seeds, K = 1, 5, 10, classes
    shots = json.loads((tmp_path / "out/seed3/full_box_5shot_ring_trainval.json").read_text())
    assert len(shots["annotations"]) == 5


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config={configs}/fewshot.py:coco"], "use --output=FOLDER"),
        (["--config={configs}/fewshot.py:coco", "--output=x", "--seeds=1,b"], "--seeds=1,b must be whole numbers"),
        (["--config={configs}/fewshot.py:shapes", "--output=x"], "no json to sample from"),
    ],
)
def test_mistakes_are_one_sentence(arguments, words, tmp_path):
    done = launched.run("shots", *(x.format(configs=CONFIGS) for x in arguments), cwd=tmp_path)
    assert done.code == 2 and words in done.err and done.err.strip().count("\n") == 0, done
    assert list(tmp_path.iterdir()) == []
