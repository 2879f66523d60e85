"""Stage 1: the detector and the mask head, trained separately on the base classes.

    python launch/train.py --config configs/base.py                    # shapes, generated, minutes on a CPU
    python launch/train.py --config configs/base.py:shapes_hard        # the same, harder scenes
    python launch/train.py --config configs/base.py:coco               # the paper's recipe, fast sampler
    python launch/train.py --config configs/base.py:coco,paper=true,shots=5   # the paper read literally: one run per K
    python launch/train.py --config configs/base.py:coco,split=minival # COCO 2017's own split, not TFA's
    python launch/train.py --config configs/base.py:custom             # your COCO-format json, see docs/own_data.md
    python launch/train.py --config configs/base.py:custom,size=tiny   # a smaller model: paper (default), small, tiny

``coco`` and ``custom`` also take ``weights=``: the pretrained weights of the detector, with their color order, mean,
standard deviation and layout, see ``presets.WEIGHTS``. The default is msra for ``coco`` and scratch for ``custom``.
With ``weights=detector`` it starts from one of other classes, of which only new last layers are trained:
docs/own_data.md, "A base model from public weights". They take ``size=`` too, see ``presets.SIZES`` and
docs/own_data.md, "How large a model".

Every field is defined here once, with its unit and its source: [P] the MaskDiff paper, [TFA] few-shot-object-detection,
[D2] detectron2, [GD] guided-diffusion. Where the paper leaves a choice open, it is explained in docs/design.md, "What
the paper leaves open". The values below are those of ``coco``; configs/presets.py holds what other presets and options
change.
"""

from ml_collections import ConfigDict

from configs import presets

WEIGHTS = presets.WEIGHTS
PRESETS = tuple(presets.PRESETS)


def parse_arg(arg: str | None, allowed: dict) -> tuple[str, dict]:
    """Splits ``[preset][,key=value...]`` into the preset and its options.

    Args:
      arg: what follows the colon of ``--config file.py:arg``; None or "" for the defaults.
      allowed: the known keys and their defaults; a value is read as its default's type.

    Raises:
      ValueError: an unknown preset, an unknown key, or a value of the wrong type.
    """
    preset, options = PRESETS[0], dict(allowed)
    for i, part in enumerate(p.strip() for p in (arg or "").split(",") if p.strip()):
        key, equals, text = part.partition("=")
        if not equals:
            if i or key not in PRESETS:
                raise ValueError(f"unknown preset '{key}': choose one of {', '.join(PRESETS)}")
            preset = key
            continue
        if key not in allowed:
            raise ValueError(
                f"unknown option '{key}' in ':{arg}': the known options are {', '.join(allowed) or 'none'}"
            )
        kind = type(allowed[key])
        try:
            if kind is bool:
                options[key] = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            else:
                options[key] = kind(text)
        except (ValueError, KeyError):
            raise ValueError(f"option '{key}={text}' must be of type {kind.__name__}") from None
    return preset, options


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of stage 1 for a preset; ``arg`` as in the module's docstring."""
    preset, options = parse_arg(arg, {"paper": False, "weights": "", "split": "", "size": "", "shots": 0})
    if options["shots"] and not options["paper"]:
        raise ValueError(
            "shots= in stage 1 needs paper=true, whose mask head is built for one K; without paper=true one "
            "stage 1 serves every K up to model.mask.slots, so omit shots="
        )
    config = ConfigDict()
    config.preset = preset
    config.stage = "base"  # "base", "fewshot" or "distill"
    config.method = "maskdiff"  # name of the method, a row of the tables; files in baselines/ and ablations/ set it
    # the method whose stage 1 this run starts from; "": in stage 2 its own, in stage 1 none
    config.base_method = ""
    config.paper = options["paper"]  # the option `paper=true`; what it changes is in `presets.paper`
    config.size = "paper"  # one of presets.SIZES; set by the option `size=`; shapes presets have their own one
    config.seed = 0  # of initial weights, order of the data, and noise in training
    config.init_from = ""  # run folder whose weights to start from; stage 2: "" = the matching run of stage 1
    # run folder of the same stage and shots whose detector this run copies and does not train; "" = train it
    config.detector_from = ""
    config.weights = "msra"  # one of presets.WEIGHTS, which the detector's fields fit; set by the option `weights=`
    config.data = _data()
    config.model = _model()
    config.train = _train()
    config.fewshot = _fewshot()
    config.distill = _distill()
    config.eval = _eval()

    presets.PRESETS[preset](config)
    presets.size(config, options["size"])
    presets.weights(config, options["weights"])
    presets.split(config, options["split"])
    set_base_batches(config)
    if options["paper"]:
        presets.paper(config, options["shots"] or config.fewshot.shots)
    return config.lock()


