"""Presets and options: their changes to the fields in configs/base.py; sources are named as there."""

from ml_collections import ConfigDict

# what launch/import_weights.py reads; docs/paper_recipe.md says where to get the files. msra: detectron2's
# MSRA/R-50.pkl; torchvision: torchvision's ResNet-50; zoo: a detector of detectron2's model zoo, to check ours with (it
# has seen the novel classes); detector: a detector of detectron2's model zoo or TFA for other classes, whose features
# stay; scratch: none
WEIGHTS = ("msra", "torchvision", "zoo", "detector", "scratch")
# names of the parameters that are trained last, and of all others of the detector
FEATURES = (r"detector/(backbone|fpn|rpn|box_head)/.*",)
PREDICTOR = r"detector/box_predictor/.*"
# tfa: TFA's trainvalno5k and 5k, which the paper's tables are on; minival: train2017 and val2017, other numbers
SPLITS = ("tfa", "minival")


def size(config: ConfigDict, name: str) -> None:
    """Sets the size of net, images and training; "": paper, the fields in base.py.

    Raises:
      ValueError: an unknown size, or a preset or ``paper=true`` that has no choice.
    """
    if name and (name not in SIZES or config.preset.startswith("shapes")):
        fixed = config.preset.startswith("shapes")
        known = f"{config.preset} has its own small model" if fixed else f"choose {', '.join(SIZES)}"
        raise ValueError(f"size={name} is not possible: {known}")
    config.size = name or config.size
    if config.paper and config.size != "paper":
        raise ValueError(f"size={name} is not possible with paper=true, which uses the paper's size: omit one of them")
    SIZES[config.size](config)


def small(config: ConfigDict) -> None:
    """For a 24 GB GPU in less than a day: images of 512 px, masks of 64 px, a fifth of the training.

    The detector is the full ResNet-50 with FPN and detectron2's anchors, so that pretrained weights fit.
    """
    data, mask, train = config.data, config.model.mask, config.train
    data.short_sides, data.test_short_side, data.long_side = (384, 416, 448, 480, 512), 512, 853
    data.buckets = ((512, 704), (704, 512), (512, 864), (864, 512))  # photos of 4:3 and of up to 5:3
    data.region_long_side = 512
    mask.size = 64
    mask.unet.update(width=64, multipliers=(1, 2, 3, 4), blocks=2, attention=(16, 8))
    train.detector.update(steps=45_000, batch=8, lr=0.01)
    train.mask.update(steps=50_000, lr=2e-4)
    train.novel.update(batch=8, lr=0.005)


def tiny(config: ConfigDict) -> None:
    """About an hour on a CPU: a narrow ResNet-50 from scratch, images of 224 px, masks of 32 px.

    Rates are those that benchmarks/studies/coco_mini.py used on a few hundred photos.
    """
    data, detector, mask, train = config.data, config.model.detector, config.model.mask, config.train
    config.weights, config.model.dtype = "scratch", "float32"
    data.short_sides, data.test_short_side, data.long_side = (192, 208, 224, 240, 256), 224, 384
    data.update(buckets=((256, 384), (384, 256)), region_long_side=320, workers=0, cache_mb=2000)
    detector.update(width=16, fpn_channels=64, fc_channels=256, class_agnostic_boxes=True)
    # an object of 10 px is one cell at stride 8; P2 would be the most expensive level
    detector.update(fpn_min_level=3, anchor_sizes=(20, 44, 96, 200), roi_canonical=(80.0, 4))
    detector.update(rpn_samples=128, rpn_pre_nms_train=300, rpn_pre_nms_test=300)
    detector.update(proposals_train=200, proposals_test=200, roi_samples=64)
    mask.size = 32
    mask.unet.update(width=32, multipliers=(1, 2, 2), blocks=1, attention=(8,), stem_patch=2)
    train.save_every = 500
    train.detector.update(steps=3000, batch=4, optimizer="adamw", lr=2.5e-4, schedule="cosine", warmup=100, ema=0.99)
    train.mask.update(steps=5000, batch=16, lr=5e-4, schedule="cosine", warmup=50, ema=0.99)
    train.novel.update(batch=4, optimizer="adamw", lr=7.5e-4, schedule="cosine")
    config.eval.update(mask_batch=16, mask_min_score=0.1, mask_top_n=10)


