"""Imprinting on a trained detector: novel classes appear, base classes stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base, fewshot
from maskdiff_jax import sharding
from maskdiff_jax.data import pipeline
from maskdiff_jax.data.fewshot import shots as shots_of
from maskdiff_jax.data.support import active_mask, class_ids, sample_shots
from maskdiff_jax.evaluation import coco_eval
from maskdiff_jax.model import build
from maskdiff_jax.training import novel_classes, stages
from maskdiff_jax.training.loop import run_phase
from maskdiff_jax.training.side_by_side import train_parts


@pytest.mark.slow
def test_imprinting_costs_less_than_a_fifth_of_base_ap(tmp_path):
    c, f = base.get_config().unlock(), fewshot.get_config().unlock()
    for config in (c, f):
        config.data.update(root=str(tmp_path / "data"), shapes_train=1000, shapes_test=100)
    c.train.detector.steps, c.train.mask.steps = 500, 0
    f.train.detector.steps = f.train.mask.steps = 0
    f.fewshot.novel_init = "imprint"
    model, mesh = build(c.model), sharding.make_mesh(1)

    def train(phase, params):
        return run_phase(phase, params, config=c, workdir=tmp_path, mesh=mesh)

    params = train_parts(stages.base_stage(c, tmp_path), [train])
    test = pipeline.open_split(c.data, "test")
    base_ids, new = (class_ids(test.categories, novel=novel) for novel in (False, True))
    detect = jax.jit(model.detect)

    def ap50(params, ids):
        active = jnp.asarray(active_mask(ids, c.model.num_classes))
        found = []
        for batch in pipeline.eval_batches(test, c.data, batch=20):
            d = jax.device_get(detect(params, batch.image, batch.image_hw, active))
            for i, j in np.argwhere((d.classes >= 0) & (batch.image_id >= 0)[:, None]):
                category = test.categories[d.classes[i, j]].id
                found.append(coco_eval.result_row(int(batch.image_id[i]), category, d.scores[i, j], d.boxes[i, j]))
        return coco_eval.score(test, found, ids)[0]

    before = ap50(params, base_ids)["bbox/AP50"]
    support_split = pipeline.open_split(f.data, "support")
    shots = sample_shots(f, support_split)
    dataset = shots_of.shot_dataset(support_split, shots, "background")
    features, labels = stages.shot_features(f, model, params, dataset)
    predictor = novel_classes.imprint(params["detector"]["box_predictor"], features, labels, base_ids, new, scale=20.0)
    imprinted = params | {"detector": params["detector"] | {"box_predictor": predictor}}
    after = ap50(imprinted, np.concatenate([base_ids, new]))
    print("base AP50", before, "->", after["bbox/base/AP50"], "novel AP50", after["bbox/novel/AP50"])
    assert before > 15
    assert after["bbox/base/AP50"] > 0.8 * before
    assert after["bbox/novel/AP50"] > 1