def set_base_batches(config: ConfigDict) -> None:
    """Makes the current learning rates those of the current batch sizes; a batch changed later scales its rate."""
    for phase in (config.train.detector, config.train.mask, config.train.novel, config.train.refine):
        phase.base_batch = phase.batch


def _data() -> ConfigDict:
    data = ConfigDict()
    data.source = "coco"  # a name in data/sources.SOURCES
    data.root = "datasets/coco"  # folder that holds or will hold the dataset
    # json and image folder of each split, relative to root (sources coco and custom). These are TFA's, whose published
    # folder "cocosplit" belongs into root; `split=minival` has COCO 2017's
    data.train_json, data.train_images = "cocosplit/datasplit/trainvalno5k.json", "train2014"
    data.test_json, data.test_images = "cocosplit/datasplit/5k.json", "val2014"
    # folders, relative to root, where images are looked for by name or COCO number if the one above lacks them
    data.more_images = ("train2014", "val2014", "trainval2014", "train2017", "val2017")
    data.counts = "tfa"  # the json files must hold what TFA's published ones do; "" = no check, e.g. for a part of them
    # names of the novel classes; every other class is a base class [TFA: fsdet/data/builtin_meta.py]
    data.novel_classes = (
        "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat",
        "dog", "horse", "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv",
    )  # fmt: skip
    data.shapes_seed = 0  # seed of the generated scenes (sources shapes and shapes_hard)
    # scenes per split; "val" has as many as "test"
    data.shapes_train, data.shapes_support, data.shapes_test = 2000, 240, 160
    data.short_sides = (640, 672, 704, 736, 768, 800)  # px, one chosen at random per training image [TFA]
    data.test_short_side = 800  # px [D2]
    data.long_side = 1333  # px, upper limit [TFA]
    data.flip = 0.5  # probability of a horizontal flip in training [TFA]
    # padded sizes: height, width in px, multiples of 32, for photos of 4:3 and of up to 5:3
    data.buckets = ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
    data.max_boxes = 100  # N, ground-truth slots per image
    data.min_box_side = 8  # px in the stored image; the mask head does not train on smaller objects
    data.min_mask_area = 16  # px in the stored image; likewise
    data.region_long_side = 640  # px; mask regions are cropped from the image at this size or smaller
    data.box_jitter = 0.1  # share of the side: largest shift and scaling of mask-head boxes in training; 0 = [P]
    data.context = 0.0  # share of the side: margin added around every region, in training and test
    data.crop_margin = 0.25  # share of the side: margin of prepared instance crops; must cover jitter and context
    # probability that a region and its mask are stretched, recolored and turned together, and the box is made tight
    # again, see transforms.augment_region; for few training photos; 0 = [P]
    data.region_augment = 0.0
    data.shot_augment = 0.5  # probability that a shot is turned, scaled, recolored, independently of its query
    data.shot_drop = 0.0  # probability that a mask-head sample gets no shot at all
    data.shot_unlabeled = "background"  # other objects of a K-shot image: "background" [TFA] or "ignore"
    data.workers = 8  # grain worker processes; 0 = threads in this process
    data.cache_mb = 0  # MB of decoded images and crops to keep in memory; a set that fits 2 GB (K shots) always is kept
    return data


def _model() -> ConfigDict:
    model = ConfigDict()
    model.num_classes = 80  # C, base and novel together
    model.dtype = "bfloat16"  # of the computation; parameters stay float32
    model.detector = _detector()
    model.mask = _mask()
    return model


