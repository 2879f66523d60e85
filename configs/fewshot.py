"""Stage 2: classifier, box regressor and mask head on K shots of every class.

    python launch/train.py --config configs/fewshot.py                       # shapes, K = 5, seed 0
    python launch/train.py --config configs/fewshot.py:coco,shots=10,seed=3

Starts from the matching run of stage 1 (or ``--config.init_from=WORKDIR``); backbone, FPN, RPN and the two fully
connected layers stay frozen. Only differences from ``configs/base.py`` are set here; sources are named as there.
"""

from ml_collections import ConfigDict

from configs import base, presets

# TFA's steps of the two phases by K, at 16 images per step (configs/COCO-detection); other K: see `tfa_steps`
TFA_STEPS = {
    1: (500, 16_000), 2: (1500, 32_000), 3: (1500, 48_000), 5: (1500, 80_000), 10: (2000, 160_000), 30: (6000, 240_000),
}  # fmt: skip
OPTIMIZERS = ("adamw", "sgd")
# Epochs of the mask head over the K shots of every class. On shapes, novel objects gain 0.7 points of mask IoU in 100
# epochs at K = 5; at K = 1 every epoch costs, half a point after 33, five after 533, because the head memorizes its few
# objects (docs/mask_head.md, "Length of stage 2"). TFA's steps for the detector would be thousands of epochs.
MASK_EPOCHS = {1: 25, 5: 100, 10: 100}
# launch/adapt.py, on a user's few photos, not measured at these sizes: the detector's last layers have the epochs of
# the mask head, but at least 1,000 steps. In so many AdamW at a rate of 1e-4 moves a weight by up to 0.1, and a unit
# vector of 1,024 numbers has entries of about 0.03
DETECTOR_EPOCHS = 100
FEWEST_STEPS = 1000
NOVEL_STEPS = 500  # TFA's for K = 1
UNKNOWN_CLASSES = 20  # of `custom`, where there is no stage 1 to take the number from
TFA_SHARE = {"paper": 1.0, "small": 0.1}  # of TFA's steps, by size; "tiny" has its own number of steps


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of stage 2; ``arg`` is ``[preset][,shots=K][,seed=N][,paper=true][,weights=NAME]
    [,split=NAME][,size=NAME][,classes=C][,optimizer=adamw|sgd]``.

    ``weights`` and ``split`` must be those of stage 1: pixels enter the network in the same form, and shots come from
    the same images. ``classes`` is the number of classes, which the steps of the mask head on photos depend on. Without
    ``size`` or ``classes`` launch/train.py takes those of stage 1. ``optimizer`` is that of classifier and regressor on
    photos: "adamw" [P] or "sgd" [TFA].
    """
    known = {"shots": 5, "seed": 0, "paper": False, "weights": "", "split": "", "size": "", "classes": 0}
    preset, options = base.parse_arg(arg, known | {"optimizer": ""})
    is_shapes = preset.startswith("shapes")
    if options["classes"] and is_shapes:
        raise ValueError(
            f"classes={options['classes']} is not possible: {preset} has a fixed set of 12 classes and its own "
            "number of steps"
        )
    if options["weights"] == "zoo":
        raise ValueError("weights=zoo has seen the novel classes: use it only to check the detector, not for stage 2")
    own = preset if is_shapes else f"size={options['size']}" if options["size"] not in ("", "paper") else ""
    if options["optimizer"] and (own or options["optimizer"] not in OPTIMIZERS):
        choices = f"{own} has its own optimizer" if own else "choose " + " or ".join(OPTIMIZERS)
        raise ValueError(f"unknown option optimizer={options['optimizer']}: {choices}")
    same = [f"{key}={options[key]}" for key in ("paper", "weights", "split", "size")]
    same += [f"shots={options['shots']}"] if options["paper"] else []
    config = base.get_config(",".join([preset, *same])).unlock()
    config.stage = "fewshot"
    config.fewshot.shots, config.fewshot.seed = options["shots"], options["seed"]
    train = config.train
    # everything but the last layers of the detector is frozen [P, TFA]
    train.frozen, train.reset = presets.FEATURES, ()
    if options["shots"] == 1 and not options["paper"]:
        # the only shot is the query itself; docs/design.md, "Shots that are the query"
        config.data.shot_drop = 0.2
    if is_shapes:
        config.model.detector.roi_positive = 0.25  # an image of a shot has one labeled object, not three
        train.novel.update(steps=100, batch=8, optimizer="adamw", lr=3e-3, schedule="cosine", ema=0.0)
        train.detector.update(steps=200, batch=8, lr=2e-3, ema=0.9)
        train.mask.update(steps=25 if options["shots"] == 1 else 200, batch=16, lr=2e-4, ema=0.98)
        base.set_base_batches(config)
    elif config.size == "tiny":
        train.novel.steps = 100
        train.detector.update(steps=200, warmup=10, weight_decay=0.0, ema=0.9)
        train.mask.update(steps=_mask_steps(config, options["classes"]), lr=5e-5, warmup=10, ema=0.98)
    else:
        _photos(config, options["optimizer"] or "adamw", options["classes"])
    return config.lock()


def _photos(config: ConfigDict, optimizer: str, classes: int) -> None:
    """TFA's lengths or a share of them; AdamW at a constant 1e-4 for all heads is the paper's reading."""
    train, shots = config.train, config.fewshot.shots
    train.novel.steps, steps = (round(TFA_SHARE[config.size] * n) for n in tfa_steps(shots))
    train.detector.update(steps=steps, warmup=10, ema=0.999)
    if optimizer == "adamw":
        train.detector.update(optimizer="adamw", lr=1e-4, weight_decay=0.0, schedule="constant")
    else:
        train.detector.update(optimizer="sgd", lr=1e-3, weight_decay=1e-4, schedule="step", decay_at=(0.9,))
    mask_steps = steps if config.paper else _mask_steps(config, classes)  # [P] trains all jointly
    train.mask.update(steps=mask_steps, lr=1e-4, warmup=10, schedule="constant", ema=0.999)


def tfa_steps(shots: int) -> tuple[int, int]:
    """TFA's steps of phase "novel" and phase "detector"; for other K those of the next smaller one."""
    return TFA_STEPS[max(k for k in TFA_STEPS if k <= max(shots, 1))]


def _mask_steps(config: ConfigDict, classes: int) -> int:
    """Steps of the mask head for its epochs over the shots of all classes; 0: as many as the preset has."""
    shots = config.fewshot.shots
    objects = shots * (classes or config.model.num_classes or UNKNOWN_CLASSES)
    return round(MASK_EPOCHS.get(shots, MASK_EPOCHS[10]) * objects / config.train.mask.batch)


def few_photos_steps(config: ConfigDict) -> dict[str, int]:
    """Steps of each phase for the shots of a user's few photos, by field; {}: the preset's own are short.

    TFA's steps are those of a benchmark: at K = 5 each of COCO's 400 shots is seen 3,200 times.
    """
    if config.preset.startswith("shapes") or config.size == "tiny":
        return {}
    train, objects = config.train, config.fewshot.shots * config.model.num_classes
    epochs = round(DETECTOR_EPOCHS * objects / train.detector.batch)
    return {
        "train.novel.steps": min(train.novel.steps, NOVEL_STEPS),
        "train.detector.steps": min(train.detector.steps, max(epochs, FEWEST_STEPS)),
        "train.mask.steps": min(train.mask.steps, _mask_steps(config, config.model.num_classes)),
    }
