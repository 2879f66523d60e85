"""What runs share: equal configs give the same object, others never do."""

from configs import fewshot
from maskdiff_jax.data import pipeline
from maskdiff_jax.shared import OF_A_RUN, Shared, fingerprint
from tests import tiny


def test_a_value_is_made_once_per_key():
    shared, made = Shared(), []
    for key in ("a", "b", "a"):
        assert shared.once(key, lambda key=key: made.append(key) or key) == key
    assert made == ["a", "b"]
    assert Shared().once("a", lambda: "another") == "another"  # nothing is global


def test_a_model_is_shared_by_equal_configs_alone():
    shared, config = Shared(), tiny.config().unlock()
    first = shared.model(config)
    assert shared.model(tiny.config()) is first
    config.model.mask.diffusion.steps = 3
    assert shared.model(config) is not first


def test_a_split_is_opened_once(monkeypatch):
    opened = []
    monkeypatch.setattr(pipeline, "open_split", lambda data, split: opened.append(split) or object())
    shared, data = Shared(), tiny.config().data.unlock()
    first = shared.split(data, "test")
    data.shot_drop = 0.5  # of the loaders
    assert shared.split(data, "test") is first and shared.split(data, "support") is not first
    data.root = "elsewhere"
    assert shared.split(data, "test") is not first
    assert opened == ["test", "support", "test"]


def test_a_fingerprint_tells_all_fields_but_those_of_a_run():
    one = fewshot.get_config("coco,shots=5,seed=0")
    other = fewshot.get_config("coco,shots=10,seed=3").unlock()
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one, without=OF_A_RUN) == fingerprint(other, without=OF_A_RUN)
    for field, value in {"fewshot.classes": "novel", "model.detector.nms": 0.4, "data.novel_classes": ("cat",)}.items():
        changed = other.copy_and_resolve_references().unlock()
        changed.update_from_flattened_dict({field: value})
        assert fingerprint(one, without=OF_A_RUN) != fingerprint(changed, without=OF_A_RUN), field