def _detector() -> ConfigDict:
    """Faster R-CNN with ResNet-50 and FPN; see docs/design.md, "Detector"."""
    detector = ConfigDict()
    detector.pixel_mean = (103.530, 116.280, 123.675)  # 0..255, in `channel_order` [D2]
    detector.pixel_std = (1.0, 1.0, 1.0)  # 0..255, likewise
    detector.channel_order = "bgr"  # "rgb" or "bgr"; the MSRA weights want bgr [D2]
    detector.blocks = (3, 4, 6, 3)  # bottleneck blocks of res2..res5: ResNet-50
    detector.width = 64  # channels of the stem; res2..res5 have 4, 8, 16, 32 times as many
    detector.norm = "frozen_bn"  # "frozen_bn" (imported weights) or "group" (from scratch)
    detector.stride_in_1x1 = True  # True with MSRA weights, False with torchvision's [D2]
    detector.fpn_channels = 256
    detector.fpn_min_level = 2  # finest level, stride 2**level
    detector.anchor_sizes = (32, 64, 128, 256, 512)  # px, one per level from the finest on; the last is P6
    detector.anchor_ratios = (0.5, 1.0, 2.0)  # height / width
    detector.rpn_iou = (0.3, 0.7)  # below: background, from: foreground; between: ignored
    detector.rpn_samples = 256  # anchors per image in the RPN loss
    detector.rpn_positive = 0.5  # largest share of foreground among them
    detector.rpn_beta = 0.0  # smooth-L1 threshold; 0 = L1
    detector.rpn_pre_nms_train, detector.rpn_pre_nms_test = 2000, 1000  # proposals per level before NMS
    detector.rpn_nms = 0.7  # IoU
    detector.proposals_train, detector.proposals_test = 1000, 1000  # P, over all levels
    detector.roi_samples = 512  # R, per image
    detector.roi_positive = 0.25  # largest share of foreground among them
    detector.roi_iou = 0.5  # from this IoU on a RoI is foreground
    detector.roi_canonical = (224.0, 4)  # px, level: a box of this side is pooled from this level
    detector.roi_size = 7  # cells per side
    # points per cell and axis; 0 = adaptive [D2]; docs/results.md, "RoIAlign", measures fixed numbers
    detector.roi_sampling = 0
    detector.fc_channels = 1024
    # "cosine" [P, TFA], "linear", or of iFS-RCNN: "sigmoid" (focal loss), "probit" (the same; novel classes Bayesian)
    detector.classifier = "cosine"
    detector.cosine_scale = 20.0  # [TFA]
    detector.probit_scale = 1.0  # s, factor of the mean of a Bayesian class's logit; by K in baselines/ifs_rcnn.py
    detector.class_agnostic_boxes = False
    detector.box_weights = (10.0, 10.0, 5.0, 5.0)  # of dx, dy, dw, dh in the second stage
    detector.box_beta = 0.0  # smooth-L1 threshold; 0 = L1
    detector.box_uncertainty = False  # each box delta has a predicted variance; the box loss is then iFS-RCNN's
    detector.refine = False  # a second pass estimates the IoU of predicted boxes and corrects them [iFS-RCNN]
    detector.refine_iou = 0.7  # tau: its IoU estimates are larger, and it trains on boxes of larger IoU [iFS-RCNN]
    # candidates per image that it looks at, best first; the published code takes all over min_score
    detector.refine_candidates = 1000
    detector.min_score = 0.05  # detections must score more [D2]
    detector.nms = 0.5  # IoU, per class
    detector.max_detections = 100  # D
    return detector


