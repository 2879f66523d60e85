"""Stage 1: the detector and the mask head, trained separately on the base classes.

    python launch/train.py --config configs/base.py                    # shapes, embedded, minutes on a CPU
    python launch/train.py --config configs/base.py:shapes_hard        # the same, harder scenes
    python launch/train.py --config configs/base.py:coco               # the paper's recipe, fast sampler
    python launch/train.py --config configs/base.py:coco,paper=true,shots=5   # the paper taken literally: one run per K
    python launch/train.py --config configs/base.py:coco,split=minival # COCO 2017's own split, not TFA's
    python launch/train.py --config configs/base.py:custom             # your COCO-format json, see README

``coco`` and ``custom`` also take ``weights=``: what the detector starts from, and with it color order, mean,
standard deviation and layout; see ``presets.WEIGHTS``. ``coco`` has msra, ``custom`` scratch.

Every field stands here once, with its unit and where it comes from: [P] the MaskDiff paper, [TFA]
few-shot-object-detection, [D2] detectron2, [GD] guided-diffusion. A11 or D7.8 name rows of this project's
reference notes on the protocol (A) and on the diffusion head (D), where the paper is silent. The
values below are the ``coco`` preset; configs/presets.py holds what the other presets and options change.
"""

from ml_collections import ConfigDict

from configs import presets

WEIGHTS = presets.WEIGHTS
PRESETS = tuple(presets.PRESETS)