# of the presets coco and custom; "paper": the fields in base.py
SIZES = {"paper": lambda c: None, "small": small, "tiny": tiny}


def paper(config: ConfigDict, shots: int) -> None:
    """The paper read literally: a mask head for one K, eps-prediction, 1,000 DDPM steps, w = 5; on COCO batches of 8.

    Where the paper is silent the code it builds on decides: horizontal flips of probability 0.5 as in detectron2 and
    guided-diffusion's image loader (`data.flip`), no moving average of the detector in stage 1, one of the mask head
    (`train.mask.ema`). One default is not guided-diffusion's: `diffusion.variance`. There is no other augmentation
    except for a shot that is the query itself (K = 1): its pose always changes, or its outline would be the answer.
    """
    mask, data, train = config.model.mask, config.data, config.train
    mask.slots = mask.min_shots = config.fewshot.shots = shots
    mask.diffusion.update(prediction="eps", signal_scale=1.0, sampler="ddpm", steps=1000, guidance=5.0)
    data.box_jitter, data.shot_augment, data.shot_unlabeled = 0.0, 0.0, "background"
    if config.preset.startswith("shapes"):
        # the paper's loss and sampler, in a form that a net of this size learns: docs/mask_head.md
        mask.diffusion.precondition = "logit"
        train.mask.update(steps=3000, clip_norm=1.0)
    if config.preset == "coco":
        train.detector.ema = train.novel.ema = 0.0  # detectron2 and TFA keep the last weights
        train.novel.batch = 8  # TFA's rate is for 16 images and scales with the batch
        for phase in (train.detector, train.mask):  # "learning rate of 0.02", "batch size of 8": not scaled
            phase.batch = phase.base_batch = 8


def split(config: ConfigDict, name: str) -> None:
    """Which images of COCO; "": TFA's (the fields in base.py), or with weights=zoo those of its published AP.

    Raises:
      ValueError: an unknown name, or a preset without a choice.
    """
    if name and (name not in SPLITS or config.preset != "coco"):
        raise ValueError(
            f"split={name} is not possible: only the preset coco has this option, with the values {', '.join(SPLITS)}"
        )
    if config.preset == "coco" and (name or {"zoo": "minival"}.get(config.weights, "tfa")) == "minival":
        config.data.train_json, config.data.train_images = "annotations/instances_train2017.json", "train2017"
        config.data.test_json, config.data.test_images = "annotations/instances_val2017.json", "val2017"
        config.data.more_images, config.data.counts = (), ""


def custom(config: ConfigDict) -> None:
    """Your own COCO-format dataset; the classes come from its json."""
    config.data.update(source="custom", root="datasets/custom", novel_classes=(), more_images=(), counts="")
    config.data.train_json, config.data.train_images = "train.json", "train"
    config.data.test_json, config.data.test_images = "test.json", "test"
    config.data.shot_unlabeled = "ignore"
    config.fewshot.update(sampler="instances", short_classes="take_all")
    config.model.num_classes = 0  # 0: as many as the json lists
    config.weights = "scratch"