def _mask() -> ConfigDict:
    mask = ConfigDict()
    mask.head = "diffusion"  # a name in model.MASK_HEADS; "cnn" is trained with the detector, in phase "detector"
    mask.size = 128  # M, px [P]
    mask.slots = 10  # shots that the net has channels for: every K of the paper's tables; stage 2 needs shots <= slots
    mask.min_shots = 1  # training fills min_shots..slots slots at random; = slots: always all [P]
    mask.class_input = True  # False: a class-agnostic head
    mask.shot_background = "gray"  # removed pixels become 0 ("gray") or -1 ("black") on a scale of -1..1

    # of head "cnn", Mask R-CNN's, alone; the other heads do not read it
    mask.cnn = cnn = ConfigDict()
    cnn.convs = 4  # 3 x 3 convolutions before the side is doubled [D2]
    cnn.channels = 256  # of each of them [D2]
    cnn.class_agnostic = False  # one mask per box, not one per class
    cnn.roi_size = 14  # cells per side of its features; masks have twice as many [D2]

    mask.unet = unet = ConfigDict()
    unet.width = 128  # base channels [GD; docs/design.md, "The UNet"]
    unet.multipliers = (1, 1, 2, 3, 4)  # of the width, per level [GD]
    unet.blocks = 2  # residual blocks per level going down; one more going up [P, supplement]
    unet.attention = (16,)  # px: sizes of the 128 px input at which blocks attend; the middle always does
    unet.heads = 4  # [GD]
    unet.head_channels = -1  # channels per head; -1: use `heads`
    unet.scale_shift = True  # the time embedding scales and shifts after the norm; False: it is added before the norm
    unet.stem_patch = 1  # p: p x p pixels enter as one (space to depth); 2 is about twice as cheap
    unet.resblock_updown = False  # residual blocks change the resolution, not single convolutions [GD]
    unet.dropout = 0.0

    mask.diffusion = diffusion = ConfigDict()
    diffusion.timesteps = 1000  # T [P]
    diffusion.schedule = "linear"  # a name in diffusion.SCHEDULES
    diffusion.prediction = "sigmoid"  # "eps" [P], "x0", "v", or "sigmoid": x0 as a logit with cross-entropy
    # of eps: "none" [P], "skip" (sqrt(1 - abar) y_t is added), "edm" (the output is v), "logit" (of y_0), see
    # diffusion.precondition
    diffusion.precondition = "none"
    # of the squared error, by t: "none" [P], "min_snr" [Hang et al. 2023], "truncated_snr" [Salimans and Ho 2022]
    diffusion.loss_weight = "none"
    diffusion.snr_gamma = 5.0  # of min_snr
    diffusion.signal_scale = 0.5  # b: masks are coded as -b and +b; 1.0 [P]; docs/design.md, "Signal scale"
    diffusion.learn_sigma = False  # a second output channel gives the reverse variance
    diffusion.p_uncond = 0.1  # share of training samples without their class
    diffusion.sampler = "ddim"  # a name in sampler.SAMPLERS: ddpm, ddim, dpmpp_2m
    diffusion.steps = 2  # S, measured: docs/mask_head.md
    diffusion.spacing = "trailing"  # "trailing", "even" [GD "10"], "leading" [GD "ddim10"]
    diffusion.variance = "fixed_small"  # of ddpm: fixed_small, fixed_large, learned
    diffusion.eta = 0.0  # of ddim: 0 deterministic .. 1 = ddpm
    diffusion.clip = True  # x0 is clipped to -b..b at each step
    diffusion.averaged = 1  # the mask is the mean of the estimates of this many last steps, 1..S
    diffusion.guidance_interval = (0.0, 1.0)  # share of the steps, noisiest first, that are guided; others cost half
    diffusion.guidance = (
        1.0  # w: eps_u + w (eps_c - eps_u), 5 [P]; 1 = none: half the cost and, as measured, better masks
    )
    return mask


def _train() -> ConfigDict:
    train = ConfigDict()
    train.detector = _phase(110_000, batch=16, optimizer="sgd", lr=0.02, weight_decay=1e-4, warmup=1000)
    train.detector.decay_at = (0.773, 0.909)  # of the steps: 85k and 100k of 110k [TFA]
    train.mask = _phase(120_000, batch=64, optimizer="adamw", lr=1e-4, weight_decay=0.0, warmup=500)
    train.novel = _phase(0, batch=16, optimizer="sgd", lr=0.01, weight_decay=1e-4, warmup=0)  # stage 2 only
    # of detector.refine, after `detector` in stage 1: box regression and second pass; 20k steps in iFS-RCNN
    train.refine = _phase(0, batch=16, optimizer="sgd", lr=0.02, weight_decay=1e-4, warmup=0)
    # names of parameters that are not trained, as regular expressions [D2: FREEZE_AT=2]
    train.frozen = (r"detector/backbone/(stem|res2)/.*", r"detector/backbone/.*/norm.*")
    # names of parameters (regular expressions) that get new weights in a run that starts from another one (init_from);
    # only they may have another shape there
    train.reset = ()
    train.log_every = 20  # steps
    train.save_every = 2000  # steps; 0 = only at the end of a phase
    train.keep = 2  # checkpoints of a phase that is still running
    train.devices = 0  # size of the mesh axis `data`; 0 = all
    # detector and mask head at the same time, each on half of the devices; False: one after the other on all of them
    train.side_by_side = False
    return train