def parse_arg(arg: str | None, allowed: dict) -> tuple[str, dict]:
    """Splits ``[preset][,key=value...]`` into the preset and its options.

    Args:
      arg: what stands behind the colon of ``--config file.py:arg``; None or "" for the defaults.
      allowed: the known keys and their defaults; a value is read as its default's type.

    Raises:
      ValueError: an unknown preset, an unknown key, or a value of the wrong type.
    """
    preset, options = PRESETS[0], dict(allowed)
    for i, part in enumerate(p.strip() for p in (arg or "").split(",") if p.strip()):
        key, eq, text = part.partition("=")
        if not eq:
            if i or key not in PRESETS:
                raise ValueError(f"unknown preset '{key}': choose one of {', '.join(PRESETS)}")
            preset = key
            continue
        if key not in allowed:
            raise ValueError(f"unknown option '{key}' in ':{arg}': known are {', '.join(allowed) or 'none'}")
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
    preset, options = parse_arg(arg, {"paper": False, "weights": "", "split": "", "shots": 0})
    if options["shots"] and not options["paper"]:
        raise ValueError(
            "shots= in stage 1 belongs to paper=true, whose mask head is built for one K: without it one stage 1 "
            "serves every K up to model.mask.slots"
        )
    c = ConfigDict()
    c.preset = preset
    c.stage = "base"  # "base", "fewshot" or "distill"
    c.paper = options["paper"]  # the argument `paper=true`: names the run's folder; what it sets is in `_paper`
    c.seed = 0  # initial weights, order of the data, noise in training
    c.init_from = ""  # workdir whose weights to start from; stage 2: "" = the matching stage-1 run
    c.weights = "msra"  # one of presets.WEIGHTS: what the fields of the detector fit; the argument `weights=` sets them

    # ------------------------------------------------------------------ data
    c.data = d = ConfigDict()
    d.source = "coco"  # a name in data/pipeline.SOURCES
    d.root = "datasets/coco"  # folder that holds or will hold the data set
    # json and image folder of each split, relative to root (sources coco and custom); here those of TFA, whose
    # published folder "cocosplit" belongs into root [TFA, section 2.6]; `split=minival` has COCO 2017's
    d.train_json, d.train_images = "cocosplit/datasplit/trainvalno5k.json", "train2014"
    d.test_json, d.test_images = "cocosplit/datasplit/5k.json", "val2014"
    # folders, relative to root, where images are looked for by name or COCO number if the one above lacks them
    d.more_images = ("train2014", "val2014", "trainval2014", "train2017", "val2017")
    d.counts = "tfa"  # the json files must hold what TFA's published ones do; "" = no check, e.g. for a part of them
    # names of the novel classes; every other class is a base class [TFA, section 2.5]
    d.novel_classes = (
        "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat",
        "dog", "horse", "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv",
    )  # fmt: skip
    d.shapes_seed = 0  # seed of the embedded scenes (sources shapes and shapes_hard)
    d.shapes_train, d.shapes_support, d.shapes_test = 2000, 240, 160  # scenes per split
    d.short_sides = (640, 672, 704, 736, 768, 800)  # px, one drawn per training image [TFA]
    d.test_short_side = 800  # px
    d.long_side = 1333  # px, upper limit [TFA]
    d.flip = 0.5  # probability of a horizontal flip in training [TFA]
    # canvas height, width in px, multiples of 32: photos of 4:3, and of up to 5:3
    d.buckets = ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
    d.max_boxes = 100  # ground-truth slots per image, N
    d.min_box_side = 8  # px in the stored image; smaller objects are no mask-head samples (A37)
    d.min_mask_area = 16  # px in the stored image; likewise
    d.region_long_side = 640  # px, mask regions are cut from the image at this size or smaller
    d.box_jitter = 0.1  # of the side: shift and scale of mask-head boxes in training (A11); 0 = paper
    d.context = 0.0  # of the side: margin added around every region, in training and test
    d.crop_margin = 0.25  # of the side: margin of the pre-cut instance crops, must cover jitter and context
    d.shot_augment = 0.5  # probability that a shot is flipped, turned, recolored on its own
    d.shot_drop = 0.0  # probability that a mask-head sample sees no shot at all
    d.shot_unlabeled = "background"  # other objects of a K-shot image: "background" [TFA] or "ignore"
    d.workers = 8  # grain worker processes; 0 = threads in this process
    d.cache_mb = 0  # decoded images and crops are kept in memory up to this many MB; what fits 2 GB (K shots), always

    # ------------------------------------------------------------------ model
    c.model = m = ConfigDict()
    m.num_classes = 80  # C, base and novel together
    m.dtype = "bfloat16"  # compute; parameters stay float32

    m.detector = t = ConfigDict()
    t.pixel_mean = (103.530, 116.280, 123.675)  # in `channel_order` [D2]
    t.pixel_std = (1.0, 1.0, 1.0)
    t.channel_order = "bgr"  # the MSRA weights want bgr [D2]
    t.blocks = (3, 4, 6, 3)  # bottleneck blocks of res2..res5: ResNet-50
    t.width = 64  # channels of the stem; res2..res5 put out 4, 8, 16, 32 times as many
    t.norm = "frozen_bn"  # "frozen_bn" (imported weights) or "group" (from scratch)
    t.stride_in_1x1 = True  # True with MSRA weights, False with torchvision's [D2]
    t.fpn_channels = 256
    t.fpn_min_level = 2  # finest level, stride 2**level
    t.anchor_sizes = (32, 64, 128, 256, 512)  # px, one per level from the finest on; the last is P6
    t.anchor_ratios = (0.5, 1.0, 2.0)  # height / width
    t.rpn_iou = (0.3, 0.7)  # below: background, from: object; between: ignored
    t.rpn_samples = 256  # anchors per image in the RPN loss
    t.rpn_positive = 0.5  # share of objects among them, at most
    t.rpn_beta = 0.0  # smooth-L1 knee; 0 = L1
    t.rpn_pre_nms_train, t.rpn_pre_nms_test = 2000, 1000  # per level
    t.rpn_nms = 0.7
    t.proposals_train, t.proposals_test = 1000, 1000  # P, over all levels
    t.roi_samples = 512  # R, per image
    t.roi_positive = 0.25
    t.roi_iou = 0.5
    t.roi_canonical = (224.0, 4)  # px, level: a box of this side is pooled from this level
    t.roi_size = 7  # cells per side
    # points per cell and axis; 0 = adaptive [D2]; fixed ones cost 0.2 AP and halve inference on a CPU (benchmarks/)
    t.roi_sampling = 0
    t.fc_channels = 1024
    t.classifier = "cosine"  # "cosine" [P, TFA] or "linear"
    t.cosine_scale = 20.0  # [TFA]
    t.class_agnostic_boxes = False
    t.box_weights = (10.0, 10.0, 5.0, 5.0)  # of dx, dy, dw, dh in the second stage
    t.box_beta = 0.0
    t.min_score = 0.05  # detections must score more [D2]
    t.nms = 0.5
    t.max_detections = 100  # D

    m.mask = k = ConfigDict()
    k.head = "diffusion"  # a name in model.MASK_HEADS
    k.size = 128  # M, px [P]
    k.slots = 10  # shots that the net has channels for: every K of the paper's tables; stage 2 needs shots <= slots
    k.min_shots = 1  # training fills min_shots..slots slots at random; = slots: always all [P]
    k.class_input = True  # False: a class-agnostic head
    k.shot_background = "gray"  # removed pixels are 0 ("gray", D7.11) or -1 ("black", A14)
    k.unet = u = ConfigDict()
    u.width = 128  # base channels [GD; D7.1]
    u.multipliers = (1, 1, 2, 3, 4)  # of the width, per level
    u.blocks = 2  # residual blocks per level going down; one more going up
    u.attention = (16,)  # px: sizes of the 128 px input at which blocks attend; the middle always does
    u.heads = 4
    u.head_channels = -1  # channels per head; -1: use `heads`
    u.scale_shift = True  # time embedding scales and shifts after the norm, else is added before it
    u.stem_patch = 1  # p: the stem sees p x p pixels as one (space to depth), 2 is about 2x cheaper
    u.resblock_updown = False
    u.dropout = 0.0
    k.diffusion = f = ConfigDict()
    f.timesteps = 1000  # T [P]
    f.schedule = "linear"  # a name in diffusion.SCHEDULES
    f.prediction = "sigmoid"  # "eps" [P], "x0", "v", or "sigmoid": x0 as a logit with BCE (D3.5)
    # of eps: "none" [P], "skip" (sqrt(1 - abar) y_t is added), "edm" (the net puts out v), "logit" (of y_0), see
    # diffusion.precondition
    f.precondition = "none"
    # by t, of the squared error: "none" [P], "min_snr" [Hang et al. 2023], "truncated_snr" [Salimans and Ho 2022]
    f.loss_weight = "none"
    f.snr_gamma = 5.0  # of min_snr
    f.signal_scale = 0.5  # b: masks are coded as -b and +b (D3.2); 1.0 [P]
    f.learn_sigma = False  # a second output channel gives the reverse variance
    f.p_uncond = 0.1  # share of training samples without their class
    f.sampler = "ddim"  # a name in sampler.SAMPLERS: ddpm, ddim, dpmpp_2m
    f.steps = 2  # S, measured: docs/mask_head.md
    f.spacing = "trailing"  # "trailing", "even" [GD "10"], "leading" [GD "ddim10"]
    f.variance = "fixed_small"  # of ddpm: fixed_small, fixed_large, learned
    f.eta = 0.0  # of ddim: 0 deterministic .. 1 = ddpm
    f.clip = True  # x0 is clipped to -b..b at each step
    f.averaged = 1  # the mask is the mean of the estimates of the last so many steps, 1..S
    f.guidance_interval = (0.0, 1.0)  # share of the steps, from the noisiest on, that are guided; the others cost half
    f.guidance = 1.0  # w: eps_u + w (eps_c - eps_u), 5 [P]; 1 = none: half the cost and, measured, better masks

    # ------------------------------------------------------------------ training
    c.train = r = ConfigDict()
    r.detector = _phase(110_000, batch=16, optimizer="sgd", lr=0.02, weight_decay=1e-4, warmup=1000)
    r.detector.decay_at = (0.773, 0.909)  # of the steps: 85k and 100k of 110k [TFA]
    r.mask = _phase(120_000, batch=64, optimizer="adamw", lr=1e-4, weight_decay=0.0, warmup=500)
    r.novel = _phase(0, batch=16, optimizer="sgd", lr=0.01, weight_decay=1e-4, warmup=0)  # stage 2 only
    r.frozen = (r"detector/backbone/(stem|res2)/.*", r"detector/backbone/.*/norm.*")  # [D2] FREEZE_AT=2
    r.log_every = 20  # steps
    r.save_every = 2000  # steps; 0 = only at the end of a phase
    r.keep = 2  # checkpoints of a phase that is still running
    r.devices = 0  # size of the `data` mesh axis; 0 = all

    # ------------------------------------------------------------------ stage 2
    c.fewshot = s = ConfigDict()
    s.shots = 5  # K
    s.seed = 0  # of the draw
    # "instances": any K; "tfa": TFA's image-wise draw of K = 1, 2, 3, 5, 10, 30; "imtfa": the same of 1, 5, 10
    s.sampler = "instances"
    s.shots_from = ""  # folder of K-shot files in TFA's layout (cocosplit), read for (shots, seed); "" = draw
    s.short_classes = "error"  # a class with fewer than K objects: "error" or "take_all"
    s.novel_init = "finetune"  # rows of new classes: "finetune" [TFA], "random", "imprint"
    s.classes = "all"  # "all" (balanced, COCO-All) or "novel" (COCO-Novel: a head for novel classes alone)

    # ------------------------------------------------------------------ distillation (configs/distill.py)
    c.distill = g = ConfigDict()
    g.guidance = 1.0  # w of the teacher, which the student learns to draw without; 1 = none, this round falls out
    g.steps = 8  # S of the teacher, and of the student who only learns the guidance
    g.rounds = (4, 2)  # then the student draws in half of the steps, and again; () = guidance only

    # ------------------------------------------------------------------ evaluation
    c.eval = e = ConfigDict()
    e.split = "test"
    e.source = ""  # "voc": score on PASCAL VOC, into a folder of its own in the workdir; "" = config.data
    e.root = "datasets/VOCdevkit"  # of `source`
    e.gt_classes_only = False  # also score detections of the classes that the image's truth holds alone, as FGN (A28)
    e.images = 0  # 0 = all of the split
    e.batch = 8  # images
    e.mask_batch = 128  # objects of many images that are drawn together
    e.mask_min_score = 0.05  # detections below keep their box but get no mask
    e.mask_top_n = 100  # per image
    e.samples = 1  # masks drawn per object and averaged
    e.rescore = False  # also score with each detection's score times its mask's confidence
    e.noise_seed = 0
    e.mask_threshold = 0.5  # of the pasted soft mask [P]
    e.min_gt_area = 40  # px: smaller objects are left out of mask_iou
    e.figures = 12  # test images drawn into the report

    presets.PRESETS[preset](c)
    presets.weights(c, options["weights"])
    presets.split(c, options["split"])
    state_base_batches(c)
    if options["paper"]:
        presets.paper(c, options["shots"] or c.fewshot.shots)
    return c.lock()