def weights(config: ConfigDict, name: str) -> None:
    """Sets the fields that belong to the weights ``name`` ("": the preset's default); base.py has the fields of msra.

    Raises:
      ValueError: an unknown name; weights for a preset or a size with a small detector that no file fits; a whole
        detector for the paper's protocol.
    """
    is_shapes = config.preset.startswith("shapes")
    fixed = is_shapes or config.size == "tiny"
    if name and (name not in WEIGHTS or (fixed and name != config.weights)):
        which = config.preset if is_shapes else f"size={config.size}"
        known = f"{which} has its own small detector, weights=scratch" if fixed else ", ".join(WEIGHTS)
        raise ValueError(f"weights={name} is not possible: {known}")
    config.weights = name or config.weights
    if is_shapes:
        return
    detector = config.model.detector
    if config.weights in ("torchvision", "scratch"):
        detector.channel_order, detector.stride_in_1x1 = "rgb", False
        detector.pixel_mean, detector.pixel_std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet
    if config.weights == "scratch":
        detector.norm, config.train.frozen = "group", ()
    if config.weights == "detector":
        if config.paper:
            raise ValueError(
                "weights=detector is not possible with paper=true: detectors trained on COCO have seen novel classes"
            )
        # its classes differ, so the last layers are new, and only they and the mask head are trained
        config.train.frozen, config.train.reset = FEATURES, (PREDICTOR, "mask_head/.*")
        config.train.detector.update(steps=10_000, warmup=100, ema=0.999)
    if config.weights == "zoo":
        detector.classifier = "linear"
        config.data.novel_classes = ()  # all 80 classes are detected and scored
        # only boxes are scored: no masks in detections or ground-truth boxes, no figures
        config.eval.update(mask_top_n=0, min_gt_area=10**9, figures=0)


def shapes(config: ConfigDict) -> None:
    """128 px scenes of 12 classes of shapes: the whole method in minutes on two CPU cores."""
    data, model, train = config.data, config.model, config.train
    detector, mask = model.detector, model.mask
    config.weights = "scratch"
    data.update(source="shapes", root="datasets/shapes", more_images=(), counts="", workers=0, cache_mb=1500)
    data.novel_classes = ("star", "ring", "arrow", "crescent")
    data.short_sides, data.test_short_side, data.long_side, data.region_long_side = (128,), 128, 128, 128
    data.update(buckets=((128, 128),), max_boxes=8, shot_unlabeled="ignore")

    config.fewshot.sampler = "instances"
    model.num_classes, model.dtype = 12, "float32"
    detector.pixel_mean, detector.pixel_std, detector.channel_order = (127.5,) * 3, (64.0,) * 3, "rgb"
    detector.update(blocks=(2, 2, 2, 1), width=16, norm="group", stride_in_1x1=False, fpn_channels=64)
    # no object is smaller than 24 px, so stride 8 finds them; P2 would be the most expensive level
    detector.fpn_min_level, detector.anchor_sizes = 3, (28, 44, 72, 100)
    detector.rpn_samples, detector.rpn_pre_nms_train, detector.rpn_pre_nms_test = 64, 128, 128
    detector.proposals_train, detector.proposals_test, detector.roi_samples = 64, 64, 32
    # boxes are found long before classes are told apart: more foreground RoIs, and a box loss that fades as it falls
    detector.roi_positive, detector.box_beta = 0.5, 1.0
    detector.roi_canonical, detector.fc_channels, detector.class_agnostic_boxes = (40.0, 3), 256, True
    detector.max_detections = 20

    mask.size, mask.slots = 32, 5
    mask.cnn.channels = 32
    mask.unet.update(width=32, multipliers=(1, 2, 2), blocks=1, attention=(8,), heads=4, stem_patch=2)

    train.frozen, train.save_every = (), 0
    train.detector.update(steps=3000, batch=8, optimizer="adamw", lr=3e-3, schedule="cosine", warmup=50, ema=0.99)
    train.mask.update(steps=3000, batch=16, lr=2e-3, schedule="cosine", warmup=50, ema=0.99)
    config.eval.update(batch=16, mask_batch=16, mask_min_score=0.1, mask_top_n=10)


def shapes_hard(config: ConfigDict) -> None:
    """Up to 160 px, more objects, clutter, occlusion and truncation; unlabeled novel objects."""
    shapes(config)
    data = config.data
    data.update(source="shapes_hard", root="datasets/shapes_hard")
    data.short_sides, data.test_short_side, data.long_side, data.region_long_side = (160,), 160, 160, 160
    data.buckets = ((160, 160),)


PRESETS = {"shapes": shapes, "shapes_hard": shapes_hard, "coco": lambda c: None, "custom": custom}