def _phase(steps: int, *, batch: int, optimizer: str, lr: float, weight_decay: float, warmup: int) -> ConfigDict:
    """One phase of training."""
    phase = ConfigDict()
    phase.steps = steps
    phase.batch = batch  # images, or objects for the mask head; over all devices
    phase.optimizer = optimizer  # "sgd" (momentum 0.9) or "adamw"
    phase.base_batch = batch  # the batch that lr is for; the rate used is lr x batch / base_batch [Goyal et al. 2017]
    phase.lr = lr  # at the peak, for base_batch
    phase.schedule = "step"  # after warm-up: "step" (x 0.1 at decay_at), "cosine" (to 0) or "constant"
    phase.decay_at = (1.0,)  # shares of the steps
    phase.warmup = warmup  # steps, linear from 0.001 lr
    phase.weight_decay = weight_decay
    phase.betas = (0.9, 0.999)  # of adamw [P]
    phase.clip_norm = 0.0  # global gradient norm; 0 = off
    phase.ema = 0.9999  # decay of the exponential moving average of the weights, warmed up; 0 = off
    return phase


def _fewshot() -> ConfigDict:
    """Stage 2."""
    fewshot = ConfigDict()
    fewshot.shots = 5  # K
    fewshot.seed = 0  # of the sampled shots
    # "imtfa": iMTFA's sampler, K = 1, 5, 10; "tfa": TFA's, 1, 2, 3, 5, 10, 30; "instances": K random objects, any K
    fewshot.sampler = "imtfa"
    fewshot.shots_from = ""  # folder of K-shot files in TFA's layout (cocosplit), read for (shots, seed); "" = sample
    fewshot.short_classes = "error"  # a class with fewer than K objects: "error" or "take_all"
    # novel-class weights: "finetune" (on the novel shots, from the weights of stage 1), "fresh" (likewise, from new
    # last layers [TFA]; with head "cnn" and classes="novel" that is all of stage 2), "random", "imprint",
    # "mean_embedding" [iMTFA]
    fewshot.novel_init = "finetune"
    fewshot.classes = "all"  # "all" (balanced, COCO-All) or "novel" (COCO-Novel: heads for novel classes alone)
    return fewshot


def _distill() -> ConfigDict:
    """Distillation of a trained mask head, configs/distill.py."""
    distill = ConfigDict()
    distill.guidance = 1.0  # w of the teacher, which the student learns to do without; 1 = no guidance distillation
    distill.steps = 8  # S of the teacher, and of the student of guidance distillation
    distill.rounds = (4, 2)  # progressive distillation: S after each halving; () = guidance distillation only
    return distill


def _eval() -> ConfigDict:
    evaluation = ConfigDict()
    evaluation.split = "test"  # or "val": the generated scenes that hyperparameters are chosen on
    evaluation.source = ""  # "voc": score on PASCAL VOC, into a subfolder of the run folder; "" = config.data
    evaluation.root = "datasets/VOCdevkit"  # of `source`
    # also score only detections whose class occurs in the image's ground truth; docs/design.md, "COCO2VOC"
    evaluation.gt_classes_only = False
    evaluation.images = 0  # 0 = all of the split
    evaluation.batch = 8  # images
    evaluation.mask_batch = 128  # objects, of many images, whose masks are sampled together
    evaluation.mask_min_score = 0.05  # detections below keep their box but get no mask
    evaluation.mask_top_n = 100  # per image
    evaluation.samples = 1  # masks sampled per object and averaged
    evaluation.rescore = False  # also score with each detection's score times its mask's confidence
    # also score with each box replaced by the tight box of its mask, which reaches beyond it with data.context > 0
    evaluation.tighten_boxes = False
    # shots that the mask head sees: "own" of the class, "none", or "other": those of the next active class
    evaluation.support = "own"
    # "boxes": the detections are the ground-truth boxes and classes; "classes": detected boxes have the true class
    evaluation.oracle = ""
    evaluation.scorer = "pycocotools"  # or "faster_coco_eval": the same AP in less time, but not the official tool
    evaluation.noise_seed = 0
    evaluation.mask_threshold = 0.5  # of the pasted soft mask [P]
    evaluation.min_gt_area = 40  # px: smaller objects do not count in mask_iou
    evaluation.figures = 12  # test images rendered for the report
    return evaluation
