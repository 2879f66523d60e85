"""What the presets and the options of an argument change of the fields in configs/base.py.

Sources as there: [P] the paper, [TFA] few-shot-object-detection, [D2] detectron2.
"""

from ml_collections import ConfigDict

# files that launch/import_weights.py reads, README says from where:
# msra: detectron2's MSRA/R-50.pkl; torchvision: torchvision's ResNet-50; zoo: a detector of detectron2's model
# zoo, to check ours with (it has seen the novel classes); scratch: none
WEIGHTS = ("msra", "torchvision", "zoo", "scratch")
# tfa: TFA's trainvalno5k and 5k, which the paper's tables are on; minival: train2017 and val2017, other numbers
SPLITS = ("tfa", "minival")


def paper(c: ConfigDict, shots: int) -> None:
    """The paper taken literally: a mask head for one K, eps-prediction, 1,000 DDPM steps, w = 5, batches of 8.

    Where the paper is silent the code it builds on speaks: horizontal flips of probability 0.5 as in detectron2 and
    guided-diffusion's image loader (`data.flip`), K-shot sets as iMTFA samples them. No other augmentation, but for a
    shot that is the query itself (K = 1): it always changes its pose, or its silhouette would be the answer.
    """
    k, d, r = c.model.mask, c.data, c.train
    k.slots = k.min_shots = c.fewshot.shots = shots
    k.diffusion.update(prediction="eps", signal_scale=1.0, sampler="ddpm", steps=1000, guidance=5.0)
    d.box_jitter, d.shot_augment, d.shot_unlabeled = 0.0, 0.0, "background"
    if c.preset.startswith("shapes"):
        # the paper's loss and sampler, in a form that a net of this size learns: docs/mask_head.md
        k.diffusion.precondition = "logit"
        r.mask.update(steps=3000, clip_norm=1.0)
    if c.preset == "coco":
        c.fewshot.sampler = "imtfa"
        r.novel.batch = 8  # TFA's rate is for 16 images and scales with the batch
        for phase in (r.detector, r.mask):  # "learning rate of 0.02", "batch size of 8": not scaled
            phase.batch = phase.base_batch = 8


def split(c: ConfigDict, name: str) -> None:
    """Which images of COCO; "": TFA's (the fields in base.py), or for weights=zoo those of its published AP.

    Raises:
      ValueError: an unknown name, or a preset without a choice.
    """
    if name and (name not in SPLITS or c.preset != "coco"):
        raise ValueError(f"split={name} cannot be: only the preset coco has a choice, of {', '.join(SPLITS)}")
    if c.preset == "coco" and (name or {"zoo": "minival"}.get(c.weights, "tfa")) == "minival":
        c.data.train_json, c.data.train_images = "annotations/instances_train2017.json", "train2017"
        c.data.test_json, c.data.test_images = "annotations/instances_val2017.json", "val2017"
        c.data.more_images, c.data.counts = (), ""


def custom(c: ConfigDict) -> None:
    """A COCO-format data set of your own; the classes come from its json."""
    c.data.update(source="custom", root="datasets/custom", novel_classes=(), more_images=(), counts="")
    c.data.train_json, c.data.train_images = "train.json", "train"
    c.data.test_json, c.data.test_images = "test.json", "test"
    c.data.shot_unlabeled = "ignore"
    c.fewshot.short_classes = "take_all"
    c.model.num_classes = 0  # 0: as many as the json lists
    c.weights = "scratch"


def weights(c: ConfigDict, name: str) -> None:
    """What goes with the weights ``name`` ("": the preset's own); the fields of msra are those of base.py.

    Raises:
      ValueError: an unknown name, or weights for a preset that has a detector of its own.
    """
    own = c.preset.startswith("shapes")
    if name and (name not in WEIGHTS or (own and name != c.weights)):
        known = f"{c.preset} has a small detector of its own: weights=scratch" if own else ", ".join(WEIGHTS)
        raise ValueError(f"weights={name} cannot be: {known}")
    c.weights = name or c.weights
    if own:
        return
    t = c.model.detector
    if c.weights in ("torchvision", "scratch"):
        t.channel_order, t.stride_in_1x1 = "rgb", False
        t.pixel_mean, t.pixel_std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet [torchvision]
    if c.weights == "scratch":
        t.norm, c.train.frozen = "group", ()
    if c.weights == "zoo":
        t.classifier = "linear"
        c.data.novel_classes = ()  # all 80 classes are detected and scored
        # boxes alone are looked at: no masks in detections or true boxes, no pictures
        c.eval.update(mask_top_n=0, min_gt_area=10**9, figures=0)


def shapes(c: ConfigDict) -> None:
    """128 px scenes of 12 classes of shape: the whole method in minutes on two CPU cores."""
    d, m, t, k, e = c.data, c.model, c.model.detector, c.model.mask, c.eval
    c.weights = "scratch"
    d.update(source="shapes", root="datasets/shapes", more_images=(), counts="", workers=0, cache_mb=1500)
    d.novel_classes = ("star", "ring", "arrow", "crescent")
    d.short_sides, d.test_short_side, d.long_side, d.region_long_side = (128,), 128, 128, 128
    d.update(buckets=((128, 128),), max_boxes=8, shot_unlabeled="ignore")

    m.num_classes, m.dtype = 12, "float32"
    t.pixel_mean, t.pixel_std, t.channel_order = (127.5,) * 3, (64.0,) * 3, "rgb"
    t.update(blocks=(2, 2, 2, 1), width=16, norm="group", stride_in_1x1=False, fpn_channels=64)
    # no object is smaller than 24 px, so stride 8 finds them; P2 is the dearest level
    t.fpn_min_level, t.anchor_sizes = 3, (28, 44, 72, 100)
    t.rpn_samples, t.rpn_pre_nms_train, t.rpn_pre_nms_test = 64, 128, 128
    t.proposals_train, t.proposals_test, t.roi_samples = 64, 64, 32
    t.roi_canonical, t.fc_channels, t.class_agnostic_boxes = (40.0, 3), 256, True
    t.max_detections = 20

    k.size, k.slots = 32, 5
    k.unet.update(width=32, multipliers=(1, 2, 2), blocks=1, attention=(8,), heads=4, stem_patch=2)

    r = c.train
    r.frozen, r.save_every = (), 0
    r.detector.update(steps=1800, batch=8, optimizer="adamw", lr=1.5e-3, schedule="cosine", warmup=50, ema=0.99)
    r.mask.update(steps=1200, batch=16, lr=2e-3, schedule="cosine", warmup=50, ema=0.99)
    e.update(batch=16, mask_batch=16, mask_min_score=0.1, mask_top_n=10)


def shapes_hard(c: ConfigDict) -> None:
    """Up to 160 px, more objects, clutter, occlusion and truncation; unlabeled novel objects."""
    shapes(c)
    d = c.data
    d.update(source="shapes_hard", root="datasets/shapes_hard")
    d.short_sides, d.test_short_side, d.long_side, d.region_long_side = (160,), 160, 160, 160
    d.buckets = ((160, 160),)


PRESETS = {"shapes": shapes, "shapes_hard": shapes_hard, "coco": lambda c: None, "custom": custom}
