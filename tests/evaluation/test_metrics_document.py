"""metrics.json names the model, the images, the versions and the device, and no machine."""

import json
import platform

from maskdiff_jax.data.dataset import with_novel
from maskdiff_jax.data.synthetic import scenes
from maskdiff_jax.evaluation import metrics_document
from tests import tiny


def test_a_document_says_what_was_scored():
    config = tiny.config().unlock()
    config.eval.update(source="voc", noise_seed=7)
    data = with_novel(scenes.scenes("shapes", "test", 0, 2), ["star"])
    document = metrics_document.describe(config, data, {0: (5, 6), 3: (1,)})
    names = [c.name for c in data.categories]
    assert (document["dataset"], document["split"], document["noise_seed"]) == ("voc", "test", 7)
    assert document["shots_per_class"] == {names[0]: 2, names[3]: 1} and document["novel_classes"] == ["star"]
    assert document["versions"].keys() == set(metrics_document.PACKAGES) and document["scorer"] == "pycocotools"
    text = json.dumps(document)
    assert platform.node() not in text and json.loads(text) == document


def test_another_scorer_is_named_with_its_version(monkeypatch):
    config = tiny.config().unlock()
    config.eval.scorer = "faster_coco_eval"
    monkeypatch.setattr(metrics_document, "version", lambda package: f"{package} 1.2")
    document = metrics_document.describe(config, scenes.scenes("shapes", "test", 0, 2), {})
    assert document["scorer"] == "faster_coco_eval"
    assert document["versions"]["faster-coco-eval"] == "faster-coco-eval 1.2"


def test_the_device_has_a_number(monkeypatch):
    assert "cores" in metrics_document.device_name()

    class Device:
        platform, device_kind = "gpu", "NVIDIA H100"

    monkeypatch.setattr(metrics_document.jax, "devices", lambda: [Device] * 2)
    monkeypatch.setattr(metrics_document.jax, "device_count", lambda: 2)
    assert metrics_document.device_name() == "2 x NVIDIA H100"