def state_base_batches(c: ConfigDict) -> None:
    """Says that the learning rates above are for the batches above; a batch changed afterwards scales its rate."""
    for phase in (c.train.detector, c.train.mask, c.train.novel):
        phase.base_batch = phase.batch


def _phase(steps: int, *, batch: int, optimizer: str, lr: float, weight_decay: float, warmup: int) -> ConfigDict:
    p = ConfigDict()
    p.steps = steps
    p.batch = batch  # images, or objects for the mask head; over all devices
    p.optimizer = optimizer  # "sgd" (momentum 0.9) or "adamw"
    p.base_batch = batch  # the batch that lr is for; the rate used is lr x batch / base_batch [Goyal et al. 2017]
    p.lr = lr  # at the peak, for base_batch
    p.schedule = "step"  # after warm-up: "step" (x 0.1 at decay_at), "cosine" (to 0) or "constant"
    p.decay_at = (1.0,)  # shares of the steps
    p.warmup = warmup  # steps, linear from 0.001 lr
    p.weight_decay = weight_decay
    p.betas = (0.9, 0.999)  # of adamw [P]
    p.clip_norm = 0.0  # global gradient norm; 0 = off
    p.ema = 0.9999  # decay of the weights' running mean, with warm-up (1 + n) / (10 + n); 0 = off
    return p
